"""Tiny workloads through the harness, the bars and the page, without the peers that have to be installed."""

from __future__ import annotations

import re
import signal
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from . import contender, quiet
from .__main__ import DOCS, main
from .alone import measured_alone
from .bars import BARS, COMPILED, EAGER, Bar, told, verdicts
from .charts import AT_A_GLANCE, FIVE, charted, rivals, tables
from .contender import CLOCK, Contender, Local, Running, timed_call
from .cuda import floor, on_device
from .growth import exponent, quantity
from .harness import Late, Settings, _limit, measured
from .ours import BLOCKS, CONTENDERS, FEW, FORWARD, OURS, PLAIN
from .page import page, summary, text
from .peaks import peak
from .peers import contenders, jax, jax_worker
from .plots import drawn
from .results import Entry, Found, Run, ratios, spread
from .workloads import DIAGONAL, GRADIENT, JACOBIAN, LAPLACIAN, STEP, WORKLOADS, Problem, Workload, sweeps

BRIEF = Settings(rounds=2, seconds=0.001, wait=0, memory=False)
TINY = [
    Workload("tiny-diagonal", DIAGONAL, (3, 4, 3), 5),
    Workload("tiny-column", DIAGONAL, (1, 4, 3), 5),
    Workload("tiny-jacobian", JACOBIAN, (2, 4, 3), 5),
    Workload("tiny-laplacian", LAPLACIAN, (3, 4, 4, 1), 5),
    Workload("tiny-gradient", LAPLACIAN, (3, 4, 4, 1), 5, part=GRADIENT),
    *(replace(step, name=f"tiny-{step.name}", samples=5) for step in WORKLOADS if step.part == STEP),
]


def eager(workload: Workload, everyone: list[Contender] | None = None) -> Found:
    chosen = [one for one in everyone or contenders() if workload.kind in one.kinds]
    return measured(
        workload, [one for one in chosen if not one.compiled or one.family == "JAX"], BRIEF, lambda text: None
    )


# -------------------------------------------------------------------- the harness


@pytest.mark.parametrize("workload", TINY, ids=lambda workload: workload.name)
def test_peers_agree_and_the_absent_are_named(workload: Workload) -> None:
    found = eager(workload)
    ran = {entry.name for entry in found.entries if entry.rounds}
    absent = {entry.name for entry in found.entries if entry.note.startswith("absent: ")}
    assert {OURS, PLAIN} < ran
    assert all(entry.agrees for entry in found.entries if entry.rounds and entry.name != PLAIN)
    assert {"DeepXDE reverse", *(["omnibias-torch"] if workload.part != STEP else [])} < absent
    assert {entry.name for entry in found.entries if entry.note != FEW} == ran | absent
    assert all(len(entry.rounds) == BRIEF.rounds for entry in found.entries if entry.name in ran)


def _starting(result: torch.Tensor) -> Contender:
    return Contender("odd", "odd", (LAPLACIAN,), lambda problem: Local(problem, lambda x: result))


def _raising(problem: Problem) -> Running:
    raise ValueError("no such luck\nsecond line")


@pytest.mark.parametrize(
    ("contender", "note"),
    [
        (_starting(torch.ones(5, 1)), "disagrees with ours"),
        (_starting(torch.ones(5)), "its result has shape (5,)"),
        (Contender("odd", "odd", (LAPLACIAN,), _raising), "failed: ValueError: no such luck"),
        (replace(_starting(torch.ones(5, 1)), heavy=lambda problem: "too much"), "too much"),
    ],
)
def test_who_is_wrong_or_fails_does_not_count(contender: Contender, note: str) -> None:
    found = eager(TINY[3], [*CONTENDERS, contender])
    assert found.entries[-1].note == note
    assert found.best(["odd"]) is None


def test_our_own_failure_is_no_finding() -> None:
    with pytest.raises(ValueError, match="no such luck"):
        eager(TINY[3], [Contender(OURS, OURS, (LAPLACIAN,), _raising)])


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm on this system")
def test_patience_ends() -> None:
    with pytest.raises(Late), _limit(1):
        time.sleep(10)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are forgotten on Linux only")
def test_peak_of_a_call(tmp_path: Path) -> None:
    large = Workload("large", DIAGONAL, (64, 2048, 64), 4096)
    (found, first), died = peak(FORWARD, large, None, 120, str(tmp_path))
    assert found is not None
    assert found > 4096 * 2048 * 4
    assert first is not None
    assert first > 0
    assert not died


def test_an_environment_without_jax_says_so() -> None:
    """The worker's questions and answers, up to the import of JAX."""
    if find_spec("jax"):
        pytest.skip("this environment has JAX")
    found = eager(TINY[3], [CONTENDERS[0], *jax.contenders(Path(sys.executable))])
    assert {entry.note for entry in found.entries[1:]} == {
        "absent: ImportError: ModuleNotFoundError: No module named 'jax'"
    }
    assert jax.versions(Path(sys.executable)) == {}


@pytest.mark.parametrize(("ticks", "share"), [([(0, 0), (50, 200)], 0.75), ([(5, 5), (5, 5)], 0), ([None, None], 0)])
def test_how_busy(ticks: list[Any], share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_ticks", iter(ticks).__next__)
    assert quiet.busy(0) == share


def test_a_busy_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "busy", iter([0.9, 0.8, 0.02]).__next__)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert quiet.wait(60) == 0.02


def test_time_by_the_clock_and_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = SimpleNamespace(perf_counter=iter([0.0, 3.0]).__next__, process_time=iter([0.0, 1.0]).__next__)
    monkeypatch.setattr(contender, "time", clocks)
    assert timed_call(lambda: None) == 3
    monkeypatch.setenv(CLOCK, "1")
    assert timed_call(lambda: None) == 1
    assert CLOCK in Path(jax_worker.__file__).read_text(encoding="utf-8")


def test_what_was_disturbed_is_told() -> None:
    found = Found(WORKLOADS[0], [Entry(OURS, OURS, EAGER, [1.0])], busy=0.4)
    assert "disturbed: others used 40% of the machine" in text(Run("", {}, [found]))


# -------------------------------------------------------------------- the bars


def _judged(bar: Bar, factor: float) -> tuple[bool | None, str]:
    """The verdict if all others take 20 ms and ours ``factor`` times what they take in bytes, a part of that in time."""
    found = []
    for workload in WORKLOADS:
        times = {EAGER: 2e-2 * factor, COMPILED: 2e-2 * factor * (1 if factor < 1 else 2)}
        kinds = ((OURS, EAGER), (OURS, COMPILED), (BLOCKS, EAGER))
        peak = int(1e6 * factor * workload.sizes[0])
        ours = [Entry(name, OURS, kind, [times[kind]] * 3, peak=peak, first=factor) for name, kind in kinds]
        others = [one for one in contenders() if workload.kind in one.kinds and one.family != OURS]
        taken = {"rounds": [2e-2] * 3, "agrees": True, "peak": 10**6}
        peers = [Entry(one.name, one.family, one.compiled, private=one.private, **taken) for one in others]
        found.append(Found(workload, ours + peers))
    (verdict,) = [one for one in verdicts(Run("", {}, found)) if (one.workload, one.bar) == (bar.workload, bar.text)]
    return verdict.holds, told(verdict)


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: f"{bar.workload}: {bar.text}")
def test_bars_can_hold_and_fail(bar: Bar) -> None:
    linear = "at half the size" in bar.text
    assert _judged(bar, 1e-3) == (True, "holds")
    if not linear:  # which is twice whatever the size here
        assert _judged(bar, 1e3) == (False, "fails")


def test_memory_like_the_square_fails() -> None:
    sizes = {1000: 10, 2000: 40}
    found = [
        Found(workload, [Entry(OURS, OURS, EAGER, [1.0], peak=sizes[workload.sizes[0]])])
        for workload in WORKLOADS
        if workload.name in ("diagonal-1000", "diagonal-2000")
    ]
    assert [verdict.holds for verdict in verdicts(Run("", {}, found)) if "at half the size" in verdict.bar] == [False]


def test_a_bar_is_open_without_a_peer_and_fails_all_the_same() -> None:
    bar = next(bar for bar in BARS if bar.workload == "laplacian-10" and "best peer" in bar.text)
    workload = next(workload for workload in WORKLOADS if workload.name == "laplacian-10")
    for seconds, said in ((1.0, "open: folx did not run"), (9.0, "fails")):
        entries = [Entry(OURS, OURS, COMPILED, [seconds]), Entry("folx jit", "folx", True, note="absent")]
        entries.append(Entry("nested jvp", "torch.func", False, [2.0], agrees=True))
        (verdict,) = [one for one in verdicts(Run("", {}, [Found(workload, entries)])) if one.bar == bar.text]
        assert told(verdict) == said


def test_what_a_private_switch_compiles_counts_where_a_bar_says_so() -> None:
    workload = next(workload for workload in WORKLOADS if workload.name == "burgers")
    entries = [
        Entry(OURS, OURS, COMPILED, [1.0]),
        Entry("DeepXDE reverse", "DeepXDE", EAGER, [2.6]),
        Entry("torch.autograd nested", "torch.autograd", COMPILED, [0.5], private=True),
        Entry("nested grad", "torch.func", COMPILED, [3.0]),
    ]
    found = [
        one for one in verdicts(Run("", {}, [Found(workload, entries)])) if "fast" in one.bar or "whole" in one.bar
    ]
    told = {(verdict.against, verdict.holds) for verdict in found if verdict.bar.startswith("compiled")}
    assert told == {("DeepXDE reverse", True), ("torch.autograd nested, compiled whole", False)}


def test_who_is_not_ready_in_time_fails_the_bar_of_first_calls() -> None:
    workload = next(workload for workload in WORKLOADS if workload.name == "particles48")
    entries = [Entry(OURS, OURS, EAGER, [1.0]), Entry(OURS, OURS, COMPILED, note="not ready after 180 s")]
    found = [one for one in verdicts(Run("", {}, [Found(workload, entries)])) if "first call" in one.bar]
    assert [(one.holds, one.against) for one in found] == [(False, f"{OURS}, compiled")]


def test_numbers() -> None:
    assert spread([1.0, 2.0, 3.0]) == (1.5, 2.0, 2.5)
    assert ratios(Entry("a", "a", False, [2.0]), Entry("b", "b", False, [1.0, 4.0])) == [2.0]
    assert exponent([(1, 1.0), (2, 4.0), (4, 16.0)]) == pytest.approx(2)
    assert exponent([(1, 1.0)]) is None


# -------------------------------------------------------------------- the page


def test_page_and_figures(tmp_path: Path) -> None:
    points = [
        replace(workload, samples=3) for workload in sweeps() if re.fullmatch(r"sweep-depth-[24].*", workload.name)
    ]
    few = [*CONTENDERS, FORWARD]
    run = Run("a machine", {"torch": "0"}, [eager(TINY[0]), *(eager(point, few) for point in points)])
    run = Run.from_json(run.to_json())
    figures = drawn(run, tmp_path / "benchmarks")
    written = page(run, figures, tmp_path)
    assert [figure.stem for figure in figures] == ["workloads", "growth-value", "growth-gradient"]
    assert all(figure.stat().st_size > 1000 and f"(benchmarks/{figure.name})" in written for figure in figures)
    assert TINY[0].title in written
    assert "- DeepXDE reverse: absent: ModuleNotFoundError" in written
    assert "vmap(jacfwd)" in text(run)


def test_command_reads_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [Entry(OURS, OURS, EAGER, [3e-4, 3e-4]), Entry(PLAIN, PLAIN, EAGER, [1e-5, 1e-5])]
    workload = next(workload for workload in WORKLOADS if workload.name == "call")
    file = tmp_path / "run.json"
    file.write_text(Run("a machine", {}, [Found(workload, entries)]).to_json(), encoding="utf-8")
    main(["--read", str(file), "--page"], tmp_path)
    assert "fails  call: eager: at most 100 us more than the plain forward: 290" in capsys.readouterr().out
    assert "**fails**" in (tmp_path / "benchmarks.md").read_text(encoding="utf-8")


def test_a_workload_has_a_process_of_its_own() -> None:
    told: list[str] = []
    nobody = replace(TINY[0], kind="nobody takes part")
    found = measured_alone(nobody, False, BRIEF, told.append)
    assert found.workload == nobody
    assert told == [f"{nobody.name}: round {number}" for number in (1, 2)]
    with pytest.raises(SystemExit, match="process of tiny-diagonal ended with status 1; go on with --resume"):
        measured_alone(replace(nobody, sizes=(-1, 2)), False, BRIEF, told.append)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(SystemExit, match="no workload is called nothing"):
        main(["--workload", "nothing"])


# -------------------------------------------------------------------- CUDA


def test_floor() -> None:
    plain, bytes_moved = floor(TINY[2], 4, plain=True)
    assert plain == 2 * 5 * (2 * 4 + 4 * 3)
    assert bytes_moved == 4 * (20 + 5 * 2 + 5 * 3)
    assert floor(TINY[2], 4)[0] == 3 * plain


def test_floor_of_a_network_counts_its_products() -> None:
    workload = next(workload for workload in WORKLOADS if workload.name == "flow64")
    assert floor(workload, 4, plain=True)[0] == 2 * 256 * (64 * 128 + 128 * 128 * 2 + 128 * 64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_device() -> None:
    assert len(on_device(TINY[:1], lambda text: None)) == 9


def test_what_xla_adds_to_memory_it_kept_is_no_curve():
    curves = {
        name: [(n, Entry(name, name, COMPILED, [1.0], peak=2**20)) for n in (1, 2)] for name in (OURS, "JAX", "folx")
    }
    assert quantity(curves[OURS], "memory") == [(1, 1.0), (2, 1.0)]
    assert quantity(curves["JAX"], "memory") == quantity(curves["folx"], "memory") == []
    assert quantity(curves["JAX"], "time") == [(1, 1e3), (2, 1e3)]


# -------------------------------------------------------------------- charts


def test_charts_show_the_numbers_of_the_page() -> None:
    found = tables((DOCS / "benchmarks.md").read_text(encoding="utf-8"))
    for panel in AT_A_GLANCE:
        assert all(label in found[panel.workload] for _, label in panel.bars), panel.workload
    for _, workload, usual in FIVE:
        assert usual in found[workload]
        kinds = {kind: label for kind, _, (label, _) in rivals(found[workload])}
        assert "PyTorch" in kinds
        assert not any(label.startswith(OURS) for label in kinds.values())


def test_the_page_begins_with_what_is_faster_than_what() -> None:
    written = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert summary(tables(written)) in written.partition("![five]")[0]
    rows = "| jacfunc | 2 (1 to 3) |\n| jacfunc, compile=True | 1 (1 to 1) |\n| vmap(jacfwd) | 8 (7 to 9) |\n"
    shown = summary(tables(f"### {FIVE[0][1]}\n{rows}"))
    assert shown.endswith("| 400 derivatives by time | 4.00 (vmap(jacfwd)) | 8.00 (vmap(jacfwd)) | - |\n")
    assert summary({}) == ""


def test_a_chart_is_drawn_of_tables_and_not_without_them(tmp_path: Path) -> None:
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert {file.name for file in charted(page, tmp_path)} == {
        "five.png",
        "at-a-glance.png",
        "at-a-glance-narrow.png",
    }
    assert charted("### another workload\n\n| jacfunc | 1 (1 to 1) |\n", tmp_path) == []


def test_who_disagrees_is_in_no_chart() -> None:
    rows = "| jacfunc | 1,234 (1 to 2) | |\n| a peer | 0.5 (0.4 to 0.6) | |\n"
    assert tables(f"### one\n{rows}") == {"one": {"jacfunc": 1234.0, "a peer": 0.5}}
    assert tables(f"### one\n{rows}\n- a peer: disagrees with ours\n") == {"one": {"jacfunc": 1234.0}}
