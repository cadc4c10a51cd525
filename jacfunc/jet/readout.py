"""What is read off a jet at the end of a propagation: its rows relative to the input, or only a diagonal of them."""

from __future__ import annotations

from typing import Any

import torch

from .dispatch import lifted, root
from .frame import Propagation
from .jet import Jet, multiplied
from .pending import PendingLayer
from .within import rows_within

Tensor = torch.Tensor


def rows_of(output: Any, order: int, count: int, like: Tensor) -> Any:
    """The rows of an order, ``(count, *S)``, relative to the input; zeros for what does not depend on it.

    Within another propagation they are a jet of that one.
    """
    if type(output) is Jet:
        if output.propagation.within is not None:
            return rows_within(output, order)
        pending = _is_pending(output)
        rows = _pending_rows(output, order) if pending else lifted(output, root(output.frame)).coefficients[order - 1]
        if rows is not None:
            return _owned(rows, output.shape, output.propagation)
    return like.new_zeros((count, *output.shape))


def _owned(rows: Tensor, shape: tuple[int, ...], propagation: Propagation) -> Tensor:
    """Rows in full, none of whose numbers are those of another, of a weight or of the one-hot rows of the input.

    What is not of one's own is the same for all samples.
    """
    if rows.shape[1:] != shape:
        return rows.expand(rows.shape[0], *shape).clone(memory_format=torch.contiguous_format)
    shared = propagation.traced or not propagation.batch or 1 in propagation.batch or 0 in rows.stride()
    return rows.clone(memory_format=torch.contiguous_format) if shared else rows


def _is_pending(output: Jet) -> bool:
    """Whether it is a linear layer that is not multiplied out."""
    return type(output.pending) is PendingLayer


def _pending_rows(output: Jet, order: int) -> Tensor | None:
    """The rows of a pending layer, whose value and other orders nobody may want."""
    source, weight, _, _ = output.unchanged_layer()
    rows = multiplied(source, weight, source._coefficients[order - 1])
    if rows is None:
        return None
    frame = source.frame
    while frame.parent is not None and frame.metric is None:
        if order == 1:
            rows = frame.outwards((rows,))[0]
        frame = frame.parent
    return rows


def diagonal_of(output: Any) -> Tensor | None:
    """``(N, d)``: entry b of each row b, without multiplying the last linear layer out; None where there is none.

    ``D[n, b] = sum_w rows[b, n, w] W[b, w]``, and where rows are relative to a narrow layer, with its factor ``B``,
    ``sum_kw B[b, n, k] rows[k, n, w] W[b, w]``.
    """
    if type(output) is not Jet or not _is_pending(output) or output.propagation.within is not None:
        return None
    source, matrix, _, _ = output.unchanged_layer()
    frame = source.frame
    rows = source._coefficients[0]
    if frame.blocks is not None:
        return None
    if rows is not None and frame.factor is None and source.propagation.is_identity(rows):
        return matrix.diagonal().expand(output.shape[0], matrix.shape[0]).clone()
    if rows is None or rows.dim() != 3 or (frame.factor is not None and frame.parent is not root(frame)):
        return None
    scale = source.propagation.scale_of(rows)
    if scale is not None and scale.dim() == 2 and (frame.factor is None or frame.factor.shape[1] == 1):
        return _scaled_diagonal(frame.factor, scale, matrix)
    if frame.factor is None:
        found = torch.matmul(rows, matrix.unsqueeze(2)).squeeze(2).t()  # no product as large as the rows
    else:
        products = torch.matmul(rows, matrix.t())  # (k, N, d)
        found = (frame.factor.transpose(0, 1) * products.permute(1, 2, 0)).sum(-1)
    return found if found.shape[0] == output.shape[0] else found.expand(output.shape[0], -1).clone()


def _scaled_diagonal(factor: Tensor | None, scale: Tensor, matrix: Tensor) -> Tensor:
    """The diagonal for one-hot rows times a scale ``(N, k)``: ``D[n, b] = sum_k B[b, k] scale[n, k] W[b, k]``."""
    if factor is None:
        return scale * matrix.diagonal()
    return torch.matmul(scale, (factor[:, 0] * matrix).t())
