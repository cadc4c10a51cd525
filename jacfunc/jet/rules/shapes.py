"""Elements in another shape, or another order of axes; and sums and picks along an axis by its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..build import aligned, linear
from ..frame import CannotFollowError
from ..jet import Jet
from .shared import enter, enter_each, from_end, row_by_row, several

Tensor = torch.Tensor


def reshape(input: Jet, *shape: Any, **named_shape: Any) -> Jet:
    """``reshape`` and ``view`` to a shape."""
    sizes = several(shape or tuple(named_shape.values()))
    if any(isinstance(size, torch.dtype) for size in sizes):
        raise CannotFollowError("a view as another dtype")
    value = input.value.reshape(sizes)
    return input.seen_by(linear(input, lambda _: value, lambda rows: rows.reshape(rows.shape[0], *value.shape)))


def _as_other(rule: Callable[..., Jet], function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The rule of what takes a shape from another tensor, which may be the only jet."""

    def rule_as(input: Any, other: Any) -> Any:
        shape = tuple(other.shape)
        return rule(input, shape) if type(input) is Jet else function(input, shape)

    return rule_as


def flatten(input: Jet, start_dim: int = 0, end_dim: int = -1) -> Jet:
    """Axes joined."""
    return reshape(input, tuple(torch.empty(input.shape, device="meta").flatten(start_dim, end_dim).shape))


def unflatten(input: Jet, dim: int, sizes: Any) -> Jet:
    """An axis cut in several."""
    shaped = torch.unflatten(torch.empty(input.shape, device="meta"), dim, sizes)
    return reshape(input, tuple(shaped.shape))


def expand(input: Jet, *sizes: Any, size: Any = (), implicit: bool = False) -> Jet:
    """Axes repeated without a copy."""
    value = input.value.expand(several(sizes or tuple(size)))
    ndim = value.dim()
    return input.seen_by(
        linear(input, lambda _: value, lambda rows: aligned(rows, ndim).expand(rows.shape[0], *value.shape))
    )


def repeat(input: Jet, *sizes: Any, repeats: Any = ()) -> Jet:
    """Copies along axes."""
    counts = several(sizes or tuple(repeats))
    return linear(input, lambda x: x.repeat(counts), lambda rows: aligned(rows, len(counts)).repeat(1, *counts))


def _by_dims(function: Callable[..., Tensor], dims: tuple[str, ...], viewing: bool = True) -> Callable[..., Jet]:
    """The rule of an operation whose arguments of these names, in this order, are axes; others follow as they are."""

    def rule(input: Jet, *args: Any, **kwargs: Any) -> Jet:
        def on_value(x: Tensor) -> Tensor:
            return function(x, *args, **kwargs)

        ndim = input.dim()
        if not ndim:  # the only axis of its rows is theirs
            return linear(input, on_value, row_by_row(on_value))
        places = [_counted(arg, ndim) if place < len(dims) else arg for place, arg in enumerate(args)]
        named = {name: _counted(value, ndim) if name in dims else value for name, value in kwargs.items()}
        result = linear(input, on_value, lambda rows: function(rows, *places, **named))
        return input.seen_by(result) if viewing else result

    return rule


def _counted(dim: Any, ndim: int) -> Any:
    """An axis or several, from the end."""
    return tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else from_end(dim, ndim)


def flip(input: Jet, *dims: Any, **named_dims: Any) -> Jet:
    """Axes turned round."""
    order = several(dims or tuple(named_dims.values()))
    if not input.dim():
        return input
    at = _counted(order, input.dim())
    return linear(input, lambda x: x.flip(order), lambda rows: rows.flip(at))


def squeeze(input: Jet, dim: Any = None) -> Jet:
    """Axes of size 1 left out."""
    value = input.value.squeeze() if dim is None else input.value.squeeze(dim)
    return reshape(input, tuple(value.shape))


def unsqueeze(input: Jet, dim: int) -> Jet:
    """An axis of size 1."""
    at = dim if dim < 0 else dim + 1
    return input.seen_by(linear(input, lambda x: x.unsqueeze(dim), lambda rows: rows.unsqueeze(at)))


def permute(input: Jet, *dims: Any, **named_dims: Any) -> Jet:
    """Axes in another order."""
    order = several(dims or tuple(named_dims.values()))
    ndim = input.dim()
    at = (0, *(d % ndim + 1 for d in order))
    return input.seen_by(linear(input, lambda x: x.permute(order), lambda rows: rows.permute(at)))


def transposed(input: Jet) -> Jet:
    """``t()`` and ``.T`` of a matrix, ``.mT`` of a stack of them."""
    if input.dim() < 2:
        return input
    return input.seen_by(linear(input, lambda x: x.transpose(-1, -2), lambda rows: rows.transpose(-1, -2)))


def reversed_axes(input: Jet) -> Jet:
    """``.T``: all axes in the opposite order."""
    return permute(input, tuple(reversed(range(input.dim()))))


def install() -> None:
    """Enter the rules of this file."""
    method: Any = torch.Tensor
    enter(
        {
            "reshape": reshape,
            "view": reshape,
            "reshape_as": _as_other(reshape, torch.reshape),
            "view_as": _as_other(reshape, torch.reshape),
            "flatten": flatten,
            "ravel": flatten,
            "unflatten": unflatten,
            "expand": expand,
            "broadcast_to": expand,
            "expand_as": _as_other(expand, torch.broadcast_to),
            "repeat": repeat,
            "squeeze": squeeze,
            "unsqueeze": unsqueeze,
            "permute": permute,
            "flip": flip,
            "t": transposed,
            method.mT.__get__: transposed,
            method.T.__get__: reversed_axes,
        }
    )
    for name, dims in (
        ("transpose", ("dim0", "dim1")),
        ("swapaxes", ("axis0", "axis1")),
        ("swapdims", ("dim0", "dim1")),
        ("movedim", ("source", "destination")),
        ("moveaxis", ("source", "destination")),
    ):
        enter_each(functools.partial(_by_dims, dims=dims), name)
    enter_each(functools.partial(_by_dims, dims=("dim",), viewing=False), "cumsum", "index_select")
