"""Pooling by the maximum: rows are gathered at the indices of the values, and put back there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..build import linear
from ..jet import Jet
from ..registry import add
from ..values import plain

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


def _install_axes(axes: int) -> None:
    for kind in ("max_pool", "adaptive_max_pool", "fractional_max_pool"):
        native = getattr(F, f"{kind}{axes}d_with_indices", None)
        if native is None:
            continue
        add(_pooled(native, axes, True), native)
        plain_forms = [getattr(place, f"{kind}{axes}d", None) for place in (F, torch)]
        for form in plain_forms:
            if form is not None:
                alone = form is not getattr(torch, "adaptive_max_pool1d", None)
                add(_pooled(native, axes, not alone), form)
    unpool = getattr(F, f"max_unpool{axes}d")
    add(_unpooled(unpool, axes), unpool)


def install() -> None:
    """Enter the rules of this file."""
    for axes in (1, 2, 3):
        _install_axes(axes)
    add(_pooled(F.max_pool1d_with_indices, 1, True), torch.max_pool1d_with_indices)


__all__ = ["install"]
