"""``python -m benchmarks.cure`` (from ``tests/``): what the table of corrected operations costs, as a ratio to the same without it.

Both are timed in turn in one process; the ratio is that of neighbouring runs, given as median and quartiles.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from jacfunc import diag_jac, laplacian, make_functional
from jacfunc.call import evaluator

from .contender import timed_call
from .results import spread
from .workloads import mlp

CORRECTED = evaluator.corrected


def timed(work: Callable[[], object], corrected: bool) -> float:
    evaluator.corrected = CORRECTED if corrected else nullcontext
    return timed_call(work)


def ratios(work: Callable[[], object], rounds: int) -> list[float]:
    for corrected in (True, False) * 3:
        timed(work, corrected)
    found = []
    for number in range(rounds):
        order = (True, False) if number % 2 else (False, True)
        times = {corrected: timed(work, corrected) for corrected in order}
        found.append(times[True] / times[False])
    evaluator.corrected = CORRECTED
    return found


def report(name: str, transform: Callable[..., Any], net: nn.Module, x: torch.Tensor) -> None:
    f, params = make_functional(net)
    derivative = transform(f)
    works = {
        name: lambda: derivative(params, x),
        f"{name} and gradient": lambda: derivative(params, x).square().sum().backward(),
    }
    for label, work in works.items():
        low, middle, high = spread(ratios(work, 60 if len(x) > 100 else 300))
        print(f"{label:<58}{middle:>6.2f}   {low:.2f} to {high:.2f}", flush=True)


def main() -> None:
    torch.manual_seed(0)
    print(f"{'work':<58}{'ratio':>6}   quartiles")
    report("founding example, diag_jac", diag_jac, mlp(1, 20, 20, 400), torch.rand(100, 1))
    x = torch.rand(2000, 3)
    report("tanh 3-64-64-3, N=2000, laplacian", laplacian, mlp(3, 64, 64, 3), x)
    report("LayerNorm MLP 3-64-64-3, N=2000, diag_jac", diag_jac, mlp(3, 64, 64, 3, norm=True), x)
    report("LayerNorm MLP 3-64-64-3, N=2000, laplacian", laplacian, mlp(3, 64, 64, 3, norm=True), x)


if __name__ == "__main__":
    main()
