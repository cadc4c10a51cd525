"""Random programs of the operations that torch finds hard: every route, nested twice, against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from differences import TRUTH, along_parameters
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from jacfunc import diag_jac, laplacian

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def attention(x, w):
    tokens = x[:, :, None] * w[:2]
    return F.scaled_dot_product_attention(tokens, tokens.sin(), tokens + w[1:3], is_causal=True).sum(2)


def matrix(x, w):
    """Well conditioned, one for every sample."""
    return 2 * torch.eye(3, dtype=x.dtype) + 0.3 * torch.tanh(x[:, :, None] * x[:, None, :] + w)


# Each step takes and returns (N, 3), and may use a weight (3,).
STEPS: dict[str, Step] = {
    "scaled": lambda x, w: x * w + w.roll(1) * x.roll(1, 1),
    "tanh": lambda x, w: torch.tanh(x),
    "layer_norm": lambda x, w: F.layer_norm(x, (3,), w, w.sin(), eps=0.1),
    "native_layer_norm": lambda x, w: torch.native_layer_norm(x * w, (3,), None, None, 0.1)[0],
    "group_norm": lambda x, w: F.group_norm(x * w, 1, eps=0.1),
    "rms_norm": lambda x, w: F.rms_norm(x, (3,), w, eps=0.1),
    "instance_norm": lambda x, w: F.instance_norm((x * w)[:, None, :], eps=0.1)[:, 0],
    "batch_norm": lambda x, w: F.batch_norm(x, torch.full_like(w, 0.3), torch.ones_like(w), w, None),
    "attention": attention,
    "hardsigmoid": lambda x, w: F.hardsigmoid(x * w),
    "hardswish": lambda x, w: F.hardswish(x + w),
    "logaddexp": lambda x, w: torch.logaddexp(x, x.roll(1, 1) * w),
    "logcumsumexp": lambda x, w: torch.logcumsumexp(x * w, 1),
    "det": lambda x, w: torch.linalg.det(matrix(x, w))[:, None] * x / 8,
    "slogdet": lambda x, w: x * torch.linalg.slogdet(matrix(x, w))[1][:, None],
    "solve": lambda x, w: torch.linalg.solve(matrix(x, w), x[..., None])[..., 0],
    "cholesky": lambda x, w: torch.linalg.cholesky(matrix(x, w) @ matrix(x, w).mT).sum(1),
    "cdist": lambda x, w: torch.cdist(x[:, :, None] * w, torch.stack([w, w.roll(1) + 2])[None]).sum(2),
    "cumprod": lambda x, w: (x * w).cumprod(1).tanh(),
    "prod": lambda x, w: x + (x * w).prod(1, keepdim=True),
    "prelu": lambda x, w: F.prelu(x, w),
    "mish": lambda x, w: F.mish(x * w),
    "softmax": lambda x, w: (x * w).softmax(1),
    "cross_entropy": lambda x, w: x - F.cross_entropy(x * w, torch.arange(len(x)) % 3, reduction="none")[:, None],
    "normalize": lambda x, w: F.normalize(x + 2 * w.sign(), dim=1),
}
TRANSFORMS = {
    "nested": lambda f, method: diag_jac(diag_jac(f, method=method), method=method),
    "laplacian": lambda f, method: laplacian(f, method=method),
}


def compared(names: list[str], quantity: str, seed: int) -> None:
    """Value and parameter gradient of every route against finite differences."""
    torch.manual_seed(seed)
    x = torch.randn(2, 3, dtype=torch.float64)
    params = {str(i): torch.randn(3, dtype=torch.float64).add(0.2).requires_grad_() for i in range(len(names))}

    def f(params, x):
        for name, weight in zip(names, params.values(), strict=True):
            x = STEPS[name](x, weight)
        return x

    truth = TRUTH[quantity]
    expected = truth(f, params, x)
    scale = expected.abs().max().item()
    directions = {key: torch.randn_like(p) / 3 for key, p in params.items()}
    weights = torch.randn_like(expected)
    slope = along_parameters(truth, f, params, directions, x, weights)
    # The same a little further away: where the differences do not settle there is a kink, or a cliff.
    near = along_parameters(lambda f, p, x: truth(f, p, x + 1e-3), f, params, directions, x, weights)
    assume(math.isfinite(slope) and scale < 1e3 and abs(slope) < 1e4 and abs(near - slope) < 0.05 * (1 + abs(slope)))
    for method in ("auto", "taylor", "forward", "reverse"):
        found = TRANSFORMS[quantity](f, method)(params, x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * (1 + scale))
        loss = (weights * found).sum()
        gradients = [torch.zeros_like(p) for p in params.values()]
        if loss.requires_grad:  # the second derivative of a linear program has no graph
            gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
        found_slope = sum((g * d).sum().item() for g, d in zip(gradients, directions.values(), strict=True))
        assert found_slope == pytest.approx(slope, rel=1e-4, abs=1e-4 * (1 + scale))


programs = st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3)
few = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=300)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@few
@given(programs, st.sampled_from(sorted(TRANSFORMS)), st.integers(0, 10_000))
def test_some_programs(names, quantity, seed):
    compared(names, quantity, seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("quantity", TRANSFORMS)
@many
@given(names=programs, seed=st.integers(0, 10_000))
def test_many_programs(quantity, names, seed):
    compared(names, quantity, seed)
