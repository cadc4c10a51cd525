"""Powers: of a constant exponent, of one for each element, of a constant base, and where both vary."""

from __future__ import annotations

from typing import Any

import torch

from ...core.levels import tracing
from ..build import Derivatives, composed
from ..frame import CannotFollowError
from ..jet import Jet
from ..registry import in_place_of
from .shared import enter, moved_in_both, reflected

Tensor = torch.Tensor


def constant_power(exponent: float) -> Derivatives:
    """``x^p``; integer powers end in exact zeros, and nothing is divided by."""

    def derivatives(x: Tensor, y: Tensor, order: int) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        factor = 1.0
        for k in range(1, order + 1):
            factor *= exponent - k + 1
            remaining = exponent - k
            if factor == 0:
                found.append(None)
            elif remaining == 0:
                found.append(torch.full_like(x, factor))
            else:
                found.append(factor * (x if remaining == 1 else x**remaining))
        return found

    return derivatives


def pow_(input: Any, exponent: Any) -> Any:
    """A power, of which either part may vary."""
    exponent = _known(exponent, input)
    input = _known(input, exponent)
    if type(exponent) is Jet:
        return _both_vary(input, exponent) if type(input) is Jet else _exponential(input, exponent)
    if isinstance(exponent, Tensor) and not exponent.dim() and not exponent.requires_grad and not tracing():
        exponent = exponent.item()
    if isinstance(exponent, Tensor):
        return _tensor_power(input, exponent)
    value = torch.pow(input.value, exponent)
    if value.dtype != input.dtype:
        raise CannotFollowError("a power that changes the dtype")
    return Jet(
        value, composed(input, constant_power(exponent)(input.value, value, input.frame.layout.order)), input.frame
    )


def _known(part: Any, other: Any) -> Any:
    """The value of a jet without rows, such as ``full_like(x, 2)``, beside another jet."""
    constant = type(part) is Jet and type(other) is Jet and all(rows is None for rows in part.coefficients)
    return part.value if constant else part


def float_power(input: Any, exponent: Any) -> Any:
    """A power in double precision."""
    return pow_(_double(input), _double(exponent))


def _double(operand: Any) -> Any:
    if not isinstance(operand, Tensor | Jet):
        return operand
    number: Any = operand
    return number.to(torch.complex128 if number.dtype.is_complex else torch.float64)


def _both_vary(input: Jet, exponent: Jet) -> Any:
    """``exp(y log x)``; where x is zero, a power of x alone, as torch has it."""
    zero = input.value == 0
    product: Any = torch.mul(exponent, torch.log(torch.where(zero, 1.0, input)))  # type: ignore[call-overload,arg-type]
    result = torch.where(zero, _tensor_power(input, exponent.value.detach()), product.exp())  # type: ignore[call-overload]
    rows = result.coefficients if input.frame.layout.order == 1 else _edged(result, zero, input, exponent)
    return Jet(torch.pow(input.value, exponent.value), rows, input.frame)


def _edged(result: Any, zero: Tensor, input: Any, exponent: Any) -> Any:
    """NaN for what has a logarithm of zero: orders above the exponent, where both parts vary."""
    both, found = moved_in_both(input.sub(input.value), exponent.sub(exponent.value)), []
    for n, (rows, moved) in enumerate(zip(result.coefficients, both, strict=True), start=1):
        lost = None if moved is None else zero & (exponent.value < n) & (moved != 0)
        found.append(rows if rows is None or lost is None else torch.where(lost, torch.nan, rows))
    return tuple(found)


def _exponential(base: Any, exponent: Jet) -> Jet:
    """``exp(y log b)``, constant where b is zero."""
    base = base if isinstance(base, Tensor) else torch.as_tensor(base, dtype=exponent.dtype, device=exponent.device)
    value = torch.pow(base, exponent.value)
    logarithm = torch.where(base == 0, 1.0, base).log().to(value.dtype)
    product: Any = torch.mul(exponent, logarithm)  # type: ignore[arg-type]
    result = torch.where(base == 0, 0.0, product.exp())
    return Jet(value, result.coefficients, exponent.frame)  # type: ignore[attr-defined]


def _tensor_power(input: Any, exponent: Tensor) -> Jet:
    """A constant power for each element: what falls to zero stays zero at a zero."""
    value = torch.pow(input.value, exponent)
    wide: Any = input if input.shape == value.shape else torch.broadcast_to(input, value.shape)
    x = wide.value
    factor, found = torch.ones_like(exponent, dtype=value.dtype), []
    for k in range(1, input.frame.layout.order + 1):
        factor = factor * (exponent - (k - 1))
        ended = (factor == 0) & (x == 0)
        found.append(torch.where(ended, 0.0, factor * torch.where(ended, 1.0, x) ** (exponent - k)))
    rows = composed(wide, found)
    return Jet(value, tuple(c if c is None else c.to(value.dtype) for c in rows), input.frame)


def install() -> None:
    """Enter the rules of this file."""
    method = torch.Tensor
    enter(
        {
            torch.pow: pow_,
            method.pow: pow_,
            method.__pow__: pow_,
            method.__rpow__: reflected(pow_),
            method.__ipow__: in_place_of(pow_),
            "float_power": float_power,
        }
    )
