"""Transposed convolutions with output padding, as those without, cut and filled with zeros."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from .expansion import exactly

Tensor = torch.Tensor
Sizes = int | tuple[int, ...]


def conv_transpose(
    native: Callable[..., Tensor],
    axes: int,
    /,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """For ``native``, a transposed convolution over so many axes."""
    added, cut = _each(output_padding, axes), _each(padding, axes)
    value = native(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if not any(added):
        return value
    whole = native(input, weight, None, stride, 0, 0, groups, dilation)
    ends = [(-before, more - before) for before, more in zip(cut, added, strict=True)]
    result = F.pad(whole, [end for pair in reversed(ends) for end in pair])
    return exactly(value, result if bias is None else result + bias.reshape(-1, *(1 for _ in range(axes))))


def _each(sizes: Sizes, axes: int) -> list[int]:
    each = [sizes] if isinstance(sizes, int) else list(sizes)
    return each * axes if len(each) == 1 else each
