"""The networks of the benchmark beside their peers, all workloads of a kind in one process, and other machines' columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from . import together
from .bars import COMPILED, EAGER, STEP_PEERS
from .elsewhere import FILE, columns, keep
from .networks import NETWORKS
from .ours import FORCED, OURS, PLAIN
from .page import page, text
from .peers import contenders, jax
from .results import Entry, Found, Run
from .test_benchmarks import BRIEF, TINY, eager
from .workloads import DIAGONAL, GRADIENT, WORKLOADS, Workload


def _marks(workload: Workload) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if workload.part == GRADIENT or workload.network == "conv256" else []


FEW_SAMPLES = [
    pytest.param(replace(workload, samples=2), id=workload.name, marks=_marks(workload))
    for workload in WORKLOADS
    if workload.network
]
HEAVY = ("dense Jacobian", "jacfunc, method='forward'", "DeepXDE forward")
WRONG = ("nested jvp", "jvp of grad", "vjp of grad", "vmap(hessian)", "torch.autograd nested")
"""Through norms and determinants, where formulas of torch are wrong."""


@pytest.mark.parametrize("workload", FEW_SAMPLES)
def test_peers_agree_on_networks(workload: Workload) -> None:
    """All that can differentiate them and are right; JAX is compared by the benchmark itself."""
    left_out = (*HEAVY, *(WRONG if workload.network in ("slater30", "particles48", "layernorm10") else ()))
    found = eager(workload, [one for one in contenders() if one.name not in left_out])
    ran = {entry.name: entry for entry in found.entries if entry.rounds}
    assert {OURS, PLAIN, f"{FORCED}='taylor'", f"{FORCED}='reverse'"} <= ran.keys()
    assert all(entry.agrees for name, entry in ran.items() if name != PLAIN)
    assert any(entry.family in STEP_PEERS for entry in ran.values()) or WRONG[0] in left_out


def test_each_network_has_a_twin_for_jax() -> None:
    twins = Path(jax.__file__).with_name("jax_networks.py").read_text(encoding="utf-8")
    assert all(f'    "{name}": ' in twins for name in NETWORKS)


# -------------------------------------------------------------------- one process, and other machines


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_of_a_kind_in_one_process(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it is alone, whatever came before; what another one compiled is not taken for its own."""
    torch.compiler.reset()
    monkeypatch.setattr(together, "CAST", [one for one in together.CAST if compiled or not one.compiled])
    some = [TINY[3], TINY[4], replace(TINY[3], name="other", samples=6)]
    told: list[str] = []
    found = together.in_random_order(some, BRIEF, 1, told.append)
    assert [one.workload for one in found] == some
    entries = [{entry.label: entry for entry in one.entries} for one in found]
    assert all(len(entry.rounds) == BRIEF.rounds for one in entries for entry in one.values())
    if compiled:
        assert all(one[f"{OURS}, compiled"].agrees for one in entries)
        assert sum(one[f"{OURS}, compiled"].compilations or 0 for one in entries) >= len(some)


def test_each_seed_has_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "CAST", [one for one in together.CAST if not one.compiled])
    some = [replace(TINY[0], name=name) for name in "abcdef"]
    orders = []
    for seed in (1, 1, 2):
        told: list[str] = []
        together.in_random_order(some, replace(BRIEF, rounds=0), seed, told.append)
        orders.append([text for text in told if text.endswith(PLAIN)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_each_kind_has_a_process() -> None:
    """A kind of one workload has none: that is what it has anyway."""
    some = [
        replace(TINY[0], name=name, kind=kind) for name, kind in (("a", "no kind"), ("b", "other"), ("c", "no kind"))
    ]
    told: list[str] = []
    found = together.measured_together(some, BRIEF, 0, told.append)
    assert [one.workload.name for one in found] == ["a", "c"]
    assert told == ["together: no kind", "together: round 1", "together: round 2"]


def test_one_process_has_a_table(tmp_path: Path) -> None:
    entries = [Entry(OURS, OURS, EAGER, [2e-3]), Entry(OURS, OURS, COMPILED, [1e-3], compilations=3)]
    slower = [Entry(OURS, OURS, EAGER, [4e-3]), Entry(OURS, OURS, COMPILED, note="failed: recompiled too often")]
    run = Run("", {}, [Found(TINY[3], entries)], together=[Found(TINY[3], slower)])
    written = page(Run.from_json(run.to_json()), [], tmp_path)
    assert f"| {TINY[3].title} | 4 | - | 2 | 1 | - | 3 |" in written
    assert "failed: recompiled too often" in written


def test_the_other_vendor_keeps_its_column(tmp_path: Path) -> None:
    workload = next(workload for workload in WORKLOADS if workload.name == "small")
    entries = [Entry(OURS, OURS, EAGER, [2e-3]), Entry("torch.autograd nested", "torch.autograd", EAGER, [3e-3])]
    run = Run("a machine", {}, [Found(workload, entries)], vendor="AMD", date="May 2027")
    assert columns()["Intel"].date in page(run, [], tmp_path)
    assert "| 2 | - | 3 (torch.autograd nested) | 1.43 | 0.33 | 0.16 (JAX jit) |" in page(run, [], tmp_path)
    assert columns()["Intel"].date not in page(replace(run, vendor="Intel"), [], tmp_path)
    file = tmp_path / "elsewhere.json"
    file.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    keep(run, file)
    assert columns(file).keys() == {"AMD", "Intel"}
    assert columns(file)["AMD"].rows == {"small": (2.0, None, 3.0, "torch.autograd nested")}
    assert set(columns()["Intel"].rows) <= {workload.name for workload in WORKLOADS}


def test_an_earlier_run_can_be_read() -> None:
    """Of before there were first calls, compilations and other networks."""
    entry = {"name": OURS, "family": OURS, "compiled": False, "rounds": [1.0], "difference": 0.0, "agrees": True}
    workload = {"name": "call", "kind": DIAGONAL, "sizes": [3, 32, 3], "samples": 1, "part": "value"}
    workload |= {"sweep": "", "wide": False}
    found = [{"workload": workload, "entries": [{**entry, "peak": None, "note": ""}], "busy": 0.0}]
    run = Run.from_json(json.dumps({"machine": "old", "versions": {}, "found": found, "cuda": []}))
    assert run.found[0].entries[0].first is None
    assert run.found[0].workload.network == ""
    assert "diag_jac, N=1, 3-32-3" in text(run)
