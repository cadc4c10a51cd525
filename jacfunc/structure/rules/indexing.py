"""Reading and writing at places that an index tensor names.

An index that is always the same is followed exactly.  One that depends on the input, or on a parameter, may name any
place: then the union over all of them is what is read, or written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...core.torch_operators import arguments_declared, unsafe_index, unsafe_index_put
from ...core.trees import tensors
from ..arrays import different
from ..joins import joined, listed_union, over_axes
from ..sets import EMPTY, KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


# -------------------------------------------------------------------- reading


@rule(aten.index_select, aten.gather)
def _gathered(track: Tracker, call: Call) -> Numbers:
    source, axis, index = call.args[:3]
    numbers = track.numbers(source)
    if not track.are_known(index):
        numbers, index = over_axes(track.sets, numbers, (axis,), keepdim=True), torch.zeros_like(index)
        if call.returning is aten.gather:  # other axes of the source may be longer than the index's
            return numbers[tuple([slice(size) for size in index.shape[:axis]])].expand(index.shape)
    return call.returning(numbers, axis, index)  # type: ignore[no-any-return]


@rule(aten.embedding)
def _looked_up(track: Tracker, call: Call) -> Numbers:
    return _indexed(track, track.numbers(call.args[0]), [call.args[1]])


@rule(aten.index, unsafe_index)
def _read(track: Tracker, call: Call) -> Numbers:
    return _indexed(track, track.numbers(call.args[0]), call.args[1])


def _indexed(track: Tracker, numbers: Numbers, indices: Sequence[torch.Tensor | None]) -> Numbers:
    """The numbers at some indices, None for an axis that is not indexed."""
    if all(track.are_known(index) for index in indices if index is not None):
        return aten.index(numbers, indices)  # type: ignore[no-any-return]
    if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        indices = _places(indices)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    whole = over_axes(track.sets, numbers, axes, keepdim=True)
    return aten.index(whole, [None if index is None else torch.zeros_like(index) for index in indices])  # type: ignore[no-any-return]


def _places(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """With the places of what is true in place of a mask."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        found += list(index.nonzero().unbind(1)) if mask and index is not None else [index]
    return found


@rule(aten.take)
def _taken(track: Tracker, call: Call) -> Numbers:
    source, index = call.args
    if track.are_known(index):
        return track.numbers(source).take(index)
    return track.everything_in([source]).expand(index.shape)


@rule(aten.masked_select)
def _selected(track: Tracker, call: Call) -> Numbers:
    source, mask = call.args
    if track.are_known(mask):
        return torch.masked_select(track.numbers(source), mask)
    return track.everything_in([source]).expand(call.results[0].shape)


# -------------------------------------------------------------------- writing

_INDICES, _VALUES = ("index", "indices", "mask"), ("src", "source", "value", "values")
"""What operations call their arguments."""
_ONE_OF_SEVERAL = (aten.scatter, aten.index_put, aten.index_copy, unsafe_index_put)
"""Where an index repeats, which of the values stays is not defined, and torch's own derivative has all of them."""


@rule(aten.scatter, aten.index_put, aten.index_copy, aten.index_fill, unsafe_index_put, aten.masked_scatter)
def _put(track: Tracker, call: Call) -> Numbers:
    """What is written takes the place of what was there, or may do so; of several at one place it may be any."""
    if call.argument("accumulate", default=False) or call.argument("reduce"):
        return _added_at(track, call)
    target, *others = call.args
    if not _indices_are_known(track, call):
        return joined(track.sets, track.numbers(target), track.everything_in(_values(call)))
    names = [parameter.name for parameter in arguments_declared(call.function)][1:]
    args = [_written(track, item) if name in _VALUES else item for name, item in zip(names, others, strict=False)]
    found: Numbers = call.returning(track.numbers(target), *args)
    if call.returning in _ONE_OF_SEVERAL:
        places, to = _written_to(target, call)
        if len(different(np.asarray(to.reshape(-1)))) < to.numel():
            written = torch.zeros_like(places, dtype=torch.bool)
            written.view(-1)[to.reshape(-1)] = True
            among = _listed_at(track, places, to, found, call)
            found = torch.where(written & (among > EMPTY), among, found)
    return found


@rule(aten.index_add, aten.scatter_add, aten.scatter_reduce, aten.index_reduce)
def _combined(track: Tracker, call: Call) -> Numbers:
    return _added_at(track, call)


def _added_at(track: Tracker, call: Call) -> Numbers:
    """What is written is added to what was there, or compared with it."""
    target, numbers = call.args[0], track.numbers(call.args[0])
    if not _indices_are_known(track, call):
        return joined(track.sets, numbers, track.everything_in(_values(call)))
    places, to = _written_to(target, call)
    return _listed_at(track, places, to, numbers, call)


def _written_to(target: torch.Tensor, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """A number for each place, of the shape of what is written to, and those that the values are written to."""
    places = torch.arange(target.numel(), device=target.device).reshape(target.shape)
    dim, index = call.argument("dim"), call.argument("index")
    if index is None:
        return places, aten.index(places, call.argument("indices"))
    by_axis = call.returning in (aten.index_add, aten.index_reduce, aten.index_copy)
    return places, places.index_select(dim, index) if by_axis else places.gather(dim, index)


def _listed_at(track: Tracker, places: torch.Tensor, to: torch.Tensor, numbers: Numbers, call: Call) -> Numbers:
    """The union of what is at each place and of all values that are written there."""
    added = [_fitting(track.numbers(values), to) for values in _values(call)]
    rows = torch.cat([places.reshape(-1), *[to.reshape(-1) for _ in added]])
    listed = torch.cat([numbers.reshape(-1), *[each.reshape(-1) for each in added]])
    return listed_union(track.sets, rows, listed, places.numel()).reshape(places.shape)


def _written(track: Tracker, item: object) -> Numbers | float:
    return track.numbers(item) if isinstance(item, torch.Tensor) else float(KNOWN)


def _fitting(numbers: Numbers, places: torch.Tensor) -> Numbers:
    """Those that are written to some places: all, broadcast, or of a longer source the first ones."""
    if numbers.dim() == places.dim() and any(n > m for n, m in zip(numbers.shape, places.shape, strict=True)):
        numbers = numbers[tuple([slice(size) for size in places.shape])]
    return numbers.expand(places.shape)


def _indices_are_known(track: Tracker, call: Call) -> bool:
    return all(map(track.are_known, tensors([call.argument(name) for name in _INDICES])))


def _values(call: Call) -> list[torch.Tensor]:
    """The tensors that are written."""
    return tensors([call.argument(name) for name in _VALUES])
