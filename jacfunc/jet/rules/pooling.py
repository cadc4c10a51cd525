"""Pooling by the maximum: rows are gathered at the indices of the values, and put back there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..build import linear
from ..jet import Jet
from ..values import plain
from .shared import enter, enter_each

Tensor = torch.Tensor


def _picked(input: Jet, value: Tensor, indices: Tensor, axes: int) -> Jet:
    """The elements at places in the flattened last axes."""
    places = indices.flatten(-axes)

    def on_rows(rows: Tensor) -> Tensor:
        found = rows.flatten(-axes).gather(-1, places.expand(len(rows), *places.shape))
        return found.reshape(len(rows), *value.shape)

    return linear(input, lambda _: value, on_rows)


def _pooled(with_indices: Callable[..., Any], axes: int, returned: bool) -> Callable[..., Any]:
    """The rule of a pooling over the last axes, given the form of it that also returns the indices."""

    def rule(input: Jet, *args: Any, return_indices: bool = returned, **kwargs: Any) -> Any:
        value, indices = with_indices(input.value, *args, **kwargs)
        pooled = _picked(input, value, indices, axes)
        return (pooled, indices) if return_indices else pooled

    return rule


def _unpooled(function: Callable[..., Tensor], axes: int) -> Callable[..., Any]:
    """Values put back at their indices: linear, with the rows as further samples."""

    def rule(input: Jet, indices: Any, *args: Any, **kwargs: Any) -> Jet:
        places = plain(indices)
        value = function(input.value, places, *args, **kwargs)

        def on_rows(rows: Tensor) -> Tensor:
            joined = rows.reshape(-1, *rows.shape[-axes - 1 :])
            everywhere = places.expand(rows.shape).reshape(joined.shape)
            return function(joined, everywhere, *args, **kwargs).reshape(len(rows), *value.shape)

        return linear(input, lambda _: value, on_rows)

    return rule


POOLS = {"max_pool": (1, 2, 3), "adaptive_max_pool": (1, 2, 3), "fractional_max_pool": (2, 3)}
"""Over how many axes there are which."""


def install() -> None:
    """Enter the rules of this file."""
    for kind, several in POOLS.items():
        for axes in several:
            alone, native = getattr(F, f"{kind}{axes}d"), getattr(F, f"{kind}{axes}d_with_indices")
            enter({alone: _pooled(native, axes, False), native: _pooled(native, axes, True)})
    for axes in (1, 2, 3):
        pool, native = getattr(torch, f"max_pool{axes}d"), getattr(F, f"max_pool{axes}d_with_indices")
        enter({pool: _pooled(native, axes, False)})
        enter_each(functools.partial(_unpooled, axes=axes), getattr(F, f"max_unpool{axes}d"))
    enter(
        {
            torch.adaptive_max_pool1d: _pooled(F.adaptive_max_pool1d_with_indices, 1, True),
            torch.max_pool1d_with_indices: _pooled(F.max_pool1d_with_indices, 1, True),
        }
    )
