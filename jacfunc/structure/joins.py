"""Unions of sets of coordinates over the axes of tensors that hold their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .arrays import Array
from .sets import EMPTY, KNOWN, Sets

PARTS = 8
"""So many parts of a union are kept apart."""


def as_integers(numbers: torch.Tensor) -> Array:
    """As numpy's integers, from whatever device."""
    return numbers.cpu().numpy().astype(np.int64)


def as_numbers(integers: Array, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """As a tensor of numbers of this shape, on the device of another."""
    return torch.from_numpy(integers.astype(np.float64)).reshape(tuple(shape)).to(like.device)


def constant(numbers: torch.Tensor) -> torch.Tensor:
    """Those of what depends on the value alone, as a comparison or a rounding: nothing is left to differentiate."""
    return numbers.clamp(max=EMPTY)


def joined(sets: Sets, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The unions of the elements of two tensors, broadcast."""
    found = torch.maximum(first, second)
    clash = _clash(first, second)
    if clash.any():
        both = [part.expand(found.shape)[clash] for part in (first, second)]
        found[clash] = as_numbers(sets.union(as_integers(torch.stack(both, 1))), both[0].shape, found)
    return found


class Union(NamedTuple):
    """Numbers whose union is meant, element by element, but not made: sums of shifted fields would need many sets."""

    parts: Sequence[torch.Tensor]

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Union:
        """With each part as a function has it."""
        return Union([function(part) for part in self.parts])


def united(sets: Sets, parts: Sequence[torch.Tensor]) -> Union:
    """The unions of the elements of some tensors, broadcast: in as few parts as have no two sets at one element."""
    found: list[torch.Tensor] = []
    for part in torch.broadcast_tensors(*parts):  # type: ignore[no-untyped-call]
        for place, known in enumerate(found):
            if not _clash(known, part).any():
                found[place] = torch.maximum(known, part)
                break
        else:
            found.append(part)
    return Union(found if len(found) <= PARTS else [all_joined(sets, found)])


def _clash(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Where there are two different sets."""
    return (first > EMPTY) & (second > EMPTY) & (first != second)


def all_joined(sets: Sets, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The unions of the elements of some tensors, broadcast."""
    found = parts[0]
    for part in parts[1:]:
        found = joined(sets, found, part)
    return found


def over_axes(sets: Sets, numbers: torch.Tensor, axes: Sequence[int], keepdim: bool = False) -> torch.Tensor:
    """The union over some axes."""
    if not numbers.dim():
        return numbers
    axes = [axis % numbers.dim() for axis in axes]
    kept = [axis for axis in range(numbers.dim()) if axis not in axes]
    shape = [numbers.shape[axis] for axis in kept]
    count = math.prod(shape)
    rows = numbers.permute(*kept, *axes).reshape(count, math.prod(numbers.shape[axis] for axis in axes))
    found = numbers.new_full((count,), KNOWN)
    if rows.numel():
        found = rows.amax(1)
        several = ((rows > EMPTY) & (rows != found[:, None])).any(1)
        if several.any():
            found[several] = as_numbers(sets.union(as_integers(rows[several])), (-1,), found)
    if keepdim:
        shape = [1 if axis in axes else numbers.shape[axis] for axis in range(numbers.dim())]
    return found.reshape(shape)


def up_to_each(sets: Sets, numbers: torch.Tensor, axis: int) -> torch.Tensor:
    """The union of each element and of all before it on an axis."""
    found, reach = numbers.movedim(axis, -1).contiguous(), 1
    while reach < found.shape[-1]:
        before = torch.cat([torch.full_like(found[..., :reach], KNOWN), found[..., :-reach]], -1)
        found, reach = joined(sets, found, before), 2 * reach
    return found.movedim(-1, axis)


def listed_union(sets: Sets, rows: torch.Tensor, numbers: torch.Tensor, count: int) -> torch.Tensor:
    """For each of ``count`` rows the union of the numbers listed beside it, EMPTY at least."""
    return as_numbers(sets.union_of(as_integers(rows), as_integers(numbers), count), (count,), numbers)
