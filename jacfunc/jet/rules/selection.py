"""Elements chosen by a mask or by comparing operands: rows go with the values, and ties are shared as torch does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...core.levels import TIES_SHARED
from ..build import Operand, composed, elementwise
from ..jet import Jet
from ..values import plain
from .elementwise import piecewise
from .shared import enter, merged, reflected, switched

Tensor = torch.Tensor


def _tensor(operand: Any, like: Tensor) -> Tensor:
    value = plain(operand)
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device=like.device)


# -------------------------------------------------------------------- masks


def where(condition: Any, input: Operand = None, other: Operand = None) -> Any:
    """Either branch may be a jet, a tensor or a number."""
    condition, x, y = plain(condition), plain(input), plain(other)
    if x is None:
        return torch.where(condition)
    value = torch.where(condition, x, y)
    if type(input) is not Jet and type(other) is not Jet:
        return value
    return switched(value, condition.bool(), input, other)


def masked_fill(input: Operand, mask: Any, value: Operand) -> Any:
    """Another number where a mask holds."""
    mask = plain(mask)
    return switched(torch.masked_fill(plain(input), mask, plain(value)), mask, value, input)


# -------------------------------------------------------------------- bounds


def clamp(input: Operand, min: Operand = None, max: Operand = None) -> Any:
    """Between bounds that may themselves be jets; what counts at a bound is what torch's own version has there."""
    x, lower, upper = plain(input), plain(min), plain(max)
    value = torch.clamp(x, lower, upper)
    if not TIES_SHARED:
        return merged(value, *_first_at_ties(x, (input, min, max), lower, upper))
    if any(bound is not None and not isinstance(bound, Tensor) for bound in (lower, upper)):
        above = torch.ones_like(x, dtype=torch.bool) if lower is None else x > lower
        return merged(value, (above if upper is None else above & (x < upper), input))
    return merged(value, *_shared_at_ties(value, (input, min, max), x, lower, upper))


def _first_at_ties(x: Tensor, operands: Sequence[Operand], lower: Any, upper: Any) -> list[tuple[Tensor, Operand]]:
    """Of an input and its bounds, which of them each element is; at a bound it is the input."""
    input, min, max = operands
    above = torch.ones_like(x, dtype=torch.bool) if lower is None else x >= lower
    below = torch.ones_like(above) if upper is None else x <= upper
    parts = [(above & below, input)]
    if type(min) is Jet:
        parts.append((~above if upper is None else ~above & (lower < upper), min))
    if type(max) is Jet:
        parts.append((~below if lower is None else ~below | (upper < lower), max))
    return parts


def _shared_at_ties(
    value: Tensor, operands: Sequence[Operand], x: Tensor, lower: Tensor | None, upper: Tensor | None
) -> list[tuple[Tensor, Operand]]:
    """Weights of an input and its bounds: at a bound, if the other is apart from it, each of the two has half."""
    input, min, max = operands
    none = torch.zeros_like(value)
    inside = torch.ones_like(value, dtype=torch.bool) if lower is None or upper is None else lower < upper
    by_lower, by_upper = none, none
    if lower is not None:
        ordered = inside if upper is None else lower <= upper
        by_lower = torch.where((x < lower) & ordered, 1.0, torch.where((x == lower) & inside, 0.5, none))
    if upper is not None:
        crossed = ~inside if lower is None else upper < lower
        by_upper = torch.where((x > upper) | crossed, 1.0, torch.where((x == upper) & inside, 0.5, none))
    parts = [(1 - by_lower - by_upper, input)]
    parts += [(weight, bound) for weight, bound in ((by_lower, min), (by_upper, max)) if type(bound) is Jet]
    return parts


def clamp_max(input: Operand, max: Operand) -> Any:
    """From above."""
    return clamp(input, max=max)


# -------------------------------------------------------------------- the larger and the smaller of two


def _extreme(function: Callable[..., Tensor], first: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """``maximum`` and ``minimum``: equal operands have half of the rows each."""

    def rule(input: Operand, other: Operand) -> Any:
        x, y = plain(input), plain(other)
        half = torch.where(x == y, 0.5, 0.0)
        weights = (torch.where(chosen, 1.0, half) for chosen in (first(x, y), first(y, x)))
        value = function(x, y)
        pairs = zip(weights, (input, other), strict=True)
        return merged(value, *((weight.to(value.dtype), operand) for weight, operand in pairs))

    return rule


def _extreme_number(function: Callable[..., Tensor], first: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """``fmax`` and ``fmin``: a number before NaN; of equal operands the first, or half of each as in ``maximum``."""

    def rule(input: Operand, other: Operand) -> Any:
        x, y = plain(input), plain(other)
        value = function(x, y)
        chosen = first(x, y) | y.isnan()
        if not TIES_SHARED:
            return switched(value, chosen, input, other)
        either = [switched(value, mask, input, other) for mask in (chosen, chosen ^ (x == y))]  # no weight meets a NaN
        return merged(value, *((torch.full_like(value, 0.5), one) for one in either))

    return rule


maximum = _extreme(torch.maximum, torch.gt)
minimum = _extreme(torch.minimum, torch.lt)


# -------------------------------------------------------------------- signs and remainders


def copysign(input: Operand, other: Operand) -> Any:
    """The sign of another, which has no derivative."""
    x = _tensor(input, plain(other) if isinstance(plain(other), Tensor) else plain(input))
    value = torch.copysign(x, plain(other))
    if type(input) is not Jet:
        return value
    return merged(value, (torch.where(x == 0, 0.0, value.sign() * x.sign()).to(value.dtype), input))


def nextafter(input: Operand, other: Operand) -> Any:
    """The next number towards another, which has no derivative."""
    x, y = plain(input), plain(other)
    value = torch.nextafter(x, y)
    return merged(value, (x != y, input)) if type(input) is Jet else value


def _remainder(function: Callable[..., Tensor], rounding: str) -> Callable[..., Any]:
    """``x - q y`` with a whole number q, which is constant."""

    def rule(input: Operand, other: Operand) -> Any:
        x, y = plain(input), plain(other)
        value = function(x, y)
        quotient = torch.div(_tensor(x, value), y, rounding_mode=rounding)
        return merged(value, (torch.ones_like(value, dtype=torch.bool), input), (-quotient, other))

    return rule


def nan_to_num(input: Jet, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Jet:
    """Constant where the input is not finite."""
    value = torch.nan_to_num(input.value, nan, posinf, neginf)
    return Jet(value, composed(input, [input.value.isfinite()]), input.frame)


def _scaled(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """The rule of a multiple of the input."""
    return elementwise(function, lambda x, y, order: [float(function(torch.ones((), dtype=torch.float64)))])


def install() -> None:
    """Enter the rules of this file."""
    method = torch.Tensor
    remainder = _remainder(torch.remainder, "floor")
    enter(
        {
            torch.where: where,
            method.where: lambda input, condition, other: where(condition, input, other),
            "masked_fill": masked_fill,
            "clamp": clamp,
            "clip": clamp,
            "clamp_min": clamp,
            "clamp_max": clamp_max,
            "maximum": maximum,
            "minimum": minimum,
            "fmax": _extreme_number(torch.fmax, torch.ge),
            "fmin": _extreme_number(torch.fmin, torch.le),
            "copysign": copysign,
            "nextafter": nextafter,
            "fmod": _remainder(torch.fmod, "trunc"),
            "remainder": remainder,
            method.__mod__: remainder,
            method.__rmod__: reflected(remainder),
            "nan_to_num": nan_to_num,
            "deg2rad": _scaled(torch.deg2rad),
            "rad2deg": _scaled(torch.rad2deg),
            "frac": elementwise(torch.frac, piecewise(torch.ones_like)),
        },
        keeps_frame=True,
    )
