"""Two ranks on two cores beside one process: the time of a training step of Burgers' equation, the points shared.

``python -m benchmarks.ranks`` (in ``tests/``) prints the ratios that ``docs/guides/many.md`` says.  Every contender is there from
the beginning, in processes of its own; in each round one after the other runs some steps while the others wait.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from jacfunc import accumulate
from jacfunc.nn import Equation

WIDTH, LAYERS = 64, 3
CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Contender:
    """So many processes with so many threads each."""

    ranks: int
    threads: int

    def __str__(self) -> str:
        return f"{self.ranks} x {self.threads} thread{'s' * (self.threads > 1)}"


ALONE, PAIR, THREADS = Contender(1, 1), Contender(2, 1), Contender(1, 2)


def burgers(d: Any) -> Any:
    return d.u_t + d.u * d.u_x - 0.01 * d.u_xx


def problem() -> Equation:
    """The residual of a network 2-64-64-64-1 in float32, the same in every process."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(2, WIDTH), nn.Tanh()]
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return Equation(nn.Sequential(*layers, nn.Linear(WIDTH, 1)), burgers, inputs="t x", outputs="u")


def work(pipe: Connection, contender: Contender, rank: int, store: str, count: int) -> None:
    """Train by as many steps as the pipe asks for, and tell the last loss and the seconds of a core, until it is none."""
    torch.set_num_threads(contender.threads)
    module: nn.Module = problem()
    if contender.ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=contender.ranks)
        module = DistributedDataParallel(module)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)).tensor_split(contender.ranks)[rank]
    while steps := pipe.recv():
        start = time.process_time()
        for _ in range(steps):
            optimiser.zero_grad()
            loss = accumulate(lambda x: module(x).square(), points)
            optimiser.step()
        pipe.send((float(loss), time.process_time() - start))
    if contender.ranks > 1:
        distributed.destroy_process_group()


class Running:
    """The processes of a contender, which wait between rounds."""

    def __init__(self, contender: Contender, folder: Path, count: int) -> None:
        self.pipes, self.processes = [], []
        store = str(folder / str(contender))
        for rank in range(contender.ranks):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=work, args=(theirs, contender, rank, store, count), daemon=True)
            process.start()
            theirs.close()  # so that the death of the process is told
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, steps: int) -> tuple[float, float, float]:
        """The seconds until all processes are done, those that the busiest had a core for, and the loss they come to."""
        start = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(steps)
        told = [pipe.recv() for pipe in self.pipes]
        return time.perf_counter() - start, max(busy for _, busy in told), told[0][0]

    def end(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(0)
            process.join()


@dataclass
class Times:
    """Seconds of a step in each round: until it was done, and those that the busiest process had a core for."""

    whole: list[float]
    busy: list[float]


def measured(contenders: list[Contender], count: int, rounds: int, steps: int) -> dict[Contender, Times]:
    """The times of each round, of which the first is left out, in turns."""
    times = {contender: Times([], []) for contender in contenders}
    with tempfile.TemporaryDirectory() as folder:
        running = {contender: Running(contender, Path(folder), count) for contender in contenders}
        for number in range(rounds + 1):
            losses = []
            first = number % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                whole, busy, loss = running[contender].run(steps)
                losses.append(loss)
                if number:
                    times[contender].whole.append(whole / steps)
                    times[contender].busy.append(busy / steps)
            assert max(losses) - min(losses) < 1e-3 * max(losses), losses  # the same training, in each of them
        for each in running.values():
            each.end()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000, help="points of a step, of all ranks together")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps of a round")
    parser.add_argument("--no-threads", action="store_true", help="leave out the one process with two threads")
    given = parser.parse_args()
    contenders = [ALONE, PAIR] if given.no_threads else [ALONE, PAIR, THREADS]
    times = measured(contenders, given.points, given.rounds, given.steps)
    for contender, found in times.items():
        median, fastest, busy = (
            function(getattr(times[ALONE], name)) / function(getattr(found, name))
            for function, name in ((statistics.median, "whole"), (min, "whole"), (statistics.median, "busy"))
        )
        print(
            f"{contender}: {1000 * statistics.median(found.whole):.0f} ms a step, {median:.2f} times as fast as {ALONE} "
            f"(fastest rounds {fastest:.2f}; by the time of a core that the busiest process had {busy:.2f})"
        )


if __name__ == "__main__":
    main()
