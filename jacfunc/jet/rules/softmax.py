"""Softmax and its kin: ``log sum exp`` relative to its own value, so that nothing overflows, at every order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core.torch_private import default_axis
from ..build import composed
from ..jet import Jet
from .shared import Rule, enter, enter_valued

Tensor = torch.Tensor


def _normaliser(input: Jet, weights: Tensor, dim: Any, keepdim: bool = True) -> Any:
    """The rows of ``log sum exp(x)``, where ``weights`` is the softmax: of ``log s`` with ``s = 1`` at the value."""
    order = input.frame.layout.order
    exponential: Any = Jet(weights, composed(input, [weights] * order), input.frame)
    total = exponential.sum(dim, keepdim)
    logarithm = [-((-1) ** k) * math.factorial(k - 1) for k in range(1, order + 1)]
    return Jet(total.value, composed(total, logarithm), input.frame)


def _cast(input: Any, dtype: torch.dtype | None) -> Any:
    return input if dtype is None or dtype == input.dtype else input.to(dtype)


def log_softmax(input: Any, dim: int, dtype: torch.dtype | None = None) -> Jet:
    """The logarithm of the softmax."""
    input = _cast(input, dtype)
    value = torch.log_softmax(input.value, dim)
    rows = input - _normaliser(input, value.exp(), dim)
    return Jet(value, rows.coefficients, input.frame)


def softmax(input: Any, dim: int, dtype: torch.dtype | None = None) -> Jet:
    """``exp(x - log sum exp(x))``."""
    input = _cast(input, dtype)
    return softmax_of(input, torch.softmax(input.value, dim), dim)


def softmax_of(input: Any, value: Tensor, dim: int) -> Jet:
    """``exp(x - log sum exp(x))``, of which the value is known."""
    logarithm = input - _normaliser(input, value, dim)
    return Jet(value, composed(logarithm, [value] * input.frame.layout.order), input.frame)


def softmin(input: Any, dim: int, dtype: torch.dtype | None = None) -> Any:
    """The softmax of the negative."""
    return softmax(-input, dim, dtype)


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Jet:
    """Over one axis or several."""
    value = torch.logsumexp(input.value, dim, keepdim=True)
    weights = torch.exp(input.value - torch.where(value.isinf(), 0.0, value))
    normaliser = _normaliser(input, weights, dim, keepdim)
    return Jet(torch.logsumexp(input.value, dim, keepdim), normaliser.coefficients, input.frame)


def _by_default_axis(function: Callable[..., Any]) -> Rule:
    """A rule for the Python form, whose axis may be missing and which takes one more argument."""

    def rule(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Any:
        if dim is None:
            dim = default_axis("softmax", input.dim(), _stacklevel)
        return function(input, dim, dtype)

    return rule


def logaddexp2(input: Any, other: Any) -> Any:
    """``log(exp(x) + exp(y))`` to the base 2."""
    base = math.log(2)
    return torch.logaddexp(input * base, other * base) / base


def install() -> None:
    """Enter the rules of this file."""
    enter(
        {
            "softmax": softmax,
            "log_softmax": log_softmax,
            "logsumexp": logsumexp,
            F.softmax: _by_default_axis(softmax),
            F.log_softmax: _by_default_axis(log_softmax),
            F.softmin: _by_default_axis(softmin),
        }
    )
    enter_valued({"logaddexp2": logaddexp2})
