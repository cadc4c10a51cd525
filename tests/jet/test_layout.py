"""Layouts: which rows are multiplied with each other, against products of polynomials written out."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from partial_truth import all_indices
from propagated import by_layout

from jacfunc.jet.layout import UNROLLED, Index, Layout, Table, Terms, closed, diagonal, first_order, pairs, summed

DOUBLE = torch.float64
Polynomial = dict[Index, float]
PLATE = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2))
BIHARMONIC: Terms = (((4, 0), 1.0), ((2, 2), 2.0), ((0, 4), -0.5))
BELOW = tuple(index for index in all_indices(2, 3) if sum(index) and max(index) < 4)


def polynomial(seed: int, size: int, order: int) -> Polynomial:
    """A polynomial without constant."""
    numbers = random.Random(seed)
    return {index: numbers.uniform(-1, 1) for index in all_indices(size, order) if any(index)}


def product(x: Polynomial, y: Polynomial) -> Polynomial:
    found: Polynomial = {}
    for (b, left), (c, right) in itertools.product(x.items(), y.items()):
        index = tuple(map(int.__add__, b, c))
        found[index] = found.get(index, 0.0) + left * right
    return found


def rows(x: Polynomial, groups: list[list[Terms]]) -> list[torch.Tensor]:
    """Of each order, what each row of a layout says of a polynomial: sums of its coefficients."""
    return [
        torch.tensor([[sum(weight * x.get(index, 0.0) for index, weight in row)] for row in group], dtype=DOUBLE)
        for group in groups
    ]


def units(size: int) -> list[Terms]:
    return [((tuple(int(i == k) for i in range(size)), 1.0),) for k in range(size)]


def squares(size: int) -> list[Terms]:
    return [((tuple(2 * i for i in row[0][0]), 1.0),) for row in units(size)]


def by_order(indices: tuple[Index, ...], sums: tuple[Terms, ...] = ()) -> list[list[Terms]]:
    alone: list[Terms] = [((index, 1.0),) for index in indices]
    top = max(sum(row[0][0]) for row in (*alone, *sums))
    return [[row for row in (*alone, *sums) if sum(row[0][0]) == k] for k in range(1, top + 1)]


LAYOUTS: dict[str, tuple[Layout, list[list[Terms]]]] = {
    "first": (first_order(3), [units(3)]),
    "diagonal": (diagonal(3), [units(3), squares(3)]),
    "summed": (summed((3,)), [units(3), [tuple(term for row in squares(3) for term in row)]]),
    "two groups": (
        summed((2, 1)),
        [units(3), [tuple(term for row in squares(3)[:2] for term in row), squares(3)[2]]],
    ),
    "pairs": (
        pairs(3, ((0, 2), (1, 1), (1, 2))),
        [units(3), [(((1, 0, 1), 1.0),), (((0, 2, 0), 1.0),), (((0, 1, 1), 1.0),)]],
    ),
    "plate": (closed(PLATE), by_order(PLATE)),
    "one variable": (closed(tuple((k,) for k in range(1, 7))), by_order(tuple((k,) for k in range(1, 7)))),
    "with a sum": (closed(BELOW, [BIHARMONIC]), by_order(BELOW, (BIHARMONIC,))),
    "all": (closed(tuple(all_indices(3, 4)[1:])), by_order(tuple(all_indices(3, 4)[1:]))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_product_of_rows_is_the_rows_of_the_product(name: str) -> None:
    layout, groups = LAYOUTS[name]
    size = len(groups[0][0][0][0])
    x, y = polynomial(1, size, layout.order), polynomial(2, size, layout.order)
    left, right, wanted = rows(x, groups), rows(y, groups), rows(product(x, y), groups)
    assert layout.sizes == tuple(map(len, groups))
    for n in range(1, layout.order + 1):
        total = torch.zeros(layout.sizes[n - 1], 1, dtype=DOUBLE)
        for p in range(1, n):
            table = layout.table(p, n - p)
            if table is not None:
                total = total + table.convolve(left[p - 1], right[n - p - 1], torch.mul)
        torch.testing.assert_close(total, wanted[n - 1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_square_multiplies_each_pair_once(name: str) -> None:
    layout, groups = LAYOUTS[name]
    x = rows(polynomial(3, len(groups[0][0][0][0]), layout.order), groups)
    for p in range(1, layout.order // 2 + 1):
        table = layout.table(p, p)
        assert table is not None
        twice = table.convolve(x[p - 1], x[p - 1], torch.mul)
        torch.testing.assert_close(table.squared(x[p - 1]), twice, rtol=1e-13, atol=1e-13)


def test_the_total_is_one_second_order_row_for_all_directions() -> None:
    assert summed((3,)).total
    assert [layout.total for layout in (first_order(3), diagonal(3), summed((2, 1)), closed(PLATE))] == [False] * 4


def test_what_goes_nowhere_has_no_table() -> None:
    assert first_order(3).table(1, 1) is None
    assert diagonal(2).table(1, 2) is None
    assert closed(((1, 0), (0, 1), (2, 0), (3, 0))).table(2, 2) is None
    layout = closed(((1, 0), (0, 1), (1, 1)))
    assert layout.tables == (((1, 1), Table((0, 1), (1, 0), (0, 0), 1)),)


MANY = [(i, j, (i * j) % 5) for i in range(8) for j in range(7)]
TABLES = {
    "each": Table.of([(i, i, i) for i in range(4)], (4, 4), 4),
    "summed": Table.of([(i, i, 0) for i in range(4)], (4, 4), 1),
    "aligned": Table.of([(1, 0, 0), (2, 1, 1), (3, 2, 2)], (4, 3), 3),
    "single": Table.of([(0, 1, 0), (3, 0, 0), (2, 2, 2)], (4, 3), 4),
    "weighted": Table.of([(0, 1, 0), (3, 0, 0), (2, 2, 2)], (4, 3), 3, [2.0, 1.0, -0.5]),
    "weighted each": Table.of([(i, i, i) for i in range(2)], (2, 2), 2, [3.0, 1.0]),
    "many": Table.of(MANY, (8, 7), 5),
    "many weighted": Table.of(MANY, (8, 7), 6, [0.5 + k for k in range(len(MANY))]),
}
SIZES = {"each": (4, 4), "summed": (4, 4), "weighted each": (2, 2), "many": (8, 7), "many weighted": (8, 7)}


def stacks(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    sizes = SIZES.get(name, (4, 3))
    left, right = (torch.randn(size, 3, 2, dtype=DOUBLE, generator=generator) for size in sizes)
    return left, right


def by_hand(table: Table, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(table.rows, 3, 2, dtype=DOUBLE)
    for place, (i, j, row) in enumerate(zip(table.left, table.right, table.into, strict=True)):
        total[row] += (1 if table.weights is None else table.weights[place]) * left[i] * right[j]
    return total


def test_each_kind_of_table_is_found() -> None:
    kinds = {name: (table.each, table.summed, table.aligned) for name, table in TABLES.items()}
    assert kinds["each"] == (True, False, True)
    assert kinds["summed"] == (False, True, False)
    assert kinds["aligned"] == (False, False, True)
    assert {kinds[name] for name in ("single", "weighted", "weighted each", "many")} == {(False, False, False)}
    assert len(MANY) > UNROLLED
    assert Table.of([(0, 0, 0)], (1, 1), 1, [1.0]).weights is None


@pytest.mark.parametrize("name", TABLES)
def test_products_go_to_their_rows(name: str) -> None:
    table, (left, right) = TABLES[name], stacks(name)
    torch.testing.assert_close(table.convolve(left, right, torch.mul), by_hand(table, left, right))
    products = torch.stack([left[i] * right[j] for i, j in zip(table.left, table.right, strict=True)])
    torch.testing.assert_close(table.gathered(products), by_hand(table, left, right))


@pytest.mark.parametrize("name", TABLES)
def test_products_are_added_in_place(name: str) -> None:
    table, (left, right) = TABLES[name], stacks(name)
    before = torch.randn(table.rows, 3, 2, dtype=DOUBLE)
    total = before.clone()
    assert table.accumulate(total, left, right, 0.3) is total
    torch.testing.assert_close(total, before + 0.3 * by_hand(table, left, right))


@pytest.mark.parametrize("name", TABLES)
def test_the_transpose_by_the_left_stack(name: str) -> None:
    """``<sums, convolve(left, right)> = <accumulate_left(sums, right), left>`` for any left stack."""
    table, (left, right) = TABLES[name], stacks(name)
    sums, before = torch.randn(table.rows, 3, 2, dtype=DOUBLE), torch.randn_like(left)
    total = before.clone()
    table.accumulate_left(total, sums, right, 0.3)
    torch.testing.assert_close(((total - before) * left).sum(), 0.3 * (sums * by_hand(table, left, right)).sum())


@pytest.mark.parametrize("name", ["aligned", "single", "weighted", "many", "many weighted"])
def test_any_product_may_be_taken(name: str) -> None:
    """Such as one of matrices, which does not commute."""
    table, generator = TABLES[name], torch.Generator().manual_seed(4)
    sizes = SIZES.get(name, (4, 3))
    left, right = (torch.randn(size, 2, 2, dtype=DOUBLE, generator=generator) for size in sizes)
    wanted = torch.zeros(table.rows, 2, 2, dtype=DOUBLE)
    for i, j, row, weight in table.terms():
        wanted[row] += weight * left[i] @ right[j]
    torch.testing.assert_close(table.convolve(left, right, torch.matmul), wanted)


def test_chosen_pairs() -> None:
    x = torch.rand(3, 3, dtype=DOUBLE)
    f = lambda x: (x[:, 0] * x[:, 1].exp() * x[:, 2].sin()).tanh()
    hessian = torch.func.vmap(torch.func.hessian(lambda row: f(row[None])[0]))(x)
    _, (_, rows) = by_layout(f, x, pairs(3, ((0, 1), (2, 2), (1, 2))))
    torch.testing.assert_close(rows[0], hessian[:, 0, 1])
    torch.testing.assert_close(rows[1], hessian[:, 2, 2] / 2)
    torch.testing.assert_close(rows[2], hessian[:, 1, 2])


def test_a_few_mixed_derivatives_of_a_high_order() -> None:
    indices = ((1, 0), (0, 1), (2, 0), (1, 1), (3, 0), (2, 1), (3, 1))
    x = torch.rand(2, 2, dtype=DOUBLE)
    _, coefficients = by_layout(lambda x: torch.exp(2 * x[:, 0] + 3 * x[:, 1]), x, closed(indices))
    wanted = torch.exp(2 * x[:, 0] + 3 * x[:, 1]) * 2**3 * 3 / math.factorial(3)
    torch.testing.assert_close(coefficients[3][0], wanted)
