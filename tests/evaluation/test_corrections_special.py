"""Special functions that are exchanged, beside their differential equations and known values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from jacfunc import batch_jac, laplacian
from jacfunc.evaluation import corrections
from jacfunc.evaluation.corrections import special


def test_where_the_function_is_infinite_the_value_is_torchs():
    x = torch.tensor([[math.inf], [1e300], [800.0], [-math.inf]], dtype=torch.float64)
    for f in (F.mish, torch.special.i1, torch.special.i0):
        found = batch_jac(f, return_value=True, check=False)(x)[1]
        torch.testing.assert_close(found, f(x), rtol=0, atol=0, equal_nan=True)


def test_sinc_in_place_at_zero():
    x = torch.zeros(2, 1, dtype=torch.float64)
    torch.testing.assert_close(
        laplacian(lambda x: x.clone().sinc_())(x), torch.full((2, 1), -(math.pi**2) / 3).double()
    )


def test_the_fourth_derivative_of_i0_at_zero(monkeypatch):
    x = torch.zeros(2, 1, dtype=torch.float64)
    torch.testing.assert_close(laplacian(laplacian(torch.special.i0))(x), torch.full_like(x, 0.375))
    fourth = laplacian(laplacian(torch.special.i0, method="reverse"), method="reverse")
    torch.testing.assert_close(fourth(x), torch.full_like(x, 0.375))
    monkeypatch.setattr(corrections, "TABLE", {})
    assert not fourth(x).any(), f"torch {torch.__version__} differentiates i0 rightly: its entry can go"


DOUBLE = torch.float64
WIDE = torch.tensor(
    [-90.0, -29.0, -3.1, -0.51, -0.49, -1e-9, 0.0, 1e-9, 0.2, 0.3, 0.49, 0.51, 2.9, 3.1, 29.0, 31.0, 90.0]
)
WIDE = WIDE.to(DOUBLE)


def chain(f: Any, x: torch.Tensor, order: int) -> list[torch.Tensor]:
    """The function and its derivatives."""
    found = [vmap(f)(x)]
    for _ in range(order):
        f = grad(f)
        found.append(vmap(f)(x))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["sinc", "i0", "i1", "i0e", "i1e", "erfcx", "log_ndtr"])
def test_the_value_is_torchs_to_the_bit(name: str, dtype: torch.dtype) -> None:
    x = WIDE.to(dtype)
    found = getattr(special, name)(x)
    assert found.dtype == dtype
    assert torch.equal(found, getattr(torch.special, name)(x))


@pytest.mark.parametrize("order", [0, 1])
def test_the_equation_of_bessel(order: int) -> None:
    """``x^2 y'' + x y' = (x^2 + n^2) y``, and once more differentiated."""
    x = WIDE[WIDE.abs() < 30]
    y, first, second, third = chain((special.i0, special.i1)[order], x, 3)
    right = (x * x + order**2) * y
    torch.testing.assert_close(x * x * second + x * first, right, rtol=1e-11, atol=1e-15)
    again = x * x * third + 3 * x * second + first
    torch.testing.assert_close(again, 2 * x * y + (x * x + order**2) * first, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("order", [0, 1])
def test_scaled_bessel_functions(order: int) -> None:
    """``y = exp(-|x|) I_n`` has ``x^2 y'' + (2 |x| + 1) x y' + (|x| - n^2) y = 0``, also far out."""
    x = WIDE[WIDE.abs() > 1e-3]
    y, first, second = chain((special.i0e, special.i1e)[order], x, 2)
    terms = torch.stack([x * x * second, (2 * x.abs() + 1) * x * first, (x.abs() - order**2) * y])
    assert (terms.sum(0).abs() / terms.abs().amax(0)).max() < 1e-9


def test_known_values_at_zero() -> None:
    zero = torch.zeros(1, dtype=DOUBLE)
    found = {name: [float(d) for d in chain(getattr(special, name), zero, 4)] for name in ("sinc", "i0", "i1", "erfcx")}
    assert found["i0"] == pytest.approx([1, 0, 0.5, 0, 0.375])
    assert found["i1"] == pytest.approx([0, 0.5, 0, 0.375, 0])
    assert found["sinc"] == pytest.approx([1, 0, -(math.pi**2) / 3, 0, math.pi**4 / 5])
    root = math.sqrt(math.pi)
    assert found["erfcx"] == pytest.approx([1, -2 / root, 2, -8 / root, 12])


def test_the_equation_of_the_scaled_error_function() -> None:
    """``y' = 2 x y - 2 / sqrt(pi)``, ``y'' = 2 x y' + 2 y``."""
    x = torch.linspace(-4, 40, 23, dtype=DOUBLE)
    y, first, second, third = chain(special.erfcx, x, 3)
    for terms in (
        [first, -2 * x * y, torch.full_like(x, 2 / math.sqrt(math.pi))],
        [second, -2 * x * first, -2 * y],
        [third, -2 * x * second, -4 * first],
    ):
        stack = torch.stack(terms)
        assert (stack.sum(0).abs() / stack.abs().amax(0)).max() < 1e-12


def test_the_hazard_of_the_normal_distribution() -> None:
    """``y = log Phi``: ``y'' = -y' (x + y')``, and ``y' ~ -x`` in the lower tail, where ``-1/y'' -> 1``."""
    x = torch.linspace(-200, 6, 41, dtype=DOUBLE)
    _, first, second, third = chain(special.log_ndtr, x, 3)
    density = torch.exp(-x.square() / 2 - special.log_ndtr(x)) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(first, density, rtol=1e-9, atol=0)
    near = x > -10  # where the right side does not cancel itself
    torch.testing.assert_close(second[near], (-first * (x + first))[near], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(third[near], (-second * (x + first) - first * (1 + second))[near], rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(
        second[x < -100], -torch.ones_like(x[x < -100]) + 1 / x[x < -100] ** 2, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, 3.5])
def test_incomplete_gamma_functions(a: float) -> None:
    """The derivative is the density ``x^(a-1) exp(-x) / Gamma(a)``, also within the series and at its edge."""
    x = torch.tensor([0.01, 0.0999, 0.1, 0.1001, 0.7, 5.0], dtype=DOUBLE)
    alpha = torch.tensor(a, dtype=DOUBLE)
    density = x ** (a - 1) * torch.exp(-x) / math.gamma(a)
    for f, sign in ((special.gammainc, 1), (special.gammaincc, -1)):
        value, first, second = chain(lambda x, f=f: f(alpha, x), x, 2)
        native = torch.special.gammainc if sign == 1 else torch.special.gammaincc
        assert torch.equal(value, native(alpha, x))
        torch.testing.assert_close(first, sign * density, rtol=1e-12, atol=0)
        torch.testing.assert_close(second, sign * density * ((a - 1) / x - 1), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("a", "truth"), [(1.0, [1.0, -1.0]), (2.0, [0.0, 1.0, -2.0]), (3.0, [0.0, 0.0, 1.0])])
def test_incomplete_gamma_functions_at_zero(a: float, truth: list[float]) -> None:
    alpha, zero = torch.tensor(a, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)
    assert [float(d) for d in chain(lambda x: special.gammainc(alpha, x), zero, len(truth))[1:]] == pytest.approx(truth)
    assert [-float(d) for d in chain(lambda x: special.gammaincc(alpha, x), zero, len(truth))[1:]] == pytest.approx(
        truth
    )
