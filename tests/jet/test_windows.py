"""Rows of images as sums of rows that do not meet: beside dense Jacobians, for random programs as for chosen ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jacfunc import batch_jac, diag_jac, divergence, explain, make_functional
from jacfunc.jet.windows import Windows

DOUBLE = torch.float64
SIZES = (9, 8)
N = 3


def conv(inner: int, outer: int, size: Any = 3, padding: Any = 1, **options: Any) -> nn.Conv2d:
    torch.manual_seed(inner * 10 + outer)
    return nn.Conv2d(inner, outer, size, padding=padding, dtype=DOUBLE, **options)


def image(channels: int = 1, sizes: tuple[int, ...] = SIZES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, channels, *sizes, dtype=DOUBLE, generator=generator)


class Residual(nn.Module):
    """What is added to itself after convolutions, shifted and scaled by tensors for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(1, 4), conv(4, 4), conv(4, 1, 1, 0)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 4, dtype=DOUBLE)[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.a(x)) + self.shift
        h = h + 2 * torch.sin(self.b(h)) * self.shift
        return self.c(h - self.b(h)) + x


class Reused(nn.Module):
    """What somebody looks at between convolutions, and that goes on afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(1, 2), conv(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).sigmoid()
        return self.b(h) * h.mean((1, 2, 3), keepdim=True) + self.b(h.flip(-1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "three layers": (lambda: nn.Sequential(conv(1, 3), nn.SiLU(), conv(3, 3), nn.Tanh(), conv(3, 1)), image()),
    "linear": (lambda: conv(1, 1), image()),
    "channels": (lambda: nn.Sequential(conv(3, 4), nn.GELU(), conv(4, 3, 5, 2)), image(3)),
    "same": (
        lambda: nn.Sequential(conv(2, 4, (4, 3), "same"), nn.Sigmoid(), conv(4, 2, (2, 5), "same")),
        image(2),
    ),
    "dilated": (lambda: nn.Sequential(conv(2, 4, 3, 2, dilation=2), nn.ReLU(), conv(4, 2, 1, 0, groups=2)), image(2)),
    "circular": (lambda: nn.Sequential(conv(1, 3, padding_mode="circular"), nn.Tanh(), conv(3, 1)), image()),
    "volume": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 3, padding=1, dtype=DOUBLE), nn.Tanh(), nn.Conv3d(2, 1, 3, padding=1, dtype=DOUBLE)
        ),
        image(1, (4, 5, 6)),
    ),
    "pooled": (
        lambda: nn.Sequential(conv(1, 4), nn.Tanh(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), conv(4, 1)),
        image(1, (8, 8)),
    ),
    "strides": (
        lambda: nn.Sequential(
            conv(1, 3, stride=2), nn.SiLU(), nn.ConvTranspose2d(3, 1, 4, stride=2, padding=1, dtype=DOUBLE)
        ),
        image(1, (8, 8)),
    ),
    "normalised": (
        lambda: nn.Sequential(conv(1, 4), nn.GroupNorm(2, 4, dtype=DOUBLE), nn.SiLU(), conv(4, 1)),
        image(),
    ),
    "linear layer": (
        lambda: nn.Sequential(conv(1, 2), nn.Linear(8, 8, dtype=DOUBLE), nn.SiLU(), conv(2, 1)),
        image(),
    ),
    "wider than the image": (
        lambda: nn.Sequential(conv(1, 2, 7, 3), nn.Tanh(), conv(2, 2, 7, 3), nn.Softplus(), conv(2, 1, 7, 3)),
        image(1, (6, 7)),
    ),
    "residual": (Residual, image()),
    "looked at": (Reused, image()),
}


def dense(f: Any, params: Any, x: torch.Tensor) -> torch.Tensor:
    """``(N, *O, *I)``, by reverse mode."""
    return vmap(jacrev(lambda p, one: f(p, one[None])[0], argnums=1), (None, 0))(params, x)


def diagonal(jacobian: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return jacobian.reshape(N, x[0].numel(), -1).diagonal(dim1=1, dim2=2).reshape(x.shape)


def gradients(result: torch.Tensor, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.arange(1, result.numel() + 1, dtype=DOUBLE).cos().reshape(result.shape)
    found = torch.autograd.grad((result * weights).sum(), tensors, retain_graph=True, materialize_grads=True)
    return list(found)


def compare(found: torch.Tensor, truth: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    torch.testing.assert_close(found, truth)
    for one, other in zip(gradients(found, tensors), gradients(truth, tensors), strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-8)


def compare_all(net: nn.Module, x: torch.Tensor) -> None:
    f, params = make_functional(net)
    x = x.clone().requires_grad_()
    tensors = [*params.values(), x]
    truth = dense(f, params, x)
    compare(batch_jac(f, method="taylor")(params, x), truth, tensors)
    compare(diag_jac(f, method="taylor")(params, x), diagonal(truth, x), tensors)
    compare(divergence(f, method="taylor")(params, x), diagonal(truth, x).flatten(1).sum(1), tensors)
    with torch.no_grad():
        torch.testing.assert_close(diag_jac(f, method="taylor")(params, x), diagonal(truth, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_those_of_dense_jacobians(name: str) -> None:
    make, x = NETWORKS[name]
    compare_all(make(), x)


ACTIVATIONS = [torch.tanh, torch.sigmoid, F.silu, F.relu, F.gelu, torch.sin, torch.exp, F.softplus, F.elu, torch.square]


class Drawn(nn.Module):
    """A program drawn at random: each step takes earlier results of as many channels."""

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.layers, self.program, width = nn.ModuleList(), [], channels
        for _ in range(draw.randint(2, 6)):
            kind = draw.choice(["conv", "conv", "activation", "residual", "scale", "shift", "look"])
            if kind == "conv":
                outer, size, dilation = draw.randint(1, 3), draw.choice([1, 2, 3, 5]), draw.choice([1, 1, 2])
                self.layers.append(conv(width, outer, (size, 3), "same", dilation=dilation))
                self.program.append((kind, len(self.layers) - 1))
                width = outer
            elif kind == "residual":
                self.layers.append(conv(width, width, draw.choice([1, 3]), "same"))
                self.program.append((kind, len(self.layers) - 1))
            else:
                self.program.append((kind, draw.choice(ACTIVATIONS) if kind == "activation" else draw.random() + 0.5))
        self.layers.append(conv(width, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for kind, what in self.program:
            if kind == "conv":
                h = self.layers[what](h)
            elif kind == "residual":
                h = h - 0.5 * torch.tanh(self.layers[what](h))
            elif kind == "activation":
                h = 0.5 * what(0.5 * h)
            elif kind == "scale":
                h = h * torch.linspace(what, 1, h.shape[-1], dtype=h.dtype)
            elif kind == "shift":
                h = h + what
            else:
                h = h.roll(1, -1) + h
        return self.layers[-1](h)


@pytest.mark.parametrize("seed", range(24))
def test_random_programs(seed: int) -> None:
    channels = 1 + seed % 2
    compare_all(Drawn(seed, channels), image(channels, (7, 6)))


def test_a_divergence_carries_as_many_rows_as_pixels_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    at = Windows.at

    def counted(self: Windows, periods: tuple[int, ...]) -> torch.Tensor:
        found = at(self, periods)
        asked.append((found.shape[0], *periods))
        return found

    monkeypatch.setattr(Windows, "at", counted)
    net, x = NETWORKS["three layers"][0](), image(1, (16, 16))
    f, params = make_functional(net)
    divergence(f)(params, x)
    assert set(asked) == {(16, 4, 4)}  # of 256 rows; each looks three pixels far
    asked.clear()
    batch_jac(f)(params, x)
    assert set(asked) == {(49, 7, 7)}


def test_chunks_and_other_routes_agree() -> None:
    net, x = NETWORKS["three layers"][0](), image()
    f, params = make_functional(net)
    whole = divergence(f)(params, x)
    torch.testing.assert_close(divergence(f, chunk_size=10)(params, x), whole)
    torch.testing.assert_close(divergence(f, method="reverse")(params, x), whole)


def test_a_weight_that_changes_in_place_after_its_convolution() -> None:
    weight = conv(1, 1).weight.detach()

    def f(x: torch.Tensor) -> torch.Tensor:
        own = weight.clone()
        y = F.conv2d(x, own, padding=1)
        own.zero_()
        return y.sin()

    x = image()
    truth = diagonal(vmap(jacrev(lambda one: F.conv2d(one[None], weight, padding=1).sin()[0]))(x), x)
    torch.testing.assert_close(diag_jac(f)(x), truth)


def test_what_is_checkpointed_is_run_again_with_rows_in_full() -> None:
    first, second = conv(1, 2), conv(2, 1)

    def part(h: torch.Tensor) -> torch.Tensor:
        return (second(h).tanh().flip(-1) + h.sum(1, keepdim=True)).tanh()

    def f(x: torch.Tensor) -> torch.Tensor:
        return second(first(checkpoint(part, first(x).tanh(), use_reentrant=False)))

    def plain(x: torch.Tensor) -> torch.Tensor:
        return second(first(part(first(x).tanh())))

    x = image()
    truth = diagonal(vmap(jacrev(lambda one: plain(one[None])[0]))(x), x)
    transform = diag_jac(f)
    assert explain(transform)(x).plan.route == "taylor"
    compare(transform(x), truth, [*first.parameters(), *second.parameters()])


def test_inside_of_functions_and_outside_of_them() -> None:
    net, x = NETWORKS["three layers"][0](), image(1, (6, 6))
    f, params = make_functional(net)

    def energy(p: Any, y: torch.Tensor) -> torch.Tensor:
        return f(p, y).square().sum((1, 2, 3))

    def score(p: Any, y: torch.Tensor) -> torch.Tensor:
        return diag_jac(energy)(p, y)

    def score_of_one(p: Any, one: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda y: energy(p, y[None])[0])(one)

    truth = vmap(jacrev(score_of_one, argnums=1), (None, 0))(params, x)
    compare(divergence(score)(params, x), diagonal(truth, x).sum((1, 2, 3)), list(params.values()))

    def of_divergence(p: Any, y: torch.Tensor) -> torch.Tensor:
        return divergence(f)(p, y)

    def divergence_of_one(p: Any, one: torch.Tensor) -> torch.Tensor:
        jacobian = jacrev(lambda y: f(p, y[None])[0])(one)
        return jacobian.reshape(36, 36).diagonal().sum()

    outer = vmap(jacrev(divergence_of_one, argnums=1), (None, 0))(params, x)
    compare(diag_jac(of_divergence)(params, x), outer, list(params.values()))


def test_under_vmap() -> None:
    net, x = NETWORKS["residual"][0](), image(1, (6, 6))
    f, params = make_functional(net)
    several = torch.stack([x, x + 1, x * 2])
    found = vmap(lambda y: divergence(f)(params, y))(several)
    torch.testing.assert_close(found, torch.stack([divergence(f)(params, y) for y in several]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three layers", "residual", "looked at"])
def test_compiled(name: str) -> None:
    make, x = NETWORKS[name]
    f, params = make_functional(make())
    truth = dense(f, params, x)
    found = divergence(f, compile=True)(params, x)
    compare(found, diagonal(truth, x).sum((1, 2, 3)), list(params.values()))


def test_rows_are_computed_with_the_autocast_that_was_on_then():
    x, w = torch.randn(2, 2, 6, 6) * 0.5, torch.randn(2, 2, 3, 3) * 0.3

    def f(h):
        g = F.conv2d(h, w, padding=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            flipped = g.flip(3)
        return g.tanh() + flipped * 0

    def plainly(h):
        return F.conv2d(h, w, padding=1).tanh()

    torch.testing.assert_close(batch_jac(f)(x), batch_jac(plainly)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ["weight", "factor"])
def test_what_changes_out_of_sight_before_rows_are_asked_for_is_noticed(which):
    x, w = torch.randn(2, 2, 6, 6, dtype=torch.double), torch.randn(2, 2, 3, 3, dtype=torch.double)
    factor = torch.randn(6, 6, dtype=torch.double)

    def f(h):
        own, scale = w.clone(), factor.clone()
        g = F.conv2d(h, own, padding=1) * scale
        (own if which == "weight" else scale).data.mul_(2)
        return g.tanh()

    def plainly(h):
        return (F.conv2d(h, w, padding=1) * factor).tanh()

    torch.testing.assert_close(batch_jac(f)(x), batch_jac(plainly)(x))
