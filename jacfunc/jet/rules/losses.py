"""Losses and gates: composed of simpler operations on jets, with torch's own value; targets may be jets as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core.torch_private import c_nn as _nn
from ...evaluation.corrections.expansion import reduced
from ...evaluation.corrections.losses import REDUCTIONS
from ..values import plain
from .shared import enter_valued


def _elementwise_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss of each element and its target, reduced; other arguments follow."""

    def body(input: Any, target: Any, reduction: int = 1, *options: Any) -> Any:
        return reduced(loss(input, target, *options), REDUCTIONS[reduction])

    return body


def _smooth(difference: Any, beta: float) -> Any:
    """Square near zero, linear beyond; the slope at zero and at the joint is that of either side."""
    size = difference.abs()
    return torch.where(plain(size) < beta, difference.square() * (0.5 / beta) if beta else size, size - 0.5 * beta)


def smooth_l1(input: Any, target: Any, beta: float = 1.0) -> Any:
    """``F.smooth_l1_loss``."""
    return _smooth(input - target, beta)


def huber(input: Any, target: Any, delta: float = 1.0) -> Any:
    """``F.huber_loss``."""
    return _smooth(input - target, delta) * delta


def soft_margin(input: Any, target: Any) -> Any:
    """``F.soft_margin_loss``."""
    return F.softplus(-target * input)


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    """Logarithms of at least -100, as torch has them."""
    losses = (target - 1) * _clamped_log(1 - input) - target * _clamped_log(input)
    return reduced(losses if weight is None else losses * weight, REDUCTIONS[reduction])


def _clamped_log(x: Any) -> Any:
    value = plain(x).log()
    inside = value >= -100
    return torch.where(inside, torch.where(inside, x, 1.0).log(), -100.0)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Any:
    """``(1 - t) x + (1 + (w - 1) t) log(1 + exp(-x))``."""
    factor = 1 if pos_weight is None else (pos_weight - 1) * target + 1
    losses = (1 - target) * input - factor * F.logsigmoid(input)
    return reduced(losses if weight is None else losses * weight, REDUCTIONS[reduction])


def kl_div(input: Any, target: Any, reduction: int = 1, *, log_target: bool = False) -> Any:
    """``t (log t - x)``."""
    losses = target.exp() * (target - input) if log_target else torch.xlogy(target, target) - target * input
    return reduced(losses, REDUCTIONS[reduction])


def poisson_nll(input: Any, target: Any, log_input: bool, full: bool, eps: float, reduction: int) -> Any:
    """``F.poisson_nll_loss``."""
    losses = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        stirling = target * target.log() - target + 0.5 * (2 * torch.pi * target).log()
        losses = losses + torch.where(plain(target) > 1, stirling, 0.0)
    return reduced(losses, REDUCTIONS[reduction])


def gaussian_nll(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """``F.gaussian_nll_loss``: the bound of the variance is not in its derivative."""
    var = torch.full((), var, dtype=input.dtype, device=input.device) if isinstance(var, float) else var
    if var.dim() and var.shape != input.shape and var.shape == input.shape[:-1]:
        var = var.unsqueeze(-1)
    var = var + (plain(var).clamp(min=eps) - plain(var)).detach()
    losses = 0.5 * (torch.log(var) + (input - target).square() / var)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


def hinge_embedding(input: Any, target: Any, margin: float = 1.0, reduction: int = 1) -> Any:
    """``F.hinge_embedding_loss``."""
    apart = torch.where(target != 1, (margin - input).clamp_min(0), 0.0)
    return reduced(apart + torch.where(target != -1, input, 0.0), REDUCTIONS[reduction])


def margin_ranking(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = 1) -> Any:
    """``F.margin_ranking_loss``."""
    return reduced((-target * (input1 - input2) + margin).clamp_min(0), REDUCTIONS[reduction])


def cosine_embedding(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = 1) -> Any:
    """``F.cosine_embedding_loss``: torch adds a small number to each squared norm."""
    dim = target.dim()
    product = (input1 * input2).sum(dim)
    squares = (input1.square().sum(dim) + 1e-12) * (input2.square().sum(dim) + 1e-12)
    cosine = product / squares.sqrt()
    apart = torch.where(target == -1, (cosine - margin).clamp_min(0), 0.0)
    return reduced(apart + torch.where(target == 1, 1 - cosine, 0.0), REDUCTIONS[reduction])


def triplet_margin(
    anchor: Any, positive: Any, negative: Any, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6,
    swap: bool = False, reduction: int = 1,
) -> Any:  # fmt: skip
    """``F.triplet_margin_loss``."""
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    return reduced((margin + near - far).clamp_min(0), REDUCTIONS[reduction])


# -------------------------------------------------------------------- of classes


def _class_axis(input: Any) -> int:
    return 1 if input.dim() > 1 else 0


def nll(input: Any, target: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100) -> Any:
    """The negative logarithm at the target; the mean is weighted."""
    at = _class_axis(input)
    kept = target != ignore_index
    labels = torch.where(kept, target, 0)
    weights = kept.to(input.dtype) if weight is None else torch.where(kept, weight[labels], 0.0)
    losses = torch.where(kept, -input.gather(at, labels.unsqueeze(at)).squeeze(at) * weights, 0.0)
    if REDUCTIONS[reduction] == "mean":
        return losses.sum() / weights.sum()
    return reduced(losses, REDUCTIONS[reduction])


def cross_entropy(
    input: Any, target: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100, smoothing: float = 0.0
) -> Any:
    """Of labels or of probabilities, smoothed or not."""
    at = _class_axis(input)
    logarithms = torch.log_softmax(input, at)
    if target.shape == input.shape and target.is_floating_point():
        return _of_probabilities(logarithms, target, weight, reduction, smoothing, at)
    result = nll(logarithms, target, weight, reduction, ignore_index)
    if not smoothing:
        return result
    kept = target != ignore_index
    spread = logarithms if weight is None else logarithms * _along(weight, input, at)
    smooth = torch.where(kept, -spread.sum(at), 0.0)
    if REDUCTIONS[reduction] == "mean":
        labels = torch.where(kept, target, 0)
        total = kept.sum() if weight is None else torch.where(kept, weight[labels], 0.0).sum()
        smooth = smooth.sum() / total
    else:
        smooth = reduced(smooth, REDUCTIONS[reduction])
    return (1 - smoothing) * result + smoothing / input.shape[at] * smooth


def _of_probabilities(logarithms: Any, target: Any, weight: Any, reduction: int, smoothing: float, at: int) -> Any:
    if smoothing:
        target = target * (1 - smoothing) + smoothing / logarithms.shape[at]
    terms = logarithms * target
    losses = -(terms if weight is None else terms * _along(weight, logarithms, at)).sum(at)
    if REDUCTIONS[reduction] == "mean":
        return losses.sum() / max(losses.numel(), 1)
    return reduced(losses, REDUCTIONS[reduction])


def _along(weight: Any, like: Any, at: int) -> Any:
    return weight.reshape([-1 if place == at else 1 for place in range(like.dim())])


# -------------------------------------------------------------------- gates


def glu(input: Any, dim: int = -1) -> Any:
    """One half times the sigmoid of the other."""
    one, two = input.chunk(2, dim)
    return one * two.sigmoid()


RULES: dict[Any, Callable[..., Any]] = {
    _nn.mse_loss: _elementwise_loss(lambda input, target: (input - target).square()),
    _nn.l1_loss: _elementwise_loss(lambda input, target: (input - target).abs()),
    _nn.smooth_l1_loss: _elementwise_loss(smooth_l1),
    _nn.huber_loss: _elementwise_loss(huber),
    _nn.soft_margin_loss: _elementwise_loss(soft_margin),
    _nn.binary_cross_entropy: binary_cross_entropy,
    torch.binary_cross_entropy_with_logits: binary_cross_entropy_with_logits,
    torch.kl_div: kl_div,
    torch.poisson_nll_loss: poisson_nll,
    torch.hinge_embedding_loss: hinge_embedding,
    torch.margin_ranking_loss: margin_ranking,
    torch.cosine_embedding_loss: cosine_embedding,
    torch.triplet_margin_loss: triplet_margin,
    F.gaussian_nll_loss: gaussian_nll,
    _nn.nll_loss_nd: nll,
    _nn.cross_entropy_loss: cross_entropy,
    _nn.glu: glu,
}


def install() -> None:
    """Enter the rules of this file."""
    enter_valued(RULES)
