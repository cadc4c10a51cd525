"""The rows of a transform within a function that jets go through, where both differentiate by the same coordinates.

An inner derivative at the very input of the surrounding evaluation moves with it as a higher derivative does: the
coefficient ``s^a`` of ``d^b u`` is ``d^(a+b) u / a!``.  So the rows are those of all ``a + b``, each once, and not one
for each pair as in ``joined.py``.  Nothing but coordinates of the input may go into ``u`` then, and of what it is not
differentiated by only others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.caches import computed_once
from .layout import Index, Layout, closed

Rows = Sequence[Index]


@dataclass(eq=False, slots=True)
class Origin:
    """Where a propagation begins: the derivative of each row of its first frame, and the rows of each leaf.

    ``sizes`` are the numbers of coordinates of the leaves, ``indices`` gives the derivatives by order, ``coefficients``
    are the rows of each leaf by order, of which the first is None for one that is not there.
    """

    indices: Callable[[], Rows]
    coefficients: Sequence[tuple[Any, ...]]
    sizes: Sequence[int]

    def coordinates(self, place: int) -> range:
        """Those of a leaf among all."""
        start = sum(self.sizes[:place])
        return range(start, start + self.sizes[place])


def single(start: int, stop: int, sizes: Sequence[int], order: int) -> Rows:
    """Derivatives by one coordinate each, of leaves of these sizes, up to an order."""
    total, of_order = sum(sizes), range(1, order + 1)
    return [tuple([k * (place == i) for place in range(total)]) for k in of_order for i in range(start, stop)]


@dataclass(frozen=True)
class Shared:
    """Derivatives of two evaluations by the same coordinates: a row for each sum of one of either.

    ``moved`` are the coordinates of the inner evaluation's own argument.
    """

    outer: Layout
    inner: Layout
    layout: Layout
    by_outer: tuple[tuple[Index, ...], ...]
    by_inner: tuple[tuple[Index, ...], ...]
    of: tuple[tuple[Index, ...], ...]
    moved: frozenset[int]

    @classmethod
    def around(cls, outer: Layout, inner: Layout, by_outer: Rows, by_inner: Rows, moved: Sequence[int]) -> Shared:
        """For the derivatives that are the rows of two layouts."""
        return _around(outer, inner, tuple(by_outer), tuple(by_inner), frozenset(moved))

    @property
    def directions(self) -> tuple[int, ...]:
        """The coordinate of each first-order row."""
        return tuple([index.index(1) for index in self.of[1]])

    def rows(self) -> Rows:
        """The derivative of each row."""
        return [index for of_order in self.of[1:] for index in of_order]

    def taken(self, p: int, q: int) -> tuple[slice | list[int], list[float]]:
        """The rows of order p + q that those of the orders p and q are, pair by pair, and by how much they are more."""
        return _taken(self, p, q)


@computed_once(256)
def _around(
    outer: Layout, inner: Layout, by_outer: tuple[Index, ...], by_inner: tuple[Index, ...], moved: frozenset[int]
) -> Shared:
    zero = (0,) * len((*by_outer, *by_inner)[0])
    sums = {_sum(a, b) for a in (zero, *by_outer) for b in (zero, *by_inner)}
    rows = sorted(sums - {zero}, key=lambda index: (sum(index), [-count for count in index]))
    top = outer.order + inner.order
    return Shared(
        outer,
        inner,
        closed(rows),
        _by_order([zero, *by_outer], outer.order),
        _by_order([zero, *by_inner], inner.order),
        _by_order([zero, *rows], top),
        moved,
    )


@computed_once(1024)
def _taken(shared: Shared, p: int, q: int) -> tuple[slice | list[int], list[float]]:
    of_order = {index: place for place, index in enumerate(shared.of[p + q])}
    pairs = [(a, b) for a in shared.by_outer[p] for b in shared.by_inner[q]]
    places = [of_order[_sum(a, b)] for a, b in pairs]
    following = places == list(range(places[0], places[0] + len(places)))
    weights = [_binomial(a, b) for a, b in pairs]
    return slice(places[0], places[0] + len(places)) if following else places, weights


def one_hot(coordinates: range, directions: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """``(rows, size)``: a row for each direction, of which those among these coordinates are one-hot."""
    rows = torch.zeros(len(directions), len(coordinates), dtype=like.dtype)
    for row, direction in enumerate(directions):
        if direction in coordinates:
            rows[row, direction - coordinates.start] = 1
    return rows.to(like.device)


def _by_order(rows: Rows, top: int) -> tuple[tuple[Index, ...], ...]:
    return tuple([tuple([index for index in rows if sum(index) == order]) for order in range(top + 1)])


def _sum(a: Index, b: Index) -> Index:
    return tuple([i + j for i, j in zip(a, b, strict=True)])


def _binomial(a: Index, b: Index) -> float:
    """``(a + b)! / (a! b!)``, by which normalised coefficients of the sum are more than those of the parts."""
    return float(math.prod([math.comb(i + j, i) for i, j in zip(a, b, strict=True)]))
