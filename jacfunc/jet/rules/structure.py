"""What joins tensors, adds up their elements, casts or copies them; and how the axes of rows are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..build import frame_of, linear
from ..jet import Jet
from ..registry import add, forms, named
from ..values import plain

Tensor = torch.Tensor


def viewed(x: Jet, result: Jet) -> Jet:
    """A jet whose numbers may be those of another."""
    return x.seen_by(result)


def from_end(dim: int, ndim: int) -> int:
    """An axis counted from the end, where rows have as many."""
    return dim if dim < 0 else dim - max(ndim, 1)


def flat_sizes(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes that were given one by one, or as one sequence."""
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        return tuple(sizes[0])
    return sizes


# -------------------------------------------------------------------- several tensors


def _joined(tensors: Any, join: Callable[[list[Tensor], int], Tensor], dim: int, at: int) -> Jet:
    frame = frame_of(*tensors)
    value = join([plain(tensor) for tensor in tensors], dim)
    result: list[Tensor | None] = []
    for order in range(1, frame.layout.order + 1):
        stacks = [tensor.full(order) if type(tensor) is Jet else None for tensor in tensors]
        if all([stack is None for stack in stacks]):  # noqa: C419  # Dynamo traces lists better
            result.append(None)
            continue
        count = frame.layout.sizes[order - 1]
        rows = [
            value.new_zeros((count, *tensor.shape)) if stack is None else stack
            for stack, tensor in zip(stacks, tensors, strict=True)
        ]
        result.append(join(rows, at).to(value.dtype))
    return Jet(value, tuple(result), frame)


def cat(tensors: Any, dim: int = 0) -> Jet:
    """Joined along an axis; an empty vector among them is left out, as torch does."""
    tensors = [tensor for tensor in tensors if tuple(tensor.shape) != (0,)] or list(tensors)
    return _joined(tensors, torch.cat, dim, from_end(dim, tensors[0].dim()))


def stack(tensors: Any, dim: int = 0) -> Jet:
    """Joined along a new axis."""
    return _joined(tensors, torch.stack, dim, dim if dim < 0 else dim - tensors[0].dim() - 1)


# -------------------------------------------------------------------- sums


def _all_dims(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """``sum`` and ``mean`` over some axes, or over all."""

    def rule(input: Jet, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Jet:
        ndim = input.dim()
        if not ndim:  # the only axis of its rows is theirs
            return linear(input, lambda x: function(x, dtype=dtype), lambda rows: rows.to(dtype or rows.dtype))
        if dim is None or (isinstance(dim, list | tuple) and not dim):
            dim = tuple(range(-ndim, 0))
        at = tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else from_end(dim, ndim)
        return linear(
            input,
            lambda x: function(x, dim, keepdim, dtype=dtype),
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
        return viewed(input, Jet(value, rows, input.frame))

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
    named(cat, "cat", "concat", "concatenate")
    add(stack, torch.stack)
    named(_all_dims(torch.sum), "sum")
    named(_all_dims(torch.mean), "mean")
    for name in ("to", "float", "double", "half", "bfloat16", "chalf", "cfloat", "cdouble", "type", "type_as"):
        for function in forms(name):
            add(cast(function), function)
    named(copied, "clone", keeps_frame=True)
    named(contiguous, "contiguous", keeps_frame=True)
    named(same, "requires_grad_", "positive", "cpu", keeps_frame=True)
