"""The rows of a transform within a function that jets go through: those of both, and their products.

With ``s`` the directions of the surrounding evaluation and ``t`` those of the inner one, a jet carries the coefficients
of ``s^a t^b`` for every pair of a row of either layout, the values included.  Products of rows are those of both
layouts at once (the tensor product of two truncated algebras), so sums of derivatives need no care of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ..core.caches import computed_once
from .layout import Layout, Table

Term = tuple[int, int, int, float]


@dataclass(frozen=True)
class Joined:
    """The ``layout`` of pairs of rows of the ``outer`` and the ``inner`` one.

    Rows of an order n are blocks of order p of the outer and q = n - p of the inner one, the highest p first, each with
    a row for each pair, the outer one first.
    """

    outer: Layout
    inner: Layout
    layout: Layout

    @classmethod
    def of(cls, outer: Layout, inner: Layout) -> Joined:
        """The pairs of rows of two layouts."""
        return _joined(outer, inner)

    def blocks(self, order: int) -> list[tuple[int, int]]:
        """The orders p and q of the blocks of an order, as they follow one another."""
        return _blocks(self.outer, self.inner, order)

    def block(self, p: int, q: int) -> slice:
        """Where the rows of the orders p and q are among those of their order."""
        start = 0
        for each in self.blocks(p + q):
            size = self.size(*each)
            if each == (p, q):
                return slice(start, start + size)
            start += size
        raise AssertionError("no such block")

    def taken(self, p: int, q: int) -> tuple[slice, None]:
        """The rows of order p + q that those of the orders p and q are, pair by pair; none is weighted."""
        return self.block(p, q), None

    def size(self, p: int, q: int) -> int:
        """How many pairs of rows of the orders p and q there are."""
        return _size(self.outer, p) * _size(self.inner, q)


@computed_once(256)
def _joined(outer: Layout, inner: Layout) -> Joined:
    top = outer.order + inner.order
    sizes = [0] * top
    for order in range(1, top + 1):
        sizes[order - 1] = sum(_size(outer, p) * _size(inner, q) for p, q in _blocks(outer, inner, order))
    joined = Joined(outer, inner, Layout(tuple(sizes), ()))
    tables = []
    for p in range(1, top):
        for q in range(1, top - p + 1):
            terms = sorted(_terms(joined, p, q), key=lambda term: term[2])
            if terms:
                places, weights = [term[:3] for term in terms], [term[3] for term in terms]
                tables.append(((p, q), Table.of(places, (sizes[p - 1], sizes[q - 1]), sizes[p + q - 1], weights)))
    return Joined(outer, inner, Layout(tuple(sizes), tuple(tables)))


def _blocks(outer: Layout, inner: Layout, order: int) -> list[tuple[int, int]]:
    return [(order - q, q) for q in range(order + 1) if order - q <= outer.order and q <= inner.order]


def _size(layout: Layout, order: int) -> int:
    return layout.sizes[order - 1] if order else 1


def _terms(joined: Joined, left: int, right: int) -> Iterator[Term]:
    """The products of rows of two orders, each with its row of the result and its weight."""
    for (p, q), (r, s) in itertools.product(joined.blocks(left), joined.blocks(right)):
        if p + r > joined.outer.order or q + s > joined.inner.order:
            continue
        one, other, into = joined.block(p, q).start, joined.block(r, s).start, joined.block(p + r, q + s).start
        pairs = itertools.product(_products(joined.outer, p, r), _products(joined.inner, q, s))
        for (i, j, k, weight), (a, b, c, factor) in pairs:
            yield (
                one + i * _size(joined.inner, q) + a,
                other + j * _size(joined.inner, s) + b,
                into + k * _size(joined.inner, q + s) + c,
                weight * factor,
            )


def _products(layout: Layout, p: int, q: int) -> list[Term]:
    """The products of rows of two orders of one layout, whose row of order 0 is the value."""
    if p == 0 or q == 0:
        return [(row if p else 0, row if q else 0, row, 1.0) for row in range(_size(layout, p + q))]
    table = layout.table(p, q)
    return [] if table is None else list(table.terms())
