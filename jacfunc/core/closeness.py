"""Whether two tensors are the same numbers but for the order of rounding; who compares what is elsewhere."""

from __future__ import annotations

import torch


def agree(one: torch.Tensor, other: torch.Tensor, eps: float = 0.0) -> bool:
    """NaN and infinite in the same places, and equal elsewhere but for half of the digits of the largest entry.

    Digits are those of the dtype, or fewer where ``eps`` is the precision of what they were computed in.
    """
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    room = max(torch.finfo(one.dtype).eps, eps) ** 0.5
    one, other = one.detach(), other.detach()
    size = torch.where(other.isfinite(), other.abs(), 0.0).amax() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=room, atol=float(room * size), equal_nan=True)
