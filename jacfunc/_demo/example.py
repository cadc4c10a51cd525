"""The founding example: its network, the dense Jacobian rows that are the truth, and every way to its derivatives.

What a way costs and whether it is right is in ``measure.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.func import jacfwd, jacrev, vmap

from ..api.transforms import diag_jac
from ..modules.functional import make_functional

# What a run without --full may compute densely.
SAMPLES_CHECKED = 100
ROWS_CHECKED = 800

Call = Callable[[], torch.Tensor]
# Typed here, because some versions of torch do not.
jacobian: Callable[..., torch.Tensor] = torch.autograd.functional.jacobian


# ---------------------------------------------------------------- the example


@dataclass(frozen=True)
class Setup:
    """What a user may vary; by default the founding example, on one thread as ``torch.utils.benchmark`` does it."""

    samples: int = 100
    outputs: int = 400
    width: int = 20
    seed: int = 0
    dtype: str = "float32"
    threads: int = 1
    full: bool = False


@dataclass(frozen=True)
class Example:
    """The network, its input, and every how many samples and outputs dense Jacobian rows are computed."""

    setup: Setup
    network: nn.Module
    t: torch.Tensor
    samples_step: int
    outputs_step: int

    @classmethod
    def make(cls, setup: Setup) -> Example:
        """Draw the network and the input of a seed, and leave the caller's random numbers as they are."""
        width, dtype = setup.width, getattr(torch, setup.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            hidden = (nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
            network = nn.Sequential(*hidden, nn.Linear(width, setup.outputs)).to(dtype)
            t = torch.randn(setup.samples, 1).to(dtype)
        # Frozen, so that no method spends anything on a graph by the parameters.
        network.requires_grad_(False)
        samples_step = outputs_step = 1
        if not setup.full:
            samples_step = math.ceil(setup.samples / SAMPLES_CHECKED)
            outputs_step = math.ceil(setup.outputs / max(1, ROWS_CHECKED // math.ceil(setup.samples / samples_step)))
        return cls(setup, network, t, samples_step, outputs_step)

    @property
    def samples(self) -> torch.Tensor:
        """The samples whose rows are computed densely."""
        return torch.arange(0, self.setup.samples, self.samples_step)

    @property
    def rows(self) -> int:
        """How many Jacobian rows are computed densely."""
        return self.part(self.network(self.t)).numel()

    @property
    def share(self) -> float:
        """Their share of all rows."""
        return self.rows / (self.setup.samples * self.setup.outputs)

    def part(self, y: torch.Tensor) -> torch.Tensor:
        """The entries of an output, or of the vectors, whose rows are computed densely."""
        return y[:: self.samples_step, :: self.outputs_step]

    def part_of_network(self, t: torch.Tensor) -> torch.Tensor:
        """The outputs whose rows are computed densely."""
        return self.part(self.network(t))

    @cached_property
    def dense(self) -> torch.Tensor:
        """The dense rows, each one backward pass of its own: ``(samples, outputs, samples of t, 1)``."""
        return jacobian(self.part_of_network, self.t)

    @property
    def truth(self) -> torch.Tensor:
        """Their derivatives by each output's own sample."""
        return self.own(self.dense)

    def own(self, dense: torch.Tensor) -> torch.Tensor:
        """From such rows, the derivatives by each output's own sample."""
        return dense[torch.arange(len(self.samples)), :, self.samples, 0]


# ---------------------------------------------------------------- the methods


@dataclass(frozen=True)
class Method:
    """A way to the vectors: ``prepare`` makes a call that returns them, for all outputs or those of ``part``."""

    name: str
    prepare: Callable[[Example], Call]
    part: bool = False
    bytes_needed: Callable[[Example], int] = lambda example: 0


def _plain(example: Example) -> Call:
    return lambda: example.network(example.t)


def _diag_jac(example: Example) -> Call:
    f, params = make_functional(example.network)
    transform = diag_jac(f)
    return lambda: transform(params, example.t)


def _vmap(transform: Callable[..., Callable[..., torch.Tensor]]) -> Callable[[Example], Call]:
    def prepare(example: Example) -> Call:
        per_sample = vmap(transform(example.network))
        return lambda: per_sample(example.t).squeeze(-1)

    return prepare


def _backward(example: Example) -> Call:
    """The loop that users write: one backward pass for each output, with a cotangent that samples it."""

    def call() -> torch.Tensor:
        t = example.t.clone().requires_grad_()
        y = example.network(t)
        vectors = []
        for output in range(y.shape[1]):
            sampling = torch.zeros_like(y)
            sampling[:, output] = 1
            vectors.append(torch.autograd.grad(y, t, sampling, retain_graph=True)[0])
        return torch.cat(vectors, dim=1)

    return call


def _dense(vectorize: bool) -> Callable[[Example], Call]:
    return lambda example: lambda: example.own(jacobian(example.part_of_network, example.t, vectorize=vectorize))


def _dense_forward(example: Example) -> Call:
    every = torch.arange(example.setup.samples)

    def call() -> torch.Tensor:
        dense = jacobian(example.network, example.t, vectorize=True, strategy="forward-mode")
        return dense[every, :, every, 0]

    return call


def _bytes_of_dense(example: Example) -> int:
    return example.setup.samples**2 * example.setup.outputs * example.t.element_size()


def _bytes_of_cotangents(example: Example) -> int:
    return example.rows * example.setup.samples * example.setup.outputs * example.t.element_size()


PLAIN = Method("plain forward", _plain)
OURS = Method("jacfunc.diag_jac", _diag_jac)
PER_SAMPLE = Method("vmap(jacfwd)", _vmap(jacfwd))
DENSE = Method("jacobian", _dense(vectorize=False), part=True)
METHODS = (
    PLAIN,
    OURS,
    PER_SAMPLE,
    Method("vmap(jacrev)", _vmap(jacrev)),
    Method("backward, sampling vector", _backward),
    Method("jacobian, vectorize, forward", _dense_forward, bytes_needed=_bytes_of_dense),
    Method("jacobian, vectorize", _dense(vectorize=True), part=True, bytes_needed=_bytes_of_cotangents),
    DENSE,
)
