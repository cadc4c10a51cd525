"""Every estimate is right on average, and so is its gradient by the parameters, whichever the probes and the method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from draws import DRAWS, LEVEL, SEED, copies, p_value

import jacfunc
from jacfunc import estimate

SIZE = 5
TRACES = ("divergence", "laplacian")
PROBES = ("rademacher", "gaussian", "sphere", "coordinate", "orthogonal")
CASES = [
    *[(name, probe, "hutchinson") for name in (*TRACES, "diag_jac", "hess_diag") for probe in PROBES],
    *[(name, probe, estimator) for name in TRACES for probe in PROBES[:4] for estimator in ("hutch++", "xtrace")],
    *[
        (name, probe, estimator)
        for name in ("diag_jac", "hess_diag")
        for probe in ("rademacher", "gaussian")
        for estimator in ("hutch++", "xdiag")
    ],
]


def field(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A vector field whose parameters, ``(N, d, d)``, are those of each sample."""
    return torch.tanh((theta @ x.unsqueeze(-1)).squeeze(-1)) + theta[:, 0] * x.square()


def number(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One number a sample."""
    return (torch.tanh((theta @ x.unsqueeze(-1)).squeeze(-1)) * theta[:, 1]).sum(1) + (theta[:, 0] * x**3).sum(1)


def both(result: torch.Tensor, theta: torch.Tensor, x: torch.Tensor, power: int = 1) -> torch.Tensor:
    """A result of each sample beside its gradients by theta and by x: ``(N, k)``."""
    weights = torch.linspace(1, 2, result[0].numel(), dtype=result.dtype).reshape(result.shape[1:])
    by_theta, by_x = torch.autograd.grad((result * weights).sum(), (theta, x))
    return torch.cat([result.detach().reshape(len(x), -1), by_theta.flatten(1), by_x.flatten(1)], 1)


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    theta = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=generator) / 2
    x = torch.randn(SIZE, dtype=torch.float64, generator=generator)
    return copies(theta, count).requires_grad_(), copies(x, count).requires_grad_()


@pytest.mark.parametrize(("name", "probe", "estimator"), CASES)
def test_values_and_gradients_are_right_on_average(name: str, probe: Any, estimator: Any) -> None:
    f = field if name in ("divergence", "diag_jac") else number
    few = inputs(2)
    exact = both(getattr(jacfunc, name)(f)(*few), *few)[0]
    theta, x = inputs(DRAWS)
    generator = torch.Generator().manual_seed(SEED)
    made = getattr(estimate, name)(f, probes=6, probe=probe, estimator=estimator, generator=generator)
    found = both(made(theta, x).estimate, theta, x)
    p = p_value(found, exact)
    print(f"seed {SEED}: p {p:.2g}")
    assert p > LEVEL / len(CASES)


OPERATORS = [
    ("laplacian", None, "rademacher", ""),
    ("biharmonic", None, "sphere", "u_xxxx+u_yyyy+u_zzzz+2*u_xxyy+2*u_xxzz+2*u_yyzz"),
    ("biharmonic", None, "gaussian", "u_xxxx+u_yyyy+u_zzzz+2*u_xxyy+2*u_xxzz+2*u_yyzz"),
    ("u_xx+u_yy", "x y z", "rademacher", ""),
    ("u_xy-0.5*u_zz", "x y z", "rademacher", ""),
    ("u_xyz", "x y z", "rademacher", ""),
    ("u_x+u_xxy", "x y z", "rademacher", ""),
    ("2*u_xxyy+u_zzzz", "x y z", "rademacher", ""),
]


def smooth(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One number a sample, of three coordinates."""
    return (
        torch.sin((theta[:, 0] * x).sum(1)) + x[:, 0] ** 2 * x[:, 1] ** 2 * theta[:, 1, 0] + theta[:, 1, 1] * x.prod(1)
    )


@pytest.mark.parametrize(("operator", "names", "probe", "written"), OPERATORS)
def test_operators_are_right_on_average(operator: str, names: str | None, probe: Any, written: str) -> None:
    generator = torch.Generator().manual_seed(SEED)
    theta = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    x = torch.randn(3, dtype=torch.float64, generator=generator)
    few = copies(theta, 2).requires_grad_(), copies(x, 2).requires_grad_()
    wanted = written or ("u_xx+u_yy+u_zz" if operator == "laplacian" else operator)
    (found,) = jacfunc.partials(smooth, wanted, inputs="x y z", outputs="u")(*few)
    exact = both(found, *few)[0]
    many = copies(theta).requires_grad_(), copies(x).requires_grad_()
    own = {"probe": probe} if names is None else {}
    made = estimate.directional(smooth, operator, inputs=names, probes=4, generator=generator, **own)  # type: ignore[arg-type]
    p = p_value(both(made(*many).estimate, *many), exact)
    print(f"seed {SEED}: p {p:.2g}")
    assert p > LEVEL / len(OPERATORS)


@pytest.mark.parametrize("name", ["divergence", "laplacian"])
def test_sums_over_drawn_coordinates_are_right_on_average(name: str) -> None:
    """Without replacement, and all samples have the same: so many calls."""
    f = field if name == "divergence" else number
    few = inputs(2)
    exact = both(getattr(jacfunc, name)(f)(*few), *few)[0]
    generator = torch.Generator().manual_seed(SEED)
    made = getattr(jacfunc, name)(f, coordinates=2, generator=generator)
    draws = []
    for _ in range(DRAWS // 2):
        one = inputs(1)
        draws.append(both(made(*one), *one)[0])
    assert p_value(torch.stack(draws), exact) > LEVEL / 2


def test_the_product_of_two_estimates_is_the_square_on_average_and_the_square_of_one_is_not() -> None:
    theta, x = inputs(DRAWS)
    with torch.no_grad():
        exact = jacfunc.laplacian(number)(theta[:2], x[:2])[0]
    generator = torch.Generator().manual_seed(SEED)
    first, second = estimate.laplacian(number, probes=2, generator=generator, squared_residual=True)(theta, x)
    product, square = first.estimate * second.estimate, first.estimate**2
    assert p_value(product.detach()[:, None], exact[None] ** 2) > LEVEL
    assert p_value(square.detach()[:, None], exact[None] ** 2) < 1e-9
