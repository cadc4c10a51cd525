"""Traps of threads: exchanged parameters and forward-mode levels are global in torch, and apart in jacfunc.

The races are made certain: in torch's by events, which let the first thread leave while the second, which came later, is inside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dense
import pytest
import torch
from functions import Dual, at_once
from judging import CURED, METHODS, far
from torch import nn
from torch.func import functional_call, jvp

from jacfunc import diag_jac, explain, laplacian, make_functional
from jacfunc.core import caches

THREADS = 4
DOUBLE = torch.float64


class Slow(nn.Module):
    """Waits in the middle of its forward, so that what is global is another thread's by then."""

    def __init__(self, wait: Callable[[], Any]):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, dtype=DOUBLE), nn.Linear(3, 3, dtype=DOUBLE)
        self.wait = wait

    def forward(self, x):
        y = torch.tanh(self.a(x))
        self.wait()
        return self.b(y)


def napping() -> Slow:
    return Slow(lambda: time.sleep(0.002))


def right(params, x):
    """What ``Slow`` gives with these parameters."""
    return torch.tanh(x @ params["a.weight"].T + params["a.bias"]) @ params["b.weight"].T + params["b.bias"]


def own_parameters(net: nn.Module) -> list[dict[str, torch.Tensor]]:
    return [{name: torch.randn_like(p) for name, p in net.named_parameters()} for _ in range(THREADS)]


class Overlap:
    """The first job enters, then the second; the first leaves while the second is still inside."""

    def __init__(self):
        self.entered, self.left = [threading.Event(), threading.Event()], threading.Event()

    def inside(self, number):
        """Called within job ``number``, and returns when it may go on."""
        self.entered[number].set()
        await_ = self.entered[1] if number == 0 else self.left
        assert await_.wait(timeout=10)

    def run(self, job):
        """The results of ``job(0)`` and ``job(1)``, each of which calls ``inside``."""

        def start(number):
            if number == 1:
                assert self.entered[0].wait(timeout=10)
            try:
                return job(number)
            finally:
                if number == 0:
                    self.left.set()

        with ThreadPoolExecutor(2) as pool:
            return [future.result(timeout=60) for future in [pool.submit(start, number) for number in range(2)]]


def test_torch_mixes_up_the_parameters_of_threads_and_leaves_strangers_in_the_module():
    overlap, number = Overlap(), threading.local()
    net, x = Slow(lambda: overlap.inside(number.own)), torch.randn(4, 3, dtype=DOUBLE)
    sets, own = own_parameters(net)[:2], net.b.weight

    def job(which):
        number.own = which
        return functional_call(net, sets[which], (x,))

    found = overlap.run(job)
    for y, params in zip(found, sets, strict=True):
        assert far(y, right(params, x)), CURED
    assert net.b.weight is not own, CURED


def test_torch_mixes_up_the_forward_levels_of_threads():
    overlap = Overlap()
    x = torch.randn(4, 3, dtype=DOUBLE)

    def job(which):
        def f(x):
            overlap.inside(which)
            return x.sin()

        try:
            return jvp(f, (x,), (torch.ones_like(x),))[1]
        except RuntimeError as error:  # instead of zeros without a word
            assert "level" in str(error)
            return torch.zeros_like(x)

    found = overlap.run(job)
    assert any(far(tangent, x.cos()) for tangent in found), CURED
    torch.testing.assert_close(jvp(torch.sin, (x,), (torch.ones_like(x),))[1], x.cos())  # torch recovers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_every_thread_has_the_derivative_for_its_own_parameters_and_the_module_is_intact(transform, method):
    net, x = napping(), torch.randn(4, 3, dtype=DOUBLE)
    f, _ = make_functional(net)
    sets, before = own_parameters(net), [(p, p.detach().clone()) for p in net.parameters()]
    derivative = transform(f, method=method)
    caches.PLANS.clear()
    caches.FAST_CALLS.clear()
    found = at_once(*(lambda p=p: [derivative(p, x) for _ in range(2)] for p in sets))
    for params, results in zip(sets, found, strict=True):
        g = lambda x, params=params: right(params, x)
        truth = dense.diagonal(g, x) if transform is diag_jac else dense.hessian_diagonal(g, x).sum(-1)
        for result in results:
            torch.testing.assert_close(result, truth)
    for now, (p, value) in zip(net.parameters(), before, strict=True):
        assert now is p
        assert torch.equal(now, value)


@pytest.mark.parametrize("method", METHODS)
def test_every_thread_has_its_own_gradients_of_derivatives(method):
    net, x = napping(), torch.randn(4, 3, dtype=DOUBLE)
    f, _ = make_functional(net)
    sets = own_parameters(net)

    def gradients(f, params):
        by_torch_func = torch.func.grad(lambda params: diag_jac(f, method=method)(params, x).square().sum())(params)
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        diag_jac(f, method=method)(leaves, x).square().sum().backward()
        return by_torch_func, {name: p.grad for name, p in leaves.items() if p.grad is not None}

    expected = [gradients(right, params) for params in sets]
    found = at_once(*(lambda p=p: gradients(f, p) for p in sets))
    for of_thread, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(of_thread[0], alone[0])
        torch.testing.assert_close(of_thread[1], alone[1])


@pytest.mark.parametrize("method", METHODS)
def test_forward_levels_of_threads_are_apart(method):
    # With method="forward" this function goes by torch.func.jvp, whose levels are global.
    x = torch.randn(4, 3, dtype=DOUBLE)

    def f(x):
        time.sleep(0.001)
        return Dual.apply(x) * 2

    derivative = diag_jac(f, method=method)
    if method == "forward":
        assert explain(derivative)(x).plan.route == "dual"
    caches.PLANS.clear()
    caches.FAST_CALLS.clear()
    for results in at_once(*[lambda: [derivative(x) for _ in range(4)]] * THREADS):
        for result in results:
            torch.testing.assert_close(result, 2 * x.cos())
