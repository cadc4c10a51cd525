"""Networks that people use beside tanh MLPs, in plain torch.  What is differentiated of them is said in ``workloads.py``.

All take a whole batch.  The JAX worker has each of them once more (``peers/jax_networks.py``), from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn


@dataclass(frozen=True)
class Network:
    """How a network is made, its input's shape for one sample, and how many numbers it gives for one."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    outputs: int
    title: str
    dtype: torch.dtype = torch.float32


class Sine(nn.Module):
    """A SIREN's activation; its factor is in the weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def dense(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])


def siren(*sizes: int, frequency: float = 30.0) -> nn.Sequential:
    """With the weights that the SIREN paper begins with, its frequency multiplied into those of the first layer."""
    net = dense(*sizes, activation=Sine)
    for number, layer in enumerate(one for one in net if isinstance(one, nn.Linear)):
        inputs = layer.in_features
        bound = frequency / inputs if number == 0 else math.sqrt(6 / inputs)
        nn.init.uniform_(layer.weight, -bound, bound)
    return net


class Slater(nn.Module):
    """The logarithm of a determinant of orbitals: a small network for each electron, the same for all of them."""

    def __init__(self, electrons: int, width: int) -> None:
        super().__init__()
        self.orbitals = dense(3, width, width, electrons)
        for layer in self.orbitals[::2]:  # or orbitals would be alike, and nearly all determinants rounding
            nn.init.uniform_(layer.weight, -3 / math.sqrt(layer.in_features), 3 / math.sqrt(layer.in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        envelope = torch.exp(-0.5 * x.square().sum(-1, keepdim=True))
        return torch.linalg.slogdet(self.orbitals(x) * envelope)[1].unsqueeze(-1)


class Particles(nn.Module):
    """An embedding of each particle, pre-norm encoder layers, the mean over particles, one number."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(-2))


class Attention(nn.Module):
    """A small transformer that moves tokens: a post-norm encoder layer between two linear ones."""

    def __init__(self, features: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x)))


def convolutions(channels: int) -> nn.Sequential:
    """A score network of images in small: three convolutions that keep the image's size."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(channels, 1, 3, padding=1),
    )


class Block(nn.Module):
    """A residual block: LayerNorm, Linear, GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(nn.functional.gelu(self.inner(self.norm(x))))


def residual_blocks(inputs: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), *[Block(width) for _ in range(blocks)], nn.Linear(width, 1))


class Gated(nn.Module):
    """The modified MLP of physics-informed networks: Fourier features, and each layer mixes two gates of them."""

    frequencies: torch.Tensor

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(inputs, width // 2))
        self.u, self.v = nn.Linear(width, width), nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = x @ self.frequencies
        h = torch.cat([torch.sin(angles), torch.cos(angles)], -1)
        u, v = torch.tanh(self.u(h)), torch.tanh(self.v(h))
        for layer in self.layers:
            z = torch.tanh(layer(h))
            h = z * u + (1 - z) * v
        return self.head(h)


class DeepONet(nn.Module):
    """Several functions at the same points: sensor values through the branch, coordinates through the trunk once.

    The outputs are ``(functions, N)``: the samples, which are the points, are on the second axis.
    """

    sensors: torch.Tensor

    def __init__(self, functions: int, sensors: int, width: int, terms: int) -> None:
        super().__init__()
        self.register_buffer("sensors", torch.randn(functions, sensors))
        self.branch, self.trunk = dense(sensors, width, width, terms), dense(2, width, width, terms)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("fk,nk->fn", self.branch(self.sensors), self.trunk(x))


class Recurrent(nn.Module):
    """A GRU over a sequence, and a readout of its last state."""

    def __init__(self, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(features, width, batch_first=True), nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Radial(nn.Module):
    """A sum of Gaussians around centres, with widths and weights of their own."""

    def __init__(self, inputs: int, centres: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(centres, inputs))
        self.logarithms = nn.Parameter(0.1 * torch.randn(centres))
        self.head = nn.Linear(centres, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distances = (x.unsqueeze(-2) - self.centres).square().sum(-1)
        return self.head(torch.exp(-self.logarithms.exp() * distances))


NODES = 6


def messages() -> nn.Module:
    """The energy of small complete graphs by a message-passing layer of PyG, all graphs of the batch as one."""
    from torch_geometric.nn import MessagePassing

    class Layer(MessagePassing):  # type: ignore[misc, unused-ignore]
        def __init__(self, width: int) -> None:
            super().__init__(aggr="add")
            self.net = dense(2 * width + 1, width, width, activation=nn.SiLU)

        def forward(self, h: torch.Tensor, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return h + self.propagate(edges, h=h, x=x)

        def message(self, h_i: torch.Tensor, h_j: torch.Tensor, x_i: torch.Tensor, x_j: torch.Tensor) -> torch.Tensor:
            return self.net(torch.cat([h_i, h_j, (x_i - x_j).square().sum(-1, keepdim=True)], -1))

    class Graphs(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.kind = nn.Parameter(torch.randn(NODES, width))
            self.layers = nn.ModuleList(Layer(width) for _ in range(2))
            self.head = dense(width, width, 1, activation=nn.SiLU)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            graphs, nodes = x.shape[0], x.reshape(-1, 3)
            pairs = torch.combinations(torch.arange(NODES, device=x.device)).T
            one = torch.cat([pairs, pairs.flip(0)], 1)
            starts = NODES * torch.arange(graphs, device=x.device)
            edges = (one[:, None] + starts[:, None]).flatten(1)
            h = self.kind.repeat(graphs, 1)
            for layer in self.layers:
                h = layer(h, nodes, edges)
            return self.head(h).reshape(graphs, NODES).sum(1, keepdim=True)

    return Graphs(32)


NETWORKS = {
    "small": Network(lambda: dense(2, 20, 20, 20, 20, 1), (2,), 1, "2-4x20-1 tanh"),
    "siren2": Network(lambda: siren(2, 256, 256, 256, 256, 1), (2,), 1, "SIREN 2-4x256-1"),
    "slater30": Network(lambda: Slater(10, 64), (10, 3), 1, "log abs det of 10 orbitals 3-64-64-10 of 10 electrons"),
    "particles48": Network(lambda: Particles(64, 4, 128, 2), (16, 3), 1, "2 pre-norm encoder layers on 16 particles"),
    "conv256": Network(lambda: convolutions(32), (1, 16, 16), 256, "3 convolutions of 32 channels, 1 x 16 x 16"),
    "layernorm10": Network(lambda: residual_blocks(10, 64, 3), (10,), 1, "3 residual LayerNorm GELU blocks of 64"),
    "flow64": Network(lambda: dense(64, 128, 128, 128, 64, activation=nn.Softplus), (64,), 64, "64-3x128-64 softplus"),
    "gated": Network(lambda: Gated(2, 128, 4), (2,), 1, "Fourier features and 4 gated layers of 128"),
    "silu3": Network(lambda: dense(3, 128, 128, 128, 128, 1, activation=nn.SiLU), (3,), 1, "3-4x128-1 SiLU"),
    "double3": Network(lambda: dense(3, 64, 64, 64, 64, 1), (3,), 1, "3-4x64-1 tanh, float64", torch.float64),
    "attention32": Network(lambda: Attention(4, 32, 4, 64), (8, 4), 32, "transformer layer of 32 on 8 tokens of 4"),
    "deeponet2": Network(lambda: DeepONet(32, 50, 64, 64), (2,), 32, "DeepONet, 32 functions at shared points"),
    "gru32": Network(lambda: Recurrent(4, 32, 3), (8, 4), 3, "GRU of 32 on 8 steps of 4"),
    "rbf2": Network(lambda: Radial(2, 128), (2,), 1, "128 Gaussians"),
    "pyg18": Network(messages, (NODES, 3), 1, "2 message-passing layers of PyG, 6 nodes"),
}
