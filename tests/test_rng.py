"""One draw for the value and all its derivatives, from whatever generator it comes; no further one is spent."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from jacfunc import batch_jac, check_independent, diag_jac, explain, laplacian

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
        for draw in draws:
            found, value = derivative(X)
            torch.testing.assert_close(value, X.sin() * draw)
            if truth is not None:
                torch.testing.assert_close(found, truth * draw)


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
