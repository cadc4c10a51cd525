"""A workload in a process of its own, as those who use its contenders have one: what came before leaves it no traces.

In one process for all, memory in pieces made what torch computes there take up to twice as long after an hour, and what
XLA computes in its own process did not: the Laplacian of d=2 was slower than JAX so, and faster by itself.
"""

from __future__ import annotations

from multiprocessing.connection import Connection

from jacfunc._demo.memory import started

from .contender import Contender
from .harness import Settings, Step, measured
from .quiet import keep_pages
from .results import Found
from .workloads import Workload


def measured_alone(workload: Workload, quick: bool, settings: Settings, step: Step) -> Found:
    """What ``measured`` finds of all that take part, there; ``step`` is told here."""
    with started(_measure, workload, quick, settings) as (receiver, process):
        try:
            while not isinstance(told := receiver.recv(), Found):
                step(told)
        except EOFError:
            process.join()
            raise SystemExit(
                f"the process of {workload.name} ended with status {process.exitcode}; go on with --resume"
            ) from None
    return told


def _measure(sender: Connection, workload: Workload, quick: bool, settings: Settings) -> None:
    from .peers import contenders

    keep_pages()
    taking_part = [one for one in contenders(settings.second) if _takes_part(one, workload, quick)]
    sender.send(measured(workload, taking_part, settings, sender.send))


def _takes_part(contender: Contender, workload: Workload, quick: bool) -> bool:
    """Whether it runs on a workload; fewer do in sweeps, and where there is no time to compile everyone."""
    wanted = contender.common or (workload.wide and (contender.quick or not quick))
    return workload.kind in contender.kinds and wanted
