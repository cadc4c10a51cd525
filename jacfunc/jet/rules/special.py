"""Special functions with a parameter, and numbers by their exponents."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...evaluation.corrections import special as corrected
from ..build import Operand, composed, elementwise
from ..jet import Jet
from ..registry import spelled
from .elementwise import by_torch
from .shared import enter, enter_valued, reflected

Tensor = torch.Tensor


def logit(input: Any, eps: float | None = None) -> Any:
    """The inverse of the sigmoid, with a bound on either side."""
    bounded = input if eps is None else torch.clamp(input, eps, 1 - eps)
    return elementwise(torch.logit, by_torch(torch.logit))(bounded)


def polygamma(n: int, input: Jet) -> Jet:
    """Each is the derivative of the one before."""
    x = input.value
    higher = [torch.polygamma(n + k, x) for k in range(1, input.frame.layout.order + 1)]
    return Jet(torch.polygamma(n, x), composed(input, higher), input.frame)


def mvlgamma(input: Any, p: int) -> Any:
    """A sum of ``lgamma`` and a constant."""
    halves = torch.arange(p, dtype=input.dtype, device=input.device) / 2
    return torch.sum(torch.lgamma(torch.unsqueeze(input, -1) - halves), -1) + p * (p - 1) / 4 * math.log(math.pi)


def ldexp(input: Operand, other: Operand) -> Any:
    """``x 2^y``."""
    return torch.mul(input, torch.pow(2.0, other))


def frexp(input: Jet) -> Any:
    """The mantissa, and the exponent, which is constant."""
    values = torch.frexp(input.value)
    slope = torch.ldexp(torch.ones_like(input.value), -values[1])
    mantissa: Any = Jet(values[0], composed(input, [slope]), input.frame)
    return type(values)((mantissa, values[1]))


def install() -> None:
    """Enter the rules of this file."""
    exact = {name: by_torch(getattr(corrected, name)) for name in ("i0", "i1", "i0e", "i1e", "erfcx", "log_ndtr")}
    rules = {name: elementwise(getattr(torch.special, name), derivatives) for name, derivatives in exact.items()}
    enter({"logit": logit, **rules}, keeps_frame=True)
    enter(
        {
            torch.polygamma: polygamma,
            torch.special.polygamma: polygamma,
            torch.Tensor.polygamma: spelled(reflected(polygamma), n="other"),
            "frexp": frexp,
        }
    )
    enter_valued({"mvlgamma": mvlgamma, "multigammaln": mvlgamma, "ldexp": ldexp})
