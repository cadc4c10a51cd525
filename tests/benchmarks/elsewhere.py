"""What other machines took: columns of the page beside those of the machine at hand, which a run of its own measured.

The bars are for the machine at hand.  A column is data, with its date; ``--keep`` writes that of a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .bars import BEST_PEERS, COMPILED, EAGER
from .ours import OURS
from .results import Found, Run

FILE = Path(__file__).with_name("elsewhere.json")
Row = tuple[float | None, float | None, float | None, str]
"""Milliseconds of ours in eager mode, of ours compiled, and of the best peer, which has a name."""


@dataclass
class Column:
    """One machine at one date."""

    processor: str
    date: str
    rows: dict[str, Row] = field(default_factory=dict)


def columns(file: Path = FILE) -> dict[str, Column]:
    """By the vendor of the processor."""
    told = json.loads(file.read_text(encoding="utf-8"))
    found = {}
    for vendor, one in told.items():
        rows = {name: _row(*row) for name, row in one["rows"].items()}
        found[vendor] = Column(one["processor"], one["date"], rows)
    return found


def _row(eager: float | None, compiled: float | None, peer: float | None, name: str) -> Row:
    return eager, compiled, peer, name


def column(run: Run) -> Column:
    """What a run found; sweeps are about other things."""
    rows = {found.workload.name: row(found) for found in run.found if not found.workload.sweep}
    return Column(run.machine, run.date, rows)


def row(found: Found) -> Row:
    """Of a workload."""
    eager, compiled = (found.best([OURS], [kind]) for kind in (EAGER, COMPILED))
    peer = found.best(BEST_PEERS)
    told = [None if entry is None else round(1e3 * entry.seconds, 4) for entry in (eager, compiled, peer)]
    return told[0], told[1], told[2], "" if peer is None else peer.label


def keep(run: Run, file: Path = FILE) -> None:
    """Write the column of a run, instead of an earlier one of the same vendor."""
    kept = {**columns(file), run.vendor: column(run)}
    written = json.dumps({vendor: asdict(one) for vendor, one in kept.items()}, indent=1)
    # A row is a line, so that a change of one is seen as such.
    file.write_text(re.sub(r"\[[^][]*\]", lambda row: " ".join(row[0].split()), written) + "\n", encoding="utf-8")


def section(run: Run) -> Iterator[str]:
    """A table for each other vendor, of the workloads that both have."""
    for vendor, other in columns().items():
        here = [found for found in run.found if found.workload.name in other.rows]
        if vendor == run.vendor or not here:
            continue
        yield f"## On {other.processor}\n"
        yield f"Milliseconds, measured at another time ({other.date}) on another machine, beside those of this page.\n"
        yield "| workload | eager, here | compiled, here | best peer, here | eager | compiled | best peer |"
        yield "|---|---|---|---|---|---|---|"
        for found in here:
            cells = [*_cells(row(found)), *_cells(other.rows[found.workload.name])]
            yield f"| {found.workload.title} | {' | '.join(cells)} |"
        yield ""


def _cells(row: Row) -> list[str]:
    numbers = ["-" if number is None else f"{number:.3g}" for number in row[:3]]
    return [*numbers[:2], f"{numbers[2]} ({row[3]})" if row[3] and row[2] is not None else numbers[2]]
