"""Sets of multi-indices: closed downwards, cut into parts, with sums of derivatives in one row, against brute force."""

from __future__ import annotations

import itertools
import math

import pytest

from jacfunc.jet.layout import Index, Terms, closed
from jacfunc.jet.multiindices import RATIO, MultiIndices, Sum

LAPLACIAN: Terms = (((2, 0, 0), 1.0), ((0, 2, 0), 1.0), ((0, 0, 2), 1.0))
BIHARMONIC: Terms = (((4, 0), 1.0), ((2, 2), 2.0), ((0, 4), 1.0))
HEAT: Terms = (((1, 0), 1.0), ((0, 2), -0.1))
KURAMOTO: Terms = (((1, 0), 1.0), ((0, 2), 1.0), ((0, 4), 3.0))
WANTED = {
    "one": [(1, 0)],
    "plate": [(4, 0), (2, 2), (0, 4)],
    "mixed": [(1, 1, 1)],
    "not all coordinates": [(0, 0, 3), (0, 1, 0)],
    "with the value": [(0, 0), (2, 1)],
    "high": [(0, 6), (5, 0)],
}


def brute(wanted: list[Index]) -> set[Index]:
    """Everything below, by looking at all multi-indices."""
    size, top = len(wanted[0]), max(map(max, wanted))
    every = itertools.product(range(top + 1), repeat=size)
    return {low for low in every if any(low) and any(all(map(int.__le__, low, high)) for high in wanted)}


def factorial(index: Index) -> int:
    return math.prod(map(math.factorial, index))


@pytest.mark.parametrize("name", WANTED)
def test_the_set_is_the_smallest_that_is_closed_downwards(name: str) -> None:
    found = MultiIndices.around(WANTED[name])
    assert set(found.indices) == brute(WANTED[name])
    assert len(found.indices) == len(set(found.indices)) == found.rows
    assert [sum(index) for index in found.indices] == sorted(map(sum, found.indices))
    assert found.order == max(map(sum, WANTED[name]))
    assert found.wanted == set(WANTED[name])
    assert found.layout == closed(found.indices)
    firsts = [index for index in found.indices if sum(index) == 1]
    assert [index.index(1) for index in firsts] == list(found.directions)


@pytest.mark.parametrize("name", WANTED)
def test_each_wanted_row_is_found_at_its_place_with_its_factor(name: str) -> None:
    found = MultiIndices.around(WANTED[name])
    taken = {}
    for order, count, places in found.taken:
        of_order = found.of_order(order)
        assert count == len(of_order)
        taken.update({key: (of_order[place], factor) for place, key, factor in places})
    assert taken == {index: (index, factorial(index)) for index in WANTED[name] if any(index)}


@pytest.mark.parametrize("name", WANTED)
def test_a_parent_is_a_derivative_less(name: str) -> None:
    found = MultiIndices.around(WANTED[name])
    for order in range(1, found.order + 1):
        children = found.of_order(order)
        assert [sum(child) for child in children] == [order] * len(children)
        assert len(found.parents(order)) == len(children)
        for child, (place, coordinate) in zip(children, found.parents(order), strict=True):
            step = tuple(int(k == coordinate) for k in range(len(child)))
            parent = found.of_order(order - 1)[place] if order > 1 else (0,) * len(child)
            assert tuple(map(int.__add__, parent, step)) == child


def test_the_value_alone_has_one_row_that_nobody_wants() -> None:
    found = MultiIndices.around([(0, 0)])
    assert found.indices == ((1, 0),)
    assert found.taken == ()


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 9, 100])
@pytest.mark.parametrize("name", WANTED)
def test_parts_have_all_that_is_wanted_and_no_more_rows_than_one_needs(name: str, rows: int) -> None:
    whole = MultiIndices.around(WANTED[name])
    parts = whole.parts(rows)
    assert sorted(index for part in parts for index in part.wanted) == sorted(whole.wanted)
    for part in parts:
        alone = max(len(brute([index])) if any(index) else 1 for index in part.wanted)
        assert part.rows <= max(rows, alone)
    if rows >= whole.rows:
        assert parts == (whole,)
    assert whole.parts(None) == (whole,)


def test_parts_are_few() -> None:
    """Two derivatives share a part where their closure fits: 8 rows for ``plate`` with its two pure fourths."""
    whole = MultiIndices.around(WANTED["plate"])
    assert whole.rows == len(brute(WANTED["plate"])) == 12
    assert sorted(len(part.wanted) for part in whole.parts(8)) == [1, 2]
    assert len(whole.parts(12)) == 1
    assert len(whole.parts(1)) == 3


# -------------------------------------------------------------------- sums


def test_a_laplacian_is_one_row() -> None:
    found = MultiIndices.around([], [LAPLACIAN])
    assert found.sums == (Sum(LAPLACIAN),)
    assert found.rows == 4
    assert found.layout.sizes == (3, 1)
    assert found.layout.total
    assert found.made_of(LAPLACIAN) == ((Sum(LAPLACIAN), 1.0),)
    assert found.taken == ((2, 1, ((0, Sum(LAPLACIAN), 2),)),)
    assert found.starts == ()
    assert found.separate.rows == 6
    assert found.separate.wanted == {index for index, _ in LAPLACIAN}


def expanded(found: MultiIndices, terms: Terms) -> dict[Index, float]:
    """A combination put together again of what it is made of."""
    total: dict[Index, float] = {}
    for key, coefficient in found.made_of(terms):
        for index, weight in key.terms if isinstance(key, Sum) else ((key, 1.0),):
            total[index] = total.get(index, 0.0) + coefficient * weight
    return total


COMBINED = {
    "laplacian": ([], [LAPLACIAN]),
    "biharmonic": ([], [BIHARMONIC]),
    "scaled": ([], [(((2, 0), -4.0), ((0, 2), 2.0))]),
    "heat": ([], [HEAT]),
    "kuramoto": ([], [KURAMOTO]),
    "beside one of it": ([(0, 2)], [(((2, 0), 1.0), ((0, 2), 3.0), ((0, 0), 5.0))]),
    "two": ([(1, 0, 0)], [LAPLACIAN, (((0, 0, 3), 1.0), ((0, 3, 0), 0.5), ((0, 1, 0), 2.0))]),
    "needed by another": ([], [(((2, 0), 1.0), ((0, 2), 1.0)), (((3, 0), 1.0), ((0, 3), 1.0))]),
    "far apart": ([], [(((2, 0), 1.0), ((0, 2), 10 * RATIO))]),
}


@pytest.mark.parametrize("name", COMBINED)
def test_a_combination_is_made_of_rows_that_there_are(name: str) -> None:
    wanted, combined = COMBINED[name]
    found = MultiIndices.around(wanted, combined)
    keys = {key for _, _, places in found.taken for _, key, _ in places}
    for terms in combined:
        got = expanded(found, terms)
        assert got.keys() == {index for index, _ in terms}
        for index, coefficient in terms:
            assert got[index] == pytest.approx(coefficient, rel=1e-15)
        assert {key for key, _ in found.made_of(terms) if isinstance(key, Sum) or any(key)} <= keys
    # What is below a summed derivative has a row of its own, but for it.
    below = [low for terms in found.sums for index, _ in terms.terms for low in brute([index]) if low != index]
    assert set(below) | {index for index in wanted if any(index)} <= set(found.indices)
    assert found.rows <= found.separate.rows


def test_the_lead_has_the_largest_coefficient_and_weight_one() -> None:
    found = MultiIndices.around([], [BIHARMONIC])
    ((key, coefficient),) = found.made_of(BIHARMONIC)
    assert key.lead == (2, 2)
    assert coefficient == 2.0
    assert dict(key.terms) == {(2, 2): 1.0, (4, 0): 0.5, (0, 4): 0.5}
    # Of Taylor coefficients: d^4 / 4! is six times what d^4 / (2! 2!) is.
    table = {orders: list(t.terms()) for orders, t in found.layout.tables}
    place = {index: k for k, index in enumerate(found.of_order(1))}
    assert place == {(1, 0): 0, (0, 1): 1}
    thirds = {index: k for k, index in enumerate(found.of_order(3))}
    weights = {(i, j): weight for i, j, _, weight in table[1, 3]}
    assert weights == {
        (0, thirds[3, 0]): 0.5 * 24 / 4,
        (1, thirds[0, 3]): 0.5 * 24 / 4,
        (0, thirds[1, 2]): 1.0,
        (1, thirds[2, 1]): 1.0,
    }


def test_first_derivatives_ride_on_the_sum_of_the_highest_order() -> None:
    found = MultiIndices.around([], [HEAT])
    ((key, coefficient),) = found.made_of(HEAT)
    assert key.lead == (0, 2)
    assert dict(key.terms) == {(0, 2): 1.0, (1, 0): pytest.approx(-10.0)}
    assert coefficient == -0.1
    assert found.rows == 2  # u_x, and the sum; u_t has none
    assert found.indices == ((0, 1),)
    # The row of the sum starts with u_t in it: d2/2 has weight 1, d1 then half of its coefficient.
    assert found.starts == ((2, ((pytest.approx(-5.0), 0.0),)),)


def test_weights_too_far_apart_are_not_summed() -> None:
    near, far = ((((2, 0), 1.0), ((0, 2), scale)) for scale in (RATIO, 1.5 * RATIO))
    assert MultiIndices.around([], [near]).sums
    assert not MultiIndices.around([], [far]).sums


def test_a_set_with_sums_is_cut_with_each_derivative_alone() -> None:
    found = MultiIndices.around([], [LAPLACIAN])
    parts = found.parts(2)
    assert sorted(index for part in parts for index in part.wanted) == sorted(index for index, _ in LAPLACIAN)
    assert all(part.rows == 2 and not part.sums for part in parts)
    assert found.parts(4) == (found,)


def test_a_sum_that_costs_more_rows_than_its_derivatives_is_not_made() -> None:
    """``u_xx`` is needed by itself, so the sum would be a row more."""
    terms: Terms = (((2,), 1.0), ((1,), 1.0))
    found = MultiIndices.around([(2,)], [terms])
    assert not found.sums
    assert found.rows == 2
