"""The networks that users have, one entry each: how to make it and what it eats; no test lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


class Sine(nn.Module):
    """A SIREN layer's activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * x)


class Residual(nn.Module):
    """A ResNet block with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))))


class Recurrent(nn.Module):
    """The outputs of a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


class SelfAttention(nn.Module):
    """MultiheadAttention of a sequence with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


class FourierFeatures(nn.Module):
    """Random frequencies, held in a buffer, before an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 5))
        self.head = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phase = x @ self.frequencies
        return self.head(torch.cat([phase.sin(), phase.cos()], dim=-1))


class DeepONet(nn.Module):
    """Branch and trunk; the sensor values are fixed here, the trunk's points are the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
        self.trunk = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 5))
        self.register_buffer("sensors", torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x) @ self.branch(self.sensors)


class Coupling(nn.Module):
    """An affine coupling layer of a normalising flow."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        scale, shift = self.net(a).chunk(2, dim=-1)
        return torch.cat([a, b * torch.exp(torch.tanh(scale)) + shift], dim=-1)


class MessagePassing(nn.Module):
    """A graph layer with gather and scatter, the same graph for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(4, 3), nn.Linear(5, 2)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 2], [1, 2, 0, 1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        source, target = self.edges
        messages = torch.tanh(self.message(torch.cat([x[:, source], x[:, target]], dim=-1)))
        index = target[None, :, None].expand_as(messages)
        received = torch.zeros(len(x), x.shape[1], 3, dtype=x.dtype).scatter_add(1, index, messages)
        return self.update(torch.cat([x, received], dim=-1))


@dataclass(frozen=True)
class Network:
    """A module, the shape of one sample, and whether it runs in training mode."""

    make: Callable[[], nn.Module]
    sample: tuple[int, ...]
    training: bool = False
    backward: bool = True

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The module, its running statistics not trivial, the same weights at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.make()
            for child in module.modules():
                if isinstance(child, nn.modules.batchnorm._BatchNorm):
                    child.running_mean.normal_()
                    child.running_var.uniform_(0.5, 2)
        return module.to(dtype).train(self.training)

    def batch(self, size: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Some samples."""
        return torch.randn(size, *self.sample, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
            dtype
        )


def siren() -> nn.Module:
    """Three sine layers, initialised so that they stay smooth."""
    net = nn.Sequential(nn.Linear(2, 16), Sine(), nn.Linear(16, 16), Sine(), nn.Linear(16, 2))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -0.05, 0.05)
    return net


NETWORKS = {
    "mlp": Network(
        lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)), (3,)
    ),
    "cnn": Network(
        lambda: nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.SiLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 2)),
        (1, 6),
    ),
    "resnet": Network(Residual, (2, 3, 3)),
    "encoder": Network(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2), (3, 4), backward=False
    ),
    "attention": Network(SelfAttention, (3, 4), backward=False),
    "lstm": Network(lambda: Recurrent(nn.LSTM), (3, 3)),
    "gru": Network(lambda: Recurrent(nn.GRU), (3, 3)),
    "siren": Network(siren, (2,)),
    "fourier": Network(FourierFeatures, (2,)),
    "deeponet": Network(DeepONet, (2,)),
    "flow": Network(Coupling, (4,)),
    "graph": Network(MessagePassing, (3, 2)),
    "dropout": Network(
        lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3)), (3,), training=True
    ),
}
