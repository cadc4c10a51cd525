"""Many threads, the same or different parameters: right numbers, the module intact."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.func import functional_call

from jacfunc import diag_jac, laplacian, make_functional

X = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3)).double().eval()


def versions(params, count=8):
    return [{name: (1 + i / count) * p.detach() for name, p in params.items()} for i in range(count)]


def run_in_threads(call, arguments, repeats):
    with ThreadPoolExecutor(len(arguments)) as pool:
        futures = [(argument, pool.submit(call, argument)) for _ in range(repeats) for argument in arguments]
        return [(argument, future.result()) for argument, future in futures]


@pytest.mark.parametrize("method", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("transform", [None, diag_jac, laplacian])
def test_every_thread_gets_its_own_numbers(transform, method):
    module = net()
    f, params = make_functional(module)
    call = f if transform is None else transform(f, method=method)
    given = versions(params)
    expected = {id(p): call(p, X) for p in given}
    before = [(id(p), p.detach().clone()) for p in module.parameters()]
    for argument, found in run_in_threads(lambda p: call(p, X), given, 25 if transform is None else 4):
        torch.testing.assert_close(found, expected[id(argument)])
    assert all(i == id(p) and torch.equal(v, p) for (i, v), p in zip(before, module.parameters(), strict=True))


def test_threads_that_plan_for_the_first_time_together():
    module = net()
    f, params = make_functional(module)
    given = versions(params)
    found = run_in_threads(lambda p: diag_jac(lambda q, x: f(q, x) * 2)(p, X), given, 2)
    for argument, result in found:
        torch.testing.assert_close(result, 2 * diag_jac(f)(argument, X))


def test_plain_functions_that_close_over_a_module():
    module = net()
    derivative = diag_jac(lambda x: module(x))
    expected = derivative(X)
    f, params = make_functional(module)
    other = versions(params)[1]

    def call(i):
        return derivative(X) if i % 2 else f(other, X)

    plain = f(other, X)
    for argument, found in run_in_threads(call, list(range(8)), 10):
        torch.testing.assert_close(found, expected if argument % 2 else plain)


def test_torchs_functional_call_mixes_the_threads_up():
    """The trap itself, so that the day it is gone shows."""
    module = net()
    given = versions(dict(module.named_parameters()))
    expected = {id(p): functional_call(module, p, (X,)) for p in given}
    wrong = 0
    for _ in range(20):
        try:
            results = run_in_threads(lambda p: functional_call(module, p, (X,)), given, 25)
        except (KeyError, AttributeError, RuntimeError):
            wrong += 1
            break
        wrong += sum(not torch.allclose(found, expected[id(argument)]) for argument, found in results)
        if wrong:
            break
    assert wrong
