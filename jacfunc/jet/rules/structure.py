"""What joins tensors, adds up their elements, casts or copies them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..build import linear
from ..jet import Jet
from ..values import plain
from .shared import all_dims, enter, enter_each, from_end, jointly

Tensor = torch.Tensor


# -------------------------------------------------------------------- several tensors


def cat(tensors: Any, dim: int = 0) -> Jet:
    """Joined along an axis; an empty vector among them is left out, as torch does."""
    tensors = [tensor for tensor in tensors if tuple(tensor.shape) != (0,)] or list(tensors)
    at = from_end(dim, tensors[0].dim())
    return jointly(torch.cat(plain(tensors), dim), tensors, lambda *rows: torch.cat(rows, at))


def stack(tensors: Any, dim: int = 0) -> Jet:
    """Joined along a new axis."""
    at = from_end(dim, tensors[0].dim() + 1)
    return jointly(torch.stack(plain(tensors), dim), tensors, lambda *rows: torch.stack(rows, at))


# -------------------------------------------------------------------- sums


def _all_dims(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """``sum`` and ``mean`` over some axes, or over all."""

    def rule(input: Jet, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Jet:
        ndim = input.dim()
        if not ndim:  # the only axis of its rows is theirs
            return linear(input, lambda x: function(x, dtype=dtype), lambda rows: rows.to(dtype or rows.dtype))
        at = all_dims(dim, ndim)
        return linear(
            input,
            lambda x: function(x, at, keepdim, dtype=dtype),
            lambda rows: function(rows, at, keepdim, dtype=dtype),
        )

    return rule


def cast(function: Callable[..., Any]) -> Callable[..., Any]:
    """``to``, ``float``, ``type``: another dtype or device; to one without derivatives it is constant."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = plain(args), plain(kwargs)
        if type(input) is not Jet:
            return function(input, *args, **kwargs)
        value = function(input.value, *args, **kwargs)
        if not value.is_floating_point() and not value.is_complex():
            return value
        precision = torch.finfo(value.dtype).eps
        input.propagation.coarsest = max(input.propagation.coarsest, precision)  # for whoever compares the results
        rows = tuple(None if c is None else c.to(value.dtype).to(value.device) for c in input.coefficients)
        return input.seen_by(Jet(value, rows, input.frame))

    return rule


def contiguous(input: Jet, **options: Any) -> Jet:
    """The tensor itself where it is contiguous, else a copy."""
    if input.pending is not None or input.value.is_contiguous(**options):
        return input
    return copied(input)


def copied(input: Jet, **_: Any) -> Jet:
    """``clone``: nothing in place reaches the numbers of a jet, so there is nothing to copy."""
    result = Jet(None, (), input._frame)
    result._value, result._coefficients, result.pending = input._value, input._coefficients, input.pending
    return result


def same(input: Jet, *_: Any, **__: Any) -> Jet:
    """What leaves a tensor as it is."""
    return input


def install() -> None:
    """Enter the rules of this file."""
    enter({"cat": cat, "concat": cat, "concatenate": cat, torch.stack: stack})
    enter({"sum": _all_dims(torch.sum), "mean": _all_dims(torch.mean)})
    enter_each(cast, "to", "float", "double", "half", "bfloat16", "chalf", "cfloat", "cdouble", "type", "type_as")
    enter({"clone": copied, "contiguous": contiguous}, keeps_frame=True)
    enter({"requires_grad_": same, "positive": same, "cpu": same}, keeps_frame=True)
