"""Sparse Jacobians beside asdex under ``jax.jit``: the pattern with its colours, all values, and the diagonal.

``python -m benchmarks.sparse --peers PYTHON`` (in ``tests/``); ``PYTHON`` is of an environment that has JAX and asdex.  Both sides
run in turn, a fresh process for every round and workload, with one thread; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
THEIRS = "peers/asdex_maps.py"
WORKLOADS = {
    "reaction-diffusion": (256, 256),
    "stencil": (100_000,),
    "convolutions": (64, 64),
    "elementwise": (65_536,),
}
"""The shape of the one sample of each."""
CALLS = 40


def maps() -> dict[str, Callable[[Any], Any]]:
    """The maps of the workloads in torch; theirs are in the file of the peer."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    first, second = (nn.Conv2d(*sizes, 3, padding=1).requires_grad_(False) for sizes in ((1, 8), (8, 1)))

    def reaction_diffusion(u: Any) -> Any:
        around = u.roll(1, -1) + u.roll(-1, -1) + u.roll(1, -2) + u.roll(-1, -2)
        return around - 4 * u + u - u**3

    def stencil(u: Any) -> Any:
        padded = F.pad(u, (1, 1))
        return padded[2:] - 2 * u + padded[:-2] + u**3

    return {
        "reaction-diffusion": reaction_diffusion,
        "stencil": stencil,
        "convolutions": lambda u: second(first(u[None, None]).tanh())[0, 0],
        "elementwise": lambda u: u.sin() * u,
    }


def median(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def ours(name: str) -> dict[str, float]:
    """What jacfunc takes for one workload, in milliseconds."""
    import torch

    from jacfunc import clear_caches, diag_jac, sparse_jac, sparsity
    from jacfunc.structure.colouring import by_columns, number_of

    torch.set_num_threads(1)
    f, x = maps()[name], torch.rand(WORKLOADS[name])

    def coloured() -> int:
        clear_caches()
        return number_of(by_columns(sparsity(f, batch_dims=0)(x)))

    found: dict[str, float] = {"colours": coloured(), "pattern": median(coloured, 5)}
    for what, make in (("values", sparse_jac), ("diagonal", diag_jac)):
        for kind in ("eager", "compiled"):
            transform = make(f, batch_dims=0, sparsity="auto", compile=kind == "compiled")
            for _ in range(5):
                transform(x)
            found[f"{what}, {kind}"] = median(lambda transform=transform: transform(x))  # type: ignore[misc]
    return found


def run(command: list[str]) -> dict[str, float]:
    """What one side printed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return {key: float(value) for key, value in json.loads(told.splitlines()[-1]).items()}


def report(name: str, rounds: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    """Medians of both sides, and the ratio theirs / ours with its quartiles."""
    print(f"\n{name}: {rounds[0][0]['colours']:.0f} colours, asdex {rounds[0][1]['colours']:.0f}")
    pairs = [
        ("pattern", "pattern"),
        *((f"{what}, {kind}", "values") for what in ("values", "diagonal") for kind in ("eager", "compiled")),
    ]
    for key, against in pairs:
        mine, theirs = (
            statistics.median(side[which] for side in sides)
            for which, sides in ((key, [a for a, _ in rounds]), (against, [b for _, b in rounds]))
        )
        ratios = sorted(b[against] / a[key] for a, b in rounds)
        print(
            f"  {key:<20}{mine:10.3f} ms   asdex {against:<8}{theirs:10.3f} ms   {statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", metavar="PYTHON", help="of the environment that has JAX and asdex")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--one", choices=WORKLOADS, help="print what jacfunc takes for it, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.one)))
        return
    for name in options.workload:
        sides = (
            [sys.executable, "-m", "benchmarks.sparse", "--one", name],
            [options.peers, "-P", str(HERE / "benchmarks" / THEIRS), name],
        )
        rounds = []
        for number in range(options.rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {side: run(sides[side]) for side in order}
            rounds.append((found[0], found[1]))
        report(name, rounds)


if __name__ == "__main__":
    main()
