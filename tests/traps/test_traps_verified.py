"""Traps in what a first call compares: values that only a plain forward has, and data that tell nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from differences import stencil
from functions import Detaching, OnlyOnce
from judging import METHODS
from quick import mostly_slow
from torch import nn

from jacfunc import UnsupportedOperationError, clear_caches, diag_jac, hess_diag, laplacian, partials, register_rule

Function = Callable[[Any], Any]
DOUBLE = torch.float64
X = torch.tensor([[0.3], [-1.2], [0.7], [1.9]], dtype=DOUBLE)
TRANSFORMS = {"diag_jac": diag_jac, "hess_diag": hess_diag, "laplacian": laplacian}


def second(f: Function, x: torch.Tensor) -> torch.Tensor:
    return stencil(lambda h: stencil(lambda k: f(x + h + k), 1e-2), 1e-2)


def right_or_refused(name: str, method: str, f: Function, plain: Function, x: torch.Tensor = X) -> bool:
    """Whether there was a number; it is that of ``plain``, as is its value."""
    try:
        found, value = TRANSFORMS[name](f, method=method, return_value=True)(x)
    except UnsupportedOperationError:
        return False
    with torch.no_grad():
        truth = stencil(lambda h: plain(x + h), 1e-3) if name == "diag_jac" else second(plain, x)
        assert torch.allclose(value, plain(x))
        assert torch.allclose(found, truth.reshape(found.shape), atol=1e-6)
    return True


# ------------------------------------------------------------ values that are others than a plain forward's


def attempted(action: Function) -> Function:
    def f(x):
        try:
            action(x)
            shift = 1.0
        except Exception:
            shift = 2.0
        return x.sin() + shift

    return f


def inner(net: nn.Module) -> Function:
    """The derivative by a tensor that is made inside, zero where there is none."""

    def f(t):
        w = torch.ones_like(t).requires_grad_()
        with torch.enable_grad():
            y = net(torch.cat([w, t], 1)).sum()
        s = torch.autograd.grad(y, w, create_graph=True, allow_unused=True)[0]
        return torch.zeros_like(t) if s is None else s

    return f


torch.manual_seed(0)
ANOTHER_VALUE: dict[str, Function] = {
    "inner derivative of what is linear": inner(nn.Linear(2, 1).double()),
    "inner derivative": inner(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()),
    "inner derivative of a bilinear map": inner(
        nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1)).double()
    ),
    "its class": lambda x: x.sin() + (1.0 if type(x) is torch.Tensor else 2.0),
    "isinstance": lambda x: x.sin() + (1.0 if isinstance(x, torch.Tensor) else 2.0),
    "what it prints": lambda x: x.sin() + (1.0 if repr(x).startswith("tensor(") else 2.0),
    "whether it requires a gradient": lambda x: x.sin() + (2.0 if x.requires_grad else 1.0),
    "its node": lambda x: x.sin() + (1.0 if x.grad_fn is None else 2.0),
    "whether it is a leaf": lambda x: x.sin() + (1.0 if x.is_leaf else 2.0),
    "numpy": attempted(lambda x: x.detach().numpy()),
    "its memory": attempted(lambda x: x.untyped_storage().data_ptr()),
    "a copy": attempted(copy.deepcopy),
    "a pickle": attempted(pickle.dumps),
    "a number": attempted(lambda x: float(x.sum())),
    "a list": attempted(lambda x: x.tolist()),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ANOTHER_VALUE)
def test_the_value_is_that_of_a_plain_forward(name: str, transform: str, method: str) -> None:
    f = ANOTHER_VALUE[name]
    right_or_refused(transform, method, f, f)


@pytest.mark.parametrize("name", ["inner derivative", "isinstance", "numpy"])
def test_a_route_that_has_the_right_value_is_taken(name: str) -> None:
    f = ANOTHER_VALUE[name]
    assert right_or_refused("diag_jac", "auto", f, f)


@torch.library.custom_op("jacfunc_traps_verified::sine", mutates_args=())
def sine(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


sine.register_autograd(
    lambda ctx, g: g * ctx.saved_tensors[0].cos(),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@register_rule(torch.ops.jacfunc_traps_verified.sine)
def _(jet: Any) -> Any:
    return torch.sin(jet) + 1


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_users_rule_with_another_value_is_not_taken(transform: str) -> None:
    f = lambda x: torch.ops.jacfunc_traps_verified.sine(x)
    for method in METHODS:
        right_or_refused(transform, method, f, torch.sin)
    assert right_or_refused(transform, "auto", f, torch.sin)


# ------------------------------------------------------------ a first call that tells nothing

FIRST = {
    "zeros": torch.zeros_like(X),
    "NaN": torch.full_like(X, float("nan")),
    "infinite": torch.full_like(X, float("inf")),
    "minus infinite": torch.full_like(X, -float("inf")),
    "NaN and zero": torch.tensor([[float("nan")], [0.0]], dtype=DOUBLE),
    "infinite and NaN": torch.tensor([[float("nan")], [float("inf")], [-float("inf")]], dtype=DOUBLE),
    "empty": X[:0],
    "one zero": torch.zeros_like(X[:1]),
    "one NaN": torch.full_like(X[:1], float("nan")),
    "minus zero": -torch.zeros_like(X),
}


def otherwise(right: Function, wrong: Function) -> Function:
    return lambda x: right(x) if isinstance(x, torch.Tensor) else wrong(x)


LATER: dict[str, tuple[Function, Function]] = {
    "twice as much": (otherwise(lambda x: x**3, lambda x: 2 * x**3), lambda x: x**3),
    "the second only": (otherwise(lambda x: x**3, lambda x: x**3 + x.detach() * (x - x.detach()) ** 2), lambda x: x**3),
    "another sign": (otherwise(lambda x: x.tanh() ** 3, lambda x: -(x.tanh() ** 3)), lambda x: x.tanh() ** 3),
    "once differentiable": (lambda x: OnlyOnce.apply(x) ** 3, lambda x: x.sin() ** 3),
    "detached backward": (lambda x: Detaching.apply(x) ** 3 * x, lambda x: x.sin() ** 3 * x),
}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", mostly_slow(["auto", "taylor"], ["auto"]))
@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("first", FIRST)
def test_a_first_call_that_tells_nothing_is_no_verification(first: str, name: str, method: str, compiled: bool) -> None:
    f, plain = LATER[name]
    then = X[:1] if len(FIRST[first]) == 1 else X
    for transform, made in TRANSFORMS.items():
        clear_caches()
        derivative = made(f, method=method, compile=compiled)
        with suppress(UnsupportedOperationError):
            derivative(FIRST[first])
        with suppress(UnsupportedOperationError):
            found = derivative(then)
            truth = stencil(lambda h: plain(then + h), 1e-3) if transform == "diag_jac" else second(plain, then)
            assert torch.allclose(found.detach(), truth.reshape(found.shape), atol=1e-6), transform


def test_what_is_asked_beside_it_is_no_verification_either() -> None:
    f, plain = LATER["the second only"]
    step = partials(f, "u u_x u_xx", inputs="x", outputs="u")
    step(torch.zeros_like(X))
    assert torch.allclose(step(X).u_xx, second(plain, X)[:, 0], atol=1e-6)
