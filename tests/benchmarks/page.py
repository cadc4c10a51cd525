"""The page ``docs/benchmarks.md`` and what the command prints, from a run's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .bars import Verdict, told, verdicts
from .charts import FIVE, rivals, tables
from .elsewhere import section
from .growth import AXES, Curve, exponent, known, quantity, sweep
from .ours import OURS, PLAIN
from .quiet import QUIET
from .results import Entry, Found, Run, ratios, spread
from .workloads import GRADIENT, VALUE

MIB = 2**20
PARTS = {VALUE: "the Laplacian", GRADIENT: "the parameter gradient of the Laplacian"}


def page(run: Run, figures: Sequence[Path], folder: Path) -> str:
    """All of it; ``folder`` is where the page goes, which the figures are named from."""
    pictures = {figure.stem: f"![{figure.stem}]({figure.relative_to(folder).as_posix()})\n" for figure in figures}
    lines = [
        *_introduction(run, pictures),
        *_overview(pictures),
        *_growth(run, pictures),
        *_together(run),
        *section(run),
        *_cuda(run),
        *_tables(run),
        *_targets(run),
    ]
    return "\n".join(lines) + "\n"


def _introduction(run: Run, pictures: dict[str, str]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    rounds = max(len(entry.rounds) for found in run.found for entry in found.entries)
    yield f"""# Benchmarks

<!-- generated: cd tests && python -m benchmarks --page -->

How fast jacfunc is, and how much memory it takes, beside other ways to the same derivatives.

{summary(tables(all_results(run)))}
{pictures.get("five", "")}
The numbers are those of one run of {rounds} rounds on {run.machine}. Versions: {versions}.
[How to run it](CONTRIBUTING.md#benchmark).

**What is timed.** All networks have random weights, the same numbers for everyone, in single precision if nothing else is
said. `1-20-20-400` is a tanh network with 1 input, two hidden layers of 20, and 400 outputs; `2-4x64-1` has four hidden
layers of 64. Other networks are named in words; their code is in `tests/benchmarks/networks.py`.

- *Value*: the derivative, with parameters frozen.
- *Parameter gradient*: the gradient, by all parameters, of the mean of the squared derivative. The derivative is computed
  too.
- *Training step*: the residual of an equation, the loss, its parameter gradient, and a step of Adam. jacfunc asks for the
  linear part of the equation [as a sum](guides/partials.md#sums-that-travel-as-one), and in another row name by name.

**How it is timed.** Each contender is prepared (and compiled, if its label says so) and called twice. Then all contenders
of a workload take turns, in rounds; every other round runs in reverse order. The time of a round is the lower quartile of its
calls. The time of a contender is the median of its rounds. A ratio is taken within each round, and its median and quartiles
are shown. Each workload has processes of its own, whose C library keeps the memory that they free
([why](faq.md#why-do-calls-on-a-cpu-take-so-different-times)).

**Who competes.**

- In the same process, eager and by `torch.compile`: `torch.func` in all its ways, `torch.autograd` nested by hand, DeepXDE's
  PyTorch backend, and omnibias-torch.
- In another process, which the same rounds call: JAX and folx under `jit`. For particles folx also runs with sparse rows.
- Attention is left to its fast kernel for jacfunc and the plain forward. The other ways of PyTorch cannot differentiate
  through that twice, and get the one made of products (`SDPBackend.MATH`).
- Code that calls `torch.autograd.grad` is *compiled whole* only with a private switch of torch (`trace_autograd_ops`).
  Without it, torch compiles such code in pieces that cannot be differentiated twice. Targets only count these contenders
  where they say so.

The result of each contender is compared with that of jacfunc first. If it differs by more than rounding, the contender does
not count. Contenders that failed, or were not installed, are listed below the tables, with the reason.

{_disturbed(run)}

**Memory** is what one call, not the first one, adds to its process at its peak, in a process of its own. For JAX and folx
this number is too small, because XLA keeps the memory of earlier calls for later ones. So the growth of their memory is not
shown.

**The first call** compiles. Its seconds are those of a fresh process in which nothing was compiled before, with empty caches.
*Compilations* are the graphs that torch compiled in the first call and in all that were timed, one or more for a frame.
"""


def summary(found: dict[str, dict[str, float]]) -> str:
    """What is faster than what, from the milliseconds of everyone, which charts are drawn from too."""
    lines = []
    for title, workload, usual in FIVE:
        times = found.get(workload, {})
        if OURS not in times:
            continue
        best = {kind: f"{ratio:.2f} ({label})" for kind, _, (label, ratio) in rivals(times)}
        eager = f"{times[usual] / times[OURS]:.2f} ({usual})" if usual in times else "-"
        lines.append(f"| {title} | {eager} | {best.get('PyTorch', '-')} | {best.get('JAX', '-')} |\n")
    return SUMMARY + "".join(lines) if lines else ""


SUMMARY = """How many times as fast jacfunc is (below 1 it is slower):

- *Usual code*: the usual way in PyTorch, beside jacfunc, both in eager mode (not compiled).
- *The fastest in PyTorch* and *under JAX*: the fastest of all that were measured, eager or compiled, beside the fastest
  jacfunc. (omnibias-torch takes a list of layers, not any function.)

| | usual code | the fastest in PyTorch | the fastest under JAX |
|---|---|---|---|
"""


def _reached(run: Run) -> str:
    """How many of the targets are reached."""
    found = [verdict.holds for verdict in verdicts(run)]
    undecided = f" {found.count(None)} could not be decided." * bool(found.count(None))
    return f"jacfunc reaches {found.count(True)} of {len(found)}.{undecided}"


def _disturbed(run: Run) -> str:
    """Which workloads ran beside something else."""
    found = [f"{found.workload.title} ({found.busy:.0%})" for found in run.found if found.busy > QUIET]
    if not found:
        return "No other program used the machine when a round began."
    return (
        "**Disturbed**: other programs used the machine, by this share of it, when a round of these workloads began: "
        f"{'; '.join(found)}."
    )


# -------------------------------------------------------------------- the targets


def _targets(run: Run) -> Iterator[str]:
    yield f"""## The targets

What is wanted of each workload. {_reached(run)}
*Measured* is the number that the target limits, as median and quartiles of the rounds: the
time or the memory divided by that of *beside*, or how many times as fast jacfunc is as *beside*, or microseconds.

- *The best peer* is the fastest of torch.func, torch.autograd, DeepXDE, JAX and folx. (omnibias-torch takes a list of layers
  instead of a function, and has targets of its own.) An eager target faces eager peers. A compiled one faces all of them, and so does one of the faster of both.
- *The fastest fixed method* is the fastest of `method="taylor"`, `"forward"` and `"reverse"`, beside the default
  `method="auto"`.
- *At half the size*: with half as many inputs and outputs. Memory in proportion to them would be 2 times as much, memory in
  proportion to inputs times outputs 4 times.
- *The number of inputs* (or outputs) is that of one sample: each takes one row, which costs about one plain
  forward.
"""
    by_title: dict[str, list[Verdict]] = {}
    for verdict in verdicts(run):
        found = run.of(verdict.workload)
        assert found is not None
        by_title.setdefault(found.workload.title, []).append(verdict)
    for title, some in by_title.items():
        yield f"**{title}**\n"
        yield "| target | measured (quartiles) | beside | verdict |"
        yield "|---|---|---|---|"
        for verdict in some:
            state = f"**{told(verdict)}**" if verdict.holds is False else told(verdict)
            yield f"| {verdict.bar} | {measured(verdict)} | {verdict.against} | {state} |"
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
        yield f"## How the cost grows: {title}\n"
        yield "One size varies at a time, around N=2000, d=10 and four hidden layers of 64.\n"
        yield pictures.get(f"growth-{part}", "")
        yield "The tables have the power p: time or memory grows like the size to the power p, over the upper half of the"
        yield "sizes. 1 means in proportion.\n"
        labels = {label: None for named in curves.values() for label in named}
        for name in known(curves):
            yield f"| {name} | {' | '.join(AXES[axis] for axis in curves)} |"
            yield f"|---|{'---|' * len(curves)}"
            for label in labels:
                cells = [_power(named.get(label, []), name) for named in curves.values()]
                if set(cells) != {"-"}:
                    yield f"| {label} | {' | '.join(cells)} |"
            yield ""


def _power(curve: Curve, name: str) -> str:
    power = exponent(quantity(curve, name))
    return "-" if power is None else f"{power:.2f}"


# -------------------------------------------------------------------- one process


def _together(run: Run) -> Iterator[str]:
    if not run.together:
        return
    yield "## All in one process\n"
    yield "All workloads of a kind one after another and in turn, in random order, in one process, as in a notebook; beside"
    yield "them, the same in a process for each workload.\n"
    yield "| workload | eager, ms | compiled, ms | alone: eager | compiled | compilations | alone |"
    yield "|---|---|---|---|---|---|---|"
    for found in run.together:
        alone = run.of(found.workload.name)
        cells = [*_both(found), *_both(alone), *(_compilations(one) for one in (found, alone))]
        yield f"| {found.workload.title} | {' | '.join(cells)} |"
    yield ""
    notes = [(found, entry) for found in run.together for entry in found.entries if entry.note]
    yield from (f"- {found.workload.title}: {entry.label}: {entry.note}" for found, entry in notes)
    yield "" * bool(notes)


def _both(found: Found | None) -> list[str]:
    """The milliseconds of the plain call of ours and of that compiled."""
    entries = [None if found is None else _plain_call(found, kind) for kind in (False, True)]
    return ["-" if entry is None or not entry.rounds else _number(1e3 * entry.seconds) for entry in entries]


def _plain_call(found: Found, compiled: bool) -> Entry | None:
    return next((one for one in found.entries if (one.name, one.compiled) == (OURS, compiled)), None)


def _compilations(found: Found | None) -> str:
    entry = None if found is None else _plain_call(found, True)
    return "-" if entry is None or entry.compilations is None else str(entry.compilations)


# -------------------------------------------------------------------- CUDA


def _cuda(run: Run) -> Iterator[str]:
    if not run.cuda:
        return
    yield "## On a CUDA device\n"
    yield "The least time is the larger of two estimates. Arithmetic: 1 + rows forwards, three times that with the gradient, at"
    yield "the rate that the device reaches in large products. Bandwidth: parameters and input are read and the result is"
    yield "written, at the rate that it reaches in copies.\n"
    yield "| workload | dtype | contender | ms | least ms (arithmetic, bandwidth) |"
    yield "|---|---|---|---|---|"
    for row in run.cuda:
        floor = f"{1e3 * max(row['arithmetic'], row['bandwidth']):.3g}"
        parts = f"{1e3 * row['arithmetic']:.2g}, {1e3 * row['bandwidth']:.2g}"
        time = f"{1e3 * row['seconds']:.3g}" if row["seconds"] is not None else row["note"]
        yield f"| {row['workload']} | {row['dtype']} | {row['kind']} | {time} | {floor} ({parts}) |"
    yield ""


# -------------------------------------------------------------------- everyone on every workload


def all_results(run: Run) -> str:
    """The tables of all workloads, which charts are drawn from."""
    return "\n".join(_tables(run))


def _tables(run: Run) -> Iterator[str]:
    yield """## All results

One table for each workload, the fastest contender first.

- *times plain*: its time divided by that of the plain forward (with the backward for a gradient, a whole step for a step).
- *times jacfunc*: its time divided by that of the fastest jacfunc.
- *difference*: the largest difference from the result of jacfunc in eager mode, relative to the largest entry of that.
- *first call*, *compilations*: of those that are compiled.
"""
    for found in run.found:
        if found.workload.sweep:
            continue
        yield f"### {found.workload.title}\n"
        yield f"| {' | '.join(HEAD)} |"
        yield "|---" * len(HEAD) + "|"
        yield from (f"| {' | '.join(cells)} |" for cells in rows(found))
        yield ""
        yield from (f"- {entry.label}: {entry.note}" for entry in found.entries if entry.note)
        yield ""


HEAD = (
    "contender",
    "ms (quartiles)",
    "times plain",
    "times jacfunc (quartiles)",
    "peak MiB",
    "difference",
    "first call, s",
    "compilations",
)


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
            "-" if entry.first is None or not entry.compiled else _number(entry.first),
            "-" if entry.compilations is None else str(entry.compilations),
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
    head = f"{'':<34}{'ms (quartiles)':<28}{'/ plain':>8}  {'/ jacfunc (quartiles)':<38}{'':<7}first s, compilations"
    for found in run.found:
        lines += ["", found.workload.title, head]
        for label, time, plain, ours, memory, difference, first, count in rows(found):
            left = f"  {label:<32}{time:<28}{plain:>8}  {ours:<24}{memory:>9} MiB  {difference:<6}"
            lines.append(f"{left}{first:>6} {count:>4}")
        lines += [f"  {entry.label}: {entry.note}" for entry in found.entries if entry.note]
        lines += [f"  disturbed: others used {found.busy:.0%} of the machine"] * (found.busy > QUIET)
    lines += ["", *_together(run), *section(run)]
    for verdict in verdicts(run):
        against = f" against {verdict.against}" * bool(verdict.against)
        lines.append(f"{told(verdict):<6} {verdict.workload}: {verdict.bar}: {measured(verdict)}{against}")
    return "\n".join(lines)
