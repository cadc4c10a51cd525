r"""What a number ``A + r B`` is at elements where a norm ``r`` is zero, and which of its derivatives there are.

If ``B`` is zero all derivatives are those of A.  Else they are up to the order of the lowest part of ``B`` that is not,
and NaN beyond it along directions in which ``r`` moves; the first derivative of a norm itself stays the zero that torch
has for it.  The rows of a jet with a root are these, so what knows nothing of roots is right or NaN.  Elsewhere ``B``
and ``s`` are zero, and ``A`` is the jet.  Gradients by what a root is of are NaN where there are none.  What products
and functions make of such numbers is in ``roots.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..core.caches import computed_once
from ..core.levels import differentiated_again, inside_vmap
from ..evaluation.corrections.expansion import exactly_where_finite
from .build import constant_rows
from .frame import Frame, Propagation
from .generic import either_of
from .jet import Coefficients, Jet
from .layout import Layout, Table
from .lost import lost_where

Tensor = torch.Tensor

ROUNDING = 64
"""Times the precision, as part of all that was added up, below which a part of ``B`` is what is left of zero."""


@dataclass(frozen=True, eq=False)
class Root:
    """Jets of one shape.

    Attributes:
        even: the part without the root, and all of the number where no norm is zero.
        odd: what the root is multiplied by.
        square: the square of the root.
        even_size, odd_size, square_size: the sums of the sizes of all that these are made of, to tell what rounding is.
        moves: 1 where the root is zero, with 1 in rows along which it is not constant; in a graph see ``lost.py``.
    """

    even: Jet
    odd: Jet
    square: Jet
    even_size: Jet
    odd_size: Jet
    square_size: Jet
    moves: Jet

    def each(self, change: Callable[[str, Jet], Any]) -> list[Any]:
        """What is made of each part, by its name."""
        return [change(field.name, getattr(self, field.name)) for field in fields(self)]

    @classmethod
    def of(cls, total: Jet, norm: Jet, zero: Tensor, moves: Jet) -> Root:
        """That of a norm, which is constant where it is ``zero``, by its square."""
        square = Jet(
            torch.where(zero, total.value, 0.0),
            tuple([None if rows is None else torch.where(zero, rows, 0.0) for rows in total.coefficients]),
            total.frame,
        )
        one = constant_rows(norm, zero.to(norm.dtype))
        return cls(norm, one, square, sized(norm), one, sized(square), moves)

    @classmethod
    def without(cls, jet: Jet) -> Root:
        """That of a number in which no norm is zero."""
        none = constant_rows(jet, torch.zeros_like(jet.value))
        return cls(jet, none, none, sized(jet), none, none, none)


def sized(jet: Jet) -> Jet:
    """The sizes of value and rows, without a graph."""
    rows = tuple([None if c is None else c.detach().abs() for c in jet.coefficients])
    return Jet(jet.value.detach().abs(), rows, jet.frame)


def looked_at(frame: Frame) -> bool:
    """Whether the numbers may be asked whether there is any root: not while they are traced, or under ``vmap``."""
    return not (frame.propagation.traced or inside_vmap())


def with_value(value: Tensor, jet: Jet) -> Jet:
    """The jet with another value, which is the same but for rounding."""
    result = Jet(value, jet.coefficients, jet.frame)
    root = jet.root
    if root is not None:  # where a norm is zero, torch may have a small number
        own = torch.where(root.moves.value > 0, root.even.value, value)
        result.root = replace(root, even=Jet(own, root.even.coefficients, jet.frame))
    return result


# -------------------------------------------------------------------- what is left of a root at the end


def with_root(root: Root, value: Tensor) -> Jet:
    """The jet of this value whose rows are derivatives where there are any, with its root, unless that has gone."""
    even, parts, recorded = root.even, parts_of(root), differentiated_again()
    orders = orders_of(root, parts)
    if recorded:
        value = exactly_where_finite(value.detach(), even.value)
    if looked_at(even.frame) and not any(bool(part.any()) for part in orders if part is not None):
        return Jet(value, even.coefficients, even.frame)
    rows = _derivatives(root, parts)
    jet = Jet(value, _without_gradients(root, orders, rows) if recorded else rows, even.frame)
    jet.root = root
    propagation: Propagation | None = even.propagation
    while propagation is not None:  # and those around it
        propagation.rooted = True
        propagation = None if propagation.within is None else propagation.within.frame.propagation
    return jet


def parts_of(root: Root) -> list[Tensor | None]:
    """Where ``B`` is not zero but for rounding: its value, and its rows of each order below the highest."""
    eps = ROUNDING * torch.finfo(root.odd.dtype).eps
    found: list[Tensor | None] = []
    for rows, sizes in zip(_stacks(root.odd), _stacks(root.odd_size), strict=True):
        # Written so that NaN counts as well.
        found.append(None if rows is None or sizes is None else ~(rows.detach().abs() <= eps * sizes))
    return found


def orders_of(root: Root, parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    """By order, where any part of ``B`` is not zero, also where no row shows it, if that was looked at."""
    own = [None if stack is None else stack.any(0) for stack in parts]
    generic = root.even.propagation.generic
    return own if generic is None else generic.with_own(own, root.moves.value)


def _stacks(jet: Jet) -> list[Tensor | None]:
    """The value as a stack of one, and the rows of each order below the highest; in a graph of that too."""
    last = jet.frame.layout.order - (0 if differentiated_again() else 1)
    return [jet.value.unsqueeze(0), *[jet.full(order) for order in range(1, last + 1)]]


def _derivatives(root: Root, parts: Sequence[Tensor | None]) -> Coefficients:
    """The rows of the even part, NaN where there is no derivative."""
    even, frame = root.even, root.even.frame
    moves = [None if rows is None else rows > 0 for rows in map(root.moves.full, range(1, frame.layout.order + 1))]
    found: list[Tensor | None] = [even.coefficients[0]]
    for order in range(2, frame.layout.order + 1):
        rows = even.full(order)
        lost = _second(frame, parts, moves) if frame.layout.order == 2 else _lost(frame, parts, moves, order)
        if lost is None:
            found.append(rows)
        else:
            found.append(torch.where(lost, math.nan, even.value.new_zeros(()) if rows is None else rows))
    return tuple(found)


def _without_gradients(root: Root, orders: Sequence[Tensor | None], rows: Coefficients) -> Coefficients:
    """Rows whose gradients by what the root is of are NaN where there are none."""
    moving, found = _moving(root), []
    for order, stack in enumerate(rows, start=1):
        alive = either_of(orders[: order + 1])
        lost = None if moving is None or alive is None else moving & alive
        if stack is None or lost is None or (looked_at(root.even.frame) and not bool(lost.any())):
            found.append(stack)
        else:
            full = stack if stack.shape[1:] == lost.shape else stack.expand(len(stack), *lost.shape)
            found.append(lost_where(full, root.moves.value, lost))
    return tuple(found)


def _moving(root: Root) -> Tensor | None:
    """Where the root moves along any direction."""
    return either_of([None if rows is None else (rows > 0).any(0) for rows in root.moves.coefficients])


def _second(frame: Frame, parts: Sequence[Tensor | None], moves: Sequence[Tensor | None]) -> Tensor | None:
    """Where second derivatives are lost: the root moves along a direction, and ``B`` is not zero or moves as well."""
    value, (first, second) = parts[0], moves
    assert value is not None
    lost = None if second is None else value & second
    if first is not None:
        table = frame.layout.table(1, 1)
        assert table is not None
        for other in (value.expand(first.shape), parts[1]):
            if other is not None:
                met = _met(table, first, other, frame.metric is not None)
                lost = met if lost is None else lost | met
    return lost


def _met(table: Table, left: Tensor, right: Tensor, all_with_all: bool) -> Tensor:
    """In which rows of a product both factors are."""
    if all_with_all:
        return (left.any(0) & right.any(0)).expand(table.rows, *left.shape[1:])
    if table.each:
        return left & right
    if table.summed:
        return (left & right).any(0, keepdim=True)
    found = [torch.zeros_like(left[0])] * table.rows
    for i, j, row, _ in table.terms():
        found[row] = found[row] | (left[i] & right[j]) | (left[j] & right[i])
    return torch.stack(found)


def _lost(frame: Frame, parts: Sequence[Tensor | None], moves: Sequence[Tensor | None], order: int) -> Tensor | None:
    """Where derivatives of an order are: by their directions the root moves, and ``B`` has something of a lower one."""
    by_order = directions(frame.layout)
    rows = []
    for wanted in by_order[order - 1]:
        moved = _any_within(wanted, by_order[:order], moves[:order])
        part = _any_within(wanted, by_order[: order - 1], parts[1:order])
        value = parts[0]
        assert value is not None
        there = value[0] if part is None else value[0] | part
        rows.append(torch.zeros_like(there) if moved is None else moved & there)
    return torch.stack(rows)


def _any_within(
    wanted: frozenset[int], by_order: Sequence[Sequence[frozenset[int]]], stacks: Sequence[Tensor | None]
) -> Tensor | None:
    """Whether any row by some of these directions, and no others, says so."""
    found: Tensor | None = None
    for of_order, stack in zip(by_order, stacks, strict=True):
        for row, own in enumerate(of_order):
            if stack is not None and own <= wanted:
                found = stack[row] if found is None else found | stack[row]
    return found


@computed_once(256)
def directions(rows_layout: Layout) -> list[list[frozenset[int]]]:
    """By order, the first-order rows that each row is made of."""
    found = [[frozenset([row]) for row in range(rows_layout.sizes[0])]]
    for order in range(2, rows_layout.order + 1):
        of_order: list[frozenset[int]] = [frozenset()] * rows_layout.sizes[order - 1]
        for p in range(1, order):
            table = rows_layout.table(p, order - p)
            for i, j, row, _ in () if table is None else table.terms():
                of_order[row] |= found[p - 1][i] | found[order - p - 1][j]
        found.append(of_order)
    return found
