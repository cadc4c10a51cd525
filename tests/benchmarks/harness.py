"""Contenders made ready, compared with ours, and timed in turn.  Peaks of memory are in ``peaks.py``."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from .contender import Contender, Running
from .equations import KINDS
from .ours import FORWARD, OURS
from .peaks import peak
from .quiet import wait
from .results import Entry, Found, spread
from .workloads import LAPLACIAN, VALUE, Problem, Workload

TOLERANCES = {LAPLACIAN: 1e-3, **dict.fromkeys(KINDS, 1e-4)}
TOLERANCE = 2e-5
"""Relative to the largest entry, in single precision; a gradient may be off by ten times that."""


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        rounds: how often all contenders run in turn.
        seconds: what one contender may take of a round, if it manages a call in that time.
        slow: seconds of a call from which on it runs in the first round only.
        patience: seconds after which a contender that is not ready is given up.
        wait: seconds that a round waits at most for others to leave the machine alone.
        memory: whether to measure peaks.
        second: the Python of the environment that has JAX.
    """

    rounds: int = 5
    seconds: float = 0.25
    slow: float = 2.0
    patience: int = 180
    wait: float = 60.0
    memory: bool = True
    second: Path | None = None


Step = Callable[[str], None]


def measured(workload: Workload, contenders: Sequence[Contender], settings: Settings, step: Step) -> Found:
    """Every contender that fits the workload; ``step`` is told what comes next."""
    torch.compiler.reset()  # or its limit on recompilations would be spent by the workloads before
    problem = Problem.make(workload)
    entries = [
        Entry(one.name, one.family, one.compiled, private=one.private, note=one.heavy(problem)) for one in contenders
    ]
    if settings.memory:  # first, so that what a process of its own does not survive is not run in this one
        for entry, contender in zip(entries, contenders, strict=True):
            step(f"{workload.name}: memory of {entry.label}")
            if not entry.note:
                entry.peak, entry.note = peak(contender, workload, settings.second, settings.patience)
    running: dict[int, Running] = {}
    ours: torch.Tensor | None = None
    try:
        for number, (entry, contender) in enumerate(zip(entries, contenders, strict=True)):
            step(f"{workload.name}: {entry.label}")
            if entry.note:
                continue
            ready = _ready(contender, problem, entry, settings)
            if ready is None:
                continue
            running[number], result = ready
            if contender is not FORWARD:
                ours = result if ours is None else ours
                _compare(entry, result, ours, workload)
        busy = _time(entries, running, settings, lambda text: step(f"{workload.name}: {text}"))
    finally:
        for ready_one in running.values():
            ready_one.close()
    return Found(workload, entries, busy)


def _ready(
    contender: Contender, problem: Problem, entry: Entry, settings: Settings
) -> tuple[Running, torch.Tensor] | None:
    """The contender after its first call, which imports and compiles, and what that gave; or a note why not."""
    running: Running | None = None
    try:
        with _limit(settings.patience), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers warn of what they will do in other versions
            running = contender.start(problem)
            return running, running.result()
    except ImportError as error:
        entry.note = f"absent: {_line(error)}"
    except Late:
        entry.note = f"not ready after {settings.patience} s"
    except Exception as error:  # a peer that does not work is a finding, not the end of the others
        if contender.family == OURS and not contender.compiled:
            raise
        entry.note = f"failed: {_line(error)}"
    if running is not None:
        running.close()
    return None


def _line(error: Exception) -> str:
    """A message's first line, short enough for a table."""
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"[:160]


def _compare(entry: Entry, result: torch.Tensor, ours: torch.Tensor, workload: Workload) -> None:
    allowed = TOLERANCES.get(workload.kind, TOLERANCE) * (1 if workload.part == VALUE else 10)
    if result.shape != ours.shape:
        entry.agrees, entry.note = False, f"its result has shape {tuple(result.shape)}"
        return
    entry.difference = ((result - ours).abs().max() / ours.abs().max()).item()
    entry.agrees = entry.difference <= allowed
    if not entry.agrees:
        entry.note = "disagrees with ours"


def _time(entries: list[Entry], running: dict[int, Running], settings: Settings, step: Step) -> float:
    """Rounds in which all run, each time in the other direction, so that a trend of the machine hits them alike.

    Of a round's calls the lower quartile counts: what else runs on the machine makes calls slower, never faster, and hits
    those that wait for all threads the most.  Returns how busy others kept the machine before a round at most.
    """
    busiest = 0.0
    once = {number: ready.times(1)[0] for number, ready in running.items()}
    for turn in range(settings.rounds):
        step(f"round {turn + 1}")
        busiest = max(busiest, wait(settings.wait))
        for number in sorted(running, reverse=bool(turn % 2)):
            if turn == 0 or once[number] < settings.slow:
                calls = min(1000, max(3, round(settings.seconds / once[number]))) if once[number] < settings.slow else 1
                entries[number].rounds.append(spread(running[number].times(calls))[0])
    return busiest


# -------------------------------------------------------------------- no patience


class Late(BaseException):
    """Not an Exception, which a compiler may take for a reason to try otherwise."""


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise Late after so long, where the system has an alarm."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> Any:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
