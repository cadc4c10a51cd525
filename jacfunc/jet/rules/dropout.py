"""Dropout: one mask for the value and all rows, of the same draw that a plain forward takes."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..jet import Jet
from .piecewise import SELU_ALPHA, SELU_SCALE
from .products import product_of
from .shared import enter, merged

Tensor = torch.Tensor


def dropout(input: Jet, p: float, train: bool) -> Jet:
    """Elements left out."""
    return product_of(input, torch.dropout(torch.ones_like(input.value), p, train)) if train and p else input


def feature_dropout(input: Jet, p: float, train: bool) -> Jet:
    """Channels left out."""
    ones = torch.ones_like(input.value)
    return product_of(input, torch.feature_dropout(ones, p, train)) if train and p else input


def native_dropout(input: Jet, p: float, train: bool | None) -> Any:
    """With the mask of what is kept."""
    noise, kept = torch.native_dropout(torch.ones_like(input.value), p, train)
    return product_of(input, noise), kept


def alpha_dropout(input: Jet, p: float, train: bool) -> Jet:
    """Elements sent to where ``selu`` saturates, mean and variance kept."""
    return _alpha(input, input.shape, p) if train and p else input


def feature_alpha_dropout(input: Jet, p: float, train: bool) -> Jet:
    """Whole channels sent to where ``selu`` saturates, mean and variance kept."""
    shape = (*input.shape[:2], *(1 for _ in input.shape[2:]))
    return _alpha(input, shape, p) if train and p else input


def _alpha(input: Jet, shape: Any, p: float) -> Jet:
    """``x noise a + b`` as torch rounds it; where nothing is kept, zero."""
    x = input.value
    if p == 1:
        return product_of(input, torch.zeros((), dtype=x.dtype, device=x.device))
    saturated = SELU_ALPHA * SELU_SCALE
    scale = 1 / math.sqrt((saturated**2 * p + 1) * (1 - p))
    like = torch.empty_like(x) if tuple(shape) == tuple(x.shape) else x.new_empty(shape)
    kept = like.bernoulli_(1 - p)
    shift = (kept - 1) * (saturated * scale) + saturated * scale * p
    noise = kept * scale
    return merged(x * noise + shift, (noise, input))


def install() -> None:
    """Enter the rules of this file."""
    rules = (dropout, feature_dropout, alpha_dropout, feature_alpha_dropout, native_dropout)
    enter({getattr(torch, rule.__name__): rule for rule in rules}, keeps_frame=True)
