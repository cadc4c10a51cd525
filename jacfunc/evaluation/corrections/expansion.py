"""What the replacements share: torch's own value with other derivatives; a copy of a function that calls others."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from ...errors import RefusedOperationError

Tensor = torch.Tensor


def exactly(value: Tensor, expanded: Tensor) -> Tensor:
    """``value`` to the bit, with the derivatives of ``expanded``, which is equal to it but for rounding."""
    return value.detach() + (expanded - expanded.detach()).to(value.dtype)


def exactly_where_finite(value: Tensor, expanded: Tensor) -> Tensor:
    """``value`` with the derivatives of ``expanded`` where that is finite, and constant where it is not."""
    return exactly(value, torch.where(value.isfinite(), expanded, 0.0))


def wide(tensor: Tensor) -> Tensor:
    """In a precision in which a sum over many elements is sound, as torch's own kernels accumulate."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def constant(tensor: Tensor | None) -> Tensor | None:
    """Without derivatives."""
    return None if tensor is None else tensor.detach()


def in_place(replacement: Callable[..., Tensor], /, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a replacement gives, written to its first argument, whose old value the backward still needs."""
    return input.copy_(replacement(input.clone(), *args, **kwargs))


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The mean, the sum or all of the losses."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def refusing(native: Callable[..., Any], name: str, way_out: str, /, *args: Any, **kwargs: Any) -> Any:
    """For an operation that is refused where it is differentiated, and torch's own where it is not."""
    if any(isinstance(item, Tensor) and item.requires_grad for item in (*args, *kwargs.values())):
        raise RefusedOperationError(f"{name} has no second derivative in torch; {way_out}")
    return native(*args, **kwargs)


def with_inner(function: Any, **replaced: Callable[..., Any]) -> Callable[..., Any]:
    """A Python function of torch with other functions in place of those that it calls by these names.

    It no longer looks for modes, to which it would hand itself over again and for ever.
    """
    never = {name: _never for name in function.__globals__ if name.startswith("has_torch_function")}
    inner = {**function.__globals__, **never, **replaced}
    copied = FunctionType(function.__code__, inner, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _never(*tensors: Any) -> bool:
    return False
