"""The sum over rows of the products of two stacks, without the stack of all products in between.

A sum of second derivatives has one row for the products of all first-order rows.  Multiplied first and then added up,
these would be written to memory and read again, which takes longer than all arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch

from ..core.levels import compiling, inside_transform
from ..core.torch_private import dual_level

Tensor = torch.Tensor

SMALLEST_ROW, MOST_ROWS = 32768, 256
"""Numbers of a row below which, and rows above which, a call for each row takes longer than memory does."""


def dotted(left: Tensor, right: Tensor) -> Tensor:
    """The sum over the first axis of the products of elements, as one row; other axes are broadcast."""
    if not _by_row(left, right):
        return (left * right).sum(0, keepdim=True)
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        result: Tensor = _Dotted.apply(left, right)  # type: ignore[no-untyped-call]
        return result
    return _accumulated(left, right)


def _by_row(left: Tensor, right: Tensor) -> bool:
    rows = len(left)
    if compiling() or not 1 < rows <= MOST_ROWS or left.device.type != "cpu" or left.dtype != right.dtype:
        return False
    if max(left.numel(), right.numel()) < rows * SMALLEST_ROW or left.is_complex():
        return False
    return type(left) is type(right) is Tensor and not inside_transform() and dual_level() < 0


def _accumulated(left: Tensor, right: Tensor) -> Tensor:
    first, *others = zip(left.unbind(0), right.unbind(0), strict=True)
    total = first[0] * first[1]
    for one, two in others:
        total.addcmul_(one, two)
    return total.unsqueeze(0)


class _Dotted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return _accumulated(left, right)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        left, right = ctx.saved_tensors
        needed = ctx.needs_input_grad
        by_left = (cotangent * right).sum_to_size(left.shape) if needed[0] else None
        by_right = (cotangent * left).sum_to_size(right.shape) if needed[1] else None
        return by_left, by_right
