"""Rows of the first and second order through an elementwise function, and gradients back, in few passes over memory.

With derivatives ``g1``, ``g2``, ``g3``: ``z_1 = g1 x_1`` and ``z_2 = g1 x_2 + g2/2 (x_1 * x_1)``, where ``*`` says
which rows of the second order a product of two rows of the first belongs to.  Backward, ``x_1`` gets ``g1 zbar_1`` and
the rows that ``g2 zbar_2`` makes with ``x_1``, and the value gets ``g1 zbar_0 + g2 (zbar_1 . x_1 + zbar_2 . x_2) +
g3/2 zbar_2 . (x_1 * x_1)``.  What is computed on the way has the size of the value, not of the rows.  Where autograd
records operations, they are those of ``build.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .layout import Layout

Tensor = torch.Tensor
Part = Tensor | None
Derivatives = Sequence[Tensor | float | None]
"""The first is a tensor; of the others one may be a number, or None where it is zero."""

ORDER = 2
FEW = 8
"""Rows up to which they are squared one by one, without memory for all of their squares."""


def forward(layout: Layout, derivatives: Derivatives, x: Sequence[Part], squares: Part = None) -> list[Part]:
    """``z_1`` and ``z_2``; ``squares`` are ``x_1 * x_1`` where they are known."""
    slope, curvature = derivatives
    assert isinstance(slope, Tensor)
    firsts, seconds = x
    squares = squared(layout, firsts) if squares is None else squares
    z = None if seconds is None else seconds * slope
    if squares is not None:
        z = _plus(z, curvature, squares, 0.5)
    return [None if firsts is None else firsts * slope, z]


def backward(
    layout: Layout,
    shapes: Sequence[torch.Size | None],
    derivatives: Derivatives,
    x: Sequence[Part],
    gradients: Sequence[Part],
    squares: Part = None,
) -> list[Part]:
    """The gradients of the value and of both stacks of rows, which had these shapes; None where there was no stack."""
    slope, curvature, third = derivatives
    assert isinstance(slope, Tensor)
    firsts, seconds = x
    by_value, by_firsts, by_seconds = gradients
    table = layout.table(1, 1)
    value = None if by_value is None else by_value * slope
    dot = _dot(_dot(None, by_firsts, firsts), by_seconds, seconds)
    if dot is not None:
        value = _plus(value, curvature, dot)
    if by_seconds is not None:
        bend = _dot(None, by_seconds, squared(layout, firsts) if squares is None else squares)
        value = value if bend is None else _plus(value, third, bend, 0.5)
    rows = None if by_firsts is None else by_firsts * slope
    if firsts is not None and table is not None and by_seconds is not None and curvature is not None:
        if rows is None:
            rows = by_seconds.new_zeros((layout.sizes[0], *slope.shape))
        table.accumulate_left(rows, by_seconds * curvature, firsts, 1.0)
    found = (value, rows, None if by_seconds is None else by_seconds * slope)
    return [_fitted(part, shape) for part, shape in zip(found, shapes, strict=True)]


def summing(layout: Layout) -> bool:
    """Whether there is one second-order row for many of the first: their squares are little to keep, and much to do."""
    table = layout.table(1, 1) if layout.order == ORDER else None
    return table is not None and table.summed


def squared(layout: Layout, rows: Part) -> Part:
    """The products of first-order rows with each other, in the rows that they belong to."""
    table = layout.table(1, 1)
    if table is None or rows is None:
        return None
    if not table.summed or len(rows) > FEW:
        return table.squared(rows)
    first, *others = torch.split(rows, 1)
    total = first * first
    for row in others:
        total.addcmul_(row, row)
    return total


def _dot(total: Part, left: Part, right: Part) -> Part:
    """The sum over all rows of their products, added to ``total`` in place."""
    if left is None or right is None:
        return total
    for one, other in zip(left.unbind(0), right.unbind(0), strict=True):
        total = one * other if total is None else total.addcmul_(one, other)
    return total


def _plus(total: Part, left: Tensor | float | None, right: Tensor, scale: float = 1.0) -> Part:
    """``total + scale left right``."""
    if left is None:
        return total
    if total is None:
        return left * right if scale == 1 else (left * right).mul_(scale)
    if not isinstance(left, Tensor):
        return total.add(right, alpha=scale * left)
    return total.addcmul(left, right, value=scale)


def _fitted(part: Part, shape: torch.Size | None) -> Part:
    """Summed over the axes along which there was one entry for all."""
    if part is None or shape is None:
        return None
    return part if part.shape == shape else part.sum_to_size(shape)
