"""``jet/lost.py``: gradients where a norm is zero, NaN by what moves it and right by what does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from jacfunc import batch_jac, biharmonic, laplacian

Function = Callable[..., Any]
DOUBLE = torch.float64
ROOT3, ROOT5 = math.sqrt(3), math.sqrt(5)
CENTRES = torch.tensor([[0.3, 0.2], [0.1, -0.4], [0.6, 0.7]], dtype=DOUBLE)
POINTS = CENTRES[[2, 0]]


def matern3(r: Any) -> Any:
    return (1 + ROOT3 * r) * torch.exp(-ROOT3 * r)


def matern5(r: Any) -> Any:
    return (1 + ROOT5 * r + 5 / 3 * r**2) * torch.exp(-ROOT5 * r)


def size(x: Any) -> Any:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def slope(f: Function, at: torch.Tensor, h: float = 1e-5) -> torch.Tensor:
    """By differences, of a function of one tensor that gives a number."""
    steps = h * torch.eye(at.numel(), dtype=at.dtype)
    found = [(f(at + s.reshape(at.shape)) - f(at - s.reshape(at.shape))) / (2 * h) for s in steps]
    return torch.stack(found).reshape(at.shape)


WITHIN: dict[str, Function] = {
    "a norm": lambda x, length: size((x - CENTRES[:1].to(x.dtype)) / length),
    "cdist of scaled points": lambda x, length: torch.cdist(x / length, CENTRES.to(x.dtype) / length),
    "cdist of mapped points": lambda x, length: torch.cdist((x * length).sin(), (CENTRES.to(x.dtype) * length).sin()),
    "beside other operations": lambda x, length: size(torch.stack((x / length - CENTRES[0] / length).unbind(1), 1)),
    "a deviation": lambda x, length: (x / length - CENTRES[0] / length).std(1, keepdim=True),
    "hypot": lambda x, length: torch.hypot(*((x / length - CENTRES[0] / length).split(1, 1))),
    "a matrix": lambda x, length: size((x - CENTRES[0]) @ torch.diag_embed(1 / length.expand(2))),
}


@pytest.mark.parametrize("length", [0.7, [0.7, 0.45]], ids=["one length", "one for each coordinate"])
@pytest.mark.parametrize("name", WITHIN)
def test_gradients_by_lengths_within_the_norm(name: str, length: Any) -> None:
    at = torch.tensor(length, dtype=DOUBLE)
    for transform, kernel in ((laplacian, matern3), (laplacian, lambda r: r**3), (biharmonic, matern5)):

        def loss(length: Any, transform: Function = transform, kernel: Function = kernel) -> Any:
            u = lambda x: kernel(WITHIN[name](x, length)).sum(1, keepdim=True)
            return transform(u, method="taylor")(POINTS).square().sum()

        own = at.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(own), own, create_graph=True)
        torch.testing.assert_close(found, slope(loss, at), rtol=1e-6, atol=1e-6)
        gradient = lambda a, loss=loss: torch.autograd.grad(loss(a.requires_grad_()), a)[0].sum()
        again = torch.autograd.grad(found.sum(), own)[0]
        torch.testing.assert_close(again, slope(gradient, at), rtol=1e-5, atol=1e-5)


def test_numbers_known() -> None:
    at = torch.zeros(1, 2, dtype=DOUBLE)
    for transform, kernel, right in ((laplacian, matern3, 12 / 0.7**3), (biharmonic, matern5, -1586.640487)):
        for length in (torch.tensor(0.7, dtype=DOUBLE, requires_grad=True),):
            found = transform(lambda x, k=kernel, s=length: k(size(x / s)))(at)
            slopes = torch.autograd.grad(found.sum(), length)[0]
            torch.testing.assert_close(slopes, torch.tensor(right, dtype=DOUBLE), rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_what_cancels_but_for_rounding(dtype: torch.dtype) -> None:
    """Many points that are centres in another order: sums of what cancels are no zeros."""
    x = torch.rand(60, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    centres = x[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    weight = torch.tensor([[1.3, 0.2], [-0.4, 0.8]], dtype=dtype)
    beside = torch.tensor([0.1, 0.3], dtype=dtype)

    def loss(weight: Any, beside: Any) -> Any:
        return laplacian(lambda y: matern3(torch.cdist(y @ weight + beside, centres @ weight + beside)).sum(1))(x).sum()

    own = weight.clone().requires_grad_(), beside.clone().requires_grad_()
    found, none = torch.autograd.grad(loss(*own), own)
    true = slope(lambda w: loss(w, beside), weight, 1e-5 if dtype == DOUBLE else 1e-2)
    tolerance = 1e-6 if dtype == DOUBLE else 1e-2
    torch.testing.assert_close(found, true, rtol=tolerance, atol=tolerance * float(true.abs().max()))
    assert none.abs().max() < tolerance * true.abs().max()


def test_only_the_centres_that_are_met_have_none() -> None:
    centres, x = CENTRES.clone().requires_grad_(), POINTS.clone().requires_grad_()
    length = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    one, *_ = laplacian(lambda y: matern3(torch.cdist(y / length, centres / length)).sum(1, keepdim=True))(x)
    by_length, by_centres, by_points = torch.autograd.grad(one.sum(), [length, centres, x])
    assert by_length.isfinite()
    assert torch.equal(by_centres.isnan().any(1), torch.tensor([False, False, True]))
    assert by_points[0].isnan().all() and not by_points[1].any()


def test_what_was_computed_before() -> None:
    """Of a length nothing is lost; by centres the gradient is NaN, whichever tensor it is asked by."""
    at = torch.tensor(-0.3, dtype=DOUBLE, requires_grad=True)
    length, centres = at.exp(), (CENTRES.clone().requires_grad_() * 1)
    found = laplacian(lambda y: matern3(torch.cdist(y / length, CENTRES / length)))(POINTS)[0, 2]
    by_length, by_exponent = torch.autograd.grad(found, [length, at], retain_graph=True)
    torch.testing.assert_close(by_length, 12 / length**3)
    torch.testing.assert_close(by_exponent, 12 / length**2)
    lost = laplacian(lambda y: matern3(torch.cdist(y, centres)))(POINTS)[0, 2]
    assert torch.autograd.grad(lost, centres)[0][2].isnan().all()


def test_gradients_of_gradients_by_what_moves() -> None:
    """By a length there is a gradient; that has none by a centre, and what is NaN has no derivatives."""
    at = torch.zeros(1, 2, dtype=DOUBLE)
    for kernel, finite in ((matern3, False), (matern5, True)):
        shift = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
        length = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
        found = laplacian(lambda x, k=kernel, q=shift, s=length: k(size((x - q) / s)))(at)
        by_length, by_shift = torch.autograd.grad(found.sum(), [length, shift], create_graph=True)
        twice, mixed = torch.autograd.grad(by_length, [length, shift], retain_graph=True)
        assert twice.isfinite() and by_length.isfinite()
        assert bool(mixed.isfinite().all()) == bool(by_shift.isfinite().all()) == finite
        assert bool(torch.autograd.grad(by_shift.sum(), shift)[0].isfinite().all()) == finite


@pytest.mark.parametrize("outer", [torch.func.grad, torch.func.jacfwd], ids=["grad", "jacfwd"])
def test_inside_of_torch_func(outer: Function) -> None:
    at = torch.zeros(1, 2, dtype=DOUBLE)
    for transform, f in ((laplacian, matern3), (batch_jac, lambda r: r)):
        loss = lambda s, q, t=transform, f=f: t(lambda x: f(size((x - q) / s)), method="taylor")(at).sum()
        length, shift = torch.tensor(0.7, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
        by_length = outer(loss)(length, shift)
        torch.testing.assert_close(by_length, torch.tensor(12 / 0.7**3 if f is matern3 else 0.0, dtype=DOUBLE))
        assert outer(loss, argnums=1)(length, shift).isnan().all()
        twice = torch.func.grad(lambda q, s=length, loss=loss: torch.func.grad(loss, argnums=1)(s, q).sum())(shift)
        assert twice.isnan().all()


def test_two_norms_of_which_one_moves() -> None:
    at = torch.zeros(1, 2, dtype=DOUBLE)
    for of_first in (True, False):
        shift = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
        shifts = (shift, 0.0) if of_first else (0.0, shift)
        f = lambda x, shifts=shifts: size(x - shifts[0]) + size(2 * x[:, [1, 0]] - shifts[1])
        found = batch_jac(f, method="taylor")(at)
        assert not found.any()
        assert torch.autograd.grad(found.sum(), shift)[0].isnan().all()
