"""Special functions whose derivatives torch loses at zero or far out: series and fractions that keep their digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from .expansion import Tensor, exactly, exactly_where_finite

TERMS = 9
"""Of a series near zero: enough for derivatives up to the sixth in double precision."""

ASYMPTOTIC = 30.0
"""From here on the series of the scaled Bessel functions in ``1/x`` is exact to rounding."""


def sinc(input: Tensor) -> Tensor:
    """For ``torch.sinc``, whose derivatives are NaN at zero: its series there."""
    value = torch.sinc(input.detach())
    near = input.abs() < 0.25
    x, far = torch.where(near, math.pi * input, 0.0), math.pi * torch.where(near, 1.0, input)
    series = _polynomial(x.square(), [(-1) ** k / math.factorial(2 * k + 1) for k in range(TERMS)])
    return exactly(value, torch.where(near, series, torch.sin(far) / far))


def i0(input: Tensor) -> Tensor:
    """For ``torch.special.i0``, whose fourth derivative is zero at zero."""
    near, x, far = _parts(input)
    return exactly_where_finite(
        torch.special.i0(input.detach()), torch.where(near, _bessel(x, 0), torch.special.i0(far))
    )


def i1(input: Tensor) -> Tensor:
    """For ``torch.special.i1``, whose third derivative is zero at zero."""
    near, x, far = _parts(input)
    return exactly_where_finite(
        torch.special.i1(input.detach()), torch.where(near, _bessel(x, 1), torch.special.i1(far))
    )


def i0e(input: Tensor) -> Tensor:
    """For ``torch.special.i0e``, whose derivatives cancel near zero and far out."""
    return _scaled(torch.special.i0e, input, 0)


def i1e(input: Tensor) -> Tensor:
    """For ``torch.special.i1e``, whose derivatives cancel near zero and far out."""
    return _scaled(torch.special.i1e, input, 1)


def _parts(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where an input is near zero; itself there, and 0 elsewhere; itself elsewhere, and 1 there."""
    near = input.abs() < 0.5
    return near, torch.where(near, input, 0.0), torch.where(near, 1.0, input)


def _bessel(x: Tensor, order: int) -> Tensor:
    """The modified Bessel function by its series near zero."""
    half = x / 2
    coefficients = [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(TERMS)]
    series = _polynomial(half.square(), coefficients)
    return half * series if order else series


def _scaled(function: Callable[[Tensor], Tensor], input: Tensor, order: int) -> Tensor:
    """``exp(-|x|) I(x)``: the series of I near zero, that in ``1/x`` far out, torch's own between them."""
    near, x, far = _parts(input)
    beyond = far.abs() > ASYMPTOTIC
    between, size = torch.where(beyond, 1.0, far), torch.where(beyond, far, ASYMPTOTIC).abs()
    outer = _polynomial(1 / size, _hankel(order)) * torch.rsqrt(2 * math.pi * size)
    outer = outer * far.detach().sign() if order else outer
    inner = torch.exp(-x.abs()) * _bessel(x, order)
    return exactly(function(input.detach()), torch.where(near, inner, torch.where(beyond, outer, function(between))))


def _hankel(order: int) -> list[float]:
    """The coefficients of the asymptotic series of a modified Bessel function."""
    found = [1.0]
    for k in range(1, 24):
        found.append(-found[-1] * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k))
    return found


FRACTION = 3.0
"""From here on the continued fraction of erfc converges to rounding in so many steps as follow."""

STEPS = 40


def erfcx(input: Tensor) -> Tensor:
    """For ``torch.special.erfcx``, whose derivatives cancel far out."""
    value = torch.special.erfcx(input.detach())
    far = input > FRACTION
    outer = 1 / (math.sqrt(math.pi) * _fraction(torch.where(far, input, FRACTION)))
    return exactly_where_finite(value, torch.where(far, outer, torch.special.erfcx(torch.where(far, 0.0, input))))


def log_ndtr(input: Tensor) -> Tensor:
    """For ``torch.special.log_ndtr``, whose derivatives cancel in the lower tail."""
    value = torch.special.log_ndtr(input.detach())
    far = input < -FRACTION * math.sqrt(2)
    z = torch.where(far, input, -FRACTION * math.sqrt(2)) * -math.sqrt(0.5)
    outer = -z.square() - torch.log(_fraction(z)) - math.log(2 * math.sqrt(math.pi))
    return exactly_where_finite(value, torch.where(far, outer, torch.special.log_ndtr(torch.where(far, 0.0, input))))


def _fraction(x: Tensor) -> Tensor:
    """``1 / (sqrt(pi) erfcx(x))``, Laplace's continued fraction, in which nothing is subtracted."""
    total = x
    for k in range(STEPS, 0, -1):
        total = x + k / 2 / total
    return total


def gammainc(input: Tensor, other: Tensor) -> Tensor:
    """For ``torch.special.gammainc``, whose derivatives are NaN at zero."""
    return _incomplete(torch.special.gammainc, input, other, 1)


def gammaincc(input: Tensor, other: Tensor) -> Tensor:
    """For ``torch.special.gammaincc``, whose derivatives are NaN at zero."""
    return _incomplete(torch.special.gammaincc, input, other, -1)


def _incomplete(function: Callable[[Tensor, Tensor], Tensor], input: Tensor, other: Tensor, sign: int) -> Tensor:
    """Near zero ``sum_n (-1)^n x^(a+n) / (n! (a+n))`` over the gamma function of a, torch's own elsewhere.

    Each power is a term of its own: where one is infinite, so are others of the same sign.
    """
    a = input.detach()
    value = function(a, other.detach())
    near = (other >= 0) & (other < 0.1) & (a > 0)
    n = torch.arange(12, dtype=value.dtype, device=value.device)
    exponents = torch.where(near, a, 1.0).unsqueeze(-1) + n
    weights = sign * torch.exp(-torch.lgamma(n + 1)) * (1 - 2 * (n % 2)) / exponents
    terms = torch.pow(torch.where(near, other, 0.0).unsqueeze(-1), exponents) * weights
    series = terms.sum(-1) * torch.exp(-torch.lgamma(torch.where(near, a, 1.0)))
    return exactly(value, torch.where(near, series, function(input, torch.where(near, 1.0, other))))


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's rule."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
