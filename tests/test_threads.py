"""Any number of threads at once: the right numbers for each, and the module intact."""

from __future__ import annotations

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from functions import Dual, at_once
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from jacfunc import batch_jac, diag_jac, divergence, hess_diag, laplacian, make_functional
from jacfunc.core import caches

THREADS = 4
ROUNDS = 6


class Slow(nn.Module):
    """A layer that leaves other threads time to disturb it, and counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        y = torch.tanh(self.a(x))
        time.sleep(0.001)
        return self.b(y) * self.calls


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def own_parameters(net: nn.Module, count: int = THREADS) -> list[dict[str, torch.Tensor]]:
    """Different parameters for each thread."""
    return [{name: torch.randn_like(p) for name, p in net.named_parameters()} for _ in range(count)]


def truth(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What ``Slow`` gives with these parameters."""
    hidden = torch.tanh(x @ params["a.weight"].T + params["a.bias"])
    return hidden @ params["b.weight"].T + params["b.bias"]


def repeated(call):
    """``call`` several times; all results."""
    return lambda: [call() for _ in range(ROUNDS)]


def state(net: nn.Module):
    """The tensors of a module and their values."""
    tensors = [*net.parameters(), *net.buffers()]
    return [id(t) for t in tensors], [t.detach().clone() for t in tensors]


def assert_intact(net: nn.Module, before) -> None:
    identities, values = state(net)
    assert identities == before[0]
    for value, old in zip(values, before[1], strict=True):
        torch.testing.assert_close(value, old, rtol=0, atol=0)


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_first_calls_with_dropout_at_once_see_one_mask_each(transform):
    x = torch.ones(64, 8)
    for _ in range(ROUNDS):
        net = nn.Sequential(nn.Dropout(0.5), nn.Identity())
        square = transform(lambda x, net=net: net(x).square(), return_value=True)
        for derivative, value in at_once(*[lambda square=square: square(x)] * THREADS):
            truth = {diag_jac: 2 * value, laplacian: torch.where(value > 0, 8.0, 0.0)}[transform]
            torch.testing.assert_close(derivative, truth)


def test_torch_mixes_up_the_parameters_of_threads():
    net, x = Slow(), torch.randn(5, 3)
    sets = own_parameters(net)
    found = at_once(*(repeated(lambda p=p: functional_call(net, p, (x,))) for p in sets))
    wrong = [not torch.allclose(y, truth(p, x)) for p, results in zip(sets, found, strict=True) for y in results]
    assert any(wrong)


@pytest.mark.parametrize("same", [False, True], ids=["different parameters", "the same parameters"])
def test_f_from_many_threads(same):
    net, x = Slow(), torch.randn(5, 3)
    f, params = make_functional(net)
    sets = [params] * THREADS if same else own_parameters(net)
    before = state(net)
    found = at_once(*(repeated(lambda p=p: f(p, x)) for p in sets))
    for p, results in zip(sets, found, strict=True):
        for result in results:
            torch.testing.assert_close(result, truth(p, x))
    assert_intact(net, before)


def test_many_quick_calls_of_a_plain_network_that_share_eight_threads():
    net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval(), torch.randn(8, 3)
    f, params = make_functional(net)
    sets = [{name: (1 + i / 8) * p.detach() for name, p in params.items()} for i in range(8)]
    expected = [f(p, x) for p in sets]
    before = state(net)
    found = at_once(*(lambda p=p: [f(p, x) for _ in range(50)] for p in sets))
    assert all(torch.equal(y, right) for results, right in zip(found, expected, strict=True) for y in results)
    assert_intact(net, before)


def test_f_of_one_module_made_twice_and_with_buffers():
    net, x = Slow(), torch.randn(5, 3)
    (f, _), (g, _, buffers) = make_functional(net), make_functional(net, with_buffers=True)
    one, two = own_parameters(net, 2)
    before = state(net)
    plain, with_buffers = at_once(repeated(lambda: f(one, x)), repeated(lambda: g(two, buffers, x)))
    for result in plain:
        torch.testing.assert_close(result, truth(one, x))
    for result, new in with_buffers:
        torch.testing.assert_close(result, truth(two, x))
        assert new["calls"] == 1
    assert_intact(net, before)


def test_an_error_in_one_thread_leaves_the_others_and_the_module_alone():
    net, x = Slow(), torch.randn(5, 3)
    f, _ = make_functional(net)
    one, two = own_parameters(net, 2)
    before = state(net)

    def failing():
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            f(two, x[:, :2])

    found, _ = at_once(repeated(lambda: f(one, x)), repeated(failing))
    for result in found:
        torch.testing.assert_close(result, truth(one, x))
    assert_intact(net, before)


LOOKS = {
    "f.parameters()": lambda net, f: f.parameters(),
    "f.buffers()": lambda net, f: f.buffers(),
    "make_functional": lambda net, f: make_functional(net)[1],
    "snapshot": lambda net, f: make_functional(net, snapshot=True)[1],
    "a copy of f": lambda net, f: copy.deepcopy(f).parameters(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_parameters_and_buffers_are_the_modules_own_during_another_threads_call(look):
    net, x = Slow(), torch.randn(5, 3)
    f, _ = make_functional(net)
    (other,) = own_parameters(net, 1)
    own = {name: t.detach().clone() for name, t in [*net.named_parameters(), *net.named_buffers()]}

    def look_now():
        time.sleep(0.0005)  # the other thread is in its forward by then
        return look(net, f)

    _, found = at_once(repeated(lambda: f(other, x)), repeated(look_now))
    for tensors in found:
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor.detach(), own[name], rtol=0, atol=0)


class SlowWithoutBuffers(Slow):
    """The same, with nothing that would have to be copied."""

    def __init__(self):
        super().__init__()
        del self.calls

    def forward(self, x):
        y = torch.tanh(self.a(x))
        time.sleep(0.001)
        return self.b(y)


@pytest.mark.parametrize("kind", [Slow, SlowWithoutBuffers])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x: net(x)], ids=["module", "closure"])
def test_derivatives_of_the_module_itself_during_another_threads_call(wrap, kind):
    net, x = kind(), torch.randn(5, 3)
    f, params = make_functional(net)
    (other,) = own_parameters(net, 1)
    expected = diag_jac(truth)(params, x).detach()
    d = diag_jac(wrap(net))
    _, found = at_once(repeated(lambda: f(other, x)), repeated(lambda: d(x)))
    for result in found:
        torch.testing.assert_close(result.detach(), expected)


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("transform", [diag_jac, batch_jac, divergence, hess_diag, laplacian])
def test_transforms_from_many_threads(transform, method):
    net, x = Slow(), torch.randn(4, 3)
    f, _ = make_functional(net)
    sets = own_parameters(net)
    expected = [transform(truth, method=method)(p, x) for p in sets]
    before = state(net)
    caches.PLANS.clear()
    caches.FAST_CALLS.clear()
    caches.INDEPENDENT.clear()
    d = transform(f, method=method)
    found = at_once(*(lambda p=p: [d(p, x) for _ in range(2)] for p in sets))
    for results, right in zip(found, expected, strict=True):
        for result in results:
            torch.testing.assert_close(result, right)
    assert_intact(net, before)


def test_forward_mode_levels_are_not_shared_by_threads():
    x = torch.randn(5, 3)
    d = diag_jac(lambda x: Dual.apply(x) * 2, method="forward")
    found = at_once(*[repeated(lambda: d(x))] * THREADS)
    for results in found:
        for result in results:
            torch.testing.assert_close(result, 2 * x.cos())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_recompute_with_the_parameters_of_their_own_thread(reentrant):
    class Checkpointed(Slow):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=reentrant)

    net = Checkpointed()
    f, _ = make_functional(net)
    sets = [{name: p.requires_grad_() for name, p in params.items()} for params in own_parameters(net)]
    x = torch.randn(5, 3, requires_grad=True)
    before = state(net)

    def backward(params):
        return torch.autograd.backward(f(params, x.detach().requires_grad_()).square().sum())

    at_once(*(repeated(lambda p=p: backward(p)) for p in sets))
    for params in sets:
        expected = torch.autograd.grad(truth(params, x).square().sum(), list(params.values()))
        for tensor, gradient in zip(params.values(), expected, strict=True):
            torch.testing.assert_close(tensor.grad, ROUNDS * gradient)
    assert_intact(net, before)
    assert all(p.grad is None for p in net.parameters())


def test_checkpoints_of_other_threads_are_left_alone():
    class Plain(nn.Linear):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    slow, plain, x = Slow(), Plain(3, 3), torch.randn(5, 3)
    f, _ = make_functional(slow)
    (other,) = own_parameters(slow, 1)

    def gradient():
        return torch.autograd.grad(plain(x).square().sum(), plain.weight)[0]

    expected = gradient()
    _, found = at_once(repeated(lambda: f(other, x)), repeated(gradient))
    for result in found:
        torch.testing.assert_close(result, expected)


def test_calls_are_right_while_another_thread_compiles():
    net, x = Slow(), torch.randn(5, 3)
    f, _ = make_functional(net)
    sets = own_parameters(net)
    compiling, done = threading.Event(), threading.Event()

    def backend(graph, inputs):
        compiling.set()
        assert done.wait(timeout=30)
        return graph.forward

    def compiled():
        return torch.compile(lambda x: x.sin() + 1, backend=backend)(x)

    def call(params):
        assert compiling.wait(timeout=30)
        return f(params, x)

    with ThreadPoolExecutor(THREADS + 1) as pool:
        other = pool.submit(compiled)
        futures = [pool.submit(repeated(lambda p=p: call(p))) for p in sets]
        found = [future.result(timeout=60) for future in futures]
        done.set()
        torch.testing.assert_close(other.result(timeout=60), x.sin() + 1)
    for p, results in zip(sets, found, strict=True):
        for result in results:
            torch.testing.assert_close(result, truth(p, x))
