"""The charts on the README and at the top of the page, drawn from the tables that the page itself has.

So a chart shows no number that a reader cannot find there, and ``python -m benchmarks.charts`` draws them again from the
page alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS_COLOUR, OTHERS_COLOUR, JAX_COLOUR = "#d62728", "#8c8c8c", "#ff7f0e"


@dataclass(frozen=True)
class Panel:
    """One workload of the page as bars: what is written beside a bar, and whose row of the table it is."""

    title: str
    workload: str
    bars: tuple[tuple[str, str], ...]


AT_A_GLANCE = (
    Panel(
        "400 derivatives by time,\n100 samples",
        "diag_jac, N=100, 1-20-20-400",
        (
            ("jacfunc, compiled", "jacfunc, compile=True"),
            ("jacfunc", "jacfunc"),
            ("vmap(jacfwd)", "vmap(jacfwd)"),
            ("dense, vectorized", "dense Jacobian"),
        ),
    ),
    Panel(
        "Training step of a PINN\n(Burgers, 10,000 points)",
        "training step of Burgers, N=10000, 2-4x64-1",
        (
            ("jacfunc, compiled", "jacfunc, compiled"),
            ("jacfunc", "jacfunc"),
            ("nested autograd.grad", "torch.autograd nested"),
            ("DeepXDE", "DeepXDE reverse"),
        ),
    ),
    Panel(
        "Laplacian of 10 inputs,\n2,000 samples",
        "laplacian, N=2000, 10-4x64-1",
        (
            ("jacfunc, compiled", "jacfunc, compile=True"),
            ("jacfunc", "jacfunc"),
            ("folx, JAX jit", "folx jit"),
            ("vmap(hessian)", "vmap(hessian)"),
        ),
    ),
)

FIVE = (
    ("400 derivatives by time", "diag_jac, N=100, 1-20-20-400", "vmap(jacfwd)"),
    ("Jacobian, 3 to 3", "batch_jac, N=10000, 3-128-128-3", "vmap(jacfwd)"),
    ("Laplacian of 10 inputs", "laplacian, N=2000, 10-4x64-1", "vmap(hessian)"),
    ("its parameter gradient", "laplacian, N=2000, 10-4x64-1, parameter gradient", "vmap(hessian)"),
    ("Burgers, training step", "training step of Burgers, N=10000, 2-4x64-1", "torch.autograd nested"),
)
"""What is written beside a pair of bars, the workload, and how most code does it."""

OURS, PLAIN, JAX = "jacfunc", "plain forward", ("JAX", "folx")


def tables(page: str) -> dict[str, dict[str, float]]:
    """The milliseconds of everyone on every workload of the page; who disagrees is left out."""
    found: dict[str, dict[str, float]] = {}
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        wrong = set(re.findall(r"^- (.+): disagrees with ours", text, re.MULTILINE))
        rows = re.findall(r"^\| ([^|]+) \| ([\d.,]+) \(", text, re.MULTILINE)
        found[title] = {label: float(ms.replace(",", "")) for label, ms in rows if label not in wrong}
    return found


def charted(page: str, folder: Path) -> list[Path]:
    """Draw what the page has all workloads for; the files."""
    found, files = tables(page), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, (workloads, chart) in CHARTS.items():
        if workloads <= found.keys():
            figure = chart(found)
            files.append(folder / f"{name}.png")
            figure.savefig(files[-1], dpi=150, metadata={"Software": None})
            pyplot.close(figure)
    return files


def at_a_glance(found: dict[str, dict[str, float]], narrow: bool = False) -> Figure:
    """A panel a workload: the time of a call of each, on a logarithmic axis; ``narrow``: below each other, for phones."""
    many = len(AT_A_GLANCE)
    figure, panels = (
        pyplot.subplots(many, 1, figsize=(4, 6.6), layout="constrained")
        if narrow
        else pyplot.subplots(1, many, figsize=(11, 2.3), layout="constrained")
    )
    for axes, panel in zip(panels, AT_A_GLANCE, strict=True):
        times = [found[panel.workload][label] for _, label in panel.bars]
        colours = [OURS_COLOUR if name.startswith(OURS) else OTHERS_COLOUR for name, _ in panel.bars]
        _bars(axes, [name for name, _ in panel.bars], times, colours, [_told(ms, times[1]) for ms in times])
        axes.set_title(panel.title, fontsize=10)
        axes.set_xscale("log")
        axes.set_xticks([])
        axes.minorticks_off()
        axes.set_xlim(min(times) / 3, max(times) * (max(times) / min(times)) ** 0.7)
    told = (
        "time of a call (shorter is faster; logarithmic axis),",
        "and how many times that of jacfunc in eager mode (two CPU cores)",
    )
    figure.supxlabel(("\n" if narrow else " ").join(told), fontsize=8)
    return figure


def _told(ms: float, ours: float) -> str:
    return f"{ms:.2g} ms" + ("" if ms == ours else f", {ms / ours:.{2 if ms < 100 * ours else 3}g}x")


def five(found: dict[str, dict[str, float]]) -> Figure:
    """How many times as long as jacfunc the fastest other one takes: of PyTorch's, and under JAX."""
    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    names: list[str] = []
    ratios: list[float] = []
    colours: list[str] = []
    texts: list[str] = []
    for title, workload, _ in FIVE:
        for kind, colour, (label, ratio) in rivals(found[workload]):
            names.append(f"{title} ({kind})")
            ratios.append(ratio)
            colours.append(colour)
            texts.append(f"{ratio:.2f} {label}")
    # A text begins right of the line, which would run through it.
    _bars(axes, names, ratios, colours, texts, [max(ratio, 1) for ratio in ratios])
    axes.axvline(1, color=OURS_COLOUR, linewidth=1.5)
    axes.set_xlim(0, max(ratios) * 1.5)
    axes.set_xlabel(
        "longer bar = jacfunc is that much faster: time of the fastest other one, eager or compiled, by that of jacfunc\n"
        "(left of the red line: jacfunc is slower)",
        fontsize=8,
    )
    return figure


def rivals(times: dict[str, float]) -> Iterator[tuple[str, str, tuple[str, float]]]:
    """The fastest that is not ours, in PyTorch and in JAX where there is one, as a ratio to the fastest of ours."""
    ours = min(ms for label, ms in times.items() if label.startswith(OURS))
    others = {label: ms / ours for label, ms in times.items() if not label.startswith((OURS, PLAIN))}
    jax = {label: ratio for label, ratio in others.items() if label.startswith(JAX)}
    torch = {label: ratio for label, ratio in others.items() if label not in jax}
    for kind, colour, group in (("PyTorch", OTHERS_COLOUR, torch), ("JAX", JAX_COLOUR, jax)):
        if group:
            yield kind, colour, min(group.items(), key=lambda pair: pair[1])


def _bars(
    axes: Axes,
    names: list[str],
    lengths: list[float],
    colours: list[str],
    texts: list[str],
    starts: list[float] | None = None,
) -> None:
    """Horizontal ones, from the top down, each with a text at its end, or where ``starts`` says."""
    places = range(len(names))
    axes.barh(places, lengths, color=colours)
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    for place, start, text in zip(places, starts or lengths, texts, strict=True):
        axes.annotate(text, (start, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


CHARTS = {
    "five": ({workload for _, workload, _ in FIVE}, five),
    "at-a-glance": ({panel.workload for panel in AT_A_GLANCE}, at_a_glance),
    "at-a-glance-narrow": ({panel.workload for panel in AT_A_GLANCE}, partial(at_a_glance, narrow=True)),
}

if __name__ == "__main__":
    DOCS = Path(__file__).parents[2] / "docs"
    charted((DOCS / "benchmarks.md").read_text(encoding="utf-8"), DOCS / "benchmarks")
