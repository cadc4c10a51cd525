"""``jacfunc/call/fast_path.py``: a call like an earlier one is neither checked nor planned anew, and right all the same."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from dataclasses import dataclass

import pytest
import torch
from functions import at_once
from torch import nn

from jacfunc import batch_jac, diag_jac, laplacian, make_functional
from jacfunc.call.evaluator import Evaluator
from jacfunc.call.fast_path import Known, remember_call
from jacfunc.call.request import Request
from jacfunc.core import caches
from jacfunc.errors import CoupledSamplesError

double = torch.float64


class Cut(nn.Module):
    """Its output is as wide as an attribute says."""

    def __init__(self):
        super().__init__()
        self.layer, self.width, self.scale = nn.Linear(3, 3), 3, 1.0

    def forward(self, x):
        return torch.sin(self.layer(x))[:, : self.width] * self.scale


def net():
    return nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def kinds():
    """How many kinds of calls are known of the one function."""
    ((_, known),) = caches.FAST_CALLS._entries.values()
    return len(known)


@pytest.fixture
def checked(monkeypatch):
    """The requests that were checked."""
    seen, check = [], Request.__init__
    monkeypatch.setattr(
        Request, "__init__", lambda self, *args, **keywords: (seen.append(self), check(self, *args, **keywords))[1]
    )
    return seen


@pytest.mark.parametrize("transform", [diag_jac, batch_jac, laplacian])
@pytest.mark.parametrize("make", [net, lambda: Cut().double()])
def test_later_calls_are_not_checked_anew(checked, transform, make):
    f, params = make_functional(make())
    derivative = transform(f, return_value=True)
    for _ in range(3):
        x = torch.randn(5, 3, dtype=double)
        torch.testing.assert_close(derivative(params, x), transform(f, return_value=True, method="reverse")(params, x))
    assert len([request for request in checked if request.options.method == "auto"]) == 1
    others = {name: torch.randn_like(tensor, requires_grad=True) for name, tensor in params.items()}
    found, value = derivative(others, x)
    assert len([request for request in checked if request.options.method == "auto"]) == 1
    torch.testing.assert_close((found, value), transform(f, return_value=True)(others, x))
    assert all(g is not None for g in torch.autograd.grad(found.sum(), list(others.values())[:1]))


CHANGES = {
    "layer": lambda module: module.__setitem__(0, nn.Linear(3, 8).double()),
    "activation": lambda module: module.__setitem__(3, nn.Sigmoid()),
    "class": lambda module: setattr(module[3], "__class__", nn.Sigmoid),
    "number": lambda module: setattr(module[1], "beta", 3.0),
    "hook": lambda module: module[3].register_forward_hook(lambda *args: 2 * args[-1]),
    "forward": lambda module: setattr(module[3], "forward", torch.sin),
    "frozen": lambda module: module.requires_grad_(False),
    "width": lambda module: setattr(module, "width", 2),
    "scale": lambda module: setattr(module, "scale", 3.0),
    "rule": lambda module: setattr(caches.RULES_ENTERED, "number", caches.RULES_ENTERED.number + 1),
    "float": lambda module: module.float(),
    "more": lambda module: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_seen(change):
    module = Cut().double() if change in ("width", "scale") else net()
    f, params = make_functional(module)
    derivative, x = batch_jac(f), torch.randn(5, 3, dtype=double)
    derivative(params, x)
    derivative(params, x)
    CHANGES[change](module)
    params = make_functional(module)[1]
    x = torch.randn(7 if change == "more" else 5, 3, dtype=next(iter(params.values())).dtype)
    for _ in range(2):
        found, true = derivative(params, x), batch_jac(f, method="reverse")(params, x)
        torch.testing.assert_close(found, true)
        assert found.requires_grad == true.requires_grad


def test_modes_and_levels_around_a_later_call():
    f, params = make_functional(net())
    derivative, x = laplacian(f), torch.randn(5, 3, dtype=double)
    true = derivative(params, x)
    for _ in range(2):
        with torch.no_grad():
            assert not derivative(params, x).requires_grad
        with torch.inference_mode():
            torch.testing.assert_close(derivative(params, x.clone()), true)
        torch.testing.assert_close(torch.vmap(derivative, (None, 0))(params, x[:, None])[:, 0], true)
        (slope,) = torch.func.grad(lambda s: derivative(params, x * s).sum())(torch.ones((), dtype=double)).reshape(1)
        step = 1e-6
        apart = (derivative(params, x * (1 + step)) - derivative(params, x * (1 - step))).sum() / (2 * step)
        torch.testing.assert_close(slope, apart, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        made_there = x.clone()
    torch.testing.assert_close(derivative(params, made_there), true)


def test_bad_arguments_of_a_later_call_are_refused_by_the_same_words():
    f, params = make_functional(net())
    derivative, x = diag_jac(f), torch.randn(5, 3, dtype=double)
    derivative(params, x)
    derivative(params, x)
    short = {name: value for name, value in params.items() if name != "0.bias"}
    for args in [(x,), (x, x), (params, x.long()), (params, x.to_sparse()), (params, [1.0]), (short, x), (), (params,)]:
        errors = []
        for call in (derivative, diag_jac(f)):
            with pytest.raises(Exception, match=".") as caught:
                call(*args)
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]
        assert errors[0][0].__module__ == "jacfunc.errors"


class Coupled(nn.Module):
    def forward(self, x):
        return torch.sin(x - x.mean(0))


def test_what_no_finite_output_decided_is_asked_again():
    f, params = make_functional(Coupled())
    derivative = batch_jac(f)
    derivative(params, torch.full((4, 3), torch.nan, dtype=double))
    for _ in range(2):
        with pytest.raises(CoupledSamplesError):
            derivative(params, torch.randn(4, 3, dtype=double))


def test_a_random_module_is_planned_each_time(checked):
    f, params = make_functional(nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double())
    derivative, x = diag_jac(f), torch.randn(5, 3, dtype=double)
    first, second = derivative(params, x), derivative(params, x)
    assert len(checked) == 2
    assert not torch.equal(first, second)


def test_no_tensor_is_kept_and_nothing_of_a_transform_that_has_gone():
    f, params = make_functional(net())
    derivative, x = diag_jac(f), torch.randn(5, 3, dtype=double)
    derivative(params, x)
    derivative(params, x)
    assert kinds() == 1
    others = len(caches.FAST_CALLS)
    kept, transform, function = weakref.ref(x), weakref.ref(derivative), weakref.ref(f)
    del x, derivative, f
    gc.collect()
    assert kept() is None and transform() is None and function() is None
    assert len(caches.FAST_CALLS) < others


def test_not_more_kinds_than_a_number(monkeypatch):
    monkeypatch.setattr(caches, "MAX_SIGNATURES", 3)
    f, params = make_functional(net())
    derivative = diag_jac(f)
    for n in range(1, 8):
        derivative(params, torch.randn(n, 3, dtype=double))
    assert kinds() == 3


@dataclass(frozen=True)
class Yielding:
    """A kind of call whose hash lets other threads run, as any piece of Python may."""

    number: int

    def __hash__(self):
        time.sleep(0)
        return self.number


def test_threads_that_settle_more_kinds_than_are_kept_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(caches, "MAX_SIGNATURES", 3)
    f, params = make_functional(nn.Linear(3, 3).double())
    derivative, x = diag_jac(f), torch.randn(5, 3, dtype=double)
    request = Request(f, derivative.options, (params, x), {})
    right, plan = derivative.outcome(request)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def settling(thread):
            for number in range(100):
                kind = (Yielding(1000 * thread + number),)
                remember_call(Known(None, kind, request.signature[-1]), request, plan)
            return derivative(params, x)

        found = at_once(*[lambda thread=thread: settling(thread) for thread in range(8)])
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(result, right) for result in found)
    assert kinds() == 3


# -------------------------------------------------------------------- functions that are no adapted module


def test_a_function_that_is_made_anew_is_known(checked):
    x, w = torch.randn(5, 3, dtype=double), torch.randn(3, dtype=double, requires_grad=True)
    for step in range(3):
        found = diag_jac(lambda x: torch.sin(w * x))(x * step)
        torch.testing.assert_close(found, w * torch.cos(w * x * step))
        (slope,) = torch.autograd.grad(found.sum(), w)
        torch.testing.assert_close(slope, (torch.cos(w * x * step) - w * x * step * torch.sin(w * x * step)).sum(0))
    assert len(checked) == 1
    diag_jac(lambda x: torch.sin(w * x), argnums=0)(x)  # another transform
    diag_jac(lambda x: torch.sin(w * x))(x[:4])  # another size
    diag_jac(lambda x: torch.sin(w * x))(x.float())  # another dtype
    assert len(checked) == 4


def test_what_a_function_holds_is_seen_to_have_changed(checked):
    held = {"scale": 2.0, "net": nn.Tanh(), "function": torch.sin}

    def f(x):
        return held["function"](held["net"](x) * held["scale"])

    derivative, x = diag_jac(f), torch.randn(5, 3, dtype=double)
    for name, value in [("scale", 1.0), ("net", nn.Softplus()), ("function", torch.cos), ("scale", -1.0)]:
        derivative(x)
        derivative(x)
        held[name] = value
        for _ in range(2):
            torch.testing.assert_close(derivative(x), diag_jac(f, method="reverse")(x))
    held["function"] = lambda y: y - y.mean(0)  # couples the samples
    for _ in range(2):
        with pytest.raises(CoupledSamplesError):
            derivative(x)


def test_later_calls_of_a_function_refuse_by_the_same_words():
    derivative, x = diag_jac(lambda t, x: torch.sin(t * x)), torch.randn(5, 3, dtype=double)
    derivative(x, x)
    derivative(x, x)
    for args in [(x, x.long()), (x, x.to_sparse()), (x, [1.0]), (x, x[0]), (x, x[0, 0]), (x, x.to("meta")), ()]:
        errors = []
        for call in (derivative, diag_jac(lambda t, x: torch.sin(t * x))):
            with pytest.raises(Exception, match=".") as caught:
                call(*args)
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]
    torch.testing.assert_close(derivative(x, x), x * torch.cos(x * x))


def test_all_kinds_of_calls_have_the_newest_plan(monkeypatch):
    looks, look = [], Evaluator.look
    monkeypatch.setattr(Evaluator, "look", lambda self, state: (looks.append(1), look(self, state))[1])
    way = {"on": True}

    def f(x):
        return torch.sin(x) if way["on"] else torch.cos(x)

    derivative, many, more = diag_jac(f), torch.randn(9, 3, dtype=double), torch.randn(12, 3, dtype=double)
    derivative(many)
    derivative(more)
    way["on"] = False
    torch.testing.assert_close(derivative(many), -torch.sin(many))
    seen = len(looks)
    for _ in range(2):
        torch.testing.assert_close(derivative(more), -torch.sin(more))
        torch.testing.assert_close(derivative(many), -torch.sin(many))
    assert len(looks) == seen
