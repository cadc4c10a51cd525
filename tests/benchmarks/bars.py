"""The bars: what each workload has to reach, and whether it does.  The numbers come from ``results.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .equations import EQUATIONS
from .ours import BLOCKS, FORCED, OURS, PLAIN
from .results import LATE, Entry, Found, Run, ratios, spread
from .workloads import STEP, WORKLOADS, Workload

# Of ours a bar takes the fastest too, whole or in blocks, by torch.compile or compile=True: ``OURS`` is their family.
STEP_PEERS = ("torch.func", "torch.autograd", "DeepXDE")
BEST_PEERS = (*STEP_PEERS, "folx", "JAX")
"""omnibias-torch takes a list of layers and no function: it has bars of its own."""
WHOLE = "the best peer, those compiled whole included"
EAGER, COMPILED = False, True
EITHER = None
"""The faster of both."""
MIB = 2**20


@dataclass(frozen=True)
class Verdict:
    """``measured`` is the lower quartile, median and upper quartile; ``holds`` is None where it cannot be told."""

    workload: str
    bar: str
    against: str
    measured: tuple[float, float, float] | None
    holds: bool | None
    missing: str = ""


@dataclass(frozen=True)
class Bar:
    """Something that is wanted of a workload; ``judge`` says whether it holds in a run."""

    workload: str
    text: str
    judge: Callable[[Run, Bar], Verdict]


def verdicts(run: Run) -> list[Verdict]:
    """Of every bar whose workload ran."""
    return [bar.judge(run, bar) for bar in BARS if run.of(bar.workload) is not None]


# -------------------------------------------------------------------- time


def at_most(workload: str, compiled: bool, limit: float, unit: float, text: str, name: str = PLAIN) -> Bar:
    """So many times ``unit`` calls of the best of a family, plain forwards if it is not said."""

    def judge(run: Run, bar: Bar) -> Verdict:
        found, ours = _found(run, bar), _ours(run, bar, compiled)
        other = found.best([name])
        if ours is None or other is None:
            return _missing(bar, f"{OURS if ours is None else name} did not run")
        measured = spread(ratio / unit for ratio in ratios(ours, other))
        return Verdict(bar.workload, bar.text, other.label, measured, measured[1] <= limit)

    return Bar(workload, f"{_kind(compiled)}: at most {limit:g} times {text}", judge)


def faster(
    workload: str,
    compiled: bool | None,
    limit: float,
    names: tuple[str, ...],
    text: str,
    name: str = OURS,
    private: tuple[bool, ...] = (False,),
) -> Bar:
    """At least ``limit`` times as fast as the best of ``names``, which are families or contenders."""

    def judge(run: Run, bar: Bar) -> Verdict:
        found, ours = _found(run, bar), _ours(run, bar, compiled, name=name)
        # An eager bar faces eager peers; a compiled one whichever is faster.
        peer = found.best(names, (EAGER,) if compiled is EAGER else (EAGER, COMPILED), private)
        if ours is None or peer is None:
            return _missing(bar, f"{OURS if ours is None else ', '.join(names)} did not run")
        measured = spread(ratios(peer, ours))
        absent = ", ".join(_absent(found, names))
        holds = measured[1] >= limit
        return Verdict(bar.workload, bar.text, peer.label, measured, None if holds and absent else holds, absent)

    wanted = "no slower than" if limit == 1 else f"at least {limit:g} times as fast as"
    return Bar(workload, f"{_kind(compiled)}{_of(name)}: {wanted} {text}", judge)


def overhead(workload: str, limit: float) -> Bar:
    """At most so many microseconds over the plain forward."""

    def judge(run: Run, bar: Bar) -> Verdict:
        ours, plain = _ours(run, bar, EAGER), _found(run, bar).best([PLAIN])
        if ours is None or plain is None:
            return _missing(bar, f"{OURS if ours is None else PLAIN} did not run")
        measured = spread(1e6 * (first - second) for first, second in zip(ours.rounds, plain.rounds, strict=True))
        return Verdict(bar.workload, bar.text, PLAIN, measured, measured[1] <= limit)

    return Bar(workload, f"eager: at most {limit:g} us more than the plain forward", judge)


def compiled_keeps_up(workload: str, limit: float) -> Bar:
    """Compiled takes at most ``limit`` times what eager does."""

    def judge(run: Run, bar: Bar) -> Verdict:
        ours, eager = _ours(run, bar, COMPILED), _ours(run, bar, EAGER)
        if ours is None or eager is None:
            return _missing(bar, f"{OURS} did not run {'compiled' if ours is None else 'eager'}")
        measured = spread(ratios(ours, eager))
        return Verdict(bar.workload, bar.text, eager.label, measured, measured[1] <= limit)

    return Bar(workload, f"compiled: at most {limit:g} times eager", judge)


def first_call(workload: str, limit: float) -> Bar:
    """The first compiled call of a fresh process with empty caches takes at most so many seconds, of all our ways."""

    def judge(run: Run, bar: Bar) -> Verdict:
        ours = [entry for entry in _found(run, bar).entries if entry.family == OURS and entry.compiled]
        late = [entry for entry in ours if entry.note.startswith(LATE)]
        if late:
            return Verdict(bar.workload, f"{bar.text} ({late[0].note})", late[0].label, None, False)
        found = {entry.label: entry.first for entry in ours if entry.first is not None}
        if not found:
            return _missing(bar, "nothing was compiled")
        label, seconds = max(found.items(), key=lambda pair: pair[1])
        return Verdict(bar.workload, bar.text, label, (seconds,) * 3, seconds <= limit)

    return Bar(workload, f"compiled: at most {limit:g} s for the first call", judge)


# -------------------------------------------------------------------- memory


def below_block(workload: str, name: str = OURS) -> Bar:
    """Less memory than all samples' whole Jacobians."""

    def judge(run: Run, bar: Bar) -> Verdict:
        found, ours = _found(run, bar), _ours(run, bar, EAGER, name=name)
        if ours is None or ours.peak is None:
            return _missing(bar, "memory was not measured")
        share = ours.peak / found.workload.block
        against = f"{found.workload.block / MIB:.1f} MiB"
        return Verdict(bar.workload, bar.text, against, (share, share, share), share < 1)

    return Bar(workload, f"eager{_of(name)}: less memory than the Jacobians of all samples", judge)


def less_memory(workload: str, compiled: bool | None, limit: float) -> Bar:
    """At most ``limit`` times the peak of the peer that takes the least; an eager bar faces eager peers."""

    def judge(run: Run, bar: Bar) -> Verdict:
        found, ours = _found(run, bar), _ours(run, bar, compiled)
        kinds = (EAGER,) if compiled is EAGER else (EAGER, COMPILED)
        peers = [entry for entry in found.counting(STEP_PEERS, kinds) if entry.peak]
        if ours is None or not ours.peak or not peers:
            return _missing(bar, "memory was not measured")
        least = min(peers, key=lambda entry: entry.peak or 0)
        share = ours.peak / (least.peak or 1)
        return Verdict(bar.workload, bar.text, least.label, (share,) * 3, share <= limit)

    return Bar(workload, f"{_kind(compiled)}: at most {limit:.2g} times the least memory of a peer", judge)


def grows_linearly(workload: str, half: str) -> Bar:
    """Memory at most 2.5 times that of a workload with half the ``d`` (and ``m``); ``d * d`` would make it 4."""

    def judge(run: Run, bar: Bar) -> Verdict:
        ours, smaller = _ours(run, bar, EAGER), _ours(run, bar, EAGER, half)
        if ours is None or smaller is None or ours.peak is None or not smaller.peak:
            return _missing(bar, "memory was not measured, or not that of the half")
        growth = ours.peak / smaller.peak
        against = f"{smaller.peak / MIB:.1f} MiB at half the size"
        return Verdict(bar.workload, bar.text, against, (growth,) * 3, growth <= 2.5)

    return Bar(workload, "eager: at most 2.5 times the memory at half the size", judge)


# -------------------------------------------------------------------- what they share


def _kind(compiled: bool | None) -> str:
    return {EAGER: "eager", COMPILED: "compiled", EITHER: "eager or compiled"}[compiled]


def _found(run: Run, bar: Bar) -> Found:
    found = run.of(bar.workload)
    assert found is not None
    return found


def _of(name: str) -> str:
    return name.removeprefix(OURS)


def _ours(run: Run, bar: Bar, compiled: bool | None, workload: str = "", name: str = OURS) -> Entry | None:
    found = run.of(workload or bar.workload)
    kinds = (EAGER, COMPILED) if compiled is EITHER else (compiled,)
    return found.best([name], kinds) if found is not None else None


def _absent(found: Found, names: tuple[str, ...]) -> Iterator[str]:
    """The names of whom nothing ran: without them a bar that seems to hold is not known to."""
    for name in names:
        candidates = [entry for entry in found.entries if name in (entry.name, entry.family)]
        if candidates and not any(entry.rounds for entry in candidates):
            yield f"{name} did not run"


def _missing(bar: Bar, why: str) -> Verdict:
    return Verdict(bar.workload, bar.text, "", None, None, why)


# -------------------------------------------------------------------- the bars


def _floor(workload: Workload) -> list[Bar]:
    """One plain forward and one for each row, of which there are as many as inputs or, if that is less, outputs."""
    inputs, outputs = workload.rows, workload.sizes[-1]
    readings = {inputs: "inputs", **({outputs: "outputs"} if outputs < inputs else {})}
    return [
        at_most(workload.name, compiled, limit, 1 + count, f"{1 + count} plain forwards (1 + the number of {side})")
        for count, side in readings.items()
        for compiled, limit in ((EAGER, 1.5), (COMPILED, 1.2))
    ]


def _laplacian(name: str, value: float, gradient: float, value_against: tuple[str, ...], text: str) -> list[Bar]:
    both = (name, f"{name}-gradient")
    return [
        faster(name, COMPILED, value, value_against, text),
        faster(f"{name}-gradient", COMPILED, gradient, BEST_PEERS, "the best peer"),
        *(faster(part, COMPILED, 1, ("omnibias-torch",), "omnibias-torch") for part in both),
    ]


def _equation(name: str, compiled: float, eager: float, whole: float) -> list[Bar]:
    rows = EQUATIONS[name].rows
    return [
        faster(name, COMPILED, compiled, STEP_PEERS, "the best peer"),
        faster(name, EAGER, eager, STEP_PEERS, "the best peer"),
        faster(name, COMPILED, whole, STEP_PEERS, WHOLE, private=(False, True)),
        at_most(name, COMPILED, 1.4, rows, f"{rows} plain training steps"),
        *(less_memory(name, compiled, 2 / 3) for compiled in (COMPILED, EAGER)),
    ]


NETWORKS = {
    "small": (0.9, 0.8),
    "siren2": (1.5, 1.8),
    "slater30": (1.2, 1.5),
    "particles48": (1.2, 1.5),
    "conv256": (2.5, 2),
    "layernorm10": (1.4, 2),
    "flow64": (1.2, 2.2),
    "gated": (2, 2.5),
    "silu3": (2.6, 3),
    "double3": (2, 2.5),
}
"""How many times as fast as the best peer, by value and by parameter gradient."""


def _network(name: str, value: float, gradient: float) -> list[Bar]:
    parts = {name: value, f"{name}-gradient": gradient}
    return [faster(part, EITHER, limit, BEST_PEERS, "the best peer") for part, limit in parts.items()]


_BY_NAME = {workload.name: workload for workload in WORKLOADS}
BARS = [
    at_most("founding", EAGER, 2.6, 1, "the plain forward"),
    faster("founding", EAGER, 6, ("vmap(jacfwd)",), "vmap(jacfwd)"),
    at_most("founding", COMPILED, 1.5, 1, "the plain forward"),
    *_floor(_BY_NAME["jacobian-3"]),
    *_floor(_BY_NAME["jacobian-2"]),
    faster("diagonal-64", EAGER, 1, ("torch.func",), "the best of torch.func", BLOCKS),
    below_block("diagonal-64", BLOCKS),
    faster("diagonal-2000", EAGER, 50, ("torch.func",), "the best of torch.func"),
    grows_linearly("diagonal-2000", "diagonal-1000"),
    *_laplacian("laplacian-10", 1, 3, BEST_PEERS, "the best peer"),
    *_laplacian("laplacian-100", 1.5, 2.5, BEST_PEERS, "the best peer"),
    *_laplacian("laplacian-1000", 10, 10, BEST_PEERS, "the best peer"),
    *_laplacian("laplacian-2", 1, 1.5, ("JAX jit nested jvp",), "JAX jit of nested jvp"),
    overhead("call", 100),
    *(
        at_most(workload.name, EAGER, 1.1, 1, "the fastest fixed method", FORCED)
        for workload in WORKLOADS
        if workload.part != STEP and workload.wide
    ),
    *_equation("burgers", 2.5, 1.2, 1.6),
    *_equation("navier-stokes", 5, 2.2, 3),
    *_equation("kuramoto-sivashinsky", 6, 3, 4.5),
    *_equation("poisson", 4, 1.8, 2.8),
    *(bar for name, limits in NETWORKS.items() for bar in _network(name, *limits)),
    *(faster(name, EAGER, 1.5, ("torch.autograd",), "nesting by hand") for name in ("small", "small-gradient")),
    *(less_memory(f"{name}-gradient", EITHER, 0.6) for name in ("silu3", "gated", "siren2", "conv256")),
    *(compiled_keeps_up(workload.name, 1.05) for workload in WORKLOADS),
    *(first_call(workload.name, 30) for workload in WORKLOADS),
]


def told(verdict: Verdict) -> str:
    """Whether it holds, in words."""
    if verdict.holds is None:
        return f"open: {verdict.missing}"
    return "holds" if verdict.holds else "fails"
