"""The page ``docs/benchmarks.md`` and what the command prints, from a run's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .bars import Verdict, told, verdicts
from .growth import AXES, Curve, exponent, known, quantity, sweep
from .ours import OURS, PLAIN
from .quiet import QUIET
from .results import Entry, Found, Run, ratios, spread
from .workloads import GRADIENT, VALUE

MIB = 2**20
PARTS = {VALUE: "The Laplacian", GRADIENT: "Its parameter gradient"}


def page(run: Run, figures: Sequence[Path], folder: Path) -> str:
    """All of it; ``folder`` is where the page goes, which the figures are named from."""
    pictures = {figure.stem: f"![{figure.stem}]({figure.relative_to(folder).as_posix()})\n" for figure in figures}
    lines = [
        *_introduction(run),
        *_verdicts(run),
        *_overview(pictures),
        *_growth(run, pictures),
        *_cuda(run),
        *_tables(run),
    ]
    return "\n".join(lines) + "\n"


def _introduction(run: Run) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    rounds = max(len(entry.rounds) for found in run.found for entry in found.entries)
    yield f"""# Benchmarks

<!-- generated: cd tests && python -m benchmarks --page -->

One run of {rounds} rounds on {run.machine}. Versions: {versions}. [How to run it](CONTRIBUTING.md#benchmark).

**What is timed.** float32 tanh networks with random weights, the same numbers for all. *Value*: the derivative, with
parameters frozen. *Parameter gradient*: the gradient of the mean of its squares by all parameters, the derivative included.
*Training step*: residual, loss, parameter gradient and Adam; ours asks for what is linear in the derivatives [as a
sum](guides/partials.md#sums-that-travel-as-one), and beside it name by name.
Everything is made ready first, compiled where it is, and called twice. Then all contenders of a workload run in turn, in
rounds, every other round in reverse; a time is the median of the rounds, each the lower quartile of its calls. A ratio is
taken within each round; its median and quartiles are shown. Each workload has processes of its own, whose C library keeps
what they free ([why](faq.md#why-do-calls-on-a-cpu-take-so-different-times)).

**Who competes.** `torch.func` in all its ways, `torch.autograd` nested by hand, DeepXDE's PyTorch backend and omnibias-torch
in the same process, eager and by `torch.compile`; JAX and folx under `jit` in a process of their own that the same
rounds call. What calls `torch.autograd.grad` is *compiled whole* by a private switch of torch (`trace_autograd_ops`), without
which it compiles in pieces that cannot be differentiated twice; a bar counts it only where it says so. Before anything is timed its result is compared with ours; who disagrees does not count. Who fails or is absent
is in the tables, with the reason.

{_disturbed(run)}

**Memory** is what one call, not the first, adds to its process at its peak, in a process of its own. For JAX and folx that
is too little: XLA keeps memory of earlier calls for later ones, so how theirs grows is not shown.
"""


def _disturbed(run: Run) -> str:
    """Which workloads ran beside something else."""
    found = [f"{found.workload.title} ({found.busy:.0%})" for found in run.found if found.busy > QUIET]
    if not found:
        return "Nothing else used the machine when a round began."
    return f"**Disturbed**: others used the machine (so much of it) when a round of these began: {'; '.join(found)}."


# -------------------------------------------------------------------- the bars


def _verdicts(run: Run) -> Iterator[str]:
    yield "## The bars\n"
    yield "| workload | bar | measured (quartiles) | against | |"
    yield "|---|---|---|---|---|"
    for verdict in verdicts(run):
        found = run.of(verdict.workload)
        assert found is not None
        state = f"**{told(verdict)}**" if verdict.holds is False else told(verdict)
        yield f"| {found.workload.title} | {verdict.bar} | {measured(verdict)} | {verdict.against} | {state} |"
    yield ""


def measured(verdict: Verdict) -> str:
    """The median and, where there is a spread, the quartiles."""
    if verdict.measured is None:
        return "-"
    low, middle, high = (_number(number) for number in verdict.measured)
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


# -------------------------------------------------------------------- figures and growth


def _overview(pictures: dict[str, str]) -> Iterator[str]:
    if "workloads" in pictures:
        yield f"## All workloads\n\n{pictures['workloads']}"


def _growth(run: Run, pictures: dict[str, str]) -> Iterator[str]:
    for part, title in PARTS.items():
        curves = sweep(run, part)
        if not curves:
            continue
        yield f"## How the cost grows: {title[0].lower() + title[1:]}\n"
        yield "Around N=2000, d=10, four hidden layers of 64, one size at a time.\n"
        yield pictures.get(f"growth-{part}", "")
        yield "The power of each size by which time and memory grow over the upper half of the sweep; 1 is in proportion.\n"
        names = known(curves)
        heads = [f"{AXES[axis]}: {name}" for axis in curves for name in names]
        yield f"| | {' | '.join(heads)} |"
        yield f"|---|{'---|' * len(heads)}"
        labels = {label: None for named in curves.values() for label in named}
        for label in labels:
            cells = [_power(named.get(label, []), name) for named in curves.values() for name in names]
            yield f"| {label} | {' | '.join(cells)} |"
        yield ""


def _power(curve: Curve, name: str) -> str:
    power = exponent(quantity(curve, name))
    return "-" if power is None else f"{power:.2f}"


# -------------------------------------------------------------------- CUDA


def _cuda(run: Run) -> Iterator[str]:
    if not run.cuda:
        return
    yield "## On a CUDA device\n"
    yield "The floor is the larger of arithmetic (1 + rows forwards, three times that with the gradient, at the device's own"
    yield "rate for large products) and bandwidth (reading parameters and input, writing the result, at its rate for copies).\n"
    yield "| workload | dtype | | ms | floor, ms (arithmetic, bandwidth) |"
    yield "|---|---|---|---|---|"
    for row in run.cuda:
        floor = f"{1e3 * max(row['arithmetic'], row['bandwidth']):.3g}"
        parts = f"{1e3 * row['arithmetic']:.2g}, {1e3 * row['bandwidth']:.2g}"
        time = f"{1e3 * row['seconds']:.3g}" if row["seconds"] is not None else row["note"]
        yield f"| {row['workload']} | {row['dtype']} | {row['kind']} | {time} | {floor} ({parts}) |"
    yield ""


# -------------------------------------------------------------------- everyone on every workload


def _tables(run: Run) -> Iterator[str]:
    yield "## Everyone\n"
    yield "The ratios are to the plain forward (and backward, for a gradient) and to jacfunc, the faster of eager and compiled."
    yield "The difference is relative to the largest entry of our result.\n"
    for found in run.found:
        if found.workload.sweep:
            continue
        yield f"### {found.workload.title}\n"
        yield "| | ms (quartiles) | / plain | / jacfunc (quartiles) | peak MiB | difference |"
        yield "|---|---|---|---|---|---|"
        yield from (f"| {' | '.join(cells)} |" for cells in rows(found))
        yield ""
        yield from (f"- {entry.label}: {entry.note}" for entry in found.entries if entry.note)
        yield ""


def rows(found: Found) -> Iterator[list[str]]:
    """The cells of everyone who was timed, the fastest first."""
    ours, plain = found.best([OURS]), found.best([PLAIN])
    for entry in sorted((entry for entry in found.entries if entry.rounds), key=lambda entry: entry.seconds):
        low, middle, high = (_number(1e3 * number) for number in spread(entry.rounds))
        yield [
            entry.label,
            f"{middle} ({low} to {high})",
            _ratio(entry, plain, quartiles=False),
            _ratio(entry, ours),
            "-" if entry.peak is None else f"{entry.peak / MIB:.1f}",
            "-" if entry.difference is None else f"{entry.difference:.0e}",
        ]


def _ratio(entry: Entry, other: Entry | None, quartiles: bool = True) -> str:
    if other is None or entry is other:
        return "-" if other is None else "1"
    low, middle, high = (_number(ratio) for ratio in spread(ratios(entry, other)))
    return f"{middle} ({low} to {high})" if quartiles and low != high else middle


# -------------------------------------------------------------------- what is printed


def text(run: Run) -> str:
    """Tables for a terminal."""
    lines: list[str] = []
    for found in run.found:
        lines += ["", found.workload.title, f"{'':<34}{'ms (quartiles)':<28}{'/ plain':>8}  / jacfunc (quartiles)"]
        for label, time, plain, ours, memory, difference in rows(found):
            lines.append(f"  {label:<32}{time:<28}{plain:>8}  {ours:<24}{memory:>9} MiB  {difference}")
        lines += [f"  {entry.label}: {entry.note}" for entry in found.entries if entry.note]
        lines += [f"  disturbed: others used {found.busy:.0%} of the machine"] * (found.busy > QUIET)
    lines.append("")
    for verdict in verdicts(run):
        against = f" against {verdict.against}" * bool(verdict.against)
        lines.append(f"{told(verdict):<6} {verdict.workload}: {verdict.bar}: {measured(verdict)}{against}")
    return "\n".join(lines)
