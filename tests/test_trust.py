"""Networks through every transform and route: values and parameter gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from differences import TRUTH, along_parameters
from torch import nn
from torch.nn import functional as F

from jacfunc import batch_jac, diag_jac, divergence, hess_diag, laplacian, make_functional

TRANSFORMS = {
    "diag_jac": diag_jac,
    "batch_jac": batch_jac,
    "divergence": divergence,
    "hess_diag": hess_diag,
    "laplacian": laplacian,
    "nested": lambda f, **options: diag_jac(diag_jac(f, **options), **options),
}


class Applied(nn.Module):
    """``layers``, with a function of ``(layers, x)`` as forward."""

    def __init__(self, forward: Callable, **layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), forward

    def forward(self, x):
        return self.function(self.layers, x)


def mlp(*middle: nn.Module, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), *middle, nn.Linear(width, 3))


def channels(*middle: nn.Module) -> nn.Module:
    """Two channels of length four in the middle."""
    return nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


def scattered(norm: nn.Module) -> nn.Module:
    """A norm with statistics, weights and biases as after some training."""
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        tensor.data.uniform_(0.5, 1.5)
    norm.running_var.uniform_(0.5, 2)
    return norm.eval()


def sequence(layers, x):
    """Three tokens of width four, and the mean over the tokens of what the layer makes of them."""
    tokens = layers["in"](x[:, :, None])
    made = layers["layer"](tokens)
    made = made[0] if isinstance(made, tuple) else made
    return layers["out"]((made * torch.linspace(0.5, 2, 4, dtype=x.dtype)).sum(2))  # a norm's plain sum is constant


def recurrent(layer: nn.Module) -> nn.Module:
    return Applied(sequence, **{"in": nn.Linear(1, 4), "layer": layer, "out": nn.Linear(3, 3)})


def attending(layers, x):
    tokens = layers["in"](x[:, :, None])
    attended, _ = layers["layer"](tokens, tokens, tokens)
    return layers["out"](attended.sum(2))


def matrices(x):
    """A well-conditioned matrix for every sample."""
    return 2 * torch.eye(3, dtype=x.dtype) + torch.tanh(x[:, :, None] * x[:, None, :] + x[:, None, :])


def solved(layers, x):
    return torch.linalg.solve(matrices(layers["in"](x)), layers["out"](x)[..., None])[..., 0]


def determined(layers, x):
    a = matrices(layers["in"](x))
    return layers["out"](x) * torch.linalg.det(a)[:, None] + torch.linalg.slogdet(a)[1][:, None]


def factored(layers, x):
    a = matrices(layers["in"](x))
    return torch.linalg.cholesky(a @ a.mT).sum(1) * layers["out"](x)


def spline(layers, x):
    """A monotone rational-quadratic spline with four bins in each dimension, as neural spline flows have."""
    bins, bound = 4, 3.0
    widths, heights, slopes = (
        layers["net"](x.roll(1, 1) * torch.tensor([0.0, 1, 1])).reshape(-1, 3, 13).split([bins, bins, bins + 1], dim=-1)
    )
    widths, heights = 2 * bound * widths.softmax(-1), 2 * bound * heights.softmax(-1)
    xs = F.pad(widths.cumsum(-1), (1, 0)) - bound
    ys = F.pad(heights.cumsum(-1), (1, 0)) - bound
    slopes = F.softplus(slopes) + 0.1
    inside = x.clamp(-bound + 1e-6, bound - 1e-6)
    index = (torch.searchsorted(xs.detach().contiguous(), inside.detach()[..., None].contiguous()) - 1).clamp(
        0, bins - 1
    )
    x0, y0, d0 = (t.gather(-1, index)[..., 0] for t in (xs, ys, slopes))
    x1, y1, d1 = (t.gather(-1, index + 1)[..., 0] for t in (xs, ys, slopes))
    s, u = (y1 - y0) / (x1 - x0), (inside - x0) / (x1 - x0)
    return y0 + (y1 - y0) * (s * u**2 + d0 * u * (1 - u)) / (s + (d1 + d0 - 2 * s) * u * (1 - u))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tanh layers": lambda: mlp(nn.Tanh(), nn.Linear(4, 4), nn.Tanh()),
    "LayerNorm": lambda: mlp(nn.LayerNorm(4), nn.Tanh()),
    "RMSNorm": lambda: mlp(nn.RMSNorm(4), nn.Tanh()),
    "GroupNorm": lambda: channels(nn.GroupNorm(1, 2)),
    "InstanceNorm": lambda: channels(nn.InstanceNorm1d(2, affine=True)),
    "InstanceNorm in eval": lambda: channels(scattered(nn.InstanceNorm1d(2, affine=True, track_running_stats=True))),
    "BatchNorm in eval": lambda: mlp(scattered(nn.BatchNorm1d(4)), nn.Tanh()),
    "LocalResponseNorm": lambda: channels(nn.LocalResponseNorm(2)),
    "MultiheadAttention": lambda: Applied(
        attending,
        **{"in": nn.Linear(1, 4), "layer": nn.MultiheadAttention(4, 2, batch_first=True), "out": nn.Linear(3, 3)},
    ),
    "encoder layer": lambda: recurrent(nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True, activation="gelu")),
    "GRU": lambda: recurrent(nn.GRU(4, 4, batch_first=True)),
    "LSTM": lambda: recurrent(nn.LSTM(4, 4, batch_first=True)),
    "RNN": lambda: recurrent(nn.RNN(4, 4, batch_first=True)),
    "solve": lambda: Applied(solved, **{"in": nn.Linear(3, 3), "out": nn.Linear(3, 3)}),
    "det and slogdet": lambda: Applied(determined, **{"in": nn.Linear(3, 3), "out": nn.Linear(3, 3)}),
    "Cholesky": lambda: Applied(factored, **{"in": nn.Linear(3, 3), "out": nn.Linear(3, 3)}),
    "cumprod": lambda: Applied(lambda layers, x: layers["in"](x).cumprod(1).tanh(), **{"in": nn.Linear(3, 3)}),
    "PReLU": lambda: nn.Sequential(mlp(nn.PReLU(4)), nn.Tanh()),
    "Mish": lambda: mlp(nn.Mish()),
    "hard activations": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.Hardswish(), nn.Linear(4, 4), nn.Hardsigmoid(), nn.Linear(4, 4), nn.Hardtanh(), nn.Linear(4, 3), nn.Tanh()
    ),
    "GELU, SiLU, ELU, SELU, CELU": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.GELU(), nn.SiLU(), nn.Linear(4, 4), nn.ELU(), nn.SELU(), nn.CELU(), nn.Linear(4, 3), nn.GELU("tanh")
    ),
    "softplus, softsign, softmax": lambda: mlp(nn.Softplus(), nn.Linear(4, 4), nn.Softsign(), nn.Linear(4, 4), nn.Softmax(1)),
    "convolution": lambda: channels(nn.Conv1d(2, 2, 3, padding=1), nn.Tanh(), nn.AvgPool1d(2), nn.Upsample(scale_factor=2)),
    "bilinear": lambda: Applied(lambda layers, x: layers["b"](x, x.sin()), b=nn.Bilinear(3, 3, 3)),
    "weight norm": lambda: mlp(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Tanh()),
    "spline flow": lambda: Applied(spline, net=nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 39))),
}  # fmt: skip

# Where a step of the finite differences would cross a kink.
SEEDS = {"hard activations": 1, "softplus, softsign, softmax": 1}
# torch's own first derivative of hardsigmoid multiplies by a sixth in single precision.
COARSE = {"hard activations": 1e-7}
ORDER_TWO = ("hess_diag", "laplacian", "nested")


def prepared(name: str):
    torch.manual_seed(SEEDS.get(name, 0))
    f, params = make_functional(NETWORKS[name]().double())
    x = torch.randn(2, 3, dtype=torch.float64)
    return f, params, x


ALTERNATELY = [
    pytest.param(name, quantity, marks=[pytest.mark.slow] * ((place + other) % 2))
    for place, name in enumerate(NETWORKS)
    for other, quantity in enumerate(TRANSFORMS)
]
"""Every network and every transform, and each pair with the slow ones."""


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "method", ["auto", *(pytest.param(m, marks=pytest.mark.slow) for m in ("taylor", "forward", "reverse"))]
)
@pytest.mark.parametrize(("name", "quantity"), ALTERNATELY)
def test_value_and_parameter_gradient_are_those_of_finite_differences(name, quantity, method):
    f, params, x = prepared(name)
    transform, truth = TRANSFORMS[quantity], TRUTH[quantity]
    found = transform(f, method=method)(params, x)
    expected = truth(f, params, x)
    tolerance = 1e-6 if quantity in ORDER_TWO else COARSE.get(name, 1e-10)
    scale = max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)

    weights = torch.randn(found.shape, dtype=found.dtype)
    directions = {key: torch.randn_like(p) / math.sqrt(p.numel()) for key, p in params.items()}
    gradients = torch.autograd.grad(
        (weights * found).sum(), list(params.values()), allow_unused=True, materialize_grads=True
    )
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions.values(), strict=True))
    expected_slope = along_parameters(truth, f, params, directions, x, weights)
    assert slope == pytest.approx(expected_slope, rel=1e-5, abs=1e-5 * scale)
