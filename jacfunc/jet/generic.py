"""What a root is multiplied by along a direction in general position, where rows do not tell all that there is.

Gradients by what a norm is of need one derivative more than rows are, along any direction: of ``r^3`` there is
``u_xy``, zero, and no gradient of it by a centre.  ``B`` tells, which must be zero up to the order of the rows; but
``x^2 + y^2`` has no coefficient of ``x y``.  So the function runs once more with rows along one direction, along which
no polynomial but zero is zero, and then again with what was seen there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .layout import Layout

Tensor = torch.Tensor
Parts = list[Tensor | None]
"""By order, from 0 on: where there is any."""


@dataclass
class Generic:
    """Where ``B`` is not zero along a generic direction, at each place that asks, in their order.

    ``seen`` is what was found, ``looking`` whether it is still being found, ``place`` how many have asked since;
    ``two`` whether two roots met, which may be one or not.
    """

    seen: list[Parts] = field(default_factory=list)
    looking: bool = True
    place: int = 0
    two: bool = False

    def with_own(self, own: Parts, moves: Tensor) -> Parts:
        """What rows tell of ``B``, and what was seen; where nothing is known of a root that moves, it is everywhere."""
        if self.looking:
            self.seen.append(own)
            return own
        seen = self.seen[self.place] if self.place < len(self.seen) else []
        self.place += 1
        if any(part is not None and part.shape != moves.shape for part in seen) or not seen:
            seen = [moves > 0] * len(own)
        return [either_of(parts) for parts in zip(own, _up_to(seen, len(own)), strict=True)]

    def again(self) -> Generic:
        """For the run that is told what was seen."""
        return Generic(self.seen, looking=False)

    def more_than(self, other: Generic) -> bool:
        """Whether there is something that was not seen otherwise."""
        if len(self.seen) != len(other.seen):
            return True
        return any(_further(one, _up_to(two, len(one))) for one, two in zip(self.seen, other.seen, strict=True))


def _further(parts: Parts, others: Parts) -> bool:
    """Whether any is where the others are not, up to their order."""
    beside: Tensor | None = None
    for one, two in zip(parts, others, strict=True):
        beside = either_of((beside, two))
        if one is None:
            continue
        if beside is not None and beside.shape != one.shape:
            return True
        if bool((one if beside is None else one & ~beside).any()):
            return True
    return False


def _up_to(parts: Parts, count: int) -> Parts:
    """So many orders."""
    return [*parts, *[None] * count][:count]


def either_of(places: Sequence[Tensor | None]) -> Tensor | None:
    """Where any of them says so."""
    found: Tensor | None = None
    for place in places:
        if place is not None:
            found = place if found is None else found | place
    return found


def tells_all(rows_layout: Layout, coordinates: int) -> bool:
    """Whether there is a row for each derivative up to the order of the layout."""
    full = tuple([math.comb(coordinates + k - 1, k) for k in range(1, rows_layout.order + 1)])
    return rows_layout.sizes == full and not rows_layout.summing


def direction(leaves: Sequence[Tensor], axes: int) -> list[Tensor]:
    """Numbers of size about one, without symmetries: a row of each leaf, the same along the sample axes."""
    found, start = [], 1
    for leaf in leaves:
        shape = leaf.shape[axes:]
        stop = start + math.prod(shape)
        wave = torch.arange(start, stop, device=leaf.device, dtype=torch.float64).square().mul(0.7).sin()
        wave = 0.5 * wave + wave.sign()
        found.append(wave.to(leaf.dtype).reshape(1, *(1,) * axes, *shape))
        start = stop
    return found
