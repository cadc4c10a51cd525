"""``jacfunc/call/rounding.py``: what of an output is rounding, and that no influence is taken for it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from jacfunc import CoupledSamplesError, check_independent, clear_caches, diag_jac, laplacian
from jacfunc.call.evaluator import Evaluator
from jacfunc.call.probes import Evaluated
from jacfunc.call.request import requested
from jacfunc.call.rounding import may_be_rounding, noise_of
from jacfunc.options import Options

Function = Callable[[torch.Tensor], torch.Tensor]
EPS = torch.finfo(torch.float64).eps


# -------------------------------------------------------------------- Gaussian processes, as gpytorch has them


def kernel(kind: str, how: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A stationary one, of what is left when the mean of the first points is subtracted."""

    def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        mean = a.mean(-2, keepdim=True)
        a, b = (a - mean) / 0.3, (b - mean) / 0.3
        if how == "cdist":
            return torch.cdist(a, b)
        squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1)[None] - 2 * a @ b.T
        return (squares.clamp(min=0) + 1e-30).sqrt()

    def covariance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distance = distances(a, b)
        if kind == "rbf":
            return torch.exp(-distance.square() / 2)
        distance = math.sqrt(3 if kind == "matern 3/2" else 5) * distance
        more = distance.square() / 3 if kind == "matern 5/2" else 0.0
        return (1 + distance + more) * torch.exp(-distance)

    return covariance


def process(seed: int, dtype: torch.dtype) -> tuple[Function, Function, torch.Tensor]:
    """Mean and variance of one of many kinds, and points for it: others, or some that it was trained at."""
    generator = torch.Generator().manual_seed(seed)
    count, noise = (10, 30, 200)[seed % 3], (1e-2, 1e-4, 1e-6, 1e-8)[seed % 4]
    covariance = kernel(("rbf", "matern 3/2", "matern 5/2")[seed // 2 % 3], ("cdist", "squares")[seed // 5 % 2])
    known = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance(known, known) + noise * torch.eye(count, dtype=torch.float64))
    weights = torch.cholesky_solve(torch.sin(3 * known).sum(1, keepdim=True), factor).to(dtype)
    known, factor = known.to(dtype), factor.to(dtype)

    def across(x: torch.Tensor) -> torch.Tensor:
        if seed // 3 % 2:
            return covariance(x, known)
        joined = torch.cat([known, x])
        return covariance(joined, joined)[count:, :count]

    def variance(x: torch.Tensor) -> torch.Tensor:
        solved = torch.linalg.solve_triangular(factor, across(x).T, upper=False)
        return 1 + noise - solved.square().sum(0)

    fresh = torch.rand(20, 2, generator=generator, dtype=dtype)
    return lambda x: across(x) @ weights, variance, known[:20].clone() if seed // 7 % 2 else fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "seeds", [range(16), pytest.param(range(16, 330), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_gaussian_processes_are_not_refused(seeds: range, dtype: torch.dtype) -> None:
    for seed in seeds:
        mean, variance, x = process(seed, dtype)
        for f in (mean, variance):
            assert check_independent(f)(x[: (2, 5, 20)[seed % 3]])


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(500), marks=pytest.mark.slow)], ids=["few", "many"])
def test_an_influence_beside_them_is_refused(seeds: range) -> None:
    for seed in seeds:
        mean, variance, x = process(4 * seed, torch.float64)  # with much noise: of others rounding is larger
        for f in (mean, variance):
            with pytest.raises(CoupledSamplesError):
                check_independent(lambda x, f=f: f(x).flatten() + 1e-9 * x.mean())(x[:5])


def test_derivatives_of_a_variance() -> None:
    _, variance, x = process(16, torch.float64)
    x = x[:5]
    rows = torch.stack(
        [torch.autograd.functional.hessian(lambda x: variance(x)[0], x[n : n + 1])[0, :, 0] for n in range(5)]
    )
    torch.testing.assert_close(laplacian(variance)(x), rows.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-5, atol=1e-7)
    assert diag_jac(variance)(x).isfinite().all()


# -------------------------------------------------------------------- what is told of a function


def noise(f: Function, x: torch.Tensor) -> torch.Tensor | None:
    """Of the function at these samples."""
    with requested(f, Options(), (x,), {}) as request:
        evaluator, state = Evaluator(request), request.random_state()
        outputs, _ = evaluator.look(state)
        found = noise_of(evaluator, [Evaluated((x,), outputs, state)], state)
    return None if found is None else found[0][0]


def batch(size: int = 6) -> torch.Tensor:
    return torch.rand(size, 3, dtype=torch.float64) + 0.1


def cancelling(x: torch.Tensor) -> torch.Tensor:
    mean = 1e3 * x.mean(0)
    return (x + mean) - mean


NOISES: dict[str, tuple[Function, float, float]] = {
    "cancelled": (cancelling, 100 * EPS, 2e4 * EPS),
    "cancelled in a sum": (lambda x: torch.stack([1e3 * x.flip(0), -1e3 * x.flip(0)]).sum(0), 100 * EPS, 2e4 * EPS),
    "cancelled in a product": (
        lambda x: torch.cat([x.flip(0), -x.flip(0)], 1) @ torch.full((6, 1), 1e3).double(),
        100 * EPS,
        2e4 * EPS,
    ),
    "ordinary": (lambda x: x - x.mean(0), 0.01 * EPS, 10 * EPS),
    "in place": (lambda x: x.flip(0).mul_(3.3), 0.01 * EPS, 10 * EPS),
    "of the sample itself": (lambda x: x.half().sin().to(x) * 1e3, 0, 0),
    "exact": (lambda x: x.flip(0), 0, 0),
    "whole numbers": (lambda x: (x > 0.5).to(x).sum(0) + 0 * x, 0, 0),
    "a jump": (lambda x: torch.sign(x.flip(0) * 3.3 / 3.3 - x.flip(0) + 0.0 * x), 0, 0),
    "beside distances": (
        lambda x: torch.cdist((x - x.mean(0)).repeat(5, 1), (x - x.mean(0)).repeat(5, 1) * (1 + 1e-7))[: len(x)].amin(1),
        1e-11,
        1e-5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_what_cancelled_and_what_others_are_in(name: str) -> None:
    f, least, most = NOISES[name]
    found = noise(f, batch())
    assert found is not None and least <= float(found.median()) <= float(found.max()) <= most


def test_what_refuses_other_numbers_has_no_noise() -> None:
    x = batch()
    mean = x.mean(0) * 3.3

    def f(x: torch.Tensor) -> torch.Tensor:
        if not torch.equal(x.mean(0) * 3.3, mean):
            raise ValueError("other numbers")
        return x

    assert noise(f, x) is None
    with requested(f, Options(), (x,), {}) as request:
        own = Evaluated((x,), (x,), request.random_state())
        assert not may_be_rounding(Evaluator(request), own, 1e-16, request.random_state())


HIDDEN: dict[str, Function] = {
    "half precision of the sample itself": lambda x: x.half().sin().to(x) + 1e-5 * x.mean(0),
    "a jump": lambda x: x + torch.sign(x.flip(0) * 3.3 / 3.3 - x.flip(0)) + 1e-3 * x.mean(0),
    "whole numbers": lambda x: x + 1e-9 * (x > x.mean(0)).to(x).sum(0),
    "rank": lambda x: x + 1e-9 * (x[:, 0] * 3.3).argsort().argsort()[:, None],
    "cancelled": lambda x: cancelling(x) + 1e-6 * x.mean(0),
    "by the largest": lambda x: x + 1e-9 * x.amax(),
    "steps": lambda x: x.sin() * (1 + 1e-9 * torch.tanh(x.square().mean())),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("tries", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_an_influence_is_not_hidden_by_noise(name: str, tries: int) -> None:
    for _ in range(tries):
        clear_caches()  # else it is looked at closely, once it was refused
        with pytest.raises(CoupledSamplesError):
            check_independent(HIDDEN[name])(batch(8) * 2)


def test_what_is_no_rounding_costs_a_forward_more() -> None:
    calls = []

    def f(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x - x.mean(0)

    with pytest.raises(CoupledSamplesError):
        diag_jac(f)(batch())
    assert len(calls) == 1 + 3 + 1 + 1  # a look, probes, one that is shaken, and the same once more
