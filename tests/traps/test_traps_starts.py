"""Traps of a first call that tells nothing, by another hand: what comes after it is right, or refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from differences import stencil
from judging import METHODS
from quick import mostly_slow
from torch import nn
from torch.nn import functional as F

from jacfunc import (
    CoupledSamplesError,
    JacfuncError,
    UnsupportedOperationError,
    diag_jac,
    hess_diag,
    partials,
    register_rule,
)

Function = Callable[[Any], Any]
DOUBLE = torch.float64
NAN, INF = float("nan"), float("inf")
X = torch.tensor([[0.3], [-1.2], [0.7], [1.9]], dtype=DOUBLE)
FIRST: dict[str, torch.Tensor] = {
    "all the same": torch.full_like(X, 1.5),
    "saturated": torch.full_like(X, 50.0),
    "huge": torch.full_like(X, 1e200),
    "tiny": torch.full_like(X, 1e-200),
    "subnormal": torch.full_like(X, 5e-324),
    "below zero": -X.abs() - 1,
    "all the same below zero": torch.full_like(X, -3.0),
    "NaN in one row": torch.tensor([[NAN], [0.0], [0.0], [0.0]], dtype=DOUBLE),
    "infinities and zeros": torch.tensor([[INF], [-INF], [0.0], [0.0]], dtype=DOUBLE),
    "zeros in single precision": torch.zeros(4, 1),
    "zeros": torch.zeros(4, 1, dtype=DOUBLE),
    "one sample at zero": torch.zeros(1, 1, dtype=DOUBLE),
    "none": torch.zeros(0, 1, dtype=DOUBLE),
}


def second(f: Function, x: torch.Tensor) -> torch.Tensor:
    return stencil(lambda h: stencil(lambda k: f(x + h + k), 1e-2), 1e-2)


def off_tape(value: Function, slope: Function) -> Function:
    """Its backward multiplies by what forward computed."""

    def forward(ctx: Any, x: Any) -> Any:
        ctx.slope = slope(x.detach())
        return value(x)

    backward = staticmethod(lambda ctx, g: g * ctx.slope)
    return type("OffTape", (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": backward}).apply


def made(value: Function, backward: Function, push: Function | None = None) -> Function:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    body: dict[str, Any] = {"setup_context": staticmethod(setup), "generate_vmap_rule": True}
    body["forward"] = staticmethod(lambda x: value(x))
    body["backward"] = staticmethod(lambda ctx, g: backward(g, *ctx.saved_tensors))
    if push is not None:
        body["jvp"] = staticmethod(lambda ctx, t: push(t, *ctx.saved_tensors))
    return type("Made", (torch.autograd.Function,), body).apply


DETACHED = made(lambda x: x**3, lambda g, x: (3 * g * x**2).detach())
PUSHED = made(lambda x: x**3, lambda g, x: 3 * g * x**2, lambda t, x: 6 * t * x**2)


@torch.library.custom_op("jacfunc_traps_starts::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


cube.register_autograd(
    lambda ctx, g: 3 * g * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@register_rule(torch.ops.jacfunc_traps_starts.cube)
def _(jet: Any) -> Any:
    return 2 * jet**3


def inside(x: Any) -> Any:
    w = torch.ones_like(x).requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad((w * x).sin().sum(), w, create_graph=True)[0]


def masked(f: Function) -> Function:
    return lambda x: torch.where(x > 0, f(x), x * 0)


def otherwise(right: Function, wrong: Function) -> Function:
    return lambda x: right(x) if isinstance(x, torch.Tensor) else wrong(x)


LATER: dict[str, tuple[Function, Function]] = {
    "tanh off the tape": (off_tape(torch.tanh, lambda x: 1 - x.tanh() ** 2), torch.tanh),
    "cube off the tape": (off_tape(lambda x: x**3, lambda x: 3 * x**2), lambda x: x**3),
    "cubed ReLU off the tape": (off_tape(lambda x: F.relu(x) ** 3, lambda x: 3 * F.relu(x) ** 2), lambda x: F.relu(x) ** 3),
    "sine of numpy": (off_tape(lambda x: torch.from_numpy(np.sin(x.detach().numpy())), torch.cos), torch.sin),
    "masked, off the tape": (masked(off_tape(lambda x: x**3, lambda x: 3 * x**2)), masked(lambda x: x**3)),
    "detached": (DETACHED, lambda x: x**3),
    "detached and masked": (masked(DETACHED), masked(lambda x: x**3)),
    "a detached square of a ReLU": (
        made(lambda x: F.relu(x) ** 2, lambda g, x: (2 * g * F.relu(x)).detach()), lambda x: F.relu(x) ** 2
    ),
    "pushed twice as far": (PUSHED, lambda x: x**3),
    "pushed twice as far and masked": (masked(PUSHED), masked(lambda x: x**3)),
    "a derivative inside": (inside, lambda x: x * x.cos()),
    "recorded": (lambda x: x**3 * (1.0 if torch.is_grad_enabled() else 2.0), lambda x: x**3),
    "another cosine": (otherwise(torch.cos, lambda x: x.cos() ** 2), torch.cos),
}  # fmt: skip
OFF_TAPE = [name for name in LATER if "tape" in name or "detached" in name or "numpy" in name]
QUICK = ("saturated", "below zero")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("first", mostly_slow(FIRST, QUICK[1:]))
def test_what_comes_later_is_right_or_refused(first: str, name: str, method: str) -> None:
    f, plain = LATER[name]
    for transform, truth in ((diag_jac, stencil(lambda h: plain(X + h), 1e-3)), (hess_diag, second(plain, X))):
        derivative = transform(f, method=method, return_value=True)
        with suppress(UnsupportedOperationError):
            derivative(FIRST[first])
        for _ in range(2):
            try:
                found, value = derivative(X)
            except UnsupportedOperationError:
                assert method != "auto" or (transform is hess_diag and name in OFF_TAPE)
                continue
            assert torch.allclose(value, plain(X))
            assert torch.allclose(found.detach().reshape(-1), truth.reshape(-1), atol=1e-5)


@pytest.mark.parametrize(
    "name", mostly_slow(LATER, ["detached and masked", "pushed twice as far", "a derivative inside"])
)
@pytest.mark.parametrize("first", mostly_slow(FIRST, QUICK[:2]))
def test_gradients_by_a_parameter_later(first: str, name: str) -> None:
    f, plain = LATER[name]
    w = torch.tensor(1.1, dtype=DOUBLE, requires_grad=True)
    derivative = diag_jac(lambda x: f(w * x))
    slopes = lambda h: stencil(lambda k: plain((w.detach() + h) * (X + k)), 1e-3).square().sum()
    with suppress(JacfuncError):
        torch.autograd.grad(derivative(FIRST[first]).sum(), w)
    try:
        (found,) = torch.autograd.grad(derivative(X).square().sum(), w)
    except JacfuncError:
        assert name in OFF_TAPE
    else:
        assert torch.allclose(found, stencil(slopes, 1e-3), rtol=1e-4)


@pytest.mark.parametrize("first", mostly_slow(FIRST, QUICK))
def test_what_is_asked_beside_it(first: str) -> None:
    f, plain = LATER["another cosine"]
    step = partials(lambda x: f(x) + PUSHED(x), "u u_x", inputs="x", outputs="u")
    with suppress(UnsupportedOperationError):
        step(FIRST[first])
    true = stencil(lambda h: plain(X + h) + (X + h) ** 3, 1e-3)
    assert torch.allclose(step(X).u_x.detach(), true[:, 0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["another cosine", "recorded", "pushed twice as far"])
@pytest.mark.parametrize("first", ["zeros", "NaN in one row"])
def test_compiled_later(first: str, name: str) -> None:
    f, plain = LATER[name]
    derivative = diag_jac(f, compile=True, return_value=True)
    with suppress(UnsupportedOperationError):
        derivative(FIRST[first])
    try:
        found, value = derivative(X)
    except UnsupportedOperationError:
        assert name == "pushed twice as far"
        return
    assert torch.allclose(value, plain(X))
    assert torch.allclose(found.detach(), stencil(lambda h: plain(X + h), 1e-3), atol=1e-6)


# ------------------------------------------------------------ samples that influence each other later

PAIRS = torch.tensor([[0.3, 1.0], [-1.2, 0.4], [0.7, 0.1], [1.9, -2.0]], dtype=DOUBLE)
COUPLED: dict[str, Function] = {
    "a mean that is taken off": lambda x: x.sin() - x.mean(0),
    "times a mean": lambda x: x * x.mean(0),
    "a ReLU of a mean": lambda x: x.sin() + F.relu(x.mean(0)),
    "a mean behind a mask": lambda x: torch.where(x > 0, x.mean(0) + x, x.sin()),
    "a turn behind a mask": lambda x: torch.where(x > 0, x.flip(0), x),
    "a neighbour above a threshold": lambda x: x + F.relu(x.roll(1, 0) - 0.5),
    "a softmax over samples": lambda x: x.softmax(0),
    "sorted samples": lambda x: x.sort(0).values,
    "clipped by the norm of all": lambda x: x * torch.clamp(3 / x.norm().clamp(min=1e-12), max=1.0),
    "a mean without NaN": lambda x: x - torch.nanmean(x, 0),
    "what is a number of a mean": lambda x: x.sin() + torch.nan_to_num(x.mean(0)),
    "a saturated sum": lambda x: x.sin() + torch.tanh(x.sum(0)),
    "attention over samples": lambda x: (x @ x.T).softmax(-1) @ x,
    "BatchNorm": nn.BatchNorm1d(2, dtype=DOUBLE),
}  # fmt: skip
PAIRED = {name: x.expand(-1, 2).clone() for name, x in FIRST.items()} | {"one sample": PAIRS[:1]}


@pytest.mark.parametrize("first", mostly_slow(PAIRED, ("one sample",)))
@pytest.mark.parametrize("name", COUPLED)
def test_samples_that_influence_each_other_later_are_refused(name: str, first: str) -> None:
    derivative = diag_jac(COUPLED[name])
    with suppress(JacfuncError, ValueError, RuntimeError):  # BatchNorm of one sample, or of another dtype
        derivative(PAIRED[first])
    with pytest.raises(CoupledSamplesError):
        derivative(PAIRS)


# ------------------------------------------------------------ where it fails


def reading(x: Any) -> float:
    try:
        x.numpy()
    except Exception:
        return 2.0
    return 1.0


TOLD_NOTHING: dict[str, tuple[Function, Function, str]] = {
    "a dead branch first": (
        otherwise(masked(lambda x: x**3), masked(lambda x: 2 * x**3)), masked(lambda x: x**3), "below zero"
    ),
    "a dead ReLU first": (
        otherwise(lambda x: F.relu(x) ** 2, lambda x: F.relu(x) ** 3), lambda x: F.relu(x) ** 2, "below zero"
    ),
    "a flat tanh first": (otherwise(torch.tanh, lambda x: x.tanh() ** 3), torch.tanh, "saturated"),
    "a user's rule of a dead branch": (
        masked(torch.ops.jacfunc_traps_starts.cube), masked(lambda x: x**3), "below zero"
    ),
    "requires a gradient, zeros first": (
        lambda x: x**3 * (2.0 if x.requires_grad else 1.0), lambda x: x**3, "zeros"
    ),
    "is read by numpy, zeros first": (lambda x: x**3 * reading(x), lambda x: x**3, "zeros"),
}  # fmt: skip


@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("name", TOLD_NOTHING)
def test_a_first_call_of_which_all_is_flat_or_zero(name: str, method: str) -> None:
    f, plain, first = TOLD_NOTHING[name]
    for transform in (diag_jac, hess_diag):
        derivative = transform(f, method=method)
        with suppress(JacfuncError):
            derivative(FIRST[first])
        with suppress(JacfuncError):
            truth = transform(plain, method="reverse")(X)
            assert torch.allclose(derivative(X), truth, atol=1e-9), transform
