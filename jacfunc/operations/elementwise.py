"""Elementwise functions and scans whose higher derivatives torch lacks, or loses to infinities and at zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from .expansion import Tensor, exactly, exactly_where_finite


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """For ``F.hardsigmoid``: a clamp, whose slope at the kinks is torch's, 0."""
    inside = (input > -3) & (input < 3)
    value = torch._C._nn.hardsigmoid(input.detach())
    result = exactly(value, torch.where(inside, input / 6, 0.0))
    return input.copy_(result) if inplace else result


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """For ``F.mish``, whose second derivative is NaN where an exponential overflows."""
    x = input.clone() if inplace else input  # which is needed again in the backward
    value = torch._C._nn.mish(x.detach())
    result = exactly_where_finite(value, x * torch.tanh(_softplus(x)))
    return input.copy_(result) if inplace else result


def sinc(input: Tensor) -> Tensor:
    """For ``torch.sinc``, whose derivatives are NaN at zero: its series there."""
    value = torch.sinc(input.detach())
    near = input.abs() < 0.25
    x, far = torch.where(near, math.pi * input, 0.0), math.pi * torch.where(near, 1.0, input)
    series = _polynomial(x.square(), [(-1) ** k / math.factorial(2 * k + 1) for k in range(9)])
    return exactly(value, torch.where(near, series, torch.sin(far) / far))


def i0(input: Tensor) -> Tensor:
    """For ``torch.special.i0``, whose fourth derivative is zero at zero."""
    return _bessel(torch.special.i0, input, 0)


def i1(input: Tensor) -> Tensor:
    """For ``torch.special.i1``, whose third derivative is zero at zero."""
    return _bessel(torch.special.i1, input, 1)


def _bessel(function: Callable[[Tensor], Tensor], input: Tensor, order: int) -> Tensor:
    """The modified Bessel function, by its series near zero."""
    value = function(input.detach())
    near = input.abs() < 0.5
    x, far = torch.where(near, input / 2, 0.0), torch.where(near, 1.0, input)
    series = _polynomial(x.square(), [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(9)])
    return exactly_where_finite(value, torch.where(near, series if order == 0 else x * series, function(far)))


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's rule; enough terms for derivatives up to the sixth in double precision."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _softplus(x: Tensor) -> Tensor:
    # Beyond the threshold softplus is the identity, which it is there to the last bit.
    return F.softplus(x, threshold=40.0 if x.dtype == torch.float64 else 20.0)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """For ``torch.logaddexp``, whose second derivative is NaN where one exponential overflows the other."""
    if input.is_complex() or other.is_complex():
        return torch.logaddexp(input, other)
    value = torch.logaddexp(input.detach(), other.detach())
    infinite = torch.isinf(input) | torch.isinf(other)
    x, y = torch.where(infinite, 0.0, input), torch.where(infinite, 0.0, other)
    smooth = y + _softplus(x - y)
    return torch.where(infinite, torch.maximum(input, other), exactly(torch.where(infinite, 0.0, value), smooth))


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """For ``torch.logcumsumexp``, whose backward takes logarithms of zero cotangents: a scan by :func:`logaddexp`.

    W. D. Hillis and G. L. Steele, "Data parallel algorithms", 1986.
    """
    if input.is_complex():
        return torch.logcumsumexp(input, dim)
    value = torch.logcumsumexp(input.detach(), dim)
    if not input.dim():
        return exactly(value, input)
    scanned, step = input, 1
    while step < input.shape[dim]:
        kept = scanned.shape[dim] - step
        later = logaddexp(scanned.narrow(dim, step, kept), scanned.narrow(dim, 0, kept))
        scanned = torch.cat([scanned.narrow(dim, 0, step), later], dim)
        step *= 2
    infinite = torch.isinf(value)
    finite = exactly(torch.where(infinite, 0.0, value), torch.where(infinite, 0.0, scanned))
    return torch.where(infinite, scanned, finite)
