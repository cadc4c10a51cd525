"""Activations and scans whose derivatives torch lacks, rounds to single precision, or loses to infinities."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...core.torch_private import c_nn
from .expansion import Tensor, exactly, exactly_where_finite


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """For ``F.hardsigmoid``: a clamp, whose slope at the kinks is torch's, 0."""
    inside = (input > -3) & (input < 3)
    value = c_nn.hardsigmoid(input.detach())
    result = exactly(value, torch.where(inside, input / 6, 0.0))
    return input.copy_(result) if inplace else result


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """For ``F.mish``, whose second derivative is NaN where an exponential overflows."""
    x = input.clone() if inplace else input  # which is needed again in the backward
    value = c_nn.mish(x.detach())
    result = exactly_where_finite(value, x * torch.tanh(_softplus(x)))
    return input.copy_(result) if inplace else result


def _softplus(x: Tensor) -> Tensor:
    # Beyond the threshold softplus is the identity, which it is there to the last bit.
    return F.softplus(x, threshold=40.0 if x.dtype == torch.float64 else 20.0)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """For ``F.celu``, whose derivative has ``1 / alpha`` in single precision: the elu that its value is."""
    x = input.clone() if inplace else input
    result = c_nn.elu(x, alpha, 1.0, 1 / alpha) if alpha else torch.celu(x, alpha)
    return input.copy_(result) if inplace else result


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """For ``F.prelu``, whose pushforward at zero takes the slope from above, and whose backward that from below."""
    if weight.numel() > 1 and input.dim() > 1:  # one for each channel
        slope = weight.reshape(1, -1, *(1,) * (input.dim() - 2))
    else:
        slope = weight.reshape((1,) * input.dim()) if weight.numel() == 1 else weight
    return exactly(torch.prelu(input.detach(), weight.detach()), torch.where(input > 0, input, slope * input))


def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """For ``torch.polar``, whose derivative by ``abs`` is the sign of the result, which has that of a negative one."""
    return exactly(
        torch.polar(abs.detach(), angle.detach()), torch.complex(abs * torch.cos(angle), abs * torch.sin(angle))
    )


GELU_ENDS = 8.0
"""Beyond this gelu by tanh is the identity or zero, to the last bit."""


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """For ``F.gelu`` by tanh, whose third derivative is NaN where a hyperbolic cosine overflows."""
    if approximate != "tanh":
        return F.gelu(input, approximate=approximate)
    value = F.gelu(input.detach(), approximate=approximate)
    far = input.abs() > GELU_ENDS
    ends = torch.where(input > 0, input, 0.0)
    curved = F.gelu(torch.where(far, 0.0, input), approximate=approximate)
    return exactly_where_finite(value, torch.where(far, ends, curved))


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
