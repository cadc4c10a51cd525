"""How time and memory grow along a sweep: its curves and their powers.  Who draws them is ``plots.py``."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from .results import Entry, Run

AXES = {"samples": "samples N", "input": "input dimension d", "width": "width", "depth": "hidden layers"}
QUANTITIES = {"time": "ms", "memory": "peak memory, MiB"}
KEEPING = ("JAX", "folx")
"""Families by XLA, which keeps memory for later calls: what one of those adds, sometimes nothing, is no curve."""

Curve = list[tuple[int, Entry]]


def sweep(run: Run, part: str) -> dict[str, dict[str, Curve]]:
    """For each axis and each contender its entries along the axis."""
    found: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(list))
    for measured in run.found:
        if measured.workload.sweep and measured.workload.part == part:
            for entry in measured.entries:
                if entry.counts:
                    found[measured.workload.sweep][entry.label].append((measured.workload.point, entry))
    return found


def quantity(curve: Curve, name: str) -> list[tuple[int, float]]:
    """The points of a curve that have a time in ms, or a peak memory in MiB."""
    if name == "time":
        return sorted((point, 1e3 * entry.seconds) for point, entry in curve)
    return sorted((point, entry.peak / 2**20) for point, entry in curve if entry.peak and entry.family not in KEEPING)


def known(curves: dict[str, dict[str, Curve]]) -> list[str]:
    """The quantities that were measured at all."""
    every = [curve for named in curves.values() for curve in named.values()]
    return [name for name in QUANTITIES if any(quantity(curve, name) for curve in every)]


def exponent(points: list[tuple[int, float]]) -> float | None:
    """Of the power of the axis by which a curve grows over its upper half; 1 is in proportion."""
    upper = points[len(points) // 2 - 1 :] if len(points) > 3 else points[-2:]
    if len(upper) < 2:
        return None
    x, y = np.log(np.array(upper, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])
