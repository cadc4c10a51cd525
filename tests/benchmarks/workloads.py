"""What is measured: tanh networks, their inputs, which derivative is wanted.  Nothing here computes one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import nn

from .equations import EQUATIONS

DIAGONAL, JACOBIAN, LAPLACIAN = "diagonal", "jacobian", "laplacian"
VALUE, GRADIENT, STEP = "value", "gradient", "step"


@dataclass(frozen=True)
class Workload:
    """A derivative of a tanh network, one parameter gradient of the mean of its squares, or a step with the gradient.

    Attributes:
        name: what selects it on the command line.
        kind: which derivative, or which equation's residual.
        sizes: the widths of the network, input and output included.
        samples: how many.
        part: the derivative alone, with the network's parameters frozen, its gradient by them, or a step of Adam too.
        sweep: which of ``samples``, ``input``, ``width``, ``depth`` grows where it is a point of a sweep.
        wide: whether all contenders run, or only the few that a sweep is about.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    samples: int
    part: str = VALUE
    sweep: str = ""
    wide: bool = True

    @property
    def title(self) -> str:
        inner = "-".join(map(str, self.sizes))
        if len(set(self.sizes[1:-1])) == 1 and len(self.sizes) > 4:
            inner = f"{self.sizes[0]}-{len(self.sizes) - 2}x{self.sizes[1]}-{self.sizes[-1]}"
        if self.kind in EQUATIONS:
            return f"training step of {EQUATIONS[self.kind].title}, N={self.samples}, {inner}"
        what = {DIAGONAL: "diag_jac", JACOBIAN: "batch_jac", LAPLACIAN: "laplacian"}[self.kind]
        part = ", parameter gradient" if self.part == GRADIENT else ""
        return f"{what}, N={self.samples}, {inner}{part}"

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
    """A workload's network and input, always of the same seed."""

    workload: Workload
    net: nn.Sequential
    x: torch.Tensor

    @classmethod
    def make(cls, workload: Workload, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Problem:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = mlp(*workload.sizes)
            x = torch.randn(workload.samples, workload.sizes[0])
        net.requires_grad_(workload.part != VALUE)
        return cls(workload, net.to(device, dtype), x.to(device, dtype))

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    @property
    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self.net if isinstance(layer, nn.Linear)]


def mlp(*sizes: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), *([nn.LayerNorm(outer)] if norm else []), nn.Tanh()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def entries(kind: str, jacobian: torch.Tensor) -> torch.Tensor:
    """Those entries that ``kind`` asks for, of the samples' Jacobians ``(N, m, d)``."""
    if kind == JACOBIAN:
        return jacobian
    return jacobian.squeeze(-1) if jacobian.shape[-1] == 1 else jacobian.diagonal(dim1=1, dim2=2)


# -------------------------------------------------------------------- the workloads


def _network(inputs: int, width: int, depth: int) -> tuple[int, ...]:
    return (inputs, *[width] * depth, 1)


def _step(name: str, samples: int) -> Workload:
    equation = EQUATIONS[name]
    sizes = (len(equation.inputs), *[64] * 4, len(equation.outputs))
    return Workload(name, name, sizes, samples, part=STEP)


def _with_gradients(*workloads: Workload) -> list[Workload]:
    return [
        found
        for workload in workloads
        for found in (workload, replace(workload, name=f"{workload.name}-gradient", part=GRADIENT))
    ]


WORKLOADS = [
    Workload("founding", DIAGONAL, (1, 20, 20, 400), 100),
    Workload("jacobian-3", JACOBIAN, (3, 128, 128, 3), 10000),
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
    *(_step(name, 2000 if name == "poisson" else 10000) for name in EQUATIONS),
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
