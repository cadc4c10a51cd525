"""Views under further names: their copies, the unsafe forms, splits by the name of an axis, and strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...core import caches
from ..build import linear
from ..fallback import pushed
from ..jet import Jet
from .shared import Rule, enter
from .structure import copied

Tensor = torch.Tensor

COPIES = (
    *("diagonal", "expand", "permute", "select", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind"),
    *("unfold", "unsqueeze", "view"),
)
PIECES = ("chunk", "split", "split_with_sizes")


def _no_view(rule: Rule) -> Rule:
    """The rule of what gives the same numbers in memory of their own, so that either may change in place."""

    def copying(*args: Any, **kwargs: Any) -> Any:
        result = rule(*args, **kwargs)
        if isinstance(result, tuple):
            return tuple(jet.like(jet.value, jet.coefficients) for jet in result)
        return result.like(result.value, result.coefficients)

    return copying


def _split_along(axis: Callable[[int], int]) -> Rule:
    """``hsplit`` and its kin: along the axis that a tensor with so many of them is split along."""

    def rule(input: Any, sizes: Any = None, **named_sizes: Any) -> Any:
        return torch.tensor_split(input, next(iter(named_sizes.values()), sizes), axis(input.dim()))

    return rule


def sliced(input: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """A range along an axis."""
    return input[(*(slice(None) for _ in range(dim % input.dim())), slice(start, end, step))]


def as_strided(input: Jet, size: Any, stride: Any, storage_offset: int | None = None) -> Jet:
    """Elements by their places in memory, where that is laid out as they are counted."""
    value = input.value
    whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.numel() * value.itemsize
    if not whole:
        return pushed(torch.as_strided, (input, size, stride, storage_offset), {})  # type: ignore[no-any-return]
    places = torch.arange(value.numel(), device=value.device).as_strided(size, stride, storage_offset or 0)
    view = linear(
        input,
        lambda x: x.as_strided(size, stride, storage_offset),
        lambda rows: rows.reshape(rows.shape[0], -1)[:, places],
    )
    return input.seen_by(view)


def install() -> None:
    """Enter the rules of this file, after those of the views."""
    for form, names in (("{}_copy", COPIES), ("unsafe_{}", PIECES)):
        enter({form.format(name): _no_view(caches.RULES[getattr(torch.Tensor, name)][0]) for name in names})
    enter(
        {
            "alias_copy": copied,
            "slice_copy": _no_view(sliced),
            "hsplit": _split_along(lambda dim: min(dim - 1, 1)),
            "vsplit": _split_along(lambda dim: 0),
            "dsplit": _split_along(lambda dim: 2),
            "as_strided": as_strided,
            "as_strided_copy": _no_view(as_strided),
            torch.ops.aten.slice.Tensor: sliced,
        }
    )
