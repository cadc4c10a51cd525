"""Ours on a CUDA device in several precisions, beside what arithmetic and bandwidth allow at least."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .contender import Contender, on_cuda
from .harness import Step
from .ours import CONTENDERS, FORWARD
from .workloads import DIAGONAL, DIVERGENCE, FORCES, JACOBIAN, VALUE, Problem, Workload

PRECISIONS = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16}
CALLS = 20


def on_device(workloads: list[Workload], step: Step) -> list[dict[str, Any]]:
    """A row for each workload, precision, and eager or compiled; nothing without a device."""
    if not torch.cuda.is_available():
        return []
    found = []
    for name, dtype in PRECISIONS.items():
        with _tf32(name == "TF32"):
            rates = _rates(dtype)
            for workload in workloads:
                torch.compiler.reset()
                for contender in (FORWARD, *CONTENDERS):
                    step(f"CUDA {name} {workload.name}: {contender.name}")
                    found.append({"dtype": name, **_row(contender, Problem.make(workload, "cuda", dtype), rates)})
    return found


def _row(contender: Contender, problem: Problem, rates: tuple[float, float]) -> dict[str, Any]:
    kind = contender.name + ", compiled" * contender.compiled
    arithmetic, moved = floor(problem.workload, problem.x.element_size(), contender is FORWARD)
    row = {"workload": problem.workload.title, "kind": kind, "seconds": None, "note": ""}
    row |= {"arithmetic": arithmetic / rates[0], "bandwidth": moved / rates[1]}
    try:
        running = contender.start(problem)
        running.times(3)
        row["seconds"] = statistics.median(running.times(CALLS))
    except Exception as error:  # a dtype that something does not know is a finding
        row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:120]
    return row


def floor(workload: Workload, itemsize: int, plain: bool = False) -> tuple[int, int]:
    """The operations and the bytes without which it cannot be done."""
    weights, products = _counted(workload)
    first = workload.kind in (DIAGONAL, JACOBIAN, DIVERGENCE, FORCES)
    rows = min(workload.rows, workload.sizes[-1]) if first else workload.rows  # one for each input, or for each output
    passes = (1 if plain else 1 + rows) * (1 if workload.part == VALUE else 3)
    result = workload.samples * workload.sizes[-1] if workload.part == VALUE else weights
    return products * passes, itemsize * (weights + workload.samples * workload.sizes[0] + result)


def _counted(workload: Workload) -> tuple[int, int]:
    """The numbers of weights, and the operations of a forward."""
    if not workload.network:
        weights = sum(inner * outer for inner, outer in pairwise(workload.sizes))
        return weights, 2 * workload.samples * weights
    problem = Problem.make(workload)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        problem.net(problem.x)
    return sum(weight.numel() for weight in problem.parameters), counter.get_total_flops()


def _rates(dtype: torch.dtype) -> tuple[float, float]:
    """What this device does at best: operations a second in large products, bytes a second in copies."""
    size = 8192
    a, b, large = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(3))
    product = min(on_cuda(lambda: a @ b) for _ in range(CALLS))
    copied = min(on_cuda(lambda: large.copy_(a)) for _ in range(CALLS))
    return 2 * size**3 / product, 2 * large.nbytes / copied


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
