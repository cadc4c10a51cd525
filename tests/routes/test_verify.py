"""``jacfunc/routes/verify.py``: wrong derivatives are found out, right ones are left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from functions import Cubic, Detaching, Dual, OnlyOnce
from tasks import LEAVES, made

from jacfunc.errors import UnsupportedOperationError
from jacfunc.evaluation.linear import pullback, pushforward
from jacfunc.evaluation.rng import RandomState
from jacfunc.jet import CannotFollowError
from jacfunc.routes.verify import (
    NoTransposeError,
    calls_function,
    value_only,
    verify_backward,
    verify_transpose,
)

X = LEAVES[0]
Function = Callable[[Any], Any]

# -------------------------------------------------------------------- backwards that are silently constant


@pytest.mark.parametrize("function", [OnlyOnce, Detaching, Dual])
def test_a_backward_without_a_transpose_is_found_out(function: type[OnlyOnce]) -> None:
    with pytest.raises(NoTransposeError, match="has a backward that cannot be differentiated by its cotangent"):
        verify_backward(made(lambda x: function.apply(x) * 2, X))


@pytest.mark.parametrize("at", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("function", [OnlyOnce, Detaching, Dual])
def test_where_it_tells_nothing_other_values_are_asked(function: type[OnlyOnce], at: float) -> None:
    f = lambda x: function.apply(x) ** 2 * x  # whose derivatives are zero at zero
    with pytest.raises(NoTransposeError):
        verify_backward(made(f, torch.full_like(X, at)))


def test_numbers_too_large_to_tell_excuse_nothing() -> None:
    """At 1e200 all of its derivatives are infinite, so no sum there is what is left of others that cancel."""
    with pytest.raises(NoTransposeError):
        verify_backward(made(lambda x: Cubed.apply(x), torch.full_like(X, 1e200)))


class Cubed(Cubic):
    """With a backward that is detached."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, g):
        return Cubic.backward(ctx, g).detach()


def test_what_tells_nothing_anywhere_stays_open() -> None:
    task = made(lambda x: Squared.apply(x), X[:0])
    verify_backward(task)
    assert task.open == ["no sample told whether the backward of an autograd.Function can be differentiated"]
    task = made(lambda x: x.sin(), X[:0])  # nothing to ask
    verify_backward(task)
    assert not task.open


class Squared(torch.autograd.Function):
    """With a backward that can be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return 2 * g * ctx.saved_tensors[0]


SOUND: dict[str, Function] = {
    "smooth": lambda x: x.sin() * x.prod(1, keepdim=True),
    "a good function": lambda x: Squared.apply(x),
    "constant": lambda x: torch.ones_like(x),
    "cancels to rounding": lambda x: x.sin() ** 2 + x.cos() ** 2,
    "infinite both ways": lambda x: (x * 0).sqrt(),
    "not a number": lambda x: x * float("nan"),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_has_a_transpose_passes(name: str) -> None:
    verify_backward(made(SOUND[name], X))


def test_what_is_finite_by_reverse_mode_only_is_no_row() -> None:
    with pytest.raises(CannotFollowError, match="finite by reverse mode are not along rows of the input"):
        verify_backward(made(lambda x: torch.relu(x).sqrt(), X))


def test_a_wrong_pushforward_of_plain_operations_is_nobodys_backward() -> None:
    """No ``autograd.Function`` is to blame, so it is taken for rounding."""
    task = made(lambda x: x.sin(), X)
    outputs, pull, _ = pullback(task.evaluate, X)
    push = pushforward(pull, outputs)
    wrong = lambda *tangents: tuple(2 * tensor for tensor in push(*tangents))
    verify_transpose(task, pull, wrong, outputs)
    with pytest.raises(NoTransposeError):
        verify_transpose(made(lambda x: Squared.apply(x), X), pull, wrong, outputs)


@pytest.mark.parametrize("around", [False, True])
def test_functions_of_python_are_found_in_the_graph(around: bool) -> None:
    found: list[bool] = []

    def ask(x: torch.Tensor) -> torch.Tensor:
        for f in (lambda x: Squared.apply(x.sin()).exp() + x, lambda x: x.sin(), lambda x: torch.ones_like(x)):
            found.append(calls_function(made(f, x)))
        return x

    with torch.no_grad():
        torch.func.vmap(ask, randomness="same")(X[None]) if around else ask(X)
    assert found == [True, False, False]


def test_asking_draws_nothing() -> None:
    task = replace(made(lambda x: x * torch.rand(3, dtype=torch.double), X), random_state=RandomState.capture())
    calls_function(task)
    assert task.random_state is not None and task.random_state.is_now()


def test_a_value_without_a_gradient_says_so_when_it_is_asked_for_one() -> None:
    x = X.clone().requires_grad_()
    derivative = value_only(x.detach().cos(), (x.sin(),))
    assert torch.equal(derivative, X.cos()) and derivative.requires_grad
    with pytest.raises(UnsupportedOperationError, match="^this derivative has no gradient: an autograd.Function"):
        derivative.sum().backward()
    assert not value_only(X.cos(), (X.sin(),)).requires_grad
