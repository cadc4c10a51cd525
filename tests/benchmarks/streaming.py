"""``accumulate`` beside one backward of all points: peak memory, time and accuracy, of the Burgers residual.

``python -m benchmarks.streaming`` (in ``tests/``) prints what ``docs/guides/many.md`` says, each measurement by a process of
its own; ``--most 1000000`` leaves the longest out, ``--sizes`` times block sizes instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import nn

from jacfunc import accumulate, residual
from jacfunc._demo.memory import growth, started
from jacfunc.training.blocks import Size

WIDTH, LAYERS = 32, 3
MIB = 2**20
Loss = Callable[[torch.Tensor], torch.Tensor]


def problem(dtype: torch.dtype = torch.float32, width: int = WIDTH) -> tuple[nn.Module, Loss]:
    """A small network and the squared residual of Burgers' equation, one number a point."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(2, width), nn.Tanh()]
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(width, 1)).to(dtype)
    burgers = residual(net, lambda d: d.u_t + d.u * d.u_x - 0.01 * d.u_xx, inputs="t x", outputs="u")
    return net, lambda points: burgers(points).square()


def points(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Points in the unit square."""
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1)).to(dtype)


def step(loss: Loss, x: torch.Tensor, size: Size | None) -> torch.Tensor:
    """The mean and its gradients, all points at once for None."""
    if size is not None:
        return accumulate(loss, x, sample_chunk_size=size)
    value = loss(x).mean()
    value.backward()
    return value.detach()


def peak(sender: Connection, count: int, size: Size | None) -> None:
    """Send by how much the memory of this process grows at most during a step, in bytes."""
    torch.set_num_threads(1)
    net, loss = problem()
    step(loss, points(512), 256 if size is not None else None)
    net.zero_grad()
    x = points(count)
    sender.send(growth(lambda: step(loss, x, size)))


def seconds(sender: Connection, count: int, sizes: list[Size | None], rounds: int, width: int) -> None:
    """Send the median of some rounds for each size; they take turns."""
    torch.set_num_threads(1)
    net, loss = problem(width=width)
    x = points(count)
    times: list[list[float]] = [[] for _ in sizes]
    for number in range(rounds + 1):
        for found, size in zip(times, sizes, strict=True):
            net.zero_grad()
            start = time.perf_counter()
            step(loss, x, size)
            if number:
                found.append(time.perf_counter() - start)
    sender.send([statistics.median(found) for found in times])


def errors(sender: Connection, count: int) -> None:
    """Send the relative error of the gradient in float32, by blocks and at once, against float64."""
    torch.set_num_threads(1)
    found = []
    for dtype, size in ((torch.float64, "auto"), (torch.float32, "auto"), (torch.float32, None)):
        net, loss = problem()
        net.to(dtype)
        step(loss, points(count).to(dtype), size)
        found.append(torch.cat([p.grad.flatten().double() for p in net.parameters() if p.grad is not None]))
    truth = found[0]
    sender.send([float((each - truth).norm() / truth.norm()) for each in found[1:]])


def measured(target: Callable[..., None], *told: object) -> object:
    """What a function sends from a process of its own."""
    with started(target, *told) as (receiver, _):
        return receiver.recv()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=10**7)
    parser.add_argument("--sizes", action="store_true")
    given = parser.parse_args()
    if given.sizes:
        sizes: list[Size | None] = [64, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536, "auto"]
        for width in (20, 32, 64, 128):
            print("width", width, dict(zip(sizes, measured(seconds, 2**17, sizes, 5, width), strict=True)), flush=True)
        return
    for count in (10**5, 10**6, 10**7):
        if count <= given.most:
            for size in ("auto", 16384):
                print(f"{count} points, blocks {size}: {measured(peak, count, size) / MIB:.1f} MiB", flush=True)
    for count in (10**5, 10**6):
        print(f"{count} points at once: {measured(peak, count, None) / MIB:.1f} MiB", flush=True)
    for count in (10**5, 10**6):
        print(f"{count} points, seconds by blocks and at once: {measured(seconds, count, ['auto', None], 5, WIDTH)}")
        print(f"{count} points, errors by blocks and at once: {measured(errors, count)}", flush=True)


if __name__ == "__main__":
    main()
