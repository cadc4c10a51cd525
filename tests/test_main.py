"""``python -m jacfunc``: every method's numbers, the checks and the exit status, options, JSON and the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import jacfunc
from jacfunc._demo import command, measure, memory
from jacfunc._demo import example as founding
from jacfunc._demo.example import METHODS, OURS, PLAIN, Example, Method, Setup
from jacfunc._demo.measure import Result

SMALL = ["--samples", "5", "--outputs", "7", "--width", "3", "--calls", "2", "--no-memory"]
SETUP = Setup(samples=5, outputs=7, width=3, dtype="float64")
DERIVATIVES = [method for method in METHODS if method is not PLAIN]


@pytest.fixture
def partial(monkeypatch):
    """Dense rows of samples 0, 2, 4 and outputs 0, 3, 6 alone."""
    monkeypatch.setattr(founding, "SAMPLES_CHECKED", 3)
    monkeypatch.setattr(founding, "ROWS_CHECKED", 9)


def chain_rule(example: Example) -> torch.Tensor:
    """The derivatives dy[n, k]/dt[n], without autograd."""
    first, _, second, _, third = example.network
    hidden = torch.tanh(first(example.t))
    deeper = torch.tanh(second(hidden))
    return ((1 - deeper**2) * (((1 - hidden**2) * first.weight[:, 0]) @ second.weight.T)) @ third.weight.T


def run(capsys, *arguments: str) -> tuple[int, str]:
    status = command.main([*SMALL, *arguments])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("method", DERIVATIVES, ids=lambda method: method.name)
@pytest.mark.parametrize("setup", [SETUP, replace(SETUP, full=True), replace(SETUP, samples=1, outputs=1, width=1)])
def test_every_method_gives_the_derivatives(method, setup):
    example = Example.make(setup)
    assert example.share == 1
    torch.testing.assert_close(method.prepare(example)(), chain_rule(example), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("partial")
@pytest.mark.parametrize("method", DERIVATIVES, ids=lambda method: method.name)
def test_every_method_on_a_part_of_the_rows(method):
    example = Example.make(SETUP)
    truth = chain_rule(example)[[0, 2, 4]][:, [0, 3, 6]]
    assert (example.rows, example.share) == (9, 9 / 35)
    vectors = method.prepare(example)()
    torch.testing.assert_close(vectors if method.part else example.part(vectors), truth, rtol=0, atol=1e-14)
    torch.testing.assert_close(example.truth, truth, rtol=0, atol=1e-14)


def test_the_plain_forward_is_the_network():
    example = Example.make(SETUP)
    assert torch.equal(PLAIN.prepare(example)(), example.network(example.t))


@pytest.mark.parametrize("dtype", measure.TOLERANCES)
def test_the_founding_sizes_are_far_within_the_tolerance(dtype):
    example = Example.make(Setup(dtype=dtype))
    assert example.t.shape == (100, 1)
    assert example.network(example.t).shape == (100, 400)
    with measure._threads(1):
        error = measure._error(OURS.prepare(example)(), OURS, example)
    assert error < measure.TOLERANCES[dtype] / 4
    assert example.truth.abs().max() > 4 * measure.TOLERANCES[dtype]


def test_the_same_seed_draws_the_same_example_and_no_other_does():
    one, same, other = (Example.make(replace(SETUP, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.t, same.t)
    assert torch.equal(one.network(one.t), same.network(same.t))
    assert not torch.equal(one.t, other.t)


# ---------------------------------------------------------------- checks and exit status


def test_all_checks_pass(capsys):
    status, out = run(capsys)
    assert status == 0
    assert "FAIL" not in out


def test_a_tolerance_that_is_not_met_fails(capsys, monkeypatch):
    monkeypatch.setitem(measure.TOLERANCES, "float32", 0.0)
    status, out = run(capsys)
    assert status == 1
    assert "FAIL  diag_jac against 35 dense Jacobian rows: error " in out


def wrong_output(vectors: torch.Tensor) -> torch.Tensor:
    vectors = vectors.clone()
    vectors[1, 1] += 1
    return vectors


def out_of_memory(vectors: torch.Tensor) -> torch.Tensor:
    raise MemoryError


def broken(vectors: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("the first line\nthe second")


WRONG = {
    "scaled": (lambda vectors: 1.001 * vectors, "FAIL  diag_jac against 9 dense Jacobian rows"),
    "not a number": (lambda vectors: vectors * torch.nan, "FAIL  diag_jac against 9 dense Jacobian rows: error inf"),
    "one entry without a dense row": (wrong_output, "FAIL  diag_jac against the other methods, all 7 vectors"),
    "transposed": (lambda vectors: vectors.T, "FAIL  diag_jac has shape (5, 7)"),
    "summed": (lambda vectors: vectors.sum(1), "FAIL  diag_jac has shape (5, 7)"),
    "another dtype": (lambda vectors: vectors.double(), "FAIL  diag_jac has shape (5, 7) and dtype float32"),
    "broken": (broken, "FAIL  jacfunc.diag_jac failed: the first line\n"),
    "out of memory": (out_of_memory, "FAIL  diag_jac has shape (5, 7)"),
}


@pytest.mark.usefixtures("partial")
@pytest.mark.parametrize(("spoil", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_diag_jac_fails(capsys, monkeypatch, spoil, message, as_json):
    def spoiled(f):
        right = jacfunc.diag_jac(f)
        return lambda *arguments: spoil(right(*arguments))

    monkeypatch.setattr(founding, "diag_jac", spoiled)
    status, out = run(capsys, *["--json"] * as_json)
    assert status == 1
    assert as_json or message in out
    assert not as_json or json.loads(out)["passed"] is False


def test_a_wrong_other_method_fails(capsys, monkeypatch):
    methods = [Method(method.name, lambda example: lambda: torch.zeros(5, 7)) for method in METHODS]
    monkeypatch.setattr(measure, "METHODS", (OURS, *(m for m in methods if m.name != OURS.name)))
    status, out = run(capsys)
    assert status == 1
    assert "FAIL  the other methods against 35 dense Jacobian rows" in out


def test_samples_that_are_not_independent_fail(capsys, monkeypatch):
    monkeypatch.setattr(Example, "part_of_network", lambda self, t: self.part(self.network(t)) + t.mean())
    status, out = run(capsys)
    assert status == 1
    assert "FAIL  35 dense Jacobian rows are zero by other samples' t: error 2.0e-01" in out


def test_what_is_too_large_is_skipped_with_a_note(capsys, monkeypatch):
    monkeypatch.setattr(measure, "BYTES_ALLOWED", 0)
    status, out = run(capsys)
    assert status == 0
    assert "jacobian, vectorize, forward   skipped: needs about 0 GiB, see --full" in out
    assert "skipped" not in run(capsys, "--full")[1]


def test_only_a_killed_process_or_a_failed_allocation_is_out_of_memory():
    result = Result("some method")
    allocation = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
    assert result.stopped(allocation) == result.stopped(MemoryError()) == replace(result, note="out of memory")
    assert result.stopped(ValueError()) == replace(result, note="failed: ValueError", failed=True)
    assert result.died(1).failed
    if sys.platform != "win32":
        assert result.died(-9) == replace(result, note="killed, likely out of memory")


def test_random_numbers_and_threads_stay_as_they_are(capsys):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(capsys, "--threads", str(threads + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


# ---------------------------------------------------------------- what is printed


def test_the_table_is_aligned_and_narrow(capsys):
    lines = run(capsys)[1].splitlines()
    header = next(line for line in lines if line.startswith("method"))
    table = lines[lines.index(header) :][2 : 2 + len(METHODS)]
    assert [line[:29].rstrip() for line in table] == [method.name for method in METHODS]
    assert {len(line) for line in table} == {len(header)} == {100}
    assert max(map(len, lines)) <= 100
    assert "peak memory: not measured" in "\n".join(lines)


def test_the_default_sizes_fit_into_the_width():
    results = [Result(method.name, 0.02, (123.456, 999.9), 10**10, 1e-8) for method in METHODS]
    lines = command._as_text(measure.Report(Setup(), 800, tuple(results), ())).splitlines()
    assert max(map(len, lines)) <= 100


@pytest.mark.usefixtures("partial")
def test_what_is_extrapolated_says_so(capsys):
    out = run(capsys)[1]
    assert "~ >: 9 of 35 dense rows were run; time is scaled up, memory is not (try --full)" in out
    assert [line[:29].rstrip() for line in out.splitlines() if " ~" in line] == ["jacobian, vectorize", "jacobian"]
    assert "the dense Jacobian, row by row, takes about " in out
    assert "~" not in run(capsys, "--full")[1]


def test_seconds_of_a_part_are_scaled_to_all():
    assert Result("a method", 0.25, (1.0, 2.0, 6.0)).seconds == 8.0
    assert Result("a method").seconds is None


def test_json_holds_every_number(capsys):
    status, out = run(capsys, "--json", "--dtype", "float64", "--seed", "3")
    report = json.loads(out)
    assert status == 0
    assert report["passed"] is True
    assert report["setup"] == {
        "samples": 5, "outputs": 7, "width": 3, "seed": 3, "dtype": "float64", "threads": 1, "full": False
    }  # fmt: skip
    assert [method["name"] for method in report["methods"]] == [method.name for method in METHODS]
    for method in report["methods"]:
        assert method["calls"] == 2
        assert 0 < method["seconds_fastest"] <= method["seconds"] <= method["seconds_slowest"]
        assert method["seconds_per_vector"] == method["seconds"] / 7
        assert method["peak_bytes"] is None
        assert method["name"] == PLAIN.name or method["max_abs_error"] <= 1e-13
    assert [check["passed"] for check in report["checks"]] == [True] * 5


def test_it_works_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run(capsys)[0] == 0


def test_the_bar_is_on_a_terminal_s_stderr(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert command.main([*SMALL, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passed"]
    assert "seconds: jacfunc.diag_jac:" in captured.err
    assert f"/{measure.steps(memory=False)} [" in captured.err


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "argument --samples: '0' is not a whole number from 1 to 2147483647"),
        (["--outputs", "-4"], "argument --outputs: '-4' is not a whole number from 1 to"),
        (["--width", "2.5"], "argument --width: '2.5' is not a whole number from 1 to"),
        (["--calls", "many"], "argument --calls: 'many' is not a whole number from 1 to"),
        (["--threads", "1025"], "argument --threads: '1025' is not a whole number from 1 to 1024"),
        (["--seed", "9" * 30], "is not a whole number from 0 to 9223372036854775807"),
        (["--dtype", "int64"], "argument --dtype: invalid choice: 'int64'"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_options_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""


# ---------------------------------------------------------------- memory, and the command itself


def test_growth_is_the_peak_of_a_call():
    # In a process of its own: here an earlier test may have left as much memory free, and resident.
    code = "import torch; from jacfunc._demo import memory; print(memory.growth(lambda: torch.ones(2**24).sum()))"
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    if sys.platform == "linux":
        assert 0.9 * 2**26 < int(grown) < 1.5 * 2**26


def test_memory_where_proc_does_not_tell(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory, "Path", absent)
    resource = pytest.importorskip("resource")
    now, most = memory.resident()
    assert now == most
    assert most == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.1) or (
        sys.platform == "darwin"
    )
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.growth(list) is None


@pytest.mark.slow
def test_the_command_measures_memory_in_processes_of_their_own(tmp_path):
    root = str(Path(jacfunc.__file__).parents[1])
    arguments = ["--json", "--samples", "32", "--outputs", "64", "--width", "64", "--calls", "1", "--full"]
    done = subprocess.run(
        [sys.executable, "-m", "jacfunc", *arguments],
        check=False, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["passed"]
    peaks = {method["name"]: method["peak_bytes"] for method in report["methods"]}
    assert {method["note"] for method in report["methods"]} == {""}
    if sys.platform == "linux":
        cotangents = 2048 * 2048 * 4
        assert peaks["jacobian, vectorize"] > cotangents
        assert 0 <= peaks[OURS.name] < cotangents
