"""Elementwise functions and scans whose second derivatives torch lacks or loses to infinities."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .expansion import Tensor, exactly


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """For ``F.hardsigmoid``: a clamp, whose slope at the kinks is torch's, 0."""
    inside = (input > -3) & (input < 3)
    value = torch._C._nn.hardsigmoid(input.detach())
    result = exactly(value, torch.where(inside, input / 6, 0.0))
    return input.copy_(result) if inplace else result


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """For ``torch.logaddexp``, whose second derivative is NaN where one exponential overflows the other."""
    value = torch.logaddexp(input.detach(), other.detach())
    infinite = torch.isinf(input) | torch.isinf(other)
    x, y = torch.where(infinite, 0.0, input), torch.where(infinite, 0.0, other)
    # Beyond the threshold softplus is the identity, which it is there to the last bit.
    threshold = 40.0 if value.dtype == torch.float64 else 20.0
    smooth = y + F.softplus(x - y, threshold=threshold)
    return torch.where(infinite, torch.maximum(input, other), exactly(torch.where(infinite, 0.0, value), smooth))


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """For ``torch.logcumsumexp``, whose backward takes logarithms of zero cotangents: a scan by :func:`logaddexp`.

    W. D. Hillis and G. L. Steele, "Data parallel algorithms", 1986.
    """
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
