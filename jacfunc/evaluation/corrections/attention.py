"""Attention from matmul and softmax: the flash kernels have neither a forward mode nor a second derivative."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...core.levels import compiling, grad_mode
from ...core.torch_private import math_attention, native_flash
from .expansion import Tensor, with_inner


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """For ``F.scaled_dot_product_attention``: torch's own plain implementation."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # which that one would add as 0 and 1
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
    attended: Tensor
    attended, _ = math_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    return attended


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """For the flash kernel called by its own name, which also returns logarithms for its backward."""
    with grad_mode(False):
        _, logarithms = native_flash(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale), logarithms


def _none_or_dtype(tensor: Tensor | None) -> torch.dtype | None:
    """As torch's, which refuses what is no tensor; a mask may be a jet."""
    return None if tensor is None else tensor.dtype


_MULTI_HEAD = with_inner(
    F.multi_head_attention_forward, scaled_dot_product_attention=attention, _none_or_dtype=_none_or_dtype
)


def multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    """For ``F.multi_head_attention_forward``, which hands itself to a mode before the attention that it calls."""
    if compiling():  # which cannot trace the copy; the switch is one for all threads, or it would do for both
        with sdpa_kernel(SDPBackend.MATH):
            return F.multi_head_attention_forward(*args, **kwargs)
    return _MULTI_HEAD(*args, **kwargs)
