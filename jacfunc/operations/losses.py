"""Losses and bags whose backward torch cannot differentiate, from sums, clamps and indexing."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..levels import compiling
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
    with torch.no_grad():
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
    """For ``F.embedding_bag``: torch cannot differentiate its backward for maxima and weighted samples."""
    rest = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx)
    # The first three say what the gradient shall be; the bags are cut by their values, which cannot be compiled.
    if max_norm is not None or scale_grad_by_freq or sparse or compiling():
        return F.embedding_bag(input, weight, offsets, *rest)
    with torch.no_grad():
        value = F.embedding_bag(input, weight, offsets, *rest)
    ends = range(input.shape[-1], input.numel(), input.shape[-1]) if offsets is None else offsets[1:].tolist()
    flat = input.reshape(-1)
    rows = weight[flat] if per_sample_weights is None else weight[flat] * per_sample_weights.reshape(-1, 1)
    kept = torch.ones_like(flat, dtype=torch.bool) if padding_idx is None else flat != padding_idx % len(weight)
    if mode == "max":
        split = zip(rows.tensor_split(list(ends)), kept.tensor_split(list(ends)), strict=True)
        nothing = weight.new_zeros(weight.shape[1])
        expanded = [bag[keep].amax(0) if keep.any() else nothing for bag, keep in split][: len(value)]
        return exactly(value, torch.stack(expanded)) if expanded else value
    starts = torch.tensor([0, *ends], device=flat.device)
    bags = torch.searchsorted(starts, torch.arange(len(flat), device=flat.device), right=True) - 1
    inside = kept & (bags < len(value))
    sums = torch.zeros_like(value).index_add(0, bags[inside], rows[inside])
    if mode == "mean":
        sums = sums / torch.bincount(bags[inside], minlength=len(value)).clamp(min=1)[:, None]
    return exactly(value, sums)
