"""All workloads of a kind in one process, in random order, as in a notebook: ours, eager and compiled, and plain forwards.

What came before leaves traces here: memory in pieces, kernels and guards of other networks, and torch's limit on how often
the same code is compiled.  Alone (``alone.py``), no workload has them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from multiprocessing.connection import Connection

from jacfunc._demo.memory import started

from .harness import Everyone, Settings, Step
from .ours import CONTENDERS, FORWARD, OURS
from .quiet import wait
from .results import Found
from .workloads import Workload


def measured_together(workloads: Sequence[Workload], settings: Settings, seed: int, step: Step) -> list[Found]:
    """A process for each kind; ``step`` is told what comes next.  Kinds of one workload are left out."""
    by_kind = groupby(sorted(workloads, key=_group), key=_group)
    found: list[Found] = []
    for kind, some in by_kind:
        group = list(some)
        if len(group) > 1:
            step(f"together: {kind}")
            found += _in_one_process(group, settings, seed, step)
    return found


def _group(workload: Workload) -> str:
    return workload.group


def _in_one_process(workloads: list[Workload], settings: Settings, seed: int, step: Step) -> list[Found]:
    with started(_measure, workloads, settings, seed) as (receiver, process):
        try:
            while not isinstance(told := receiver.recv(), list):
                step(told)
        except EOFError:
            process.join()
            raise SystemExit(f"the process of {workloads[0].group} ended with status {process.exitcode}") from None
    return told


def _measure(sender: Connection, workloads: list[Workload], settings: Settings, seed: int) -> None:
    sender.send(in_random_order(workloads, settings, seed, sender.send))


def in_random_order(workloads: Sequence[Workload], settings: Settings, seed: int, step: Step) -> list[Found]:
    """Every workload is made ready in an order by ``seed`` and stays, and in every round they are called in another one."""
    order, ready, busiest = random.Random(seed), [], 0.0
    with ExitStack() as stack:
        for workload in order.sample(list(workloads), len(workloads)):
            contenders = [one for one in CAST if workload.kind in one.kinds]
            everyone = stack.enter_context(Everyone(workload, contenders))
            everyone.make_ready(contenders, settings, step)
            ready.append(everyone)
        for turn in range(settings.rounds):
            step(f"together: round {turn + 1}")
            busiest = max(busiest, wait(settings.wait))
            for everyone in order.sample(ready, len(ready)):
                everyone.round(turn, settings)
    found = {one.workload.name: Found(one.workload, one.entries, busiest) for one in ready}
    return [found[workload.name] for workload in workloads]


CAST = [*(one for one in CONTENDERS if one.name == OURS), FORWARD]
