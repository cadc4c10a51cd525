"""A training step in very many dimensions beside torch.func, JAX's jets and a plain step: 16 sampled coordinates.

``python -m benchmarks.sampled --peers PYTHON`` (in ``tests/``); ``PYTHON`` is of an environment that has JAX.  The step is
that of the Sine-Gordon equation on the unit ball, ``Delta u + sin(u) = g`` with ``u = (1 - |x|^2) net(x)``, by Adam on a
network d - 128 - 128 - 128 - 1 at 100 points.  All sides run in turn, each in a fresh process in every round; ratios are
taken within a round.  Memory is what the process grows by from before the first step to its peak, first call included, and
the peak of later steps above what is there between them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
THEIRS = "peers/jax_jet.py"
POINTS, WIDTH, COORDINATES, STEPS = 100, 128, 16, 15
Loss = Callable[[], Any]


def losses(dimensions: int) -> tuple[dict[str, Callable[[], Loss]], Any]:
    """The loss of a step of each side in torch, made when it is asked for, and the network."""
    import torch
    from torch import nn
    from torch.func import functional_call, jvp, vmap

    from jacfunc import laplacian, make_functional

    torch.manual_seed(0)
    sizes = (dimensions, WIDTH, WIDTH, WIDTH, 1)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.Tanh())]
    net = nn.Sequential(*layers[:-1])
    x = torch.randn(POINTS, dimensions) * 0.7 / dimensions**0.5
    f, params = make_functional(net)

    def u(params: Any, x: Any) -> Any:
        return (1 - x.square().sum(-1)) * f(params, x).squeeze(-1)

    def residual(second: Any, value: Any) -> Any:
        return (second + torch.sin(value)).square().mean()

    def ours(compile: bool) -> Loss:
        transform = laplacian(u, coordinates=COORDINATES, return_value=True, compile=compile)
        return lambda: residual(*transform(params, x))

    def by_torch_func() -> Loss:
        own = dict(net.named_parameters())

        def value(x: Any) -> Any:
            return (1 - x.square().sum(-1)) * functional_call(net, own, (x[None],))[0, 0]

        def along(x: Any, v: Any) -> Any:
            return jvp(lambda x: jvp(value, (x,), (v,))[1], (x,), (v,))[1]

        def loss() -> Any:
            places = torch.randperm(dimensions)[:COORDINATES]
            v = torch.zeros(COORDINATES, dimensions).scatter(1, places[:, None], 1.0)
            second = vmap(lambda x: vmap(lambda v: along(x, v))(v).sum())(x) * (dimensions / COORDINATES)
            return residual(second, vmap(value)(x))

        return loss

    def plain(compile: bool) -> Loss:
        function = torch.compile(u) if compile else u
        return lambda: function(params, x).square().mean()

    return {
        "jacfunc": lambda: ours(False),
        "jacfunc, compiled": lambda: ours(True),
        "torch.func": by_torch_func,
        "plain step": lambda: plain(False),
        "plain step, compiled": lambda: plain(True),
    }, net


def resident() -> float:
    """Megabytes that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measured(step: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of a step, and megabytes that the process grew by."""
    before, times, whole, between = resident(), [], 0.0, 0.0
    for number in range(STEPS + 5):
        if number == 5:
            whole, between = highest(), resident()
            Path("/proc/self/clear_refs").write_text("5")  # so that the highest is that of the steps to come
        start = time.perf_counter()
        step()
        if number >= 5:
            times.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(times), "MB": whole - before, "step MB": highest() - between}


def highest() -> float:
    """The most megabytes that the process had."""
    told = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert told is not None
    return int(told[1]) / 1024


def one(name: str, dimensions: int) -> dict[str, float]:
    """What one side in torch takes."""
    import torch

    made, net = losses(dimensions)
    loss = made[name]()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return measured(step)


def run(command: list[str]) -> dict[str, float]:
    """What one side printed."""
    env = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return {key: float(value) for key, value in json.loads(told.splitlines()[-1]).items()}


def report(dimensions: int, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Medians of each side, and how it compares with ours."""
    print(f"\nd = {dimensions:,}")
    for name in rounds[0]:
        ms, mb, own = (statistics.median(found[name][what] for found in rounds) for what in ("ms", "MB", "step MB"))
        told = f"  {name:<22}{ms:9.1f} ms {mb:8.0f} MB {own:8.0f} MB"
        for ours in ("jacfunc", "jacfunc, compiled"):
            ratios = sorted(found[name]["ms"] / found[ours]["ms"] for found in rounds)
            told += f"   {statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(told)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", metavar="PYTHON", help="of the environment that has JAX")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--one", help="print what this side takes, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.dimensions[0])))
        return
    for dimensions in options.dimensions:
        sides = ["jacfunc", "jacfunc, compiled", "plain step", "plain step, compiled"]
        sides += ["torch.func"] * (dimensions <= 10_000)
        rounds = []
        for number in range(options.rounds):
            found = {}
            commands = {
                name: [sys.executable, "-m", "benchmarks.sampled", "--one", name, "--dimensions", str(dimensions)]
                for name in sides
            }
            if options.peers:
                commands["JAX jet, jit"] = [options.peers, "-P", str(HERE / "benchmarks" / THEIRS), str(dimensions)]
            order = list(commands) if number % 2 == 0 else list(reversed(commands))
            for name in order:
                found[name] = run(commands[name])
            rounds.append({name: found[name] for name in commands})
        report(dimensions, rounds)


if __name__ == "__main__":
    main()
