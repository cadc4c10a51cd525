"""Traps at kinks and ties, by another hand: the derivative there is the one of torch's backward, by every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from judging import METHODS
from torch import nn
from torch.nn import functional as F

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, hess_diag, partials

Function = Callable[[Any], Any]
DOUBLE = torch.float64


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=DOUBLE)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def zero(x: Any) -> Any:
    return torch.zeros_like(x)


def both(one: Any) -> Any:
    """A column for each of the two features."""
    return one.reshape(-1, 1).expand(-1, 2)


def pooled(pool: Function, x: Any) -> Any:
    return pool(x[:, None]).flatten(1) * x


def loss(function: Callable[..., Any], *others: Function, **options: Any) -> Function:
    return lambda x: function(x, *(other(x) for other in others), reduction="none", **options)


def one(x: Any) -> Any:
    return torch.ones_like(x)


def minus(x: Any) -> Any:
    return -torch.ones_like(x)


KINKS: dict[str, tuple[Function, float]] = {
    "logsigmoid": (F.logsigmoid, 0.0),
    "mish": (F.mish, 0.0),
    "tanhshrink": (F.tanhshrink, 0.0),
    "softsign": (F.softsign, 0.0),
    "glu of twins": (lambda x: F.glu(torch.cat([x, x], 1), 1), 0.0),
    "ReLU6 at zero": (F.relu6, 0.0),
    "ReLU in place": (lambda x: F.relu_(x * 1), 0.0),
    "leaky with a negative slope": (lambda x: F.leaky_relu(x, -0.3), 0.0),
    "elu in place": (lambda x: F.elu_(x * 1, 1.3), 0.0),
    "a threshold below": (nn.Threshold(-0.3, 7.0), -0.3),
    "hardswish from below": (F.hardswish, -3.0),
    "hardshrink from below": (nn.Hardshrink(0.3), -0.3),
    "hardtanh with bounds": (nn.Hardtanh(-0.5, 0.25), 0.25),
    "clamp_min by a tensor": (lambda x: torch.clamp_min(x, number(0.3)), 0.3),
    "clamp by tensors": (lambda x: torch.clamp(x, row(-1, -2), row(1, 1)), 1.0),
    "clamp between equals": (lambda x: x.clamp(0.3, 0.3) * x, 0.3),
    "clip in place": (lambda x: (x * 1).clip_(max=0.3), 0.3),
    "minimum": (lambda x: torch.minimum(x, zero(x)), 0.0),
    "fmax": (lambda x: torch.fmax(x, zero(x)), 0.0),
    "fmin of its own": (lambda x: torch.fmin(x, -x), 0.0),
    "the larger of its multiples": (lambda x: torch.max(x, 2 * x), 0.0),
    "abs of a ReLU": (lambda x: F.relu(x).abs(), 0.0),
    "maxout": (lambda x: torch.stack([x, -x, 2 * x], -1).amax(-1), 0.0),
    "maxout by index": (lambda x: torch.stack([x, -x, 2 * x], -1).max(-1).values, 0.0),
    "where": (lambda x: torch.where(x >= 0, x**2 + x, -x), 0.0),
    "times a mask": (lambda x: x.exp() * (x > 0), 0.0),
    "a margin": (loss(F.margin_ranking_loss, zero, one, margin=0.5), 0.5),
    "a hinge": (loss(F.hinge_embedding_loss, minus, margin=1.0), 1.0),
    "l1": (loss(F.l1_loss, zero), 0.0),
    "smooth l1 without a smooth part": (loss(F.smooth_l1_loss, zero, beta=0.0), 0.0),
    "smooth l1 from below": (loss(F.smooth_l1_loss, zero, beta=0.5), -0.5),
    "a triplet": (lambda x: both(F.triplet_margin_loss(x, zero(x), 1 + zero(x), reduction="none")), 0.3),
    "a cosine": (
        lambda x: both(F.cosine_embedding_loss(x, one(x), -torch.ones(len(x)), reduction="none")), 0.7
    ),
    "fmod": (lambda x: torch.fmod(x, 0.5) * x, 0.5),
    "remainder": (lambda x: torch.remainder(x, 0.5) * x, -1.0),
    "%": (lambda x: x % 0.5, 1.0),
    "round": (lambda x: x.round() * x, 0.5),
    "floor": (lambda x: x.floor() * x, 1.0),
    "frac": (lambda x: x.frac() * x, 1.0),
    "division rounded": (lambda x: torch.div(x, 0.5, rounding_mode="floor") * x, 0.5),
    "copysign": (lambda x: torch.copysign(x, one(x)), 0.0),
    "copysign of a constant": (lambda x: torch.copysign(x**2 + 1, x), 0.0),
    "sgn": (lambda x: x.sgn() * x, 0.0),
    "heaviside": (lambda x: torch.heaviside(x.detach(), number(0.5)) * x, 0.0),
    "a norm": (lambda x: x * torch.linalg.vector_norm(x, dim=1, keepdim=True), 0.0),
    "a norm of a ReLU": (lambda x: both(F.relu(x).norm(dim=1)), 0.0),
    "a sum of sizes": (lambda x: both(torch.linalg.vector_norm(x, 1, dim=1)), 0.0),
    "a largest size": (lambda x: both(torch.linalg.vector_norm(x, float("inf"), dim=1)), 0.7),
    "x log of": (lambda x: torch.xlogy(x, x + 2.5), 0.0),
    "x to the 0": (lambda x: x**0 * x.exp(), 0.0),
    "x to the 1": (lambda x: x**1, 0.0),
    "x to the 2, a tensor": (lambda x: x ** torch.tensor(2), 0.0),
    "x to the 1 and 2": (lambda x: x ** row(1.0, 2.0), 0.0),
    "float_power": (lambda x: torch.float_power(x, 3), 0.0),
    "zero to the": (lambda x: 0.0 ** (x**2 + 1) + x, 0.0),
    "a size to the 2.5": (lambda x: x.abs() ** 2.5, 0.0),
    "sinc": (torch.sinc, 0.0),
    "logaddexp of equals": (lambda x: torch.logaddexp(x, x**2 + 0.25), 0.5),
    "logaddexp2 of equals": (lambda x: torch.logaddexp2(x, zero(x) + 0.3), 0.3),
    "lerp by itself": (lambda x: torch.lerp(x, x**2, x), 0.5),
    "nan_to_num of infinity": (lambda x: torch.nan_to_num(x, posinf=2.0), float("inf")),
    "angle": (lambda x: torch.angle(x) + x, 0.0),
    "cumprod of zeros": (lambda x: x.cumprod(1), 0.0),
    "prod of zeros": (lambda x: x.prod(1, keepdim=True) * x, 0.0),
    "amax": (lambda x: x.amax(1, keepdim=True) * x, 0.7),
    "aminmax": (lambda x: x.aminmax(dim=1, keepdim=True).min * x, 0.7),
    "max by index": (lambda x: x.max(1, keepdim=True).values * x, 0.7),
    "sort": (lambda x: x.sort(dim=1, descending=True, stable=True).values * x, 0.7),
    "median": (lambda x: x.median(1, keepdim=True).values * x, 0.7),
    "quantile": (lambda x: x.quantile(0.3, dim=1, keepdim=True) * x, 0.7),
    "nanquantile": (lambda x: x.nanquantile(0.5, dim=1, keepdim=True) * x, 0.7),
    "topk": (lambda x: x.topk(1, dim=1).values * x, 0.7),
    "kthvalue": (lambda x: x.kthvalue(2, dim=1, keepdim=True).values * x, 0.7),
    "mode": (lambda x: x.mode(1, keepdim=True).values * x, 0.7),
    "cummax": (lambda x: x.cummax(1).values * x, 0.7),
    "cummin": (lambda x: x.cummin(1).values * x, 0.7),
    "softmax below its largest": (lambda x: (x - x.amax(1, keepdim=True)).softmax(1), 0.7),
    "max_pool1d": (lambda x: pooled(nn.MaxPool1d(2), x), 0.7),
    "max_pool1d that overlaps": (lambda x: pooled(nn.MaxPool1d(3, 1, 1), x), 0.7),
    "max_pool2d": (lambda x: both(F.max_pool2d(torch.stack([x, x], 1)[:, None], 2)) * x, 0.7),
    "adaptive_max_pool1d": (lambda x: pooled(nn.AdaptiveMaxPool1d(1), x), 0.7),
    "cdist by sizes": (lambda x: torch.cdist(x[:, None], zero(x)[:, None] + 0.5, p=1.0)[:, 0].expand(-1, 2), 0.5),
    "hardsigmoid": (F.hardsigmoid, 3.0),
    "hardsigmoid from below": (nn.Hardsigmoid(), -3.0),
    "multi_margin": (
        lambda x: both(F.multi_margin_loss(x, torch.zeros(len(x), dtype=torch.long), margin=0.5, reduction="none")), 0.5
    ),
}  # fmt: skip
FLAT = ("nan_to_num of infinity", "hardsigmoid", "hardsigmoid from below", "multi_margin", "cdist by sizes")
"""Torch has no second derivative of them (that can be asked for here); it is zero."""
CLOSED = {"sinc": -(torch.pi**2) / 3, "zero to the": 0.0, "copysign": 0.0}
"""Torch's second derivative is NaN at the kink; it is this."""
USUAL = torch.linspace(-2.3, 2.1, 6, dtype=DOUBLE).reshape(3, 2)
QUICK = ("max_pool1d", "amax", "sort", "x to the 1 and 2", "a margin", "copysign", "clamp by tensors", "where")


def points(name: str) -> torch.Tensor:
    """Usual ones beside the kink in both features, and in one."""
    kink = KINKS[name][1]
    return torch.cat([USUAL, torch.full((1, 2), kink, dtype=DOUBLE), row(kink, 0.9)[None], row(-0.4, kink)[None]])


def backward(f: Function, x: torch.Tensor, w: Any = 1.0, graph: bool = False) -> torch.Tensor:
    x = x.clone().requires_grad_()
    y = f(w * x)
    rows = [torch.autograd.grad(y[:, i].sum(), x, create_graph=graph, retain_graph=True)[0] for i in range(2)]
    return torch.stack(rows, 1)


def twice(name: str, x: torch.Tensor) -> torch.Tensor:
    f = KINKS[name][0]
    if name in FLAT:
        return torch.zeros(len(x), 2, 2, dtype=DOUBLE)
    x, found = x.clone().requires_grad_(), []
    y = f(x)
    for i in range(2):
        (slope,) = torch.autograd.grad(y[:, i].sum(), x, create_graph=True, materialize_grads=True)
        zeros = slope + 0 * x
        rows = [torch.autograd.grad(zeros[:, j].sum(), x, retain_graph=True, materialize_grads=True)[0] for j in (0, 1)]
        found.append(torch.stack([rows[0][:, 0], rows[1][:, 1]], 1))
    found = torch.stack(found, 1).detach()
    if name in CLOSED:
        place = torch.eye(2, dtype=DOUBLE) * CLOSED[name]
        found = torch.where(found.isnan(), place, found)
    return found


@pytest.mark.parametrize("method", [METHODS[0], *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[1:])])
@pytest.mark.parametrize(
    "name", [n if i % 3 == 0 or n in QUICK else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(KINKS)]
)
def test_the_derivative_is_that_of_the_backward(name: str, method: str) -> None:
    f, x = KINKS[name][0], points(name)
    for transform, truth in ((batch_jac, backward(f, x)), (hess_diag, twice(name, x))):
        try:
            found = transform(f, method=method)(x).detach()
        except UnsupportedOperationError:
            assert method not in ("auto", "reverse")
            continue
        known = truth.isfinite()
        assert known[:3].all() or not x.isfinite().all()
        if name in CLOSED or (method == "forward" and "x to the" in name):  # NaN, as it is written in docs/trust.md
            known = known & (found.isfinite() | (method == "auto"))
        assert torch.allclose(found[known], truth[known])


@pytest.mark.parametrize("method", [METHODS[0], *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[1:])])
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in KINKS])
def test_gradients_by_a_parameter_at_kinks(name: str, method: str) -> None:
    f, x = KINKS[name][0], points(name)
    weights = torch.linspace(0.5, 1.5, 4 * len(x), dtype=DOUBLE).reshape(-1, 2, 2)
    w, found = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True), {}
    if name in FLAT:
        truth = (weights * backward(f, x)).sum()  # of w times the slope, which is constant
    else:
        (truth,) = torch.autograd.grad((weights * backward(f, x, w, graph=True)).sum(), w)
    try:
        jacobian = batch_jac(lambda x: f(w * x), method=method)(x)
    except UnsupportedOperationError:
        assert method not in ("auto", "reverse")
        return
    (found,) = torch.autograd.grad((weights * jacobian).sum(), w)
    if truth.isfinite() and not (method == "forward" and "x to the" in name):
        assert torch.allclose(found, truth)


@pytest.mark.parametrize("name", QUICK)
def test_by_name_and_one_sample_at_a_time(name: str) -> None:
    f, x = KINKS[name][0], points(name)
    by_name = partials(f, "u u_x v_y u_xx v_yy", inputs="x y", outputs="u v")
    first, second = backward(f, x), twice(name, x)
    wanted = (f(x)[:, 0], first[:, 0, 0], first[:, 1, 1], second[:, 0, 0], second[:, 1, 1])
    for found, truth in zip(by_name(x), wanted, strict=True):
        assert torch.allclose(found.detach(), truth.detach())
    alone = torch.cat([diag_jac(f)(sample[None]) for sample in x])
    assert torch.allclose(alone, first.diagonal(dim1=1, dim2=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["amax", "copysign", "max_pool1d", "clamp by tensors", "x to the 1 and 2"])
def test_compiled(name: str) -> None:
    f, x = KINKS[name][0], points(name)
    assert torch.allclose(batch_jac(f, compile=True)(x), backward(f, x))
    assert torch.allclose(hess_diag(f, compile=True)(x), twice(name, x))


# ------------------------------------------------------------ where it fails

NOT_A_NUMBER: dict[str, tuple[Function, float]] = {
    "a cubic norm": (lambda x: both(torch.linalg.vector_norm(x, 3, dim=1)), 0.0),
    "a norm by 1.5": (lambda x: both(torch.linalg.vector_norm(x, 1.5, dim=1)), 0.0),
    "a deviation of equals": (lambda x: x.std(1, keepdim=True) * x, 0.7),
    "lp_pool1d": (lambda x: pooled(nn.LPPool1d(2, 2), x), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NOT_A_NUMBER)
def test_a_method_that_is_forced_has_the_derivative_of_the_backward_or_none(name: str, method: str) -> None:
    f, kink = NOT_A_NUMBER[name]
    x = torch.full_like(USUAL, kink)
    y = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(f(y).sum(), y)
    found = diag_jac(f, method=method)(x).detach()
    assert torch.allclose(found, truth) or (method in ("taylor", "forward") and bool(found.isnan().any()))
