"""Traps in branches that are not taken: NaN by one route, and the derivative by another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jacfunc import diag_jac, hess_diag, laplacian, partials

DOUBLE = torch.float64
USUAL = torch.tensor([[0.3], [1.2], [0.7], [0.9]], dtype=DOUBLE)
DEAD = torch.tensor([[0.3], [0.0], [0.7], [-0.9]], dtype=DOUBLE)
TRANSFORMS = {"diag_jac": diag_jac, "hess_diag": hess_diag, "laplacian": laplacian}


def where(branch: Callable, alive: Callable = lambda x: x > 0, other: float = 0.0) -> Callable:
    """A branch where it is alive, and a number elsewhere."""
    return lambda x: torch.where(alive(x), branch(x), other)


BRANCHES: dict[str, Callable] = {
    "root": lambda x: x.sqrt(),
    "function of a root": lambda x: x.sqrt().exp(),
    "logarithm": lambda x: x.log(),
    "x log x": lambda x: x * x.log(),
    "quotient": lambda x: x.sin() / x,
    "power": lambda x: x**1.5,
    "reciprocal root": lambda x: x.rsqrt(),
    "function of a norm": lambda x: torch.exp(-torch.linalg.vector_norm(x, dim=1, keepdim=True)),
    "exponential of a reciprocal": lambda x: (-1 / x).exp(),
    "arcsine": lambda x: (1 - x.abs()).asin() * x.sqrt(),
    "logarithm of a root": lambda x: (x.sqrt() + x).log(),
    "inverse tangent": lambda x: torch.atan2(x * 0, x) + x.sqrt() ** 3,
}
RELU: dict[str, Callable] = {
    "root of a ReLU": lambda x: (x.relu() * x.relu()).sqrt(),
    "masked root": lambda x: torch.sqrt(torch.where(x > 0, x, torch.ones_like(x))) * (x > 0),
}


def masked(branch: Callable) -> Callable:
    """What a careful user writes: the branch is never evaluated where it is dead."""
    return lambda x: torch.where(x > 0, branch(torch.where(x > 0, x, 1.0)), 0.0)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_is_not_taken_has_no_derivative(name: str, transform: str, before: bool) -> None:
    derivative = TRANSFORMS[transform](where(BRANCHES[name]))
    if before:
        derivative(USUAL)
    found = derivative(DEAD)
    truth = TRANSFORMS[transform](masked(BRANCHES[name]), method="reverse")(DEAD)
    assert torch.allclose(found, truth, atol=1e-10)


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("asked", ["u_x", "u u_x", "u_x u_xx", "u_xx", "u_x+2*u_xx"])
def test_it_does_not_depend_on_what_else_is_asked_for(name: str, asked: str) -> None:
    found = partials(where(BRANCHES[name]), asked, inputs="x", outputs="u")(DEAD)
    truth = partials(masked(BRANCHES[name]), asked, inputs="x", outputs="u", method="reverse")(DEAD)
    for one, other in zip(found, truth, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_what_is_nan_by_every_route_stays_nan_and_draws_once() -> None:
    f = lambda x: x.sqrt() * torch.bernoulli(torch.full_like(x, 0.5)) + x.abs().sqrt() * 0 * torch.nan_to_num(x / 0)
    torch.manual_seed(3)
    diag_jac(f)(DEAD)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    f(DEAD)
    assert torch.equal(state, torch.get_rng_state())
    found = diag_jac(lambda x: torch.where(x > 0, x.sin(), x * float("nan")))(DEAD)
    assert found.isnan().flatten().tolist() == [False, True, False, True]


EDGES: dict[str, Callable] = {
    "x ** (x + 1)": lambda x: x ** (x + 1),
    "root": lambda x: x.sqrt(),
    "x log x": lambda x: x * x.log(),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", EDGES)
def test_at_the_edge_of_where_it_has_values_no_number_is_made(name: str, transform: str) -> None:
    derivative = TRANSFORMS[transform](EDGES[name])
    derivative(USUAL)
    found = derivative(torch.zeros_like(USUAL))
    if name == "x ** (x + 1)" and transform == "diag_jac":
        assert torch.all(found.isnan() | (found == 1))  # from the right
    else:
        assert not found.isfinite().any()


def test_a_route_that_is_forced_stays() -> None:
    found = diag_jac(where(BRANCHES["root"]), method="reverse")(DEAD)
    assert found.isnan().any()


def test_values_beside_the_samples_that_the_function_refuses_are_no_branch() -> None:
    def f(x):
        if not bool((x.detach() >= 0).all()):
            raise ValueError("a root of what is negative")
        return x.sqrt() * x.sqrt()

    derivative = diag_jac(f, check=False)
    derivative(USUAL)
    assert derivative(torch.zeros_like(USUAL)).isnan().all()
