"""Attention from matrix products and a softmax, as torch's own plain implementation has it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from ...core.torch_private import math_attention, safe_softmax
from ..build import Operand
from ..jet import Jet
from ..registry import add
from ..values import plain
from .softmax import Tensor, softmax_of


def attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``F.scaled_dot_product_attention``."""
    return attended(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


def attended(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, Any]:
    """Attention, and its weights before dropout; ``dropout_mask`` is false where a weight is left out."""
    if enable_gqa:
        key, value = (_repeated(heads, query.shape[-3]) for heads in (key, value))
    root = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else abs(scale))
    sign = -1 if scale is not None and scale < 0 else 1
    scores = torch.matmul(query * (root * sign), (key * root).transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    weights = _weights(scores, attn_mask)
    kept = weights
    if dropout_mask is not None:
        kept, value = torch.masked_fill(weights, ~plain(dropout_mask), 0.0), value * (1 / (1 - dropout_p))
    elif dropout_p:
        kept = F.dropout(weights, dropout_p)
    return torch.matmul(kept, value), weights


def _repeated(heads: Any, count: int) -> Any:
    return heads.repeat_interleave(count // heads.shape[-3], -3)


def _weights(scores: Any, mask: Any) -> Any:
    """The softmax over what the mask leaves; zero where it leaves nothing."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    if mask is None:
        return torch.softmax(scores, -1)
    scores = scores + mask
    if type(scores) is not Jet:
        return safe_softmax(scores, -1)
    return softmax_of(scores, safe_softmax(scores.value, -1), -1)


def install() -> None:
    """Enter the rules of this file."""
    add(attention, F.scaled_dot_product_attention)
    add(attended, math_attention, math_attention.default)
