"""What was measured, as numbers that go to JSON and back.  Who measures is ``harness.py``, who judges ``bars.py``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from .workloads import Workload

LATE = "not ready after"
"""How the note begins of those whose patience ended."""


@dataclass
class Entry:
    """One contender on one workload.

    Attributes:
        rounds: the seconds of a call in each round; rounds of different contenders with the same number ran in turn.
        private: whether only a private switch of torch makes it run as it does.
        difference: the largest difference from our result, relative to the largest entry of ours.
        agrees: whether that is rounding.
        peak: the bytes by which one call grows its process at most.
        first: the seconds of the first call, which compiles; with peaks that of a fresh process and empty caches.
        compilations: how many graphs torch compiled for it, in its first call and all that were timed.
        note: why something is missing.
    """

    name: str
    family: str
    compiled: bool
    rounds: list[float] = field(default_factory=list)
    difference: float | None = None
    agrees: bool | None = None
    peak: int | None = None
    private: bool = False
    note: str = ""
    first: float | None = None
    compilations: int | None = None

    @property
    def label(self) -> str:
        if not self.compiled or "jit" in self.name or "compile=" in self.name:
            return self.name
        return f"{self.name}, compiled whole" if self.private else f"{self.name}, compiled"

    @property
    def seconds(self) -> float:
        return statistics.median(self.rounds)

    @property
    def counts(self) -> bool:
        """Whether it may stand for the best: it ran and its numbers are right."""
        return bool(self.rounds) and self.agrees is not False


@dataclass
class Found:
    """All contenders on one workload; ``busy`` is the share of the machine that others used before a round at most."""

    workload: Workload
    entries: list[Entry]
    busy: float = 0.0

    def best(
        self, names: Collection[str], compiled: Collection[bool] = (False, True), private: Collection[bool] = (False,)
    ) -> Entry | None:
        """The fastest of the contenders, or of the families, that are named."""
        return min(self.counting(names, compiled, private), key=lambda entry: entry.seconds, default=None)

    def counting(
        self, names: Collection[str], compiled: Collection[bool] = (False, True), private: Collection[bool] = (False,)
    ) -> list[Entry]:
        """Those of them that count."""
        return [
            entry
            for entry in self.entries
            if (entry.name in names or entry.family in names)
            and entry.compiled in compiled
            and entry.private in private
            and entry.counts
        ]


@dataclass
class Run:
    """Everything that one command found, and on what.

    Attributes:
        together: what was measured in one process for all workloads of a kind.
        vendor: who made the processor, as far as that is known.
        date: when it was measured.
    """

    machine: str
    versions: dict[str, str]
    found: list[Found]
    cuda: list[dict[str, Any]] = field(default_factory=list)
    together: list[Found] = field(default_factory=list)
    vendor: str = ""
    date: str = ""

    def of(self, workload: str) -> Found | None:
        return next((found for found in self.found if found.workload.name == workload), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Run:
        told = json.loads(text)  # an earlier version of this lacks what was added since
        lists = {name: [_found(part) for part in told.get(name, [])] for name in ("found", "together")}
        return cls(**{**told, **lists})


def _found(told: dict[str, Any]) -> Found:
    return Found(_workload(told["workload"]), [Entry(**entry) for entry in told["entries"]], told["busy"])


def _workload(told: dict[str, Any]) -> Workload:
    return Workload(**{**told, "sizes": tuple(told["sizes"])})


def ratios(above: Entry, below: Entry) -> list[float]:
    """Of neighbouring rounds; one that is too slow to run in all of them is compared in those it ran in."""
    return [first / second for first, second in zip(above.rounds, below.rounds, strict=False)]


def spread(numbers: Iterable[float]) -> tuple[float, float, float]:
    """The lower quartile, the median, the upper quartile."""
    numbers = list(numbers)
    if len(numbers) == 1:
        return numbers[0], numbers[0], numbers[0]
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, middle, high
