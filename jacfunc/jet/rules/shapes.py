"""Elements in another shape, or another order of axes; and sums and picks along an axis by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..build import linear
from ..frame import CannotFollowError
from ..jet import Jet
from ..registry import add, forms, named
from .structure import flat_sizes, from_end, viewed

Tensor = torch.Tensor


def reshape(input: Jet, *shape: Any, **named_shape: Any) -> Jet:
    """``reshape`` and ``view`` to a shape."""
    sizes = flat_sizes(shape or tuple(named_shape.values()))
    if any(isinstance(size, torch.dtype) for size in sizes):
        raise CannotFollowError("a view as another dtype")
    value = input.value.reshape(sizes)
    return viewed(input, linear(input, lambda _: value, lambda rows: rows.reshape(rows.shape[0], *value.shape)))


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
    value = input.value.expand(flat_sizes(sizes or tuple(size)))

    def on_rows(rows: Tensor) -> Tensor:
        missing = value.dim() - (rows.dim() - 1)
        return rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]).expand(rows.shape[0], *value.shape)

    return viewed(input, linear(input, lambda _: value, on_rows))


def repeat(input: Jet, *sizes: Any, repeats: Any = ()) -> Jet:
    """Copies along axes."""
    counts = flat_sizes(sizes or tuple(repeats))
    missing = len(counts) - input.dim()

    def on_rows(rows: Tensor) -> Tensor:
        return rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]).repeat(1, *counts)

    return linear(input, lambda x: x.repeat(counts), on_rows)


def _by_dims(function: Callable[..., Tensor], dims: tuple[str, ...], viewing: bool = True) -> Callable[..., Jet]:
    """The rule of an operation whose arguments of these names, in this order, are axes; others follow as they are."""

    def rule(input: Jet, *args: Any, **kwargs: Any) -> Jet:
        ndim = input.dim()
        if not ndim:  # the only axis of its rows is theirs
            return linear(
                input,
                lambda x: function(x, *args, **kwargs),
                lambda rows: torch.stack([function(row, *args, **kwargs) for row in rows]),
            )
        given = {**dict(zip(dims, args, strict=False)), **{k: v for k, v in kwargs.items() if k in dims}}
        rest, others = args[len(dims) :], {k: v for k, v in kwargs.items() if k not in dims}
        moved = {
            name: tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else from_end(dim, ndim)
            for name, dim in given.items()
        }
        at = tuple(moved[name] for name in dims if name in moved)

        def on(x: Tensor) -> Tensor:
            return function(x, *at, *rest, **others)

        result = linear(input, lambda x: function(x, *args, **kwargs), on)
        return viewed(input, result) if viewing else result

    return rule


def flip(input: Jet, *dims: Any, **named_dims: Any) -> Jet:
    """Axes turned round."""
    ndim = input.dim()
    order = flat_sizes(dims or tuple(named_dims.values()))
    order = tuple(order) if isinstance(order, list | tuple) else (order,)
    if not ndim:
        return input
    at = tuple(from_end(d, ndim) for d in order)
    return linear(input, lambda x: x.flip(order), lambda rows: rows.flip(at))


def squeeze(input: Jet, dim: Any = None) -> Jet:
    """Axes of size 1 left out."""
    value = input.value.squeeze() if dim is None else input.value.squeeze(dim)
    return reshape(input, tuple(value.shape))


def unsqueeze(input: Jet, dim: int) -> Jet:
    """An axis of size 1."""
    at = dim if dim < 0 else dim + 1
    return viewed(input, linear(input, lambda x: x.unsqueeze(dim), lambda rows: rows.unsqueeze(at)))


def permute(input: Jet, *dims: Any, **named_dims: Any) -> Jet:
    """Axes in another order."""
    order = flat_sizes(dims or tuple(named_dims.values()))
    ndim = input.dim()
    at = (0, *(d % ndim + 1 for d in order))
    return viewed(input, linear(input, lambda x: x.permute(order), lambda rows: rows.permute(at)))


def transposed(input: Jet) -> Jet:
    """``t()`` and ``.T`` of a matrix, ``.mT`` of a stack of them."""
    if input.dim() < 2:
        return input
    return viewed(input, linear(input, lambda x: x.transpose(-1, -2), lambda rows: rows.transpose(-1, -2)))


def reversed_axes(input: Jet) -> Jet:
    """``.T``: all axes in the opposite order."""
    return permute(input, tuple(reversed(range(input.dim()))))


def install() -> None:
    """Enter the rules of this file."""
    method = torch.Tensor
    named(reshape, "reshape", "view")
    named(_as_other(reshape, torch.reshape), "reshape_as", "view_as")
    named(flatten, "flatten", "ravel")
    named(unflatten, "unflatten")
    named(expand, "expand", "broadcast_to")
    named(_as_other(expand, torch.broadcast_to), "expand_as")
    named(repeat, "repeat")
    named(squeeze, "squeeze")
    named(unsqueeze, "unsqueeze")
    named(permute, "permute")
    named(flip, "flip")
    named(transposed, "t")
    add(transposed, method.mT.__get__)  # type: ignore[attr-defined]
    add(reversed_axes, method.T.__get__)  # type: ignore[attr-defined]
    for name, dims, viewing in (
        ("transpose", ("dim0", "dim1"), True),
        ("swapaxes", ("axis0", "axis1"), True),
        ("swapdims", ("dim0", "dim1"), True),
        ("movedim", ("source", "destination"), True),
        ("moveaxis", ("source", "destination"), True),
        ("cumsum", ("dim",), False),
        ("index_select", ("dim",), False),
    ):
        for function in forms(name):
            add(_by_dims(function, dims, viewing), function)
