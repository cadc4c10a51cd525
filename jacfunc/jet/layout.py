"""Which derivatives the rows of a jet are, and how products combine them; knows no operation and no tensor of a user.

A layout is static.  It says how many rows there are of each order, and for every pair of orders ``p, q`` which rows of
a product ``x y`` the products of their rows belong to.  With normalised coefficients ``u_a = d^a u / a!`` that is the
convolution ``z_a = sum_{b+c=a} x_b y_c``, whatever the order.  A row may also stand for a sum of derivatives, such as
the Laplacian's (the forward Laplacian: R. Li et al., "A computational framework for neural network-based variational
Monte Carlo with forward Laplacian", 2024), since what a function does to the coefficients of one order is linear in
them but for products of lower ones.  First derivatives, of which no product is a part, may be in a sum of any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .dotted import dotted

Tensor = torch.Tensor
Product = Callable[[Tensor, Tensor], Tensor]
UNROLLED = 48
"""Products of single rows up to which they are taken one by one: beyond, gathering and scattering rows costs less."""


@dataclass(eq=False, slots=True)
class SummedProduct:
    """A product of two stacks, row by row, and the sum over all rows of it, ``(1, *S)``, where that is less work."""

    each: Product
    added_up: Product

    def __call__(self, left: Tensor, right: Tensor, /) -> Tensor:
        """Row by row."""
        return self.each(left, right)


Index = tuple[int, ...]
"""A multi-index: how often each direction is differentiated by."""

Terms = tuple[tuple[Index, float], ...]
"""A linear combination: derivatives, or Taylor coefficients, each with a number."""


@dataclass(frozen=True)
class Table:
    """Which rows of two stacks are multiplied with each other, and which row of the result each product adds to.

    ``each``: row i with row i gives row i.  ``summed``: row i with row i, all added up to the one row of the result.
    ``aligned``: rows that follow one another on both sides make all rows of the result, one each.  Else products
    ``left[k]`` with ``right[k]`` add to row ``into[k]``, times ``weights[k]`` where there are any.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    into: tuple[int, ...]
    rows: int
    each: bool = False
    summed: bool = False
    aligned: bool = False
    weights: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls, terms: Sequence[tuple[int, int, int]], sizes: tuple[int, int], rows: int, weights: Sequence[float] = ()
    ) -> Table:
        """The table of these ``(left, right, into)`` for stacks of these sizes."""
        left, right, into = (tuple(term[part] for term in terms) for part in range(3))
        if any(weight != 1 for weight in weights):
            return cls(left, right, into, rows, weights=tuple(weights))
        all_rows = tuple(range(sizes[0]))
        paired = left == right == all_rows and sizes[0] == sizes[1]
        each = paired and into == all_rows and rows == len(into)
        aligned = into == tuple(range(rows)) and _is_range(left) and _is_range(right)
        return cls(left, right, into, rows, each, paired and rows == 1, aligned)

    def terms(self) -> Iterator[tuple[int, int, int, float]]:
        """``(left, right, into, weight)``, product by product."""
        weights = (1.0,) * len(self.into) if self.weights is None else self.weights
        return zip(self.left, self.right, self.into, weights, strict=True)

    def convolve(self, left: Tensor, right: Tensor, product: Product) -> Tensor:
        """The stack of all products, each in its row of the result."""
        if self.each:
            return product(left, right)
        if self.summed:
            return _added_up(product, left, right)
        if self.aligned:
            return product(_range(left, self.left), _range(right, self.right))
        if len(self.into) > UNROLLED:
            return self.gathered(product(left[list(self.left)], right[list(self.right)]))
        lefts, rights = _single(left), _single(right)  # once, so that their gradients are joined once
        return self._sums([product(lefts[i], rights[j]) for i, j in zip(self.left, self.right, strict=True)])

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """``total`` with the stack of all products of elements, times a number, added to it in place."""
        if self.each:
            return total.addcmul_(left, right, value=scale)
        if self.aligned:
            return total.addcmul_(_range(left, self.left), _range(right, self.right), value=scale)
        if self.summed or len(self.into) > UNROLLED:
            return total.add_(self.convolve(left, right, torch.mul), alpha=scale)
        for i, j, row, weight in self.terms():
            total[row].addcmul_(left[i], right[j], value=scale * weight)
        return total

    def accumulate_left(self, total: Tensor, sums: Tensor, right: Tensor, scale: float) -> None:
        """The transpose by the left stack, in place: to row i of ``total`` is added row k of ``sums`` times row j."""
        if self.each or self.summed:
            total.addcmul_(sums, right, value=scale)
        elif self.aligned:
            _range(total, self.left).addcmul_(sums, _range(right, self.right), value=scale)
        elif len(self.into) > UNROLLED:
            left = torch.tensor(self.left, device=total.device)
            products = self._weighted(sums[list(self.into)] * right[list(self.right)])
            total.index_add_(0, left, products, alpha=scale)
        else:
            for i, j, row, weight in self.terms():
                total[i].addcmul_(sums[row], right[j], value=scale * weight)

    def squared(self, stack: Tensor) -> Tensor:
        """A stack convolved with itself by :func:`torch.mul`: each pair of rows is multiplied once."""
        if self.each or self.summed or self.aligned:
            return self.convolve(stack, stack, torch.mul)
        once = [term for term in self.terms() if term[0] <= term[1]]
        if len(once) > UNROLLED:
            return self.gathered(stack[list(self.left)] * stack[list(self.right)])
        rows = _single(stack)
        products = [rows[i] * rows[j] if i == j else 2 * rows[i] * rows[j] for i, j, _, _ in once]
        return _summed(products, [(row, weight) for _, _, row, weight in once], self.rows)

    def gathered(self, products: Tensor) -> Tensor:
        """Products, one for each term, added up in the rows that they belong to."""
        if self.each:
            return products
        if self.summed:
            return products.sum(0, keepdim=True)
        if len(self.into) > UNROLLED:
            into = torch.tensor(self.into, device=products.device)
            return products.new_zeros((self.rows, *products.shape[1:])).index_add(0, into, self._weighted(products))
        return self._sums(_single(products))

    def _sums(self, products: Sequence[Tensor]) -> Tensor:
        return _summed(products, [(row, weight) for _, _, row, weight in self.terms()], self.rows)

    def _weighted(self, products: Tensor) -> Tensor:
        if self.weights is None:
            return products
        weights = torch.tensor(self.weights, dtype=products.dtype, device=products.device)
        return products * weights.reshape(-1, *(1,) * (products.dim() - 1))


def _added_up(product: Product, left: Tensor, right: Tensor) -> Tensor:
    """The sum over all rows of their products, as one row."""
    if product is torch.mul:
        return dotted(left, right)
    if isinstance(product, SummedProduct):
        return product.added_up(left, right)
    return product(left, right).sum(0, keepdim=True)


def _single(stack: Tensor) -> tuple[Tensor, ...]:
    """Every row as a stack of one."""
    return torch.split(stack, 1)


def _summed(products: Sequence[Tensor], into: Sequence[tuple[int, float]], rows: int) -> Tensor:
    """Rows of one product each, added up with their weights in the rows that they belong to, zero where to none."""
    sums: list[Tensor | None] = [None] * rows
    for term, (row, weight) in zip(products, into, strict=True):
        before = sums[row]
        if before is None:
            sums[row] = term if weight == 1 else term * weight
        else:
            sums[row] = before + term if weight == 1 else torch.add(before, term, alpha=weight)
    filled = [torch.zeros_like(products[0]) if total is None else total for total in sums]
    return filled[0] if rows == 1 else torch.cat(filled)


def _is_range(rows: tuple[int, ...]) -> bool:
    return bool(rows) and rows == tuple(range(rows[0], rows[0] + len(rows)))


def _range(stack: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Rows that follow one another, as a view."""
    return stack if len(rows) == stack.shape[0] else stack[rows[0] : rows[0] + len(rows)]


@dataclass(frozen=True)
class Layout:
    """``sizes[k - 1]`` rows of order k, and ``tables[p, q]`` for the products of rows of the orders p and q."""

    sizes: tuple[int, ...]
    tables: tuple[tuple[tuple[int, int], Table], ...]

    @property
    def order(self) -> int:
        """The highest order that it carries."""
        return len(self.sizes)

    @property
    def total(self) -> bool:
        """Whether there is one second-order row, the sum over all directions, as of a Laplacian."""
        table = self.table(1, 1) if len(self.sizes) == 2 else None
        return table is not None and table.summed

    @property
    def summing(self) -> bool:
        """Whether a row is a sum of second derivatives along several directions."""
        table = self.table(1, 1)
        squares = [] if table is None else [row for i, j, row, _ in table.terms() if i == j]
        return len(squares) > len(set(squares))

    def table(self, p: int, q: int) -> Table | None:
        """Where products of rows of the orders p and q go; None where to nowhere."""
        for orders, table in self.tables:
            if orders == (p, q):
                return table
        return None


def first_order(rows: int) -> Layout:
    """First derivatives along any number of directions."""
    return Layout((rows,), ())


def diagonal(rows: int) -> Layout:
    """First and second derivatives along each direction."""
    return Layout((rows, rows), (((1, 1), Table.of([(i, i, i) for i in range(rows)], (rows, rows), rows)),))


def summed(groups: tuple[int, ...]) -> Layout:
    """First derivatives along all directions, and one sum of second derivatives for each group of directions."""
    into = [group for group, size in enumerate(groups) for _ in range(size)]
    rows = len(into)
    terms = [(i, i, group) for i, group in enumerate(into)]
    return Layout((rows, len(groups)), (((1, 1), Table.of(terms, (rows, rows), len(groups))),))


def pairs(rows: int, chosen: tuple[tuple[int, int], ...]) -> Layout:
    """First derivatives along all directions, and the mixed second ones of the chosen pairs."""
    terms = []
    for row, (i, j) in enumerate(chosen):
        terms += [(i, j, row)] if i == j else [(i, j, row), (j, i, row)]
    return Layout((rows, len(chosen)), (((1, 1), Table.of(terms, (rows, rows), len(chosen))),))


def closed(indices: Sequence[Index], sums: Sequence[Terms] = ()) -> Layout:
    """Any downward-closed set of multi-indices, of any order; rows are in the order given, within each order.

    Sums come after the others of the order of their first coefficient.  What is below any of their coefficients has
    rows of its own, but for first-order ones, which appear in no product that makes a sum.
    """
    by_order: dict[int, list[Terms]] = {}
    for row in (*[((index, 1.0),) for index in indices if sum(index)], *sums):
        by_order.setdefault(sum(row[0][0]), []).append(row)
    top = max(by_order, default=0)
    tables = []
    for p in range(1, top):
        for q in range(1, top - p + 1):
            terms, weights = _terms(by_order[p], by_order[q], by_order[p + q])
            if terms:
                sizes = (len(by_order[p]), len(by_order[q]))
                tables.append(((p, q), Table.of(terms, sizes, len(by_order[p + q]), weights)))
    return Layout(tuple(len(by_order[k]) for k in range(1, top + 1)), tuple(tables))


def _terms(
    left: Sequence[Terms], right: Sequence[Terms], result: Sequence[Terms]
) -> tuple[list[tuple[int, int, int]], list[float]]:
    """The products of rows of two orders that belong to rows of a third, and their weights."""
    places: dict[Index, list[tuple[int, float]]] = {}
    for row, coefficients in enumerate(result):
        for index, weight in coefficients:
            places.setdefault(index, []).append((row, weight))
    lefts, rights = _apart(left), _apart(right)
    terms = []
    for index, rows in places.items():
        for b in itertools.product(*[range(count + 1) for count in index]):
            if b in lefts:
                # Not by map(int.__sub__, index, b), which is NotImplemented under Dynamo.
                c = tuple([x - y for x, y in zip(index, b, strict=True)])
                if c in rights:
                    terms += [(lefts[b], rights[c], row, weight) for row, weight in rows]
    terms.sort(key=lambda term: (term[2], term[0], term[1]))
    return [term[:3] for term in terms], [term[3] for term in terms]


def _apart(rows: Sequence[Terms]) -> dict[Index, int]:
    """The rows of a single coefficient, which are what products are of, by their derivative."""
    return {row[0][0]: place for place, row in enumerate(rows) if len(row) == 1}
