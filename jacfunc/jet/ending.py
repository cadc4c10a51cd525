"""What is read off a jet at the end of a propagation: its rows relative to the input, or only a diagonal of them."""

from __future__ import annotations

from typing import Any

import torch

from .dispatch import lifted, root
from .jet import Jet

Tensor = torch.Tensor


def rows_of(output: Any, order: int, count: int, like: Tensor) -> Tensor:
    """The rows of an order, ``(count, *S)``, relative to the input; zeros for what does not depend on it."""
    if type(output) is Jet:
        rows = lifted(output, root(output.frame)).full(order)
        if rows is not None:
            return rows
    return like.new_zeros((count, *output.shape))


def diagonal_of(output: Any) -> Tensor | None:
    """``(d, N)``: entry b of each row b, without multiplying the last linear layer out; None where there is none.

    ``D[b, n] = sum_w rows[b, n, w] W[b, w]``, and where rows are relative to a narrow layer, with its factor ``B``,
    ``sum_kw B[b, n, k] rows[k, n, w] W[b, w]``.
    """
    if type(output) is not Jet or output.pending is None:
        return None
    source, weight, _ = output.pending
    if type(weight) is Jet:  # a view that changed in place: whoever asks for the value is told
        return None
    output.check_unchanged()
    matrix: Tensor = weight
    frame = source.frame
    rows = source.coefficients[0]
    if rows is None or rows.dim() != 3 or (frame.factor is not None and frame.parent is not root(frame)):
        return None
    if source.propagation.is_identity(rows) and frame.factor is None:
        return matrix.diagonal().unsqueeze(1).expand(matrix.shape[0], output.shape[0])
    samples = output.shape[0]
    if frame.factor is None:
        return (rows * matrix.unsqueeze(1)).sum(-1).expand(matrix.shape[0], samples)
    products = torch.matmul(rows, matrix.t())  # (k, N, d)
    return (frame.factor * products.permute(2, 1, 0)).sum(-1)
