"""A few more forwards with some of the samples replaced, and which output moved while its own sample did not.

What that means of the function, and how often it is asked, is in ``independence.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ..core import caches
from ..core.unasked import unasked
from ..errors import JacfuncError
from ..evaluation.rng import RandomState
from ..routes.points import REFUSED
from .evaluator import Evaluator

Tensors = Sequence[torch.Tensor]


class Moved(NamedTuple):
    """An output leaf and a sample, by how much it moved, and by which part of its size any sample did."""

    leaf: int
    sample: int
    change: float
    relative: float


SEED = 20190613
ROUNDING = 64
"""Units in the last place that are no influence."""
NOISE = 8
"""How many times the noise of an output is no influence."""


class Evaluated(NamedTuple):
    """Outputs at some leaves, and where the random generators stood after them."""

    leaves: Tensors
    outputs: tuple[torch.Tensor, ...]
    end: RandomState


def evaluated(evaluator: Evaluator, leaves: Tensors, state: RandomState) -> Evaluated:
    """The outputs at these leaves from one random draw; where that leaves the generators is for the caller to mend."""
    state.restore()
    with unasked():
        return Evaluated(leaves, evaluator.values(leaves), state.now())


def replaced_in(count: int, forwards: int) -> torch.Tensor:
    """Whether each sample is replaced in each of the forwards, at random, other ones at every check.

    At most one group of samples is of an even size: pairs of samples that influence one another must not fit into them.
    """
    generator = torch.Generator().manual_seed(SEED + next(caches.CHECKS))
    codes = 1 + torch.randperm(2**forwards - 1, generator=generator)[:count]
    sizes = [(count + len(codes) - 1 - group) // len(codes) for group in range(len(codes))]
    even = [group for group, size in enumerate(sizes) if size % 2 == 0]
    for more, less in zip(even[: len(even) // 2], reversed(even)):  # noqa: B905 - the one in the middle stays
        sizes[more] += 1
        sizes[less] -= 1
    code = codes.repeat_interleave(torch.tensor(sizes))[torch.randperm(count, generator=generator)]
    return (code[:, None] >> torch.arange(forwards)) % 2 == 1


def probes_of(
    evaluator: Evaluator, replaced: torch.Tensor, state: RandomState, inside: bool = False
) -> list[Evaluated] | str:
    """The function with samples replaced by outliers, or else by neighbours; what it did if it refuses both.

    ``inside``: by neighbours only.
    """
    for outliers in (False,) if inside else (True, False):
        generator = torch.Generator().manual_seed(SEED)
        new = [_replacement(leaf.detach(), len(replaced), outliers, generator) for leaf in evaluator.request.leaves]
        try:
            return [_evaluated_with(evaluator, new, there, state) for there in replaced.unbind(1)]
        except JacfuncError:
            raise
        except REFUSED as error:
            reason = f"failed when some samples were replaced by others of the batch ({type(error).__name__}: {error})"
    return reason


def _evaluated_with(evaluator: Evaluator, new: Tensors, mask: torch.Tensor, state: RandomState) -> Evaluated:
    """The function with the masked samples new."""
    leaves = [
        torch.where(mask.to(leaf.device)[:, None], there, leaf.detach().reshape(len(mask), -1)).reshape(leaf.shape)
        for leaf, there in zip(evaluator.request.leaves, new, strict=True)
    ]
    return evaluated(evaluator, leaves, state)


def _replacement(leaf: torch.Tensor, count: int, outliers: bool, generator: torch.Generator) -> torch.Tensor:
    """Another value ``(count, numel)`` for every sample: that of its neighbour, or an outlier above or below."""
    flat = leaf.reshape(count, -1)
    values = flat.roll(1, 0)
    if not outliers:
        return values
    # Uneven sizes, so that outliers above and below cannot cancel in a mean; every fifth sample is no outlier.
    size = torch.empty(values.shape).uniform_(5, 15, generator=generator)
    place = torch.randperm(count, generator=generator)[:, None]
    directions = torch.tensor([1.0, -0.3, 1.0, -1.0])
    factor = directions[(place + torch.arange(values.shape[1])) % len(directions)] * (place % 5 != 4)
    spread = (flat.amax(0) - flat.amin(0)).nan_to_num(1.0, 1.0, 1.0).clamp(min=1e-2)
    spread = spread + flat.abs().mean(0).nan_to_num(1.0, 1.0, 1.0)
    return values + (size * factor).to(values) * spread


def moved(
    evaluations: Sequence[Tensors],
    replaced: torch.Tensor,
    tolerance: float = 0.0,
    noise: Sequence[Tensors] | None = None,
) -> Moved | None:
    """What moved first, by more than so large a part of its size, of evaluations that gave a sample the same value.

    The first evaluation is that of the samples as they are.  ``noise``: by how much rounding may move what came out of
    each of them (``rounding.py``).
    """
    pairs = _compared(evaluations, replaced)
    if noise is None:
        return next(filter(None, (_first_moved(*pair, tolerance) for pair in pairs)), None)
    rooms = ([a + b for a, b in zip(*pair, strict=True)] for *pair, _ in _compared(noise, replaced))
    found = (_first_moved(*pair, tolerance, room) for pair, room in zip(pairs, rooms, strict=True))
    return next(filter(None, found), None)


def _compared(
    evaluations: Sequence[Tensors], replaced: torch.Tensor
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]]:
    """Outputs before and after, and of which samples they are for one value, of each evaluation but the first."""
    own, *probes = (_rows(outputs, len(replaced)) for outputs in evaluations)
    new, known = own, torch.zeros(len(replaced), dtype=torch.bool)  # for the new values, of samples that had them
    for there, found in zip(replaced.unbind(1), probes, strict=True):
        yield _chosen(there, new, own), found, known | ~there
        new, known = _chosen(known, new, found), known | there


def differ(outputs: Tensors, others: Tensors, count: int) -> bool:
    """Whether two evaluations of so many samples, all as they are, gave others."""
    everything = torch.ones(count, dtype=torch.bool)
    return _first_moved(_rows(outputs, count), _rows(others, count), everything) is not None


def _rows(outputs: Tensors, count: int) -> list[torch.Tensor]:
    return [output.detach().reshape(count, -1).to("cpu") for output in outputs]


def _chosen(there: torch.Tensor, these: Tensors, others: Tensors) -> list[torch.Tensor]:
    return [torch.where(there[:, None], *pair) for pair in zip(these, others, strict=True)]


def _first_moved(
    before: Tensors, after: Tensors, kept: torch.Tensor, tolerance: float = 0.0, noise: Tensors | None = None
) -> Moved | None:
    """What moved first beyond rounding and the tolerance among the rows that are kept."""
    for leaf, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.shape != new.shape:
            return Moved(leaf, int(kept.int().argmax()), math.nan, math.nan)
        a, b = old[kept], new[kept]
        if torch.equal(a, b):  # as they are, mostly
            continue
        a, b = a.double(), b.double()
        size = a.abs().nan_to_num(0.0, 0.0, 0.0)
        scale = torch.maximum(size.amax(1, keepdim=True), size.mean())
        same = (a == b) | (a.isnan() & b.isnan())
        change = torch.where(same, 0.0, (a - b).abs())
        own = torch.maximum(size, size.median(0).values)  # that of the number itself, or of most in other samples
        allowed = torch.maximum(ROUNDING * torch.finfo(old.dtype).eps * scale, tolerance * own)
        if noise is not None and noise[leaf].numel():
            rounded = noise[leaf][kept].amax(1, keepdim=True)
            allowed = torch.maximum(allowed, NOISE * torch.maximum(rounded, rounded.median()))
        moved = ~(change <= allowed)
        if moved.any():
            row = int(moved.any(1).nonzero()[0])
            return Moved(
                leaf,
                int(kept.nonzero()[row]),
                float(change[row].max()),
                float(torch.where(moved, change / own, 0.0).max()),
            )
    return None
