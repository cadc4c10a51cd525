"""Draws of the gamma distribution: a first derivative as torch has it, and no second one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributions

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, laplacian
from jacfunc.errors import RefusedOperationError
from jacfunc.evaluation.corrections.draws import standard_gamma

DRAWS = {
    "Gamma": lambda p: distributions.Gamma(p, p),
    "Chi2": distributions.Chi2,
    "StudentT": distributions.StudentT,
    "InverseGamma": lambda p: distributions.InverseGamma(p, p),
    "FisherSnedecor": lambda p: distributions.FisherSnedecor(p, p),
    "Dirichlet": distributions.Dirichlet,
    "Beta": lambda p: distributions.Beta(p, p),
}


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_without_a_second_derivative_have_a_first_one(name, method):
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    f = lambda x: DRAWS[name]((weight * x).exp()).rsample()
    x = torch.rand(4, 3, dtype=torch.float64)
    if method == "forward" and name in ("Dirichlet", "Beta"):  # an autograd.Function in the old style
        return
    torch.manual_seed(3)
    found, value = batch_jac(f, method=method, return_value=True, check=False)(x)
    torch.manual_seed(3)
    inputs = x.clone().requires_grad_()
    drawn = f(inputs)
    torch.testing.assert_close(value, drawn)
    (expected,) = torch.autograd.grad(drawn.sum(), inputs)
    torch.testing.assert_close(found.sum(1), expected)
    told = (
        "_standard_gamma, a draw.*no second derivative" if name not in ("Dirichlet", "Beta") else "no gradient|no route"
    )
    with pytest.raises(UnsupportedOperationError, match=told):
        found.sum().backward()
    with pytest.raises(UnsupportedOperationError, match=told):
        laplacian(f, method=method, check=False)(x)


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_draws_of_a_constant_have_all_derivatives(method):
    """The draw is clamped by way of a detached tensor, in place."""
    rate = lambda w, x: (w * x).exp()
    f = lambda w, x: distributions.Gamma(torch.full_like(x, 2.0), rate(w, x)).rsample()
    w, x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), torch.rand(4, 3, dtype=torch.float64)
    torch.manual_seed(3)
    found, drawn = diag_jac(f, method=method, return_value=True, check=False)(w, x)
    torch.testing.assert_close(found, -w * drawn)
    (slope,) = torch.autograd.grad(found.sum(), w)
    torch.testing.assert_close(slope, (-drawn + w * x * drawn).sum())


ALPHA = torch.tensor([0.4, 1.0, 2.5, 9.0], dtype=torch.float64)


def drawn(alpha: torch.Tensor, generator: Any = None) -> torch.Tensor:
    torch.manual_seed(5)
    return standard_gamma(alpha, generator)


def test_the_draw_is_torchs() -> None:
    value = drawn(ALPHA)
    torch.manual_seed(5)
    assert torch.equal(value, torch._standard_gamma(ALPHA))
    one, other = (torch.Generator().manual_seed(7) for _ in range(2))
    assert torch.equal(standard_gamma(ALPHA, one), torch._standard_gamma(ALPHA, generator=other))


def test_its_slope_is_that_of_the_quantile_at_a_fixed_probability() -> None:
    """``P(a, x) = const`` along the draw, so ``dx/da = -P_a / p(x)``, where p is the density."""
    alpha = ALPHA.clone().requires_grad_()
    value = drawn(alpha)
    (slope,) = torch.autograd.grad(value.sum(), alpha)
    x, step = value.detach(), 1e-5
    by_alpha = (torch.special.gammainc(ALPHA + step, x) - torch.special.gammainc(ALPHA - step, x)) / (2 * step)
    density = torch.exp((ALPHA - 1) * x.log() - x - torch.lgamma(ALPHA))
    torch.testing.assert_close(slope, -by_alpha / density, rtol=1e-4, atol=0)


def test_a_second_derivative_is_refused_by_name() -> None:
    alpha = ALPHA.clone().requires_grad_()
    (slope,) = torch.autograd.grad(drawn(alpha).sum(), alpha, create_graph=True)
    with pytest.raises(
        RefusedOperationError, match="_standard_gamma, a draw of Gamma.*has no second derivative in torch"
    ):
        slope.sum().backward()


def test_a_batch_of_cotangents() -> None:
    alpha = ALPHA.clone().requires_grad_()
    value = drawn(alpha)
    (whole,) = torch.autograd.grad(value, alpha, torch.eye(4, dtype=torch.float64), is_grads_batched=True)
    drawn_again = drawn(alpha)
    (slope,) = torch.autograd.grad(drawn_again.sum(), alpha)
    torch.testing.assert_close(whole, torch.diag(slope))
