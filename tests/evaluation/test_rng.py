"""One draw for the value and all its derivatives, from whatever generator it comes; no further one is spent."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from jacfunc import batch_jac, check_independent, diag_jac, explain, laplacian
from jacfunc.errors import ArgumentTypeError
from jacfunc.evaluation.rng import RandomState, replaying

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


def torch_noise(generator, x):
    return torch.rand(x.shape, generator=generator, dtype=x.dtype)


def numpy_noise(generator, x):
    return torch.from_numpy(np.asarray(generator.uniform(size=tuple(x.shape))))


def python_noise(generator, x):
    return torch.tensor([[generator.random() for _ in row] for row in x.tolist()], dtype=x.dtype)


OWN = {
    "torch": (lambda: torch.Generator().manual_seed(1), torch_noise),
    "numpy": (lambda: np.random.default_rng(1), numpy_noise),
    "numpy's old": (lambda: np.random.RandomState(1), numpy_noise),
    "python": (lambda: random.Random(1), python_noise),
}


class Noisy(nn.Module):
    """Holds a generator in an attribute."""

    def __init__(self, name):
        super().__init__()
        make, self.noise = OWN[name]
        self.generator = make()

    def forward(self, x):
        return x.sin() * self.noise(self.generator, x)


def closing_over(name):
    make, noise = OWN[name]
    generator = make()
    return lambda x: x.sin() * noise(generator, x.detach() if name == "python" else x)


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("name", ["torch", "numpy", "numpy's old"])
@pytest.mark.parametrize("form", [Noisy, closing_over])
def test_a_functions_own_generator_makes_the_draws_of_one_plain_forward(form, name, chunk_size, method):
    alone = form(name)
    draws = [alone(X) / X.sin() for _ in range(3)]
    for transform, truth in ((diag_jac, X.cos()), (laplacian, None)):
        derivative = transform(form(name), chunk_size=chunk_size, method=method, return_value=True)
        for state in draws:
            found, value = derivative(X)
            torch.testing.assert_close(value, X.sin() * state)
            if truth is not None:
                torch.testing.assert_close(found, truth * state)


def test_pythons_own_generator_too():
    generator, twin = random.Random(1), random.Random(1)
    derivative = diag_jac(lambda x: x.sin() * generator.random())
    for _ in range(3):
        torch.testing.assert_close(derivative(X), X.cos() * twin.random())


def test_a_generator_that_is_an_argument():
    def f(generator, x):
        return x.sin() * torch_noise(generator, x)

    generator, twin = (torch.Generator().manual_seed(1) for _ in range(2))
    for _ in range(3):
        torch.testing.assert_close(diag_jac(f)(generator, X), X.cos() * torch_noise(twin, X))


@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_looking_spends_no_draw(name):
    f = Noisy(name)
    check_independent(f)(X)
    explain(batch_jac(f))(X)
    torch.testing.assert_close(f(X), Noisy(name)(X))


class Placed(torch.Tensor):
    """A tensor that says to be on a device that is not there."""

    place = torch.device("xpu", 1)

    @property
    def device(self):
        return self.place


def placed(type_):
    """Of a device that is not there, as if all tensors were on it."""
    return type("Placed", (Placed,), {"place": torch.device(type_, 1)})


@pytest.fixture(params=["xpu", "mps", "mtia", "cuda"])
def accelerator(request, monkeypatch):
    """A kind of device with a random state, which stands in for one and which nothing else can see."""
    states = {index: torch.Generator().manual_seed(index) for index in range(2)}
    module = getattr(torch, request.param)

    def write(state, device):
        states[torch.device(device).index].set_state(state)

    monkeypatch.setattr(module, "get_rng_state", lambda device: states[torch.device(device).index].get_state())
    monkeypatch.setattr(module, "set_rng_state", write)
    state = lambda x: torch.rand(x.shape, generator=states[1], dtype=x.dtype)
    monkeypatch.setattr(module, "stand_in", state, raising=False)
    capture, tensor = RandomState.capture, torch.zeros(()).as_subclass(placed(request.param))
    monkeypatch.setattr(
        RandomState, "capture", lambda tensors=(), generators=(): capture([*tensors, tensor, tensor], generators)
    )
    return request.param, states


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_the_draws_of_any_accelerator_are_those_of_one_plain_forward(accelerator, chunk_size, method):
    kind, states = accelerator
    module = getattr(torch, kind)
    before = states[1].get_state()
    alone = module.stand_in(X)
    after, other = states[1].get_state(), states[0].get_state()
    states[1].set_state(before)
    second = batch_jac(lambda x: x.sin() * module.stand_in(x), method=method, chunk_size=chunk_size, return_value=True)
    jacobian, value = second(X)
    torch.testing.assert_close(value, X.sin() * alone)
    torch.testing.assert_close(jacobian, torch.diag_embed(X.cos() * alone))
    assert torch.equal(states[1].get_state(), after)
    assert torch.equal(states[0].get_state(), other)
    again = second(X)[1] / X.sin()
    assert not torch.allclose(again, alone)


def test_replaying_leaves_an_accelerator_where_it_was(accelerator):
    kind, states = accelerator
    state = RandomState.capture()
    first = getattr(torch, kind).stand_in(X)
    assert not state.is_now()
    found = states[1].get_state()
    with replaying(state):
        assert torch.equal(getattr(torch, kind).stand_in(X), first)
    assert torch.equal(states[1].get_state(), found)


@pytest.mark.parametrize("transform", [diag_jac, laplacian, check_independent])
def test_a_device_without_a_random_state_is_refused_before_f_is_called(transform, monkeypatch):
    x = X.clone().as_subclass(placed("xpu"))
    monkeypatch.delattr(torch.xpu, "get_rng_state")
    called = []
    with pytest.raises(ArgumentTypeError, match=r"^args\[0\] is on device 'xpu:1', whose random state .* can neither"):
        transform(lambda x: (called.append(1), x.sin())[1])(x)
    assert not called
