"""Losses and bags whose backward torch cannot differentiate, from sums, clamps and indexing."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch.nn import functional as F

from ...core.levels import grad_mode
from ...errors import UnsupportedOperationError
from .expansion import Tensor, constant, exactly, reduced, with_inner


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """For ``F.multi_margin_loss``."""
    reduction = _reduction(size_average, reduce, reduction)
    value = F.multi_margin_loss(input.detach(), target, p, margin, constant(weight), reduction=reduction)
    rows, labels = _rows(input), target.reshape(-1, 1)
    slack = (margin - rows.gather(1, labels) + rows).clamp(min=0)
    slack = slack if p == 1 else slack.square()
    if weight is not None:
        slack = slack * weight[labels]
    others = torch.arange(rows.shape[1], device=rows.device) != labels
    losses = torch.where(others, slack, 0.0).sum(1) / rows.shape[1]
    return exactly(value, reduced(losses, reduction).reshape(value.shape))


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """For ``F.multilabel_margin_loss``: the labels of a row end at its first negative one."""
    reduction = _reduction(size_average, reduce, reduction)
    value = F.multilabel_margin_loss(input.detach(), target, reduction=reduction)
    rows, labels = _rows(input), _rows(target)
    listed = (labels >= 0).cummin(1).values
    places = labels.clamp(min=0)
    wrong = torch.zeros_like(rows).scatter_add(1, places, listed.to(rows.dtype)) == 0
    slack = (1 - rows.gather(1, places)[:, :, None] + rows[:, None, :]).clamp(min=0)
    losses = torch.where(listed[:, :, None] & wrong[:, None, :], slack, 0.0).sum((1, 2)) / max(rows.shape[1], 1)
    return exactly(value, reduced(losses, reduction).reshape(value.shape))


def refuse_lost_weight() -> None:
    """Refuse the weight of ``F.l1_loss``, which torch leaves out where it hands that over; its own frame has it."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not F.l1_loss.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is not None and frame.f_locals.get("weight") is not None:
        raise UnsupportedOperationError(
            "F.l1_loss with weight= inside of f: torch hands it over without its weight, so that it would be another "
            "loss; write (x - target).abs() * weight"
        )


REDUCTIONS = ("none", "mean", "sum")
"""As torch's own operations number them."""


def numbered_multi_margin(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """For ``torch.ops.aten.multi_margin_loss``."""
    return multi_margin_loss(input, target, p, margin, weight, reduction=REDUCTIONS[reduction])


def numbered_multilabel_margin(input: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """For ``torch.ops.aten.multilabel_margin_loss``."""
    return multilabel_margin_loss(input, target, reduction=REDUCTIONS[reduction])


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1)


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


# Older versions of torch do not have it.
_UNFUSED = with_inner(F.linear_cross_entropy) if hasattr(F, "linear_cross_entropy") else None


def linear_cross_entropy(*args: Any, options: Any = None, **kwargs: Any) -> Tensor:
    """For ``F.linear_cross_entropy``, whose chunks have a constant for a backward."""
    assert _UNFUSED is not None
    expanded: Tensor = _UNFUSED(*args, **kwargs)
    if options is None:
        return expanded
    with grad_mode(False):
        value = F.linear_cross_entropy(*args, options=options, **kwargs)
    return exactly(value, expanded)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """For ``F.embedding_bag``, whose backward torch cannot differentiate; ``sparse`` gradients become dense."""
    rest = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx)
    if input.is_nested:
        return F.embedding_bag(input, weight, offsets, *rest)
    with grad_mode(False):  # which also checks the arguments, and applies max_norm to the weight
        value = F.embedding_bag(input.detach(), weight.detach(), offsets, *rest)
    if input.is_floating_point():  # the deprecated order
        input, weight = weight, input
    if offsets is None:
        offsets = torch.arange(0, input.numel(), input.shape[1], device=input.device)
    weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    options = (scale_grad_by_freq, mode, weights, include_last_offset, padding_idx)
    return _bagged(value, weight, input.reshape(-1), offsets, *options)


def direct_embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...]:
    """For ``torch.embedding_bag``: the same, and the three tensors of integers that it also returns."""
    rest = (scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx)
    with grad_mode(False):
        value, *integers = torch.embedding_bag(weight, indices, offsets, *rest)
    named = ("sum", "mean", "max")[mode]
    options = (scale_grad_by_freq, named, per_sample_weights, include_last_offset, padding_idx)
    return (_bagged(value, weight, indices, offsets, *options), *integers)


BAG_ARGUMENTS = tuple(inspect.signature(direct_embedding_bag).parameters)


def private_embedding_bag(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """For ``torch._embedding_bag``, where a negative ``padding_idx`` means none."""
    given = {**dict(zip(BAG_ARGUMENTS, args, strict=False)), **kwargs}
    padding_idx = given.pop("padding_idx", -1)
    return direct_embedding_bag(**given, padding_idx=None if padding_idx < 0 else padding_idx)


def _bagged(
    value: Tensor,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
) -> Tensor:
    """``value`` with the derivatives of the sums, means or maxima of bags of rows; not cut by values: it compiles."""
    count = len(value)
    if not count:
        return value
    if mode == "max":
        with grad_mode(False):
            _, _, sizes, largest = torch.embedding_bag(
                weight, indices, offsets, False, 2, False, None, include_last_offset, padding_idx
            )
        # The elements that torch takes for the largest; a bag that is empty is constant.
        return exactly(value, torch.where((sizes > 0)[:count, None], weight.gather(0, largest[:count]), 0.0))
    rows = weight[indices]
    if scale_grad_by_freq:
        frequencies = rows.new_zeros(len(weight)).index_add(0, indices, rows.new_ones(len(rows)))
        rows = exactly(rows, rows / frequencies[indices, None])
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    places = torch.arange(len(indices), device=indices.device)
    bags = torch.searchsorted(offsets.to(places.dtype), places, right=True) - 1
    inside = bags < count
    if padding_idx is not None:
        inside = inside & (indices != padding_idx % len(weight))
    bags = bags.clamp(max=count - 1)
    sums = torch.zeros_like(value).index_add(0, bags, torch.where(inside[:, None], rows, 0.0).to(value.dtype))
    if mode == "mean":
        sums = sums / torch.zeros_like(value[:, 0]).index_add(0, bags, inside.to(value.dtype)).clamp(min=1)[:, None]
    return exactly(value, sums)
