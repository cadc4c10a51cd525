"""A linear layer of an activation as one node of a graph that ``torch.compile`` makes, and what its backward does.

Compiled, the time of a gradient goes to memory more than to arithmetic.  So of ``a = g(x)`` and ``a W^T`` only ``a`` is
kept where ``g'`` is a quadratic of the result, not ``x`` as well.  And the gradient by ``W`` comes after the one by
``x``, whose fused kernel has just read ``a`` in order: the kernel of that product jumps, and waits long for what is in
no cache.  Measured on two cores, gradients of derivatives take 0.87 to 0.97 of the time that they take otherwise.
What is done without ``torch.compile`` is in ``fused.py``; what multiplies is in ``gemm.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from . import gemm, second
from .frame import Frame, plus
from .fused import Elementwise, Quadratic
from .jet import Coefficients, Jet
from .layout import UNROLLED, Layout, Table

Tensor = torch.Tensor
Part = Tensor | None
Groups = list[Part]
"""The rows of one order: all as one, or each by itself."""
Term = tuple[Part, list[Groups]]
"""Of the value, and of the rows of every order."""


FEW = 8
"""Rows of an order up to which each is taken by itself."""


class Activated(NamedTuple):
    """What a jet of the value ``y`` is the activation of; ``recorded``: autograd records a graph, and nothing else."""

    elementwise: Elementwise
    x: Jet
    y: Tensor
    recorded: bool

    def multiplied(self, weight: Tensor) -> tuple[Tensor, Coefficients] | None:
        """Value and rows of the activation times ``weight.T``; None where this node is not for them."""
        x = self.x
        layout = x.frame.layout
        if not self.recorded or not all(_alike(table) or len(table.into) <= UNROLLED for _, table in layout.tables):
            return None
        products = _Layer.apply(self.elementwise, x.frame, weight, x.value, *x.coefficients)  # type: ignore[no-untyped-call]
        value, *rows = gemm.taken_apart(list(products), layout.sizes)
        return value.squeeze(0), tuple(rows)

    def row_by_row(self) -> Coefficients | None:
        """The rows of the activation, few ones each by itself, so that one loop has them all and each function once.

        None where they are not few, or of a higher order than the second.
        """
        return _row_by_row(self.elementwise, self.x, self.y)


def _row_by_row(elementwise: Elementwise, x: Jet, y: Tensor) -> Coefficients | None:
    layout, (firsts, *others) = x.frame.layout, x.coefficients
    if firsts is None or x.frame.propagation.is_identity(firsts):
        return None
    if layout.order > second.ORDER or not 1 < max(layout.sizes) <= FEW:
        return None
    slope, curvature = (*elementwise.derivatives(x.value, y, layout.order), None)[:2]
    if slope is None:
        return None
    parts = torch.split(firsts, 1)  # once, so that their gradients are joined once
    rows = [[slope * part for part in parts]]
    half = None if curvature is None else curvature / 2
    for seconds in others:
        own: Groups = [None] * layout.sizes[1] if seconds is None else list(torch.split(seconds, 1))
        squares = _squares(layout, parts)
        pairs = zip(own, squares, strict=True)
        found = [plus(_times(slope, one), _times(half, two)) for one, two in pairs]
        if any([row is None for row in found]):  # noqa: C419  # Dynamo traces lists better
            return None
        rows.append(found)
    return tuple([torch.cat(stack) if len(stack) > 1 else stack[0] for stack in rows])


def _squares(layout: Layout, parts: Sequence[Tensor]) -> Groups:
    """First-order rows times each other, added up in the rows of the second order."""
    table = layout.table(1, 1)
    sums: Groups = [None] * layout.sizes[1]
    for i, j, row, weight in () if table is None else table.terms():
        if i <= j:
            product = parts[i] * parts[j]
            times = weight if i == j else 2 * weight
            sums[row] = plus(sums[row], product if times == 1 else product * times)
    return sums


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, elementwise: Elementwise, frame: Frame, weight: Tensor, value: Tensor, *x: Part) -> Any:
        y = elementwise.function(value)
        jet = Jet(value, x, frame)
        z = _row_by_row(elementwise, jet, y)
        if z is None:
            z = elementwise.composed(jet, elementwise.derivatives(value, y, frame.layout.order))
        stacks = gemm.put_together([y.unsqueeze(0), *[rows for rows in z if rows is not None]])
        argument = () if elementwise.quadratic else [part for part in (value, *x) if part is not None]
        ctx.save_for_backward(weight, *stacks, *argument)
        ctx.elementwise, ctx.layout, ctx.stacks = elementwise, frame.layout, len(stacks)
        ctx.shared = [None if part is None else _shared(part, y) for part in (value, *x)]
        return tuple([gemm.multiplied(stack, weight) for stack in stacks])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        weight, *saved = ctx.saved_tensors
        stacks, argument = saved[: ctx.stacks], iter(saved[ctx.stacks :])
        y, *z = gemm.taken_apart(stacks, ctx.layout.sizes)
        pulled = [gemm.multiplied(cotangent, weight.t()) for cotangent in cotangents]
        by_value, *by_rows = gemm.taken_apart(pulled, ctx.layout.sizes)
        back = _Back(ctx.layout, by_value.squeeze(0), by_rows)
        if ctx.elementwise.quadratic:
            found = back.by_result(ctx.elementwise.quadratic, y.squeeze(0), z)
        else:
            value, *x = [None if axes is None else next(argument) for axes in ctx.shared]
            found = back.by_argument(ctx.elementwise.derivatives(value, y.squeeze(0), ctx.layout.order + 1), x)
        by_weight = None
        for cotangent, stack in zip(cotangents, stacks, strict=True):
            by_weight = plus(by_weight, gemm.multiplied_outer(cotangent, stack, found[1]))
        by_x = [_fitted(part, axes) for part, axes in zip(found, ctx.shared, strict=True)]
        return (None, None, by_weight, *by_x)


class _Back:
    """From the gradients by ``z = g(x)`` those by x: with ``h = g'(x)``, that of row b is ``sum_a zbar_a h_{a-b}``.

    Nothing of it can be computed before the gradients are known: if it could, it would be, and kept.
    """

    def __init__(self, layout: Layout, by_value: Tensor, by_rows: Sequence[Tensor]) -> None:
        self.layout = layout
        self.single = 1 < max(layout.sizes) <= FEW or not all(_alike(table) for _, table in layout.tables)
        self.given = (by_value, self._grouped(by_rows))

    def by_result(self, quadratic: Quadratic, y: Tensor, z: Sequence[Tensor]) -> list[Tensor]:
        """Where ``h = a + b z - z^2``: ``h_0 zbar_b + (b - 2 z_0) m_b - sum_{n>0} m_{b+n} z_n``.

        There ``m_b = sum_{n>0} zbar_{b+n} z_n``.
        """
        a, b = quadratic
        slope, factor = (a - y * y, -2 * y) if b == 0 else (a + y * (b - y), b - 2 * y)
        return self._added_up([slope, factor, -1], self._correlated(2, z))

    def by_argument(self, derivatives: Sequence[Part], x: Sequence[Part]) -> list[Tensor]:
        """By derivatives of g at the value: ``sum_k g^(k+1)/k! d_k``, with ``d_{k+1,b} = sum_{n>0} d_{k,b+n} x_n``."""
        factors = [None if g is None else g / math.factorial(k) for k, g in enumerate(derivatives)]
        return self._added_up(factors, self._correlated(len(factors) - 1, x))

    def _grouped(self, stacks: Iterable[Part]) -> list[Groups]:
        """The rows of all orders."""
        if not self.single:
            return [[stack] for stack in stacks]
        sizes = self.layout.sizes
        pairs = zip(stacks, sizes, strict=True)
        return [[None] * size if stack is None else list(torch.split(stack, 1)) for stack, size in pairs]

    def _correlated(self, times: int, stacks: Iterable[Part]) -> list[Term]:
        """What is given, and what becomes of it by ``d_b = sum_{n>0} d_{b+n} x_n``, once, twice and so on."""
        x = self._grouped(stacks)
        found: list[Term] = [self.given]
        for _ in range(times):
            _, rows = found[-1]
            orders = range(1, self.layout.order + 1)
            found.append((_dot(rows, x), [self._row_sums(order, rows, x) for order in orders]))
        return found

    def _row_sums(self, p: int, rows: list[Groups], x: list[Groups]) -> Groups:
        found: Groups = [None] * len(x[p - 1])
        for q in range(1, self.layout.order - p + 1):
            table = self.layout.table(p, q)
            terms: Any = () if table is None else table.terms()
            for i, j, k, weight in terms if self.single or table is None else [(0, 0, 0, 1.0)]:
                row, other = rows[p + q - 1][k], x[q - 1][j]
                if row is not None and other is not None:
                    found[i] = plus(found[i], row * other if weight == 1 else row * other * weight)
        return found

    def _added_up(self, factors: Sequence[Any], terms: Sequence[Term]) -> list[Tensor]:
        values = [_times(factor, value) for factor, (value, _) in zip(factors, terms, strict=True)]
        found = [_total(values)]
        for order in range(self.layout.order):
            groups = zip(*[rows[order] for _, rows in terms], strict=True)
            sums = [_total([_times(f, row) for f, row in zip(factors, group, strict=True)]) for group in groups]
            found.append(sums[0] if len(sums) == 1 else torch.cat(sums))
        return found


def _alike(table: Table) -> bool:
    """Whether the rows of an order can stay together."""
    return table.each or table.summed


def _dot(left: Sequence[Groups], right: Sequence[Groups]) -> Part:
    """The sum over all rows of their products."""
    total = None
    for ones, others in zip(left, right, strict=True):
        for one, other in zip(ones, others, strict=True):
            if one is not None and other is not None:
                total = plus(total, (one * other).sum(0))
    return total


def _times(factor: Any, part: Part) -> Part:
    return None if factor is None or part is None else factor * part


def _total(parts: Iterable[Part]) -> Tensor:
    total = functools.reduce(plus, parts)
    assert total is not None
    return total


def _shared(part: Tensor, y: Tensor) -> list[int]:
    """The axes along which there is one entry for all of a value; no sizes, which may be those of any batch."""
    return [axis for axis in range(-y.dim(), 0) if part.shape[axis] == 1 and y.shape[axis] != 1]


def _fitted(part: Tensor, axes: list[int] | None) -> Part:
    """Summed over these axes; None for what was none."""
    if axes is None:
        return None
    return part.sum(axes, keepdim=True) if axes else part
