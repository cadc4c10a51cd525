"""Traps at kinks: whichever route runs, the derivative there is the one of torch's backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from judging import CURED, METHODS
from torch import nn
from torch.nn import functional as F

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, hess_diag

DOUBLE = torch.float64
SLOPE = torch.tensor([0.25], dtype=DOUBLE)


def against_zero(loss: Callable, **options: float) -> Callable:
    return lambda x: loss(x, torch.zeros_like(x), reduction="none", **options)


KINKS: dict[str, tuple[Callable, float]] = {
    "elu": (F.elu, 0.0),
    "elu with alpha": (lambda x: F.elu(x, 1.7), 0.0),
    "celu": (F.celu, 0.0),
    "celu with alpha": (lambda x: F.celu(x, 1.7), 0.0),
    "selu": (F.selu, 0.0),
    "prelu": (lambda x: F.prelu(x, SLOPE), 0.0),
    "prelu by channels": (lambda x: F.prelu(x, torch.tensor([0.25, -2.0], dtype=DOUBLE)), 0.0),
    "PReLU": (nn.PReLU(dtype=DOUBLE), 0.0),
    "leaky ReLU": (F.leaky_relu, 0.0),
    "rrelu": (F.rrelu, 0.0),
    "huber": (against_zero(F.huber_loss, delta=0.8), 0.8),
    "huber from below": (against_zero(F.huber_loss, delta=0.8), -0.8),
    "smooth l1": (against_zero(F.smooth_l1_loss), 1.0),
    "a tensor's power": (lambda x: x ** torch.tensor(2.0, dtype=DOUBLE), 0.0),
    "ReLU": (F.relu, 0.0),
    "ReLU6": (F.relu6, 6.0),
    "hardtanh": (F.hardtanh, -1.0),
    "hardshrink": (F.hardshrink, 0.5),
    "softshrink": (F.softshrink, -0.5),
    "hardswish": (F.hardswish, 3.0),
    "threshold": (lambda x: F.threshold(x, 0.3, 0.3), 0.3),
    "abs": (torch.abs, 0.0),
    "clamp": (lambda x: x.clamp(-1, 1), 1.0),
    "maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)), 0.0),
    "softplus": (lambda x: F.softplus(x, threshold=2.0), 2.0),
}


def by_graph(f: Callable, x: torch.Tensor, order: int) -> torch.Tensor:
    x = x.clone().requires_grad_()
    y = f(x).sum()
    for _ in range(order):
        (found,) = torch.autograd.grad(y, x, create_graph=True, materialize_grads=True)
        y = found.sum()
        if not y.requires_grad:
            y = (0 * x).sum() + y
    return found.detach()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", KINKS)
def test_the_derivative_is_that_of_the_backward(name: str, method: str) -> None:
    f, kink = KINKS[name]
    usual = torch.linspace(-2.3, 2.1, 6, dtype=DOUBLE).reshape(3, 2)
    at = torch.full_like(usual, kink)
    first, second = diag_jac(f, method=method), hess_diag(f, method=method)
    for x in (usual, at):
        assert torch.equal(first(x).detach(), by_graph(f, x, 1)) or torch.allclose(first(x), by_graph(f, x, 1))
        assert torch.allclose(second(x).diagonal(dim1=1, dim2=2).detach(), by_graph(f, x, 2))


def test_torchs_own_pushforward_of_prelu_is_another() -> None:
    x = torch.zeros(3, 1, dtype=DOUBLE)
    _, pushed = torch.func.jvp(lambda x: F.prelu(x, SLOPE), (x,), (torch.ones_like(x),))
    assert not torch.equal(pushed, by_graph(lambda x: F.prelu(x, SLOPE), x, 1)), CURED


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4), (3, 2, 4, 5)])
@pytest.mark.parametrize("method", METHODS)
def test_prelu_is_torchs_own(shape: tuple[int, ...], dtype: torch.dtype, method: str) -> None:
    for size in {1, shape[1] if len(shape) > 1 else 1}:
        weight = torch.randn(size, dtype=dtype, requires_grad=True)
        x = torch.randn(shape, dtype=dtype)
        value = diag_jac(lambda x, w=weight: F.prelu(x, w), method=method, return_value=True)(x)
        assert torch.equal(value[1], F.prelu(x, weight))
        (found,) = torch.autograd.grad(value[0].sum() + value[1].sin().sum(), weight)
        y = x.clone().requires_grad_()
        out = F.prelu(y, weight)
        (slope,) = torch.autograd.grad(out.sum(), y, create_graph=True)
        (true,) = torch.autograd.grad(slope.sum() + out.sin().sum(), weight)
        assert torch.allclose(found, true, rtol=1e-5, atol=1e-5)


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "twice": lambda layer: layer.register_full_backward_hook(lambda layer, given, _: (2 * given[0],)),
    "twice before": lambda layer: layer.register_full_backward_pre_hook(lambda layer, given: (2 * given[0],)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", HOOKS)
def test_a_full_backward_hook_is_part_of_the_derivative(name: str, method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(3, 2)
    plain = batch_jac(net)(x)
    hook = HOOKS[name](net[1])
    try:
        found = batch_jac(net, method=method)(x)
    except UnsupportedOperationError as error:
        assert method == "forward" and "than its backward" in str(error)
    else:
        assert torch.allclose(found, plain * (1 if name == "nothing" else 2))
    hook.remove()  # type: ignore[attr-defined]
