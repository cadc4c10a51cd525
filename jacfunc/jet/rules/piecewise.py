"""Activations in pieces: hard ones, and those that are something else on either side of zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..build import Operand, composed
from ..jet import Jet
from .elementwise import elu, leaky_relu
from .shared import Rule, Tensor, enter, enter_each, enter_valued

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def shrink(function: Callable[..., Tensor]) -> Rule:
    """``hardshrink`` and ``softshrink``: zero near zero; elsewhere the input, or that moved so that nothing jumps."""

    def rule(input: Jet, lambd: float = 0.5) -> Jet:
        kept = (input.value > lambd) | (input.value < -lambd)
        return Jet(function(input.value, lambd), composed(input, [kept]), input.frame)

    return rule


def hardswish(input: Jet) -> Jet:
    """``x (x + 3) / 6`` between -3 and 3."""
    x = input.value
    inside = (x > -3) & (x < 3)
    slope = torch.where(inside, x / 3 + 0.5, (x >= 3).to(x.dtype))
    return Jet(F.hardswish(x), composed(input, [slope, inside.to(x.dtype) / 3]), input.frame)


def prelu(input: Operand, weight: Operand) -> Any:
    """A slope below zero for each channel; either may be a jet."""
    if weight.numel() != 1:
        weight = weight.reshape([1, -1, *(1 for _ in input.shape[2:])] if input.dim() > 1 else [-1])
    elif weight.dim():
        weight = weight.reshape(())
    return torch.where(input > 0, input, weight * input)


def rrelu(input: Jet, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """The mean slope in eval mode; in training each element has a slope of its own, drawn once."""
    if training:
        x = input.value
        value = torch.rrelu(x, lower, upper, True, generator)
        slope = torch.where(x < 0, value / torch.where(x < 0, x, 1.0), 1.0)
        return Jet(value, composed(input, [slope]), input.frame)
    return leaky_relu(input, (lower + upper) / 2)


def selu(input: Jet) -> Jet:
    """An ``elu`` of two fixed numbers."""
    return elu(input, SELU_ALPHA, SELU_SCALE)


def celu(input: Jet, alpha: float = 1.0) -> Jet:
    """``alpha (exp(x / alpha) - 1)`` below zero."""
    return elu(input, alpha, 1.0, 1 / alpha)


def install() -> None:
    """Enter the rules of this file."""
    enter_each(shrink, "hardshrink", "softshrink", keeps_frame=True)
    enter({"hardswish": hardswish}, keeps_frame=True)
    enter({"rrelu": rrelu})
    enter_valued({"prelu": prelu, "selu": selu, "celu": celu}, keeps_frame=True)
