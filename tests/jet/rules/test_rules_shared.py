"""What rules of several families are made of: torch's own value, masks, maps linear in several jets, axes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from propagated import seeded

from jacfunc.core import caches
from jacfunc.jet import Jet
from jacfunc.jet.layout import diagonal
from jacfunc.jet.rules.shared import (
    all_dims,
    broadcast,
    enter,
    enter_each,
    enter_valued,
    exact_value,
    full_rows_of,
    functions_of,
    gathered,
    jointly,
    lower_orders,
    merged,
    minus,
    reflected,
    row_by_row,
    rows_of,
    several,
    switched,
    valued,
)

DOUBLE = torch.float64
X = torch.rand(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) + 0.3
MASK = X > 0.7


def jets() -> tuple[Any, Any]:
    """Two of one frame with rows of both orders."""
    jet, _ = seeded(X, diagonal(4))
    return jet * jet.sin(), jet.exp()


def test_rows_of_a_formula_and_the_value_of_torch() -> None:
    jet, _ = jets()
    value, calls = torch.full_like(X, 7.0), []

    def native(x: torch.Tensor, by: float) -> torch.Tensor:
        calls.append((type(x), torch.is_grad_enabled()))
        return value

    rule = valued(native, lambda x, by: x.sin() * by)
    found = rule(jet, by=2.0)
    assert torch.equal(found.value, value)
    for order in (1, 2):
        assert torch.equal(found.full(order), (jet.sin() * 2.0).full(order))
    assert calls == [(torch.Tensor, False)]


def test_of_what_is_no_jet_the_operation_is_torchs() -> None:
    jet, _ = jets()
    found = valued(torch.argmax, lambda x, dim: x.value)(jet, 1)
    assert torch.equal(found, jet.value.argmax(1))


def test_the_value_has_the_derivatives_of_the_formula_where_those_are_asked_for() -> None:
    """In a transform of torch.func: the value to the bit, its slope that of the expansion."""
    jet, _ = seeded(X, diagonal(4))

    def of(t: torch.Tensor) -> torch.Tensor:
        expanded = Jet((X * t).sin(), jet.coefficients, jet.frame)
        return exact_value((X * t).sin().detach() + 1, expanded).value

    one = torch.ones((), dtype=DOUBLE)
    slope = torch.func.jacrev(of)(one)
    torch.testing.assert_close(slope, X * X.cos())
    torch.testing.assert_close(of(one), X.sin() + 1, rtol=0, atol=0)


def test_a_map_that_is_linear_in_several() -> None:
    one, other = jets()
    constant = torch.ones(3, 1, dtype=DOUBLE)
    value = torch.zeros(3, 9, dtype=DOUBLE)
    found = jointly(value, (one, constant, other), lambda *rows: torch.cat(rows, 2))
    assert found.value is value
    for order in (1, 2):
        rows = found.full(order)
        assert torch.equal(rows[..., :4], one.full(order))
        assert not rows[..., 4].any()
        assert torch.equal(rows[..., 5:], other.full(order))
    zero = Jet(X, (None, None), one.frame)
    assert jointly(value, (zero, constant), lambda *rows: torch.cat(rows, 2)).coefficients == (None, None)
    single = jointly(X.float(), (one, 2.0), lambda rows, number: rows + number)
    assert single.coefficients[0].dtype == torch.float32


def test_row_by_row() -> None:
    stacks = torch.arange(6.0).reshape(3, 2), torch.arange(3.0).reshape(3, 1)
    found = row_by_row(lambda row, number: row * number)(*stacks)
    assert torch.equal(found, stacks[0] * stacks[1])


def test_a_sum_of_rows_by_masks_and_weights() -> None:
    """A mask drops rows that are not finite too."""
    one, other = jets()
    found = merged(X, (MASK, one), (3 * X, other), (~MASK, 5.0))
    for order in (1, 2):
        wanted = torch.where(MASK, one.full(order), 0.0) + 3 * X * other.full(order)
        torch.testing.assert_close(found.full(order), wanted)
    infinite = Jet(X, (torch.full((4, 3, 4), math.inf, dtype=DOUBLE), None), one.frame)
    rows = merged(X, (MASK, infinite)).full(1)
    assert torch.equal(rows, torch.where(MASK, math.inf, 0.0).double().expand(4, 3, 4))
    assert merged(X, (MASK, infinite)).coefficients[1] is None
    vector = one[0]  # whose rows have an axis less
    torch.testing.assert_close(merged(X, (X, vector)).full(1), X * vector.full(1)[:, None])


@pytest.mark.parametrize("varying", ["one", "other", "both"])
def test_one_or_the_other_by_a_mask(varying: str) -> None:
    one, other = jets()
    operands = {"one": (one, X), "other": (2.0, other), "both": (one, other)}[varying]
    found = switched(X, MASK, *operands)
    for order in (1, 2):
        yes, no = (operand.full(order) if type(operand) is Jet else 0.0 for operand in operands)
        assert torch.equal(found.full(order), torch.where(MASK, yes, no))
    zero = Jet(X, (None, None), one.frame)
    assert switched(X, MASK, zero, 1.0).coefficients == (None, None)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_elements_at_an_index(dim: int) -> None:
    jet, _ = jets()
    index = torch.tensor([[0, 2, 1, 0], [2, 2, 0, 1]])
    found = gathered(jet, jet.value.gather(dim, index), dim, index)
    axis = dim % 2 + 1
    assert torch.equal(found.full(2), jet.full(2).gather(axis, index.expand(4, 2, 4)))


def test_elements_of_a_number() -> None:
    jet, _ = jets()
    total = jet.sum()
    value = total.value.reshape(1, 1).expand(2, 1)
    found = gathered(total, value, 0, torch.zeros(2, 1, dtype=torch.long))
    assert torch.equal(found.full(1), total.full(1)[:, None, None].expand(4, 2, 1))


def test_the_shape_of_operands_together() -> None:
    jet, _ = jets()
    assert broadcast(jet, torch.ones(5, 1, 1)) == (5, 3, 4)


def test_axes_from_the_end() -> None:
    assert all_dims(None, 3) == (-3, -2, -1)
    assert all_dims((), 2) == (-2, -1)
    assert all_dims([], 2) == (-2, -1)
    assert all_dims(0, 3) == (-3,)
    assert all_dims(-1, 3) == (-1,)
    assert all_dims((0, -1, 1), 3) == (-3, -1, -2)


def test_sizes_one_by_one_or_in_a_sequence() -> None:
    assert several((2, 3)) == several(([2, 3],)) == several(((2, 3),)) == (2, 3)
    assert several((2,)) == (2,)
    assert several(()) == ()


def test_rows_of_a_constant_are_zero() -> None:
    one, _ = jets()
    first = seeded(X, diagonal(4))[0]
    assert rows_of(2.0, one.frame) == full_rows_of(X, one.frame) == (None, None)
    assert rows_of(first, first.frame)[0].shape == (4, 1, 4)
    assert full_rows_of(first, first.frame)[0].shape == (4, 3, 4)


def test_differences_of_rows() -> None:
    assert minus(None, None) is None
    assert minus(X, None) is X
    assert torch.equal(minus(None, X), -X)
    assert torch.equal(minus(X, 2 * X), -X)


def test_products_of_lower_orders() -> None:
    one, other = jets()
    left, right = one.coefficients, other.coefficients
    assert lower_orders(one.frame, 1, left, right, torch.mul) is None
    assert lower_orders(one.frame, 1, left, right, torch.mul, X) is X
    found = lower_orders(one.frame, 2, left, right, torch.mul, X)
    assert torch.equal(found, X + left[0] * right[0])


def test_a_reflected_operator() -> None:
    assert reflected(lambda x, y, by=1: (x - y) * by)(1, 3) == 2
    assert reflected(lambda x, y, by=1: (x - y) * by)(1, 3, by=2) == 4


def test_rules_are_entered_by_function_or_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "RULES", {})
    enter({"sgn": len, torch.addr: max}, keeps_frame=True)
    assert caches.RULES[torch.sgn] == caches.RULES[torch.Tensor.sgn] == (len, True)
    assert caches.RULES[torch.addr] == (max, True)
    assert functions_of("special_only", torch.addr) == [torch.addr]
    enter_each(lambda function: (function,), "erfinv")
    assert caches.RULES[torch.Tensor.erfinv] == ((torch.Tensor.erfinv,), False)
    jet, _ = jets()
    enter_valued({"exp": lambda x: x.sin()})
    rule, _ = caches.RULES[torch.Tensor.exp]
    assert torch.equal(rule(jet).value, jet.value.exp())
    assert torch.equal(rule(jet).full(2), jet.sin().full(2))
