"""Whether compiled code is faster than eager code on this machine: measured at a first call, where it is worth it.

Which of the two is faster depends on the processor: with some, Inductor's kernels for convolutions, sines or matrices
take longer than torch's own.  What takes long enough to be measured at all is called a few times each way, in turns, so
that a busy machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Run = Callable[[], Any]

WORTH_IT = 5e-3
"""Seconds that an eager call takes at least, or it is not asked: less is noise, and mostly what every call costs."""
ROUNDS, LONGEST = 4, 3.0
"""How often each is called, unless all of that would take so many seconds more."""
ROOM, ROOM_WITH_GRAPH = 1.05, 1.2
"""By what compiled code may be slower: where a graph is recorded its backward makes up for some."""


def slowdown(eager: Run, compiled: Run, recorded: bool) -> float | None:
    """How many times as long compiled code takes; None where it is to be kept, as faster or nearly as fast.

    ``recorded``: whether a gradient may be taken of the result.
    """
    times = [_seconds(eager)], [_seconds(compiled)]
    if times[0][0] < WORTH_IT:
        return None
    began = time.perf_counter()
    for _ in range(ROUNDS - 1):
        if time.perf_counter() - began > LONGEST:
            break
        for known, run in zip(times, (eager, compiled), strict=True):
            known.append(_seconds(run))
    ratio = min(times[1]) / min(times[0])
    return ratio if ratio > (ROOM_WITH_GRAPH if recorded else ROOM) else None


def comparable(tensors: Any) -> bool:
    """Whether a call is over when it returns, as on a CPU."""
    return all(isinstance(tensor, torch.Tensor) and tensor.is_cpu for tensor in tensors)


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
