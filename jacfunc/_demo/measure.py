"""The ways to the founding example's derivatives, measured and checked: seconds, peak memory, errors, verdicts.

The example and the ways are in ``example.py``; options and the printed table in ``command.py``.
Nothing here prints.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch

from ..core.levels import load_forward_mode
from .example import METHODS, OURS, PLAIN, Example, Method, Setup
from .memory import growth, import_late, started

# The largest |error| allowed.  Entries are about 0.1, each a sum of `width` terms: these are a dozen roundings or more.
TOLERANCES = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 2e-2}

# What a run without --full may take.
BYTES_ALLOWED = 2**30
SECONDS_ALLOWED = 0.5
FEWEST_CALLS = 3


# ---------------------------------------------------------------- one method


@dataclass(frozen=True)
class Result:
    """What was measured of a method; its calls gave a ``share`` of the vectors.  ``note``: why it did not run."""

    name: str
    share: float = 1.0
    times: tuple[float, ...] = ()
    peak: int | None = None
    error: float | None = None
    note: str = ""
    failed: bool = False

    @property
    def seconds(self) -> float | None:
        """The median for all vectors, scaled up where the calls gave only a share of them."""
        return statistics.median(self.times) / self.share if self.times else None

    def stopped(self, error: Exception) -> Result:
        """The method raised: running out of memory is a finding, anything else a failure."""
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, MemoryError) or "allocate memory" in text:
            return replace(self, note="out of memory")
        return replace(self, note=f"failed: {text}", failed=True)

    def died(self, status: int | None) -> Result:
        """The method's process ended without a word; a system out of memory kills."""
        if status == -getattr(signal, "SIGKILL", 0):
            return replace(self, note="killed, likely out of memory")
        return replace(self, note=f"failed: its process ended with status {status}", failed=True)


def unmeasured(method: Method, example: Example) -> Result:
    """The result before anything ran, with a note if it should not."""
    needed = 0 if example.setup.full else method.bytes_needed(example)
    note = f"skipped: needs about {needed / 2**30:.0f} GiB, see --full" if needed > BYTES_ALLOWED else ""
    return Result(method.name, example.share if method.part else 1.0, note=note)


def with_seconds(result: Result, method: Method, example: Example, calls: int) -> tuple[Result, torch.Tensor | None]:
    """Time at most ``calls`` calls, fewer where they are slow, after one that is not counted; also the vectors."""
    if result.note:
        return result, None
    times: list[float] = []
    try:
        call = method.prepare(example)
        vectors = call()
        while len(times) < calls and (len(times) < FEWEST_CALLS or sum(times) < SECONDS_ALLOWED):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    except Exception as error:  # a method that does not work is a finding, not the end of the others
        return result.stopped(error), None
    return replace(result, times=tuple(times)), vectors


# ---------------------------------------------------------------- peak memory


def with_peak(result: Result, method: Method, setup: Setup) -> Result:
    """Measure the peak memory of one call, in a process of its own."""
    if result.note:
        return result
    measured: Result | None = None
    # By its number, because a method's functions cannot be pickled.
    with started(_send_peak, result, METHODS.index(method), setup) as (receiver, process):
        with suppress(EOFError):
            measured = receiver.recv()
        process.join()
    return measured or result.died(process.exitcode)


def _send_peak(sender: Connection, result: Result, method: int, setup: Setup) -> None:
    load_forward_mode()
    torch.set_num_threads(setup.threads)
    prepare = METHODS[method].prepare
    try:
        # What any first call imports and sets up is no cost of the method.
        prepare(Example.make(replace(setup, samples=2, outputs=2, width=2)))()
        result = replace(result, peak=growth(prepare(Example.make(setup))))
    except Exception as error:
        result = result.stopped(error)
    sender.send(result)


# ---------------------------------------------------------------- all methods


@dataclass(frozen=True)
class Check:
    """What must hold, with the numbers if it is a comparison."""

    name: str
    passed: bool
    error: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Report:
    """The example as it ran; ``rows`` Jacobian rows were computed densely."""

    setup: Setup
    rows: int
    results: tuple[Result, ...]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)


def steps(memory: bool) -> int:
    """How many steps ``run`` tells of."""
    return len(METHODS) + 1 + memory * (len(METHODS) + 1)


def run(setup: Setup, *, calls: int, memory: bool, step: Callable[[str], None]) -> Report:
    """Measure and check every method; ``step`` is told what comes next."""
    load_forward_mode()
    example = Example.make(setup)
    results = [unmeasured(method, example) for method in METHODS]
    if memory:  # first, so that what a process of its own does not survive is not run in this one
        step("imports")
        import_late()
        for index, method in enumerate(METHODS):
            step(f"memory: {method.name}")
            results[index] = with_peak(results[index], method, setup)
    with _threads(setup.threads):
        step("dense rows")
        _ = example.dense
        found: dict[Method, torch.Tensor] = {}
        for index, method in enumerate(METHODS):
            step(f"seconds: {method.name}")
            results[index], vectors = with_seconds(results[index], method, example, calls)
            if vectors is not None and method is not PLAIN:
                found[method] = vectors
                results[index] = replace(results[index], error=_error(vectors, method, example))
    return Report(setup, example.rows, tuple(results), tuple(_checks(example, results, found)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _error(vectors: torch.Tensor, method: Method, example: Example) -> float:
    """The largest error of a method against the dense rows."""
    whole = not method.part and vectors.shape == (example.setup.samples, example.setup.outputs)
    return _largest(example.part(vectors) if whole else vectors, example.truth)


def _largest(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest absolute difference, infinite where there is none to take."""
    if found.shape != truth.shape:
        return math.inf
    error = (found - truth).abs().max().item()
    return math.inf if math.isnan(error) else error


def _checks(example: Example, results: list[Result], found: dict[Method, torch.Tensor]) -> list[Check]:
    ours = found.get(OURS, torch.empty(0))
    setup, tolerance = example.setup, TOLERANCES[example.setup.dtype]
    shape = (setup.samples, setup.outputs)
    same_kind = ours.shape == shape and ours.dtype == example.t.dtype
    errors = {result.name: result.error for result in results if result.error is not None}
    rest = [error for name, error in errors.items() if name != OURS.name]
    whole = [_largest(ours, vectors) for method, vectors in found.items() if not method.part]
    rows = f"{example.rows:,} dense Jacobian rows"
    return [
        *(Check(f"{result.name} {result.note}", False) for result in results if result.failed),
        Check(f"diag_jac has shape {shape} and dtype {setup.dtype}", same_kind),
        _compared(f"{rows} are zero by other samples' t", _coupling(example), 0.0),
        _compared(f"diag_jac against {rows}", errors.get(OURS.name, math.inf), tolerance),
        _compared(f"the other methods against {rows}", max(rest, default=0.0), tolerance),
        _compared(
            f"diag_jac against the other methods, all {setup.outputs} vectors", max(whole, default=math.inf), tolerance
        ),
    ]


def _compared(name: str, error: float, tolerance: float) -> Check:
    return Check(name, error <= tolerance, error, tolerance)


def _coupling(example: Example) -> float:
    """The largest dense entry by another sample than the output's own."""
    others = example.dense[..., 0].clone()
    others[torch.arange(len(example.samples)), :, example.samples] = 0
    return others.abs().max().item()
