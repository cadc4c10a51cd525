"""``jacfunc/routes/functions.py``: which Functions were called, and what each is like by itself."""

from __future__ import annotations

import cProfile
import math
import sys

import pytest
import torch
from functions import Detaching, OldStyle, Saving
from tasks import LEAVES, made

from jacfunc.routes import functions
from jacfunc.routes.functions import Verdict, called, cancelled, defined, off_tape, within

X = LEAVES[0]
BOUND = OldStyle.apply  # bound before anyone looks


class Scaled(torch.autograd.Function):
    """A sine of a weight times the input; by the input it is on the tape, by the weight it is not."""

    @staticmethod
    def forward(ctx, x, weight, power=1):
        ctx.save_for_backward(x)
        ctx.weight = weight.detach()
        return (weight * x).sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = g * (ctx.weight * x).cos()
        return slope * ctx.weight, (slope * x).sum(), None


class Kept(torch.autograd.Function):
    """A hyperbolic tangent whose slope the forward computes."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.slope = 1 - y * y
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class Outer(torch.autograd.Function):
    """One that calls another in its backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * Kept.apply(*ctx.saved_tensors)


def test_calls_are_noted_however_they_were_bound_with_what_moves() -> None:
    weight = torch.tensor(1.3, dtype=torch.double, requires_grad=True)

    def f(x):
        Kept.apply(torch.ones(2))  # of nothing that is differentiated by
        with torch.no_grad():
            Kept.apply(x)
        return BOUND(x) + Scaled.apply(x, weight) + Kept.apply(2 * x)

    calls = called(made(f, X))
    assert [call.function for call in calls] == [OldStyle, Scaled, Kept]
    assert [call.by_input for call in calls] == [(0,), (0,), (0,)]
    assert [call.others for call in calls] == [(), (1,), ()]
    assert torch.equal(calls[2].args[0], 2 * X)


def test_a_profiler_goes_on() -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        assert [call.function for call in called(made(Kept.apply, X))] == [Kept]
        assert sys.getprofile() is profiler or sys.version_info >= (3, 12)  # which tells it by other means
        math.lgamma(2.0)  # told to the profiler
    finally:
        profiler.disable()
    assert any("lgamma" in str(entry.code) for entry in profiler.getstats())


def test_of_many_calls_alike_some_are_looked_at() -> None:
    def f(x):
        for _ in range(20):
            x = OldStyle.apply(x)
        return x

    assert len(called(made(f, X))) == functions.MOST


def test_arguments_that_have_changed_since_are_not_called_again() -> None:
    def f(x):
        y = 2 * x
        z = OldStyle.apply(y)
        y.add_(1)
        return z + y

    assert not called(made(f, X))


def test_inside_of_transforms_what_they_wrap_is_noted() -> None:
    class Sine(Saving):
        @staticmethod
        def forward(x):
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].cos()

    found = []

    def inside(x):
        found.extend(called(made(lambda x: Sine.apply(3 * x), x[None])))
        return x

    torch.func.vmap(inside)(X)
    assert [call.function for call in found] == [Sine]
    assert torch.equal(found[0].args[0], 3 * X[:1])


@pytest.mark.parametrize("at", [X, torch.zeros_like(X), 60 * X.sign()])
@pytest.mark.parametrize(("function", "off"), [(OldStyle, False), (Kept, True), (Detaching, True)])
def test_what_is_off_the_tape_shows_wherever_it_was_called(function, off, at) -> None:
    task = made(lambda x: function.apply(x), at)
    (call,) = called(task)
    assert off_tape(task, call) == Verdict(told=True, off=off)


def test_by_the_weight_it_is_another_question() -> None:
    weight = torch.tensor(1.3, dtype=torch.double, requires_grad=True)
    task = made(lambda x: Scaled.apply(x, weight), X)
    (call,) = called(task)
    assert not off_tape(task, call).off
    assert off_tape(task, call, by_others=True).off
    assert weight.grad is None


def test_the_calls_in_a_backward_are_found() -> None:
    task = made(lambda x: Outer.apply(x), X)
    (call,) = called(task)
    (inner,) = within(task, call)
    assert inner.function is Kept and off_tape(task, inner).off
    assert not within(task, inner)


def test_what_is_left_of_a_sum_that_cancels_is_told_from_what_has_no_transpose() -> None:
    small, large = torch.tensor(1e-16), torch.tensor(1.0)
    task = made(lambda x: OldStyle.apply(x), X)
    assert cancelled(task, small) and not cancelled(task, large)
    assert not cancelled(made(lambda x: Detaching.apply(x), X), small)
    assert not cancelled(made(torch.sin, X), small)


def test_a_function_of_anyones_is_defined() -> None:
    assert defined()
