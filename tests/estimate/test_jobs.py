"""Jobs that estimates are there for, from beginning to end: sliced score matching, SURE, the likelihood of a flow.

Each is held against the exact derivative and a truth in closed form.  `notebooks/12_estimates.ipynb` has them in large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import divergence, estimate

Tensor = torch.Tensor
Rates = Callable[[Tensor, Tensor], Tensor]

# -------------------------------------------------------------------- sliced score matching

CENTRES = 3 * nn.functional.normalize(torch.randn(4, 20, generator=torch.Generator().manual_seed(0)))


def gaussians(count: int) -> Tensor:
    return CENTRES[torch.randint(4, (count,))] + torch.randn(count, 20)


def true_score(x: Tensor) -> Tensor:
    weights = torch.softmax(-(x[:, None] - CENTRES).square().sum(-1) / 2, 1)
    return weights @ CENTRES - x


def score_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 20))


def exact_trace(s: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return divergence(s, return_value=True)


def sliced_trace(s: nn.Module, probes: int = 1) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    compute = estimate.divergence(s, probes=probes, return_value=True)

    def trace(x: Tensor) -> tuple[Tensor, Tensor]:
        found, value = compute(x)
        return found.estimate, value

    return trace


def hyvarinen(trace: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    div, score = trace(x)
    return (div + score.square().sum(1) / 2).mean()


def test_sliced_score_matching_learns_the_score() -> None:
    errors = []
    for make in (exact_trace, sliced_trace):
        s = score_network()
        trace = make(s)
        optimiser = torch.optim.Adam(s.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 800)
        for _ in range(800):
            loss = hyvarinen(trace, gaussians(128))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        x = gaussians(5000)
        with torch.no_grad():
            errors.append(((s(x) - true_score(x)).norm() / true_score(x).norm()).item())
    exact, sliced = errors
    assert exact < 0.23  # the best linear score has 0.27
    assert sliced < 1.2 * exact


def test_the_gradient_of_the_sliced_loss_is_right_on_average() -> None:
    s, x = score_network(), gaussians(16)
    weights = list(s.parameters())
    wanted = torch.autograd.grad(hyvarinen(exact_trace(s), x), weights)
    draws = [torch.autograd.grad(hyvarinen(sliced_trace(s, 20), x), weights) for _ in range(40)]
    for own, truth in zip(zip(*draws, strict=True), wanted, strict=True):
        stacked = torch.stack(own)
        off = (stacked.mean(0) - truth) / (stacked.std(0) / math.sqrt(40) + 1e-7)
        assert off.square().mean().sqrt() < 1.5


# -------------------------------------------------------------------- Stein's unbiased risk estimate

SIDE, SIGMA = 32, 0.25


def discs(count: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    images = torch.zeros(count, SIDE, SIDE)
    for _ in range(3):
        middle, radius = torch.rand(2, count, 1, 1), 0.1 + 0.2 * torch.rand(count, 1, 1)
        inside = (rows - middle[0]).square() + (columns - middle[1]).square() < radius.square()
        images = torch.where(inside, torch.rand(count, 1, 1), images)
    return images[:, None]


def sure(denoised: Tensor, y: Tensor, div: Tensor) -> Tensor:
    residual = (denoised - y).square().flatten(1).mean(1)
    return residual - SIGMA**2 + 2 * SIGMA**2 / SIDE**2 * div


def cosines() -> Tensor:
    """An orthonormal basis, in rows."""
    places = torch.arange(SIDE)
    rows = torch.cos(math.pi / SIDE * (places + 0.5) * places[:, None]) * math.sqrt(2 / SIDE)
    rows[0] /= math.sqrt(2)
    return rows


def soft_threshold(y: Tensor, threshold: Tensor) -> Tensor:
    """Coefficients of the cosine transform, moved towards zero: a Jacobian whose trace is a count."""
    basis = cosines()
    found = basis @ y @ basis.T
    return basis.T @ (found.sign() * (found.abs() - threshold).relu()) @ basis


def test_sure_chooses_a_threshold_without_the_clean_image() -> None:
    clean = discs(64)
    y = clean + SIGMA * torch.randn_like(clean)
    compute = estimate.divergence(soft_threshold, argnums=0, probes=8, return_value=True)
    thresholds = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
    found, truth = [], []
    for threshold in thresholds:
        div, denoised = compute(y, threshold)
        kept = ((cosines() @ y @ cosines().T).abs() > threshold).flatten(1).sum(1)
        off = (div.estimate - kept) / div.standard_error
        assert (off.abs() < 1).double().mean() > 0.45  # 0.65 of 8 probes
        mean_off = (div.estimate - kept).mean() / (div.standard_error.square().sum().sqrt() / 64)
        assert abs(mean_off) < 4
        found.append(sure(denoised, y, div.estimate).mean())
        truth.append((denoised - clean).square().mean())
    risks, errors = torch.stack(found), torch.stack(truth)
    assert 0 < errors.argmin() < len(thresholds) - 1
    assert errors[risks.argmin()] < 1.05 * errors.min()
    torch.testing.assert_close(risks, errors, rtol=0.2, atol=3 * SIGMA**2 * math.sqrt(2 / y.numel()))


def test_sure_of_a_network_beside_the_exact_divergence() -> None:
    f = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))
    optimiser = torch.optim.Adam(f.parameters(), lr=1e-2)
    for _ in range(150):
        clean = discs(8)
        loss = (f(clean + SIGMA * torch.randn_like(clean)) - clean).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    clean = discs(4)
    y = clean + SIGMA * torch.randn_like(clean)
    with torch.no_grad():
        exact, denoised = divergence(f, return_value=True, chunk_size=128)(y)
        found, same = estimate.divergence(f, probes=64, return_value=True)(y)
    assert torch.equal(same, denoised)
    assert ((found.estimate - exact).abs() < 4 * found.standard_error).all()
    assert (found.standard_error < 0.1 * exact).all()
    assert (sure(denoised, y, found.estimate) < SIGMA**2).all()  # better than to leave it as it is


# -------------------------------------------------------------------- the likelihood of a flow

DIM = 24


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Linear(DIM + 1, 32), nn.Tanh(), nn.Linear(32, DIM)).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 3 * self.layers(torch.cat([x, t.expand(len(x), 1)], 1)) - x


def points(count: int) -> Tensor:
    return torch.randn(count, DIM, dtype=torch.float64)


def exact_rates(v: Callable[..., Any]) -> Rates:
    compute = divergence(v, argnums=0, return_value=True)

    def rates(t: Tensor, state: Tensor) -> Tensor:
        div, velocity = compute(state[:, :DIM], t)
        return torch.cat([velocity, div[:, None], torch.zeros_like(div)[:, None]], 1)

    return rates


def rates_with(v: Callable[..., Any], **keywords: Any) -> Rates:
    compute = estimate.divergence(v, argnums=0, return_value=True, **keywords)

    def rates(t: Tensor, state: Tensor) -> Tensor:
        found, velocity = compute(state[:, :DIM], t)
        return torch.cat([velocity, found.estimate[:, None], found.standard_error[:, None]], 1)

    return rates


def rk4(rates: Rates, x: Tensor, intervals: int) -> Tensor:
    """From data at 1 to noise at 0: the noise, the change of the log-density, the integral of the standard error."""
    state, h = torch.cat([x, x.new_zeros(len(x), 2)], 1), -1 / intervals
    for i in range(intervals):
        t = torch.tensor(1 + i * h, dtype=x.dtype)
        k1 = rates(t, state)
        k2 = rates(t + h / 2, state + h / 2 * k1)
        k3 = rates(t + h / 2, state + h / 2 * k2)
        k4 = rates(t + h, state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


def log_likelihood(state: Tensor) -> Tensor:
    return state[:, DIM] - state[:, :DIM].square().sum(1) / 2 - DIM / 2 * math.log(2 * math.pi)


def adaptive_evaluations(rates: Rates, x: Tensor, tolerance: float, patience: int) -> int:
    """How many evaluations the method of Bogacki and Shampine takes; no more than its patience has."""
    state, t, h, count = torch.cat([x, x.new_zeros(len(x), 2)], 1), 1.0, 0.05, 1
    k1 = rates(torch.tensor(t, dtype=x.dtype), state)
    while t > 1e-6 and count < patience:
        h = min(h, t)
        k2 = rates(torch.tensor(t - h / 2, dtype=x.dtype), state - h / 2 * k1)
        k3 = rates(torch.tensor(t - 3 * h / 4, dtype=x.dtype), state - 3 * h / 4 * k2)
        new = state - h / 9 * (2 * k1 + 3 * k2 + 4 * k3)
        k4 = rates(torch.tensor(t - h, dtype=x.dtype), new)
        count += 3
        difference = h / 72 * (-5 * k1 + 6 * k2 + 8 * k3 - 9 * k4)
        size = (difference / (tolerance * (1 + new.abs()))).square().mean(0).sqrt().max().item()
        if size <= 1:
            t, state, k1 = t - h, new, k4
        h *= min(5.0, max(0.2, 0.9 * size ** (-1 / 3)))
    return count


def test_the_log_likelihood_of_a_linear_flow_is_that_of_a_gaussian() -> None:
    A = 0.1 * torch.randn(DIM, DIM, dtype=torch.float64)
    x, probes = points(200), 16
    fixed = estimate.draw(x, probes, generator=torch.Generator().manual_seed(0))
    state = rk4(rates_with(lambda x, t: x @ A.T, fixed=fixed), x, 20)
    spread = torch.linalg.matrix_exp(A)  # data are noise times this
    truth = torch.distributions.MultivariateNormal(x.new_zeros(DIM), spread @ spread.T).log_prob(x)
    error = state[:, DIM + 1].abs()
    off = (log_likelihood(state) - truth).abs()
    assert (off < error).double().mean() > 0.55  # 0.67 of 16 probes
    assert (off < 6 * error).all()


def test_a_likelihood_with_error_bars_beside_the_exact_one() -> None:
    v, x = Field(), points(100)
    with torch.no_grad():
        exact = log_likelihood(rk4(exact_rates(v), x, 10))
        state = rk4(rates_with(v, fixed=estimate.draw(x, 8)), x, 10)
    off, error = log_likelihood(state) - exact, state[:, DIM + 1].abs()
    assert 0.5 < (off.abs() < error).double().mean() < 0.95
    assert off.mean().abs() < 4 * error.square().sum().sqrt() / 100


def test_the_spread_of_whole_trajectories_is_below_the_integral_of_standard_errors() -> None:
    v, x, count = Field(), points(30), 6
    probes = estimate.draw(x, count)

    def alone(probe: Tensor) -> Tensor:
        return rk4(rates_with(v, fixed=probe[:, None]), x, 5)[:, DIM]

    with torch.no_grad():
        each = torch.vmap(alone, in_dims=1)(probes)
        state = rk4(rates_with(v, fixed=probes), x, 5)
    torch.testing.assert_close(each.mean(0), state[:, DIM])
    own, limit = each.std(0) / math.sqrt(count), state[:, DIM + 1].abs()
    assert (own <= 1.01 * limit).all()
    assert own.mean() > 0.5 * limit.mean()


def test_as_many_orthogonal_probes_as_coordinates_are_exact_and_train_alike() -> None:
    v, x = Field(), points(5)
    weights = list(v.parameters())
    fixed = estimate.draw(x, DIM, probe="orthogonal")
    found, wanted = (log_likelihood(rk4(rates, x, 4)) for rates in (rates_with(v, fixed=fixed), exact_rates(v)))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        *(torch.autograd.grad(value.mean(), weights, allow_unused=True) for value in (found, wanted))
    )


@pytest.mark.parametrize("kind", ["fixed", "fresh"])
def test_solvers_need_probes_that_are_drawn_once(kind: str) -> None:
    v, x = Field(), points(50)
    keywords: dict[str, Any] = {"fixed": estimate.draw(x, 4)} if kind == "fixed" else {"probes": 4}
    with torch.no_grad():
        coarse, middle, fine = (log_likelihood(rk4(rates_with(v, **keywords), x, n)) for n in (4, 8, 16))
        count = adaptive_evaluations(rates_with(v, **keywords), x, 1e-4, 1000)
        needed = adaptive_evaluations(exact_rates(v), x, 1e-4, 1000)
    order = torch.log2((coarse - middle).norm() / (middle - fine).norm())
    if kind == "fixed":
        assert order > 3.5
        assert count < 1.5 * needed
    else:
        assert order < 1
        assert count > 4 * needed
