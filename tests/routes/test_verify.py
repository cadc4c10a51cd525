"""``jacfunc/routes/verify.py``: wrong derivatives are found out, right ones are left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from functions import Detaching, Dual, OldStyle, OnlyOnce
from tasks import LEAVES, field, made
from torch import nn

from jacfunc.errors import UnsupportedOperationError
from jacfunc.evaluation.linear import pullback, pushforward
from jacfunc.evaluation.rng import RandomState
from jacfunc.jet import CannotFollowError, Jet
from jacfunc.jet.layout import first_order
from jacfunc.routes.taylor import follow
from jacfunc.routes.verify import (
    NoTransposeError,
    OtherwiseError,
    calls_function,
    grouped,
    value_only,
    verify_backward,
    verify_followed,
    verify_transpose,
)

X = LEAVES[0]
Function = Callable[[Any], Any]

# -------------------------------------------------------------------- backwards that are silently constant


@pytest.mark.parametrize("function", [OnlyOnce, Detaching, Dual])
def test_a_backward_without_a_transpose_is_found_out(function: type[OnlyOnce]) -> None:
    with pytest.raises(NoTransposeError, match="has a backward that cannot be differentiated by its cotangent"):
        verify_backward(made(lambda x: function.apply(x) * 2, X))


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


# -------------------------------------------------------------------- jets against reverse mode


def otherwise(right: Function, wrong: Function) -> Function:
    """A function that does another thing with jets."""
    return lambda x: right(x) if isinstance(x, torch.Tensor) else wrong(x)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["field", *[name for name in SOUND if name != "a good function"]])
def test_right_derivatives_by_jets_pass(name: str, order: int) -> None:
    task = made(field, *LEAVES, order=order) if name == "field" else made(SOUND[name], X, order=order)
    verify_followed(task, follow)


WRONG: dict[str, tuple[Function, Function, int]] = {
    "another function": (torch.sin, torch.cos, 1),
    "a sign": (lambda x: x**2, lambda x: -(x**2), 1),
    "one coordinate": (lambda x: x.sin(), lambda x: torch.cat([x[:, :2].sin(), x[:, 2:] * 1], 1), 1),
    "a millionth": (lambda x: x.sin(), lambda x: x.sin() * (1 + 1e-6), 1),
    "the second only": (lambda x: x.sin(), lambda x: x.sin() + (x - x.detach()) ** 2, 2),
    "the third only": (lambda x: x.sin(), lambda x: x.sin() + (x - x.detach()) ** 3, 3),
    "a constant": (lambda x: x.sin(), lambda x: x.sin().detach() + 0 * x, 1),
    "what is linear": (lambda x: 3 * x, lambda x: 3 * x + 1e-5 * x**2, 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_derivatives_by_jets_are_found_out_at_the_order_that_they_are_of(name: str) -> None:
    right, wrong, first = WRONG[name]
    for order in (1, 2, 3):
        task = made(otherwise(right, wrong), X, order=order)
        if order < first:
            verify_followed(task, follow)
        else:
            with pytest.raises(OtherwiseError, match="the derivatives by jets are not those of reverse mode"):
                verify_followed(task, follow)


def test_one_sample_that_is_wrong_is_enough() -> None:
    x = torch.linspace(-1, 1, 300, dtype=torch.double).reshape(100, 3)
    mask = (torch.arange(100) == 70)[:, None]
    task = made(otherwise(torch.sin, lambda x: torch.where(mask, x.cos(), x.sin())), x)
    with pytest.raises(OtherwiseError):
        verify_followed(task, follow)


def test_what_is_finite_by_reverse_mode_has_to_be_by_jets() -> None:
    f = otherwise(torch.sin, lambda x: torch.where(x > 0, x.sin(), (x - x.detach()).sqrt()))
    with pytest.raises(OtherwiseError):
        verify_followed(made(f, X), follow)
    verify_followed(made(lambda x: (x - x.detach()).sqrt(), X), follow)  # infinite both ways


def test_what_torch_func_cannot_transform_is_compared_with_a_graph() -> None:
    old = lambda x: OldStyle.apply(x)
    verify_followed(made(otherwise(old, torch.sin), X, order=2), follow)
    task = made(otherwise(old, torch.cos), X)
    with pytest.raises(OtherwiseError):
        verify_followed(task, follow)


def test_what_nothing_can_differentiate_proves_nothing() -> None:
    class Never(OldStyle):
        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no backward")

    verify_followed(made(otherwise(lambda x: Never.apply(x), torch.cos), X), follow)


def test_inside_a_function_that_jets_go_through_nothing_is_compared() -> None:
    seen: list[int] = []

    def outer(x: Jet) -> Any:
        inner = made(otherwise(torch.sin, torch.cos), X)
        verify_followed(replace(inner, within=x.frame), follow)
        seen.append(1)
        return x

    task = made(lambda x: outer(x) if type(x) is Jet else x, X)
    follow(task, first_order(3), lambda propagation: [propagation.identity(3, X)])
    assert seen == [1]


def test_rounding_of_single_precision_is_forgiven() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    for dtype in (torch.float32, torch.bfloat16):
        net.to(dtype)
        verify_followed(made(net, X.to(dtype), order=2), follow)
    task = made(otherwise(net.float(), lambda x: net(x) * 1.1), X.float())
    with pytest.raises(OtherwiseError):
        verify_followed(task, follow)


def test_tensors_in_groups() -> None:
    tensors = tuple(torch.full((), float(number)) for number in range(7))
    found = [[int(tensor) for tensor in group] for group in grouped(tensors, 2, 3)]
    assert found == [[0, 1, 2], [3, 4], [5, 6]]
    assert grouped(tensors[:1], 2, 1) == [tensors[:1]]
