"""Activations and scans that are exchanged: torch's value to the bit, and derivatives in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from jacfunc import batch_jac, diag_jac, laplacian
from jacfunc.evaluation.corrections import elementwise


def test_infinite_logarithms_of_sums():
    inf = math.inf
    x = torch.tensor([[-inf, 1.0], [2.0, -inf], [-inf, -inf], [1.0, 2.0]], dtype=torch.float64)
    for f in (lambda x: torch.logaddexp(x[:, :1], x[:, 1:]), lambda x: torch.logcumsumexp(x, 1)[:, 1:]):
        value = f(x)
        found, kept = batch_jac(f, return_value=True, check=False)(x)
        assert torch.equal(kept, value)
        torch.testing.assert_close(found[[0, 1, 3], 0], x[[0, 1, 3]].softmax(1))
        assert laplacian(f, check=False)(x).isfinite().all()


DOUBLE = torch.float64


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_negative_lengths_of_polar_coordinates(method):
    x, scale = torch.randn(4, 3, dtype=DOUBLE), torch.tensor(-0.7, dtype=DOUBLE, requires_grad=True)
    assert (x < 0).any() and (x > 0).any()
    for part in ("real", "imag"):
        of = {"real": torch.cos, "imag": torch.sin}[part]
        f = lambda x: getattr(torch.polar(scale * x, x.square()), part)  # noqa: B023
        g = lambda x: scale * x * of(x.square())  # noqa: B023
        for transform in (diag_jac, laplacian):
            found, known = (transform(h, method=method)(x) for h in (f, g))
            torch.testing.assert_close(found, known)
            slopes = [torch.autograd.grad(one.square().sum(), scale)[0] for one in (found, known)]
            torch.testing.assert_close(*slopes)
    length = torch.tensor(-2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.polar(length, torch.zeros(())).real, length)
    assert slope == -1.0, "torch is right: take the entry out of the table"


def derivatives(f: Any, points: list[float], order: int) -> list[torch.Tensor]:
    """Of a function of a number, at each of some points, from the first on."""
    x, found = torch.tensor(points, dtype=DOUBLE), []
    for _ in range(order):
        f = grad(f)
        found.append(vmap(f)(x))
    return found


POINTS = torch.tensor([-900.0, -40.0, -9.0, -3.0, -1.5, 0.0, 0.7, 3.0, 8.5, 40.0, 900.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("replaced", "native"),
    [
        (elementwise.hardsigmoid, F.hardsigmoid),
        (elementwise.mish, F.mish),
        (lambda x: elementwise.celu(x, 0.7), lambda x: F.celu(x, 0.7)),
        (lambda x: elementwise.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
        (elementwise.gelu, F.gelu),
        (lambda x: elementwise.logaddexp(x, x.flip(0)), lambda x: torch.logaddexp(x, x.flip(0))),
        (lambda x: elementwise.logcumsumexp(x, 0), lambda x: torch.logcumsumexp(x, 0)),
    ],
)
def test_the_value_is_torchs_to_the_bit(replaced: Any, native: Any, dtype: torch.dtype) -> None:
    x = POINTS.to(dtype)
    found = replaced(x)
    assert found.dtype == dtype
    assert torch.equal(found, native(x))


def test_hardsigmoid_is_a_clamp() -> None:
    first, second = derivatives(elementwise.hardsigmoid, [-4.0, -3.0, -1.0, 2.9, 3.0, 5.0], 2)
    torch.testing.assert_close(first, torch.tensor([0, 0, 1, 1, 0, 0], dtype=DOUBLE) / 6)
    assert not second.any()


def test_mish_far_out_is_the_identity_or_zero() -> None:
    first, second, third = derivatives(elementwise.mish, [-800.0, 100.0, 800.0], 3)
    torch.testing.assert_close(first, torch.tensor([0.0, 1, 1], dtype=DOUBLE))
    assert not second.any()
    assert not third.any()
    at_zero = derivatives(elementwise.mish, [0.0], 2)  # tanh(log 2) = 0.6; 2 (1 - 0.36) / 2
    torch.testing.assert_close(torch.cat(at_zero), torch.tensor([0.6, 0.64], dtype=DOUBLE))


@pytest.mark.parametrize("alpha", [0.3, 1.7])
def test_celu_has_all_digits_of_its_parameter(alpha: float) -> None:
    first, second = derivatives(lambda x: elementwise.celu(x, alpha), [-1.0, 2.0], 2)
    truth = math.exp(-1 / alpha)
    torch.testing.assert_close(first, torch.tensor([truth, 1.0], dtype=DOUBLE), rtol=1e-14, atol=0)
    torch.testing.assert_close(second, torch.tensor([truth / alpha, 0.0], dtype=DOUBLE), rtol=1e-14, atol=0)


def test_gelu_by_tanh_is_straight_at_its_ends_in_single_precision() -> None:
    """Where torch's third derivative is NaN."""
    f, x = lambda x: elementwise.gelu(x, "tanh"), torch.tensor([-15.0, -13.5, 13.5, 15.0])
    for _ in range(4):
        f = grad(f)
        found = vmap(f)(x)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
    assert not found.any()


def test_gelu_by_tanh_is_straight_at_its_ends() -> None:
    found = derivatives(lambda x: elementwise.gelu(x, "tanh"), [-30.0, -15.0, -8.5, 8.5, 15.0, 30.0], 4)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=DOUBLE), rtol=0, atol=1e-15)
    for higher in found[1:]:
        assert higher.abs().max() < 1e-12


def test_logaddexp_has_the_slopes_of_a_softmax() -> None:
    pairs = torch.tensor([[0.3, -0.4], [800.0, 0.0], [-50.0, 30.0], [5.0, 5.0]], dtype=DOUBLE)
    f = lambda pair: elementwise.logaddexp(pair[0], pair[1])
    p = pairs.softmax(1)
    torch.testing.assert_close(vmap(torch.func.jacrev(f))(pairs), p)
    curvature = (p[:, 0] * p[:, 1])[:, None, None] * torch.tensor([[1.0, -1], [-1, 1]], dtype=DOUBLE)
    torch.testing.assert_close(vmap(torch.func.hessian(f))(pairs), curvature)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_scan_of_any_length(size: int) -> None:
    x = torch.randn(2, size, dtype=DOUBLE)
    f = lambda row: elementwise.logcumsumexp(row, 0)
    wanted = torch.stack(
        [torch.cat([x[:, : k + 1].softmax(1), x.new_zeros(2, size - k - 1)], 1) for k in range(size)], 1
    )
    torch.testing.assert_close(vmap(torch.func.jacrev(f))(x), wanted)
    assert torch.equal(elementwise.logcumsumexp(x[0, 0], 0), torch.logcumsumexp(x[0, 0], 0))


@pytest.mark.parametrize("name", ["hardsigmoid", "mish", "celu"])
def test_in_place_the_input_becomes_the_result(name: str) -> None:
    replaced = getattr(elementwise, name)
    x = torch.randn(5, dtype=DOUBLE, requires_grad=True)
    moved = x * 1
    result = replaced(moved, inplace=True)
    assert result is moved
    assert torch.equal(result, replaced(x))
    found, wanted = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (result, replaced(x)))
    torch.testing.assert_close(found, wanted)


def test_complex_numbers_are_left_to_torch() -> None:
    z = torch.tensor([1 + 2j, 0.3 - 1j])
    torch.testing.assert_close(elementwise.logaddexp(z, z), torch.logaddexp(z, z))
    torch.testing.assert_close(elementwise.logcumsumexp(z, 0), torch.logcumsumexp(z, 0))
