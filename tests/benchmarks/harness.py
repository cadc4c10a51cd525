"""Contenders made ready, compared with ours, and timed in turn.  Peaks of memory are in ``peaks.py``."""

from __future__ import annotations

import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from .contender import Contender, Running, compilations, compile_into
from .equations import KINDS
from .ours import FORWARD, OURS
from .peaks import peak
from .quiet import wait
from .results import LATE, Entry, Found, spread
from .workloads import LAPLACIAN, VALUE, Problem, Workload

TOLERANCES = {LAPLACIAN: 1e-3, **dict.fromkeys(KINDS, 1e-4)}
TOLERANCE = 2e-5
"""Relative to the largest entry, in single precision; a gradient may be off by ten times that."""
DOUBLE = 1e-7
"""The part of it that is allowed in double precision."""
ILL = {"slater30": 200}
"""Where single precision leaves two digits of the largest entry: some determinants are nearly zero."""
ELSEWHERE = ("JAX", "folx")
"""Families that compile without torch."""


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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches, Everyone(workload, contenders) as everyone:
        if settings.memory:  # first, so that what a process of its own does not survive is not run in this one
            _peaks(everyone, contenders, settings, caches, step)
        everyone.make_ready(contenders, settings, step, caches if settings.memory else "")
        return everyone.in_turn(settings, step)


def _peaks(everyone: Everyone, contenders: Sequence[Contender], settings: Settings, caches: str, step: Step) -> None:
    workload = everyone.workload
    for number, (entry, contender) in enumerate(zip(everyone.entries, contenders, strict=True)):
        step(f"{workload.name}: memory of {entry.label}")
        if not entry.note:
            folder = f"{caches}/{number}"
            told, entry.note = peak(contender, workload, settings.second, settings.patience, folder)
            entry.peak, entry.first = told


class Everyone:
    """The contenders of a workload, and those of them that are ready to be called."""

    def __init__(self, workload: Workload, contenders: Sequence[Contender]) -> None:
        self.workload, self.problem = workload, Problem.make(workload)
        self.entries = [
            Entry(one.name, one.family, one.compiled, private=one.private, note=one.heavy(self.problem))
            for one in contenders
        ]
        self.running: dict[int, Running] = {}
        self.once: dict[int, float] = {}

    def __enter__(self) -> Everyone:
        return self

    def __exit__(self, *unused: object) -> None:
        for ready in self.running.values():
            ready.close()

    def make_ready(self, contenders: Sequence[Contender], settings: Settings, step: Step, caches: str = "") -> None:
        """All that can be are called a first time and compared, and then a second time."""
        ours: torch.Tensor | None = None
        for number, (entry, contender) in enumerate(zip(self.entries, contenders, strict=True)):
            step(f"{self.workload.name}: {entry.label}")
            if entry.note:
                continue
            if caches:  # what was compiled into them need not be compiled again
                compile_into(f"{caches}/{number}")
            ready = _ready(contender, self.problem, entry, settings)
            if ready is None:
                continue
            self.running[number], result = ready
            if contender is not FORWARD:
                ours = result if ours is None else ours
                _compare(entry, result, ours, self.workload)
        for number, one in self.running.items():
            with counted(self.entries[number]):
                self.once[number] = one.times(1)[0]

    def in_turn(self, settings: Settings, step: Step) -> Found:
        """Rounds in which all run, each time in the other direction, so that a trend of the machine hits them alike."""
        busiest = 0.0
        for turn in range(settings.rounds):
            step(f"{self.workload.name}: round {turn + 1}")
            busiest = max(busiest, wait(settings.wait))
            self.round(turn, settings)
        return Found(self.workload, self.entries, busiest)

    def round(self, turn: int, settings: Settings) -> None:
        """The slow ones run in the first only.

        Of a round's calls the lower quartile counts: what else runs on the machine makes calls slower, never faster, and
        hits those that wait for all threads the most.
        """
        for number in sorted(self.running, reverse=bool(turn % 2)):
            seconds, entry = self.once[number], self.entries[number]
            if turn == 0 or seconds < settings.slow:
                calls = min(1000, max(3, round(settings.seconds / seconds))) if seconds < settings.slow else 1
                with counted(entry):
                    entry.rounds.append(spread(self.running[number].times(calls))[0])


@contextmanager
def counted(entry: Entry) -> Iterator[None]:
    """Add what torch compiles meanwhile to what it compiled for an entry; other libraries do not tell."""
    before = compilations()
    yield
    if entry.compiled and entry.family not in ELSEWHERE:
        entry.compilations = (entry.compilations or 0) + compilations() - before


def _ready(
    contender: Contender, problem: Problem, entry: Entry, settings: Settings
) -> tuple[Running, torch.Tensor] | None:
    """The contender after its first call, which imports and compiles, and what that gave; or a note why not."""
    running: Running | None = None
    try:
        with _limit(settings.patience), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers warn of what they will do in other versions
            running = contender.start(problem)
            with counted(entry):
                start = time.perf_counter()
                result = running.result()
            entry.first = entry.first or time.perf_counter() - start
            return running, result
    except ImportError as error:
        entry.note = f"absent: {_line(error)}"
    except Late:
        entry.note = f"{LATE} {settings.patience} s"
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
    if workload.network:  # all of them are of size one, and torch is wrong by less than 1 % in some of them
        allowed = min(allowed, 1e-4 if workload.part == VALUE else 1e-3) * ILL.get(workload.network, 1)
    allowed *= DOUBLE if result.dtype == torch.float64 else 1
    if result.shape != ours.shape:
        entry.agrees, entry.note = False, f"its result has shape {tuple(result.shape)}"
        return
    entry.difference = ((result - ours).abs().max() / ours.abs().max()).item()
    entry.agrees = entry.difference <= allowed
    if not entry.agrees:
        entry.note = "disagrees with ours"


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
