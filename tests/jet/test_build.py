"""How rules are made, against derivatives in closed form: Faa di Bruno, linear maps, products."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from propagated import opened, seeded

from jacfunc.jet import Frame, Jet, Propagation, bilinear, elementwise, linear
from jacfunc.jet.build import aligned, composed, constant_rows, filled, frame_of
from jacfunc.jet.layout import closed, diagonal, first_order, summed

DOUBLE = torch.float64
X = torch.rand(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) + 0.4
SIX = closed(tuple((k,) for k in range(1, 7)))
POINT = torch.tensor([[0.7], [1.3]], dtype=DOUBLE)


def along(coefficients: list[float], layout: Any = SIX) -> Any:
    """A jet ``sum_k c_k t^k`` beside its value."""
    rows = tuple(torch.full((1, 2, 1), c, dtype=DOUBLE) if c else None for c in coefficients)
    return Jet(POINT, rows, Frame(Propagation((2,)), layout))


def exponential(inner: list[float]) -> list[float]:
    """The coefficients of ``exp(sum_k c_k t^k)`` from the first: ``n e_n = sum_k k c_k e_(n-k)``."""
    found = [1.0]
    for n in range(1, len(inner) + 1):
        found.append(sum(k * inner[k - 1] * found[n - k] for k in range(1, n + 1)) / n)
    return found[1:]


@pytest.mark.parametrize(
    "inner", [[1, 0, 0, 0, 0, 0], [2, -1, 0.5, 0, 0, 0.3], [0, 1, 0, -2, 0, 0], [0, 0, 0, 0, 1, 0]]
)
def test_composition_to_the_sixth_order(inner: list[float]) -> None:
    jet = along(inner)
    for rows, truth in zip(composed(jet, [POINT.exp()] * 6), exponential(inner), strict=True):
        found = torch.zeros_like(POINT) if rows is None else rows[0]
        torch.testing.assert_close(found, truth * POINT.exp())


def test_derivatives_that_are_numbers_or_zero_or_end_early() -> None:
    jet = along([1, 2, 0, 0, 0, 0])
    square = composed(jet, [2 * POINT, 2.0])  # of x^2
    wanted = [2 * POINT, 1 + 4 * POINT, 4 * torch.ones_like(POINT), 4 * torch.ones_like(POINT)]
    for rows, truth in zip(square, wanted, strict=False):
        torch.testing.assert_close(rows[0], truth)
    assert square[4:] == (None, None)
    assert composed(jet, [None, None]) == (None,) * 6
    assert composed(jet, []) == (None,) * 6
    second = composed(jet, [None, 2.0])
    assert second[0] is None
    torch.testing.assert_close(second[1][0], torch.ones_like(POINT))
    first = Jet(POINT, (None,), Frame(Propagation((2,)), first_order(1)))
    assert composed(first, [POINT]) == (None,)
    assert composed(first, []) == (None,)


def test_a_slope_that_is_true_or_false_keeps_rows_or_drops_them() -> None:
    """Also where they are not finite, which zero times them is not."""
    rows = torch.tensor([[[math.inf], [2.0]]], dtype=DOUBLE)
    jet = Jet(POINT, (rows,), Frame(Propagation((2,)), first_order(1)))
    (found,) = composed(jet, [torch.tensor([[False], [True]])])
    assert found.tolist() == [[[0.0], [2.0]]]


def test_the_second_order_of_each_layout() -> None:
    for layout in (diagonal(2), summed((2,))):
        jet, _ = seeded(X, layout)
        inner = jet * jet.sum(1, keepdim=True)
        _, (first, second) = opened(Jet(inner.value.exp(), composed(inner, [inner.value.exp()] * 2), inner.frame))
        f = lambda row: (row * row.sum()).exp()
        jacobian = torch.func.vmap(torch.func.jacrev(f))(X).permute(2, 0, 1)
        hessian = torch.func.vmap(torch.func.hessian(f))(X).diagonal(0, 2, 3).permute(2, 0, 1)
        torch.testing.assert_close(first, jacobian)
        torch.testing.assert_close(2 * second, hessian if layout.sizes[1] == 2 else hessian.sum(0, keepdim=True))


def cube(x: torch.Tensor, y: torch.Tensor, order: int) -> list[Any]:
    return [3 * x * x, 6 * x, torch.full_like(x, 6.0)]


def test_a_list_of_derivatives_is_asked_for_the_order_that_is_carried() -> None:
    asked = []

    def derivatives(x: torch.Tensor, y: torch.Tensor, order: int) -> list[Any]:
        asked.append(order)
        torch.testing.assert_close(y, x**3)
        return cube(x, y, order)[:order]

    rule = elementwise(lambda x: x**3, derivatives)
    for layout in (first_order(2), diagonal(2)):
        value, rows = opened(rule(seeded(X, layout)[0]))
        assert torch.equal(value, X**3)
        torch.testing.assert_close(rows[0], torch.diag_embed(3 * X * X).movedim(1, 0))
        if layout.order == 2:
            torch.testing.assert_close(rows[1], torch.diag_embed(3 * X).movedim(1, 0))
    assert asked == [1, 2]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_kernel_does_the_first_order_alone(scaled: bool) -> None:
    def kernel(rows: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 10 * rows * y

    rule = elementwise(torch.exp, lambda x, y, order: [y] * order, kernel)
    jet, propagation = seeded(X, first_order(2))
    if scaled:
        jet = jet * 2
    value, (rows,) = opened(rule(jet))
    torch.testing.assert_close(rows, 10 * jet.full(1) * value)
    assert (propagation.scale_of(rule(seeded(X, first_order(2))[0]).coefficients[0]) is None) is True
    result = rule(Jet(X, (propagation.identity(2, X),), jet.frame))
    assert propagation.scale_of(result.coefficients[0]) is not None
    second, _ = seeded(X, diagonal(2))
    torch.testing.assert_close(rule(second).full(1), second.full(1) * X.exp())
    constant = Jet(X, (None,), jet.frame)
    assert rule(constant).coefficients == (None,)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_smooth_function_is_one_node_where_a_graph_is_recorded(recorded: bool) -> None:
    x = X.clone().requires_grad_(recorded)
    jet = Jet(x, (torch.eye(2, dtype=DOUBLE)[:, None], None), Frame(Propagation((3,)), diagonal(2)))
    smooth = elementwise(torch.exp, lambda x, y, order: [y] * order, smooth=True)
    rough = elementwise(torch.exp, lambda x, y, order: [y] * order)
    found, wanted = smooth(jet), rough(jet)
    for order in (1, 2):
        torch.testing.assert_close(found.full(order), wanted.full(order))
    assert (type(found.coefficients[1].grad_fn).__name__ == "_FusedBackward") is recorded


def test_a_linear_map_is_the_same_for_value_and_rows() -> None:
    jet, _ = seeded(X, diagonal(2))
    inner = jet.exp()
    result = linear(inner, lambda x: x.flip(-1) * 2, lambda rows: rows.flip(-1) * 3)
    assert torch.equal(result.value, X.exp().flip(1) * 2)
    for order in (1, 2):
        assert torch.equal(result.full(order), inner.full(order).flip(2) * 3)
    assert result.frame is jet.frame
    assert linear(jet, torch.neg, torch.neg).coefficients[1] is None


def test_rows_of_several_jets_in_full() -> None:
    jet, _ = seeded(X, diagonal(2))
    constant = constant_rows(jet, X)
    assert constant.coefficients == (None, None)
    one, zero = filled([jet, constant], 1)
    assert torch.equal(one, torch.eye(2, dtype=DOUBLE)[:, None].expand(2, 3, 2))
    assert torch.equal(zero, torch.zeros(2, 3, 2, dtype=DOUBLE))
    assert filled([jet, constant], 2) is None


def test_axes_of_rows_are_added_after_the_first() -> None:
    rows = torch.ones(5, 2, 3)
    assert aligned(rows, 2) is rows
    assert aligned(rows, 1) is rows
    assert aligned(rows, 4).shape == (5, 1, 1, 2, 3)


def test_the_frame_of_operands_is_that_of_the_first_jet() -> None:
    jet, _ = seeded(X, first_order(2))
    assert frame_of(1.0, X, jet) is jet.frame


@pytest.mark.parametrize("layout", [first_order(2), diagonal(2), summed((2,))])
@pytest.mark.parametrize("varying", ["left", "right", "both"])
def test_a_product_that_does_not_commute(layout: Any, varying: str) -> None:
    """Of a row by a matrix, either or both of which vary."""
    jet, _ = seeded(X, layout)
    one, other = jet.sin(), jet[:, :, None] * jet[:, None, :].exp()
    one = one if varying != "right" else one.value
    other = other if varying != "left" else other.value
    times = lambda x, y: torch.einsum("...i,...ij->...j", x, y)
    found = bilinear(one, other, times, times, times, times)
    wanted = sum(one[:, i, None] * other[:, i] for i in range(2))
    torch.testing.assert_close(found.value, wanted.value)
    for order in range(1, layout.order + 1):
        torch.testing.assert_close(found.full(order), wanted.full(order))


def test_a_product_of_high_orders_is_that_of_power_series() -> None:
    one, other = along([1, 2, 0, 0, 3, 0]), along([0, 1, -1, 0, 0, 0.5])
    found = bilinear(one, other, *(torch.mul,) * 4).coefficients
    x, y = [POINT, 1, 2, 0, 0, 3, 0], [POINT, 0, 1, -1, 0, 0, 0.5]
    for n in range(1, 7):
        wanted = sum(x[k] * y[n - k] for k in range(n + 1)) + torch.zeros_like(POINT)
        torch.testing.assert_close(found[n - 1][0], wanted)
