"""The peak memory of one call of a contender, in a process of its own, by ``jacfunc/_demo/memory.py``."""

from __future__ import annotations

import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from jacfunc._demo.memory import started

from .contender import Contender
from .workloads import Problem, Workload


def peak(contender: Contender, workload: Workload, second: Path | None, patience: int) -> tuple[int | None, str]:
    """The bytes by which a call after the first grows its process at most, where known; and why there is none."""
    # By what it is called, because its functions cannot be pickled.
    with started(_send, contender.name, contender.compiled, workload, second) as (receiver, process):
        try:
            return (receiver.recv(), "") if receiver.poll(patience) else (None, f"not ready after {patience} s")
        except EOFError:
            process.join()
            return None, f"its process ended with status {process.exitcode}"


def _send(sender: Connection, name: str, compiled: bool, workload: Workload, second: Path | None) -> None:
    from .peers import contenders

    found = contenders(second)
    contender = next(
        one for one in found if (one.name, one.compiled) == (name, compiled) and workload.kind in one.kinds
    )
    warnings.simplefilter("ignore")
    measured: int | None = None
    with suppress(Exception):  # what it raises, it will raise again where that is told
        running = contender.start(Problem.make(workload))
        try:
            measured = running.growth()
        finally:
            running.close()
    sender.send(measured)
