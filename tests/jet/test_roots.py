"""``jet/roots.py``: numbers with the root of something that is zero, multiplied, put into functions, and ended."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from jacfunc.jet import Frame, Jet, Propagation, layout
from jacfunc.jet.build import constant_rows
from jacfunc.jet.root import Root, directions, with_root, with_value
from jacfunc.jet.roots import added, applied, multiplied

DOUBLE = torch.float64
LAYOUTS = {
    "diagonal": layout.diagonal(2),
    "a sum": layout.summed((2,)),
    "pairs": layout.pairs(2, ((0, 0), (0, 1), (1, 1))),
    "closed": layout.closed([(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1)]),
}


def root(rows_layout: layout.Layout, scale: float = 1.0) -> Root:
    """Of ``scale * (x^2 + y^2)`` at zero, and at a place where no norm is zero."""
    frame = Frame(Propagation((2,)), rows_layout)
    ones = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=DOUBLE)
    coordinates = [
        Jet(ones[place], (torch.eye(2, dtype=DOUBLE)[place][:, None], *[None] * (rows_layout.order - 1)), frame)
        for place in range(2)
    ]
    x, y = (Jet(c.value, c.coefficients, frame) for c in coordinates)
    squares: Any = scale * (x * x + y * y)  # type: ignore[operator]
    zero = torch.tensor([True, False])
    norm = constant_rows(squares, torch.tensor([0.0, 3.0], dtype=DOUBLE))
    moves = (torch.ones(2, 2, dtype=DOUBLE) * zero, *[None] * (rows_layout.order - 1))
    return Root.of(squares, norm, zero, Jet(zero.double(), moves, frame))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_square_of_a_root_is_what_it_is_the_root_of(name: str) -> None:
    r = root(LAYOUTS[name])
    squared = multiplied(r, r)
    assert torch.equal(squared.even.value, torch.tensor([0.0, 9.0], dtype=DOUBLE))
    for order in range(2, LAYOUTS[name].order + 1):
        mine, true = squared.even.full(order), r.square.full(order)
        assert true is None or (mine is not None and torch.equal(mine, true))
    assert not squared.odd.value.any()
    jet = with_root(squared, squared.even.value)
    assert jet.root is None  # nothing is left of it


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_root_itself_has_no_second_derivative(name: str) -> None:
    r = root(LAYOUTS[name])
    jet = with_root(r, r.even.value)
    assert jet.root is r and jet.propagation.rooted
    assert jet.coefficients[0] is None
    for order in range(2, LAYOUTS[name].order + 1):
        rows = jet.full(order)
        assert rows is not None and rows[:, 0].isnan().all() and not rows[:, 1].isnan().any()


def test_a_function_is_its_even_and_its_odd_part() -> None:
    r = root(LAYOUTS["diagonal"])
    exponential = applied(torch.exp, r)
    assert exponential is not None
    assert exponential.even.value[0] == 1 and exponential.odd.value[0] == 1
    even, odd = exponential.even.full(2), exponential.odd.full(1)
    assert even is not None and torch.equal(even[:, 0], torch.tensor([0.5, 0.5], dtype=DOUBLE))
    assert odd is None or not odd.any()
    assert applied(lambda x: x.sum(), r) is None


def test_other_roots_of_the_same_and_of_something_else() -> None:
    r, same, other = root(LAYOUTS["diagonal"]), root(LAYOUTS["diagonal"]), root(LAYOUTS["diagonal"], 4.0)
    same = Root(*same.each(lambda _, part: Jet(part.value, part.coefficients, r.even.frame)))
    other = Root(*other.each(lambda _, part: Jet(part.value, part.coefficients, r.even.frame)))
    product = multiplied(r, same)
    assert with_root(product, product.even.value).root is None
    for combined in (added(r, other), multiplied(r, other)):
        rows = with_root(combined, combined.even.value).full(2)
        assert rows is not None and rows[:, 0].isnan().all() and not rows[:, 1].isnan().any()


def test_a_value_of_torch_is_taken_where_no_norm_is_zero() -> None:
    r = root(LAYOUTS["diagonal"])
    jet = with_value(torch.tensor([1e-9, 3.1], dtype=DOUBLE), with_root(r, r.even.value))
    assert torch.equal(jet.value, torch.tensor([1e-9, 3.1], dtype=DOUBLE))
    assert torch.equal(jet.root.even.value, torch.tensor([0.0, 3.1], dtype=DOUBLE))


def test_directions_of_rows() -> None:
    assert directions(LAYOUTS["pairs"]) == [[{0}, {1}], [{0}, {0, 1}, {1}]]
    assert directions(LAYOUTS["a sum"])[1] == [{0, 1}]
    assert directions(LAYOUTS["closed"])[2] == [{0}, {0, 1}]


def test_what_is_left_of_zero_by_rounding_is_zero() -> None:
    """``(1 + a r) exp(-a r)``: the two parts by the root cancel, in whatever order they are computed."""
    r = root(LAYOUTS["diagonal"])
    scale = math.sqrt(3)
    one = constant_rows(r.even, torch.ones(2, dtype=DOUBLE))
    scaled = multiplied(r, Root.without(constant_rows(r.even, torch.full((2,), scale, dtype=DOUBLE))))
    inverse = applied(lambda x: torch.exp(-x / 3), multiplied(scaled, Root.without(3 * one)))  # type: ignore[operator]
    assert inverse is not None
    kernel = multiplied(added(Root.without(one), scaled), inverse)
    jet = with_root(kernel, kernel.even.value)
    rows = jet.full(2)
    assert rows is not None and torch.allclose(rows[:, 0], torch.tensor([-1.5, -1.5], dtype=DOUBLE))
