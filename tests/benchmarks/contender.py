"""A competitor: what it is called, how it is made ready, and how its calls are timed.  Who competes is in ``peers``."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch._dynamo.utils

from jacfunc._demo.memory import growth

from .workloads import STEP, VALUE, Problem

Derivative = Callable[[torch.Tensor], torch.Tensor]


class Running(Protocol):
    """A competitor that is ready to be called."""

    def result(self) -> torch.Tensor:
        """What a call gives: the derivative, or all parameters' gradients one after another."""

    def times(self, calls: int) -> list[float]:
        """The seconds of each of so many calls."""

    def growth(self) -> int | None:
        """The bytes by which one more call grows the memory of its process; None where that is not known."""

    def close(self) -> None:
        """No more calls."""


@dataclass(frozen=True)
class Contender:
    """``start`` makes it ready.

    Attributes:
        private: whether only a private switch of torch makes it run as it does.
        common: whether it runs in sweeps too.
        quick: whether it runs where there is no time to compile everyone.
        heavy: says why it is not even tried on a problem, or is empty.
    """

    name: str
    family: str
    kinds: tuple[str, ...]
    start: Callable[[Problem], Running]
    compiled: bool = False
    private: bool = False
    common: bool = False
    quick: bool = True
    heavy: Callable[[Problem], str] = field(default=lambda problem: "")


class Local:
    """A call in this process."""

    def __init__(self, problem: Problem, derivative: Derivative) -> None:
        self.problem, self.derivative = problem, derivative
        training = problem.workload.part == STEP
        self.optimizer = torch.optim.Adam(problem.parameters, lr=1e-6) if training else None

    def call(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        problem = self.problem
        derivative = self.derivative(problem.x)
        if problem.workload.part == VALUE:
            return derivative
        loss = derivative.square().mean()
        # The last bias moves no derivative: zeros.
        return torch.autograd.grad(loss, problem.parameters, allow_unused=True, materialize_grads=True)

    def step(self) -> None:
        """A call, and the optimizer's step where the workload is one of training."""
        found = self.call()
        if self.optimizer is not None:
            for parameter, gradient in zip(self.problem.parameters, found, strict=True):
                parameter.grad = gradient
            self.optimizer.step()

    def result(self) -> torch.Tensor:
        found = self.call()
        parts = [found] if isinstance(found, torch.Tensor) else [part.flatten() for part in found]
        return torch.cat(parts).detach()

    def times(self, calls: int) -> list[float]:
        timed = on_cuda if self.problem.x.is_cuda else timed_call
        return [timed(self.step) for _ in range(calls)]

    def growth(self) -> int | None:
        self.step()
        give_back()
        return growth(self.step)

    def close(self) -> None:
        pass


CLOCK = "BENCHMARK_BY_PROCESSOR"
"""The variable of the environment that says what is timed, to processes that are started too; the JAX worker reads it."""


def seconds() -> float:
    """Of a clock, or those that this process had cores for, which others that use the machine hardly change."""
    return time.process_time() if os.environ.get(CLOCK) else time.perf_counter()


def timed_call(call: Callable[[], object]) -> float:
    start = seconds()
    call()
    return seconds() - start


def on_cuda(call: Callable[[], object]) -> float:
    """By CUDA's own clock: the call returns before its kernels are done."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def compile_into(folder: str) -> None:
    """Let inductor keep what it compiles from now on in this folder: what is in another one is not found again."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder


def compilations() -> int:
    """How many graphs this process has compiled so far, those of the same code for other arguments included."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def give_back() -> None:
    """Free what the allocator keeps of the call before, or the next one would seem to need little."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
