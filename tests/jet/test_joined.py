"""Rows of two layouts together: their tensor product, against polynomials in the variables of both."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_layout import by_order, polynomial, product, rows, squares, units

from jacfunc.jet.joined import Joined
from jacfunc.jet.layout import Layout, Terms, closed, diagonal, first_order, summed

PLATE = ((1, 0), (0, 1), (1, 1))
HEAT: Terms = (((2, 0), 1.0), ((0, 2), -3.0))
BY_NAME: dict[str, tuple[Layout, list[list[Terms]]]] = {
    "first": (first_order(2), [units(2)]),
    "diagonal": (diagonal(2), [units(2), squares(2)]),
    "laplacian": (summed((2,)), [units(2), [tuple(term for row in squares(2) for term in row)]]),
    "mixed": (closed(PLATE), by_order(PLATE)),
    "weighted": (closed(PLATE[:2], [HEAT]), by_order(PLATE[:2], (HEAT,))),
}
PAIRS = list(itertools.product(BY_NAME, repeat=2))


def of_both(outer: list[list[Terms]], inner: list[list[Terms]]) -> list[list[Terms]]:
    """What each row of the joined layout is, outer variables first: the highest order of the outer one comes first."""
    value: list[Terms] = [(((0, 0), 1.0),)]
    one, other = [value, *outer], [value, *inner]
    found: list[list[Terms]] = []
    for order in range(1, len(outer) + len(inner) + 1):
        group: list[Terms] = []
        for p in range(min(order, len(outer)), -1, -1):
            if order - p <= len(inner):
                group += [
                    tuple(((*a, *b), v * w) for a, v in left for b, w in right)
                    for left in one[p]
                    for right in other[order - p]
                ]
        found.append(group)
    return found


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_a_product_of_rows_is_the_rows_of_the_product(outer: str, inner: str) -> None:
    joined = Joined.of(BY_NAME[outer][0], BY_NAME[inner][0])
    groups = of_both(BY_NAME[outer][1], BY_NAME[inner][1])
    layout = joined.layout
    assert layout.sizes == tuple(map(len, groups))
    x, y = polynomial(1, 4, layout.order), polynomial(2, 4, layout.order)
    left, right, wanted = rows(x, groups), rows(y, groups), rows(product(x, y), groups)
    for n in range(1, layout.order + 1):
        total = torch.zeros(layout.sizes[n - 1], 1, dtype=torch.float64)
        for p in range(1, n):
            table = layout.table(p, n - p)
            if table is not None:
                total = total + table.convolve(left[p - 1], right[n - p - 1], torch.mul)
        torch.testing.assert_close(total, wanted[n - 1], rtol=1e-12, atol=1e-12)


def test_blocks_lie_one_after_the_other() -> None:
    joined = Joined.of(first_order(2), diagonal(3))
    assert joined.layout.sizes == (5, 9, 6)
    assert joined.blocks(1) == [(1, 0), (0, 1)]
    assert joined.blocks(2) == [(1, 1), (0, 2)]
    assert joined.blocks(3) == [(1, 2)]
    assert [joined.block(*b) for b in ((1, 0), (0, 1), (1, 1), (0, 2), (1, 2))] == [
        slice(0, 2),
        slice(2, 5),
        slice(0, 6),
        slice(6, 9),
        slice(0, 6),
    ]
    assert joined.size(1, 2) == 6
    assert joined.size(0, 0) == 1
    assert joined.taken(0, 2) == (slice(6, 9), None)
    with pytest.raises(AssertionError, match="no such block"):
        joined.block(2, 0)


def test_two_transforms_of_one_kind_are_joined_once() -> None:
    assert Joined.of(first_order(2), diagonal(3)) is Joined.of(first_order(2), diagonal(3))
    assert Joined.of(first_order(2), diagonal(3)) is not Joined.of(diagonal(3), first_order(2))
