"""A contender's first call in a fresh process, and the peak memory of a later one, by ``jacfunc/_demo/memory.py``."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from jacfunc._demo.memory import started

from .contender import Contender, compile_into
from .results import LATE
from .workloads import Problem, Workload

Measured = tuple[int | None, float | None]
"""The bytes by which a call after the first grows its process at most, and the seconds of the first one, where known."""


def peak(
    contender: Contender, workload: Workload, second: Path | None, patience: int, caches: str
) -> tuple[Measured, str]:
    """Both, and why there are none; ``caches`` is an empty folder for what torch compiles."""
    # By what it is called, because its functions cannot be pickled.
    with started(_send, contender.name, contender.compiled, workload, second, caches) as (receiver, process):
        try:
            nothing = (None, None), f"{LATE} {patience} s"
            return (receiver.recv(), "") if receiver.poll(patience) else nothing
        except EOFError:
            process.join()
            return (None, None), f"its process ended with status {process.exitcode}"


def _send(sender: Connection, name: str, compiled: bool, workload: Workload, second: Path | None, caches: str) -> None:
    from .peers import contenders

    found = contenders(second)
    contender = next(
        one for one in found if (one.name, one.compiled) == (name, compiled) and workload.kind in one.kinds
    )
    warnings.simplefilter("ignore")
    compile_into(caches)
    measured: Measured = None, None
    with suppress(Exception):  # what it raises, it will raise again where that is told
        running = contender.start(Problem.make(workload))
        try:
            start = time.perf_counter()
            running.times(1)
            first = time.perf_counter() - start
            measured = running.growth(), first
        finally:
            running.close()
    sender.send(measured)
