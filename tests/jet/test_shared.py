"""Rows of two evaluations by the same coordinates, each derivative once, against an exponential in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from jacfunc.jet.layout import Index, Layout, closed, diagonal, first_order
from jacfunc.jet.shared import Origin, Shared, one_hot, single

FIRST = ((1, 0), (0, 1))
DIAGONAL = (*FIRST, (2, 0), (0, 2))
ALL = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
KINDS: dict[str, tuple[Layout, tuple[Index, ...]]] = {
    "first": (first_order(2), FIRST),
    "diagonal": (diagonal(2), DIAGONAL),
    "all": (closed(ALL), ALL),
    "one coordinate": (closed(((0, 1), (0, 2))), ((0, 1), (0, 2))),
}


def factorial(index: Index) -> int:
    return math.prod(map(math.factorial, index))


def derivative(index: Index) -> float:
    """Of ``exp(2 x + 3 y)`` at zero."""
    return 2.0 ** index[0] * 3.0 ** index[1]


@pytest.mark.parametrize("outer", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_each_derivative_has_one_row(outer: str, inner: str) -> None:
    (one, by_outer), (other, by_inner) = KINDS[outer], KINDS[inner]
    shared = Shared.around(one, other, by_outer, by_inner, [0, 1])
    zero = (0, 0)
    wanted = {(a[0] + b[0], a[1] + b[1]) for a in (zero, *by_outer) for b in (zero, *by_inner)} - {zero}
    assert set(shared.rows()) == wanted
    assert len(shared.rows()) == len(wanted)
    assert shared.layout == closed(tuple(shared.rows()))
    assert [sum(index) for index in shared.rows()] == sorted(map(sum, wanted))
    assert shared.moved == {0, 1}
    firsts = [index for index in shared.rows() if sum(index) == 1]
    assert [FIRST[place] for place in shared.directions] == firsts


@pytest.mark.parametrize("outer", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_the_coefficients_of_a_derivative(outer: str, inner: str) -> None:
    """``s^a`` of the row ``d^b u / b!`` is ``d^(a+b) u / (a! b!)``: a multiple of a row that there is."""
    (one, by_outer), (other, by_inner) = KINDS[outer], KINDS[inner]
    shared = Shared.around(one, other, by_outer, by_inner, [0, 1])
    for p in range(one.order + 1):
        for q in range(1 if not p else 0, other.order + 1):
            coefficients = torch.tensor([derivative(i) / factorial(i) for i in shared.rows() if sum(i) == p + q])
            pairs = [(a, b) for a in ((0, 0), *by_outer) for b in ((0, 0), *by_inner) if sum(a) == p and sum(b) == q]
            places, weights = shared.taken(p, q)
            found = coefficients[places] * torch.tensor(weights)
            wanted = torch.tensor(
                [derivative((a[0] + b[0], a[1] + b[1])) / factorial(a) / factorial(b) for a, b in pairs]
            )
            torch.testing.assert_close(found, wanted)


def test_rows_that_follow_one_another_are_a_slice() -> None:
    shared = Shared.around(first_order(2), first_order(2), FIRST, FIRST, [0, 1])
    assert shared.taken(1, 0) == (slice(0, 2), [1.0, 1.0])
    assert shared.of == (((0, 0),), ((1, 0), (0, 1)), ((2, 0), (1, 1), (0, 2)))
    assert shared.taken(1, 1) == ([0, 1, 1, 2], [2.0, 1.0, 1.0, 2.0])


def test_derivatives_by_one_coordinate_each() -> None:
    assert single(0, 2, [2, 1], 1) == [(1, 0, 0), (0, 1, 0)]
    assert single(2, 3, [2, 1], 3) == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert single(0, 3, [2, 1], 2) == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2)]


def test_coordinates_of_a_leaf() -> None:
    origin = Origin(lambda: [], [], [2, 3, 1])
    assert [origin.coordinates(place) for place in range(3)] == [range(2), range(2, 5), range(5, 6)]


def test_one_hot_rows_of_some_coordinates() -> None:
    rows = one_hot(range(2, 5), [3, 0, 2, 4], torch.zeros(1, dtype=torch.float64))
    assert rows.dtype == torch.float64
    assert rows.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
