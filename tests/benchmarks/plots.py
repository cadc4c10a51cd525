"""The figures of the page, from a run's numbers."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from .growth import AXES, QUANTITIES, Curve, known, quantity, sweep
from .ours import OURS, PLAIN
from .results import Found, Run
from .workloads import GRADIENT, VALUE

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

COLOURS = {
    OURS: "#d62728",
    PLAIN: "#7f7f7f",
    "torch.func": "#1f77b4",
    "torch.autograd": "#17becf",
    "DeepXDE": "#2ca02c",
    "omnibias-torch": "#9467bd",
    "JAX": "#ff7f0e",
    "folx": "#8c564b",
}


def drawn(run: Run, folder: Path) -> list[Path]:
    """Draw what the run allows; the files, the overview first."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"workloads": _workloads(run)}
    for part in (VALUE, GRADIENT):
        if sweep(run, part):
            figures[f"growth-{part}"] = _growth(run, part)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110, metadata={"Software": None})
        pyplot.close(figure)
    return files


# -------------------------------------------------------------------- every workload at a glance


def _workloads(run: Run) -> Figure:
    """For each workload the seconds of all, the fastest of each family filled."""
    found = [part for part in run.found if not part.workload.sweep]
    families = list(COLOURS)
    figure, axes = pyplot.subplots(figsize=(11, 1.5 + 0.5 * len(found)), layout="constrained")
    for row, part in enumerate(found):
        for family in families:
            _marks(axes, row + 0.6 * (families.index(family) / len(families) - 0.5), part, family)
        axes.axhline(row + 0.5, color="#dddddd", linewidth=0.8)
    axes.set_yticks(range(len(found)), [part.workload.title for part in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlabel("ms a call (filled: the fastest of its family; square: compiled)")
    axes.grid(axis="x", color="#eeeeee")
    for family in families:
        axes.plot([], [], "o", color=COLOURS[family], label=family)
    figure.legend(loc="outside upper center", ncols=len(families), frameon=False, fontsize=9)
    return figure


def _marks(axes: Axes, height: float, found: Found, family: str) -> None:
    best = found.best([family])
    for entry in found.entries:
        if entry.family == family and entry.counts:
            face = COLOURS[family] if entry is best else "none"
            mark = "s" if entry.compiled else "o"
            axes.plot(1e3 * entry.seconds, height, mark, color=COLOURS[family], markerfacecolor=face, markersize=6)


# -------------------------------------------------------------------- how the cost grows


def _growth(run: Run, part: str) -> Figure:
    curves = sweep(run, part)
    rows = known(curves)
    figure, grid = pyplot.subplots(
        len(rows), len(curves), figsize=(3.6 * len(curves), 1 + 3.1 * len(rows)), layout="constrained", squeeze=False
    )
    for row, name in enumerate(rows):
        for axes, (axis, named) in zip(grid[row], curves.items(), strict=True):
            for label, curve in named.items():
                _line(axes, label, curve, name)
            points = sorted({point for curve in named.values() for point, _ in curve})
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(points, [str(point) for point in points])
            axes.minorticks_off()
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.grid(color="#eeeeee")
            axes.set_xlabel(AXES[axis])
        grid[row][0].set_ylabel(QUANTITIES[name])
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False, fontsize=9)
    return figure


def _line(axes: Axes, label: str, curve: Curve, name: str) -> None:
    points = quantity(curve, name)
    if points:
        entry = curve[0][1]
        style = "s-" if entry.compiled else "o--"
        axes.plot(*zip(*points, strict=True), style, color=COLOURS[entry.family], label=label, markersize=4)
