"""What replacements share: a value with the derivatives of another formula, copies of functions, refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from jacfunc.errors import RefusedOperationError
from jacfunc.evaluation.corrections.expansion import (
    constant,
    exactly,
    exactly_where_finite,
    in_place,
    reduced,
    refusing,
    wide,
    with_inner,
)

X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def test_a_value_to_the_bit_with_the_derivatives_of_a_formula() -> None:
    x = X.clone().requires_grad_()
    value = x.sin() + 1e-9
    found = exactly(value, x.exp() * 1)
    assert torch.equal(found, value)
    (first,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    torch.testing.assert_close(first, X.exp())
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, X.exp())


def test_the_value_has_no_share_in_the_derivative() -> None:
    assert torch.equal(torch.func.jacrev(lambda x: exactly(x.sin() * 5, x * 2))(X), 2 * torch.eye(3, dtype=X.dtype))
    assert exactly(X.float(), X).dtype == torch.float32


def test_where_the_formula_is_infinite_the_value_is_constant() -> None:
    x = torch.tensor([0.0, 2.0], dtype=torch.float64)
    f = lambda x: exactly_where_finite(1 / x.detach(), 1 / x)
    assert f(x).tolist() == [torch.inf, 0.5]
    slope = torch.func.jvp(
        lambda x: exactly_where_finite(torch.tensor([torch.inf, 0.5]).double(), x.square()), (x,), (torch.ones_like(x),)
    )[1]
    assert slope.tolist() == [0, 4]


def test_half_precision_is_widened() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert wide(X.to(dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64, torch.long):
        tensor = X.to(dtype)
        assert wide(tensor) is tensor


def test_constants() -> None:
    assert constant(None) is None
    x = X.clone().requires_grad_()
    assert not constant(x).requires_grad
    assert torch.equal(constant(x), X)


def test_a_replacement_in_place() -> None:
    x = X.clone().requires_grad_()
    moved = x * 1
    replaced = partial(in_place, lambda x, power: x**power)
    result = replaced(moved, power=3)
    assert result is moved
    torch.testing.assert_close(result, X**3)
    (slope,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(slope, 3 * X**2)


def test_reductions() -> None:
    assert reduced(X, "none") is X
    assert torch.equal(reduced(X, "mean"), X.mean())
    assert torch.equal(reduced(X, "sum"), X.sum())


def test_a_refusal_holds_only_where_something_is_differentiated() -> None:
    refuse = partial(refusing, torch.add, "add", "write it otherwise")
    x = X.clone().requires_grad_()
    assert torch.equal(refuse(X, X), 2 * X)
    assert torch.equal(refuse(X, other=X, alpha=3), 4 * X)
    for call in (lambda: refuse(x, X), lambda: refuse(X, other=x)):
        with pytest.raises(RefusedOperationError, match="^add has no second derivative in torch; write it otherwise$"):
            call()


def test_a_function_with_others_inside() -> None:
    found = with_inner(F.softsign, torch=type("Torch", (), {}))
    assert found.__name__ == "softsign"
    torch.testing.assert_close(found(X), F.softsign(X))
    calls = []

    class Around(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(function)
            return function(*args, **(kwargs or {}))

    with Around():
        F.softsign(X)
        with_inner(F.softsign)(X)
    assert calls.count(F.softsign) == 1  # the copy hands itself over to no mode


def test_the_names_that_a_function_calls_are_exchanged() -> None:
    doubled = with_inner(F.normalize, **{"clamp_min": None})
    torch.testing.assert_close(doubled(X, dim=0), F.normalize(X, dim=0))
    told = []
    mine = with_inner(_calls_twice, _inner=lambda x, *, scale=3: (told.append(scale), x * scale)[1])
    assert mine(2) == 2 * 3 * 7
    assert mine(2, by=5) == 2 * 3 * 5
    assert told == [3, 3]
    assert _calls_twice(2) == 14


def _inner(x: Any) -> Any:
    return x


def _calls_twice(x: Any, *, by: int = 7) -> Any:
    return _inner(x) * by
