"""What is measured: networks, their inputs, which derivative is wanted.  Nothing here computes one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import nn

from .equations import ALLEN_CAHN, EQUATIONS, STEPS
from .networks import NETWORKS, Network

DIAGONAL, JACOBIAN, LAPLACIAN, DIVERGENCE, FORCES = "diagonal", "jacobian", "laplacian", "divergence", "forces"
VALUE, GRADIENT, STEP = "value", "gradient", "step"
TITLES = {
    DIAGONAL: "diag_jac",
    JACOBIAN: "batch_jac",
    LAPLACIAN: "laplacian",
    DIVERGENCE: "divergence",
    FORCES: "diag_jac of an energy",
}
Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """A derivative of a network, one parameter gradient of the mean of its squares, or a step with the gradient.

    Attributes:
        name: what selects it on the command line.
        kind: which derivative, or which equation's residual.
        sizes: the widths of the tanh network, input and output included; of another one only these two.
        samples: how many.
        part: the derivative alone, with the network's parameters frozen, its gradient by them, or a step of Adam too.
        sweep: which of ``samples``, ``input``, ``width``, ``depth`` grows where it is a point of a sweep.
        wide: whether all contenders run, or only the few that a sweep is about.
        network: which one of ``networks.py``, where it is no tanh network of these sizes.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    samples: int
    part: str = VALUE
    sweep: str = ""
    wide: bool = True
    network: str = ""

    @property
    def title(self) -> str:
        inner = "-".join(map(str, self.sizes))
        if len(set(self.sizes[1:-1])) == 1 and len(self.sizes) > 4:
            inner = f"{self.sizes[0]}-{len(self.sizes) - 2}x{self.sizes[1]}-{self.sizes[-1]}"
        if self.network:
            inner = NETWORKS[self.network].title
        if self.part == STEP:
            return f"training step of {EQUATIONS[self.kind].title}, N={self.samples}, {inner}"
        what = TITLES[self.kind] if self.kind in TITLES else f"residual of {EQUATIONS[self.kind].title}"
        part = ", parameter gradient" if self.part == GRADIENT else ""
        return f"{what}, N={self.samples}, {inner}{part}"

    @property
    def group(self) -> str:
        """The kind, where all equations are one."""
        return "equation" if self.kind in EQUATIONS else self.kind

    @property
    def rows(self) -> int:
        """Tangents that forward propagation carries: one for each input element, and the Laplacian's own sum."""
        if self.kind in EQUATIONS:
            return EQUATIONS[self.kind].rows - 1
        return self.sizes[0] + (self.kind == LAPLACIAN)

    @property
    def point(self) -> int:
        """Where on the axis of its sweep it lies."""
        points = {"samples": self.samples, "input": self.sizes[0], "width": self.sizes[1], "depth": len(self.sizes) - 2}
        return points[self.sweep]

    @property
    def block(self) -> int:
        """The bytes of all samples' whole Jacobians in single precision."""
        return 4 * self.samples * self.sizes[0] * self.sizes[-1]


@dataclass(frozen=True)
class Problem:
    """A workload's network and input, always of the same seed; ``x`` is as the network takes it: ``(N, *shape)``."""

    workload: Workload
    net: nn.Module
    x: torch.Tensor

    @classmethod
    def make(cls, workload: Workload, device: str = "cpu", dtype: torch.dtype | None = None) -> Problem:
        network = NETWORKS[workload.network] if workload.network else _tanh_network(workload.sizes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = network.make()
            x = torch.randn(workload.samples, *network.shape)
        net.requires_grad_(workload.part != VALUE)
        return cls(workload, net.to(device, dtype or network.dtype), x.to(device, dtype or network.dtype))

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    @property
    def out_dims(self) -> int:
        """The axis of the outputs that the samples are on."""
        return int(self.workload.network == "deeponet2")

    @property
    def vectors(self) -> bool:
        """Whether a sample's input and output are vectors already."""
        return self.x.dim() == 2 and not self.out_dims

    @cached_property
    def flat(self) -> Function:
        """The network from ``(N, d)`` to ``(N, m)``."""
        if self.vectors:
            return self.net
        shape, axis = self.x.shape[1:], self.out_dims
        return lambda x: self.net(x.view(-1, *shape)).movedim(axis, 0).flatten(1)

    @cached_property
    def sample(self) -> Function:
        """The network from ``(d,)`` to ``(m,)``: what ``vmap`` takes."""
        return self.net if self.vectors else lambda x: self.flat(x.unsqueeze(0)).squeeze(0)


def mlp(*sizes: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), *([nn.LayerNorm(outer)] if norm else []), nn.Tanh()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def _tanh_network(sizes: tuple[int, ...]) -> Network:
    return Network(lambda: mlp(*sizes), sizes[:1], sizes[-1], "")


def entries(kind: str, jacobian: torch.Tensor) -> torch.Tensor:
    """Those entries that ``kind`` asks for, of the samples' Jacobians ``(N, m, d)``."""
    if kind == JACOBIAN:
        return jacobian
    if kind == FORCES:
        return jacobian.squeeze(1)
    if kind == DIVERGENCE:
        return jacobian.diagonal(dim1=1, dim2=2).sum(1)
    return jacobian.squeeze(-1) if jacobian.shape[-1] == 1 else jacobian.diagonal(dim1=1, dim2=2)


# -------------------------------------------------------------------- the workloads


def _network(inputs: int, width: int, depth: int) -> tuple[int, ...]:
    return (inputs, *[width] * depth, 1)


def _step(name: str, samples: int) -> Workload:
    equation = EQUATIONS[name]
    sizes = (len(equation.inputs), *[64] * 4, len(equation.outputs))
    return Workload(name, name, sizes, samples, part=STEP)


def _of_network(name: str, kind: str, samples: int) -> Workload:
    network = NETWORKS[name]
    return Workload(name, kind, (math.prod(network.shape), network.outputs), samples, network=name)


def _with_gradients(*workloads: Workload) -> list[Workload]:
    return [
        found
        for workload in workloads
        for found in (workload, replace(workload, name=f"{workload.name}-gradient", part=GRADIENT))
    ]


_JACOBIAN_3 = Workload("jacobian-3", JACOBIAN, (3, 128, 128, 3), 10000)
WORKLOADS = [
    Workload("founding", DIAGONAL, (1, 20, 20, 400), 100),
    _JACOBIAN_3,
    Workload("jacobian-2", JACOBIAN, _network(2, 64, 4), 10000),
    Workload("diagonal-64", DIAGONAL, (64, 256, 256, 64), 256),
    Workload("diagonal-2000", DIAGONAL, (2000, 64, 2000), 64),
    # Beside it to see how its memory grows with d.
    Workload("diagonal-1000", DIAGONAL, (1000, 64, 1000), 64, wide=False),
    *_with_gradients(
        Workload("laplacian-10", LAPLACIAN, _network(10, 64, 4), 2000),
        Workload("laplacian-100", LAPLACIAN, _network(100, 256, 4), 100),
        Workload("laplacian-1000", LAPLACIAN, _network(1000, 64, 4), 100),
        Workload("laplacian-2", LAPLACIAN, _network(2, 64, 4), 10000),
    ),
    Workload("call", DIAGONAL, (3, 32, 3), 1, wide=False),
    *(_step(name, 2000 if name == "poisson" else 10000) for name in STEPS),
    replace(_JACOBIAN_3, name="jacobian-3-gradient", part=GRADIENT),
    *_with_gradients(
        _of_network("small", ALLEN_CAHN, 200),
        _of_network("siren2", LAPLACIAN, 5000),
        _of_network("slater30", LAPLACIAN, 128),
        _of_network("particles48", LAPLACIAN, 32),
        _of_network("conv256", DIVERGENCE, 8),
        _of_network("layernorm10", LAPLACIAN, 1000),
        _of_network("flow64", DIVERGENCE, 256),
        _of_network("gated", ALLEN_CAHN, 5000),
        _of_network("silu3", LAPLACIAN, 5000),
        _of_network("double3", LAPLACIAN, 5000),
        _of_network("attention32", DIVERGENCE, 64),
        _of_network("deeponet2", LAPLACIAN, 1000),
        _of_network("gru32", JACOBIAN, 256),
        _of_network("rbf2", LAPLACIAN, 5000),
        *([_of_network("pyg18", FORCES, 256)] if find_spec("torch_geometric") else []),
    ),
]


def sweeps() -> list[Workload]:
    """The Laplacian of the first of those workloads, each time with one of its sizes varied."""
    base = {"samples": 2000, "input": 10, "width": 64, "depth": 4}
    axes = {
        "samples": (200, 1000, 4000, 16000),
        "input": (2, 8, 32, 128),
        "width": (16, 64, 256),
        "depth": (2, 4, 8),
    }
    found = []
    for axis, points in axes.items():
        for point in points:
            size = {**base, axis: point}
            sizes = _network(size["input"], size["width"], size["depth"])
            name = f"sweep-{axis}-{point}"
            found.append(Workload(name, LAPLACIAN, sizes, size["samples"], sweep=axis, wide=False))
    return _with_gradients(*found)
