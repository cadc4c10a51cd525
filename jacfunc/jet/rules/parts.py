"""Parts of a tensor, read and written: indices, ranges and slices, as views where torch has views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...core.torch_private import c_torch
from ..build import aligned, linear
from ..frame import CannotFollowError
from ..jet import Jet
from ..registry import add, spelled, writing
from ..values import plain
from .shared import enter, from_end, jointly

Tensor = torch.Tensor


def getitem(input: Any, index: Any) -> Any:
    """Indexing by anything but a jet, whose values are constants."""
    index = plain(index)
    if type(input) is not Jet:
        return input[index]
    items = _items(index)
    basic = all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in items)
    result = linear(input, lambda x: x[index], lambda rows: rows[(slice(None), *items)])
    return input.seen_by(result, index) if basic else result


def _items(index: Any) -> tuple[Any, ...]:
    """An index item by item; not where torch would put the indexed axis in front, as that of the rows is there."""
    items = index if isinstance(index, tuple) else (index,)
    advanced = [not (item is None or item is Ellipsis or isinstance(item, slice)) for item in items]
    tensors = any(a and not isinstance(item, int) for a, item in zip(advanced, items, strict=True))
    places = [place for place, is_advanced in enumerate(advanced) if is_advanced]
    if tensors and places[-1] - places[0] + 1 != len(places):
        raise CannotFollowError("an index with tensors on both sides of a slice")
    return items


def setitem(input: Any, index: Any, item: Any) -> None:
    """Writing into a jet; into a plain tensor it cannot be followed."""
    if type(input) is not Jet:
        raise CannotFollowError("a differentiated tensor is written into another one")
    index = plain(index)
    at = (slice(None), *_items(index))
    taken_back = input.takes_back(item, index)
    value = input.value.clone()
    value[index] = plain(item)

    def written(rows: Tensor, other: Tensor) -> Tensor:
        result = rows.clone()
        axes = result[at].dim() - 1
        leading = max(other.dim() - 1 - axes, 0)
        result[at] = aligned(other.reshape(len(other), *other.shape[1 + leading :]), axes)
        return result

    input.become(jointly(value, (input, item), written))
    if taken_back:
        item.end()


def copy_(input: Any, src: Any, non_blocking: bool = False) -> Any:
    """All elements written."""
    setitem(input, Ellipsis, src)
    return input


def zero_(input: Any) -> Any:
    """Zeros everywhere."""
    return copy_(input, 0)


def unbind(input: Jet, dim: int = 0) -> tuple[Jet, ...]:
    """The slices along an axis."""
    at = from_end(dim, input.dim())
    return tuple(select(input, at, place) for place in range(input.shape[at]))


def select(input: Jet, dim: int, index: int) -> Jet:
    """One slice along an axis."""
    at = from_end(dim, input.dim())
    return input.seen_by(linear(input, lambda x: x.select(at, index), lambda rows: rows.select(at, index)))


def _pieces(cut: Callable[..., Sequence[Tensor]]) -> Callable[..., tuple[Jet, ...]]:
    """The rule of ``split``, ``chunk`` and their kin: as many narrow views."""

    def rule(input: Jet, sizes: Any = None, dim: int = 0, **named_sizes: Any) -> tuple[Jet, ...]:
        sizes = next(iter(named_sizes.values()), sizes)
        at = from_end(dim, input.dim())
        lengths = [piece.shape[at] for piece in cut(input.value, sizes, at)]
        starts = [sum(lengths[:place]) for place in range(len(lengths))]
        return tuple(narrow(input, at, start, length) for start, length in zip(starts, lengths, strict=True))

    return rule


def narrow(input: Jet, dim: int, start: int, length: int) -> Jet:
    """A range of an axis."""
    at = from_end(dim, input.dim())
    return input.seen_by(
        linear(input, lambda x: x.narrow(at, start, length), lambda rows: rows.narrow(at, start, length))
    )


def install() -> None:
    """Enter the rules of this file."""
    method = torch.Tensor
    add(getitem, method.__getitem__)
    add(writing(setitem), method.__setitem__)
    add(writing(copy_), method.copy_)
    add(writing(spelled(copy_, value="src")), method.fill_, torch.fill_)
    add(writing(zero_), method.zero_, torch.zero_)
    split = _pieces(method.split)
    add(split, torch.split, c_torch.split, method.split)
    enter(
        {
            "unbind": unbind,
            "select": select,
            "narrow": narrow,
            "split_with_sizes": split,
            "chunk": _pieces(method.chunk),
            "tensor_split": _pieces(method.tensor_split),
        }
    )
