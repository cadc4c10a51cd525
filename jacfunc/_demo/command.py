"""The command ``python -m jacfunc``: its options, the table, the JSON and the progress bar.

The example is in ``example.py``, what is measured of it in ``measure.py``.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import torch

from . import measure
from .example import DENSE, OURS, PER_SAMPLE, PLAIN, Method, Setup
from .measure import Check, Report, Result

SIZE_LIMIT, SEED_LIMIT, THREADS_LIMIT = 2**31 - 1, 2**63 - 1, 1024

COLUMNS = "{:<29} {:>10} {:>11} {:>13} {:>9} {:>12} {:>10}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and print what was found; the exit status."""
    options = _parser().parse_args(arguments)
    setup = Setup(**{field.name: getattr(options, field.name) for field in fields(Setup)})
    with _progress(measure.steps(options.memory)) as step:
        report = measure.run(setup, calls=options.calls, memory=options.memory, step=step)
    print(json.dumps(_as_json(report), indent=2, allow_nan=False) if options.json else _as_text(report))
    return 0 if report.passed else 1


# ---------------------------------------------------------------- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jacfunc",
        description="The derivatives dy[n, k]/dt[n] of all outputs of a small tanh network for every sample: checked "
        "against dense Jacobian rows, with seconds and peak memory next to those of the usual ways.  "
        "The exit status is 1 if a check fails.",
    )
    numbers = (
        ("samples", 1, SIZE_LIMIT, "samples in t, of shape (samples, 1)"),
        ("outputs", 1, SIZE_LIMIT, "outputs of the network, one vector of derivatives for each"),
        ("width", 1, SIZE_LIMIT, "width of its two hidden layers"),
        ("seed", 0, SEED_LIMIT, "seed of the network and of t"),
        ("threads", 1, THREADS_LIMIT, "threads of torch"),
    )
    for name, least, most, text in numbers:
        _add_integer(parser, name, least, most, getattr(Setup, name), text)
    text = "of the network and of t (default: %(default)s)"
    parser.add_argument("--dtype", choices=list(measure.TOLERANCES), default=Setup.dtype, help=text)
    _add_integer(parser, "calls", 1, SIZE_LIMIT, 30, "timed calls of each method, fewer of slow ones")
    parser.add_argument("--full", action="store_true", help="run the dense Jacobians whole: minutes and gigabytes")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


def _add_integer(parser: argparse.ArgumentParser, name: str, least: int, most: int, default: int, text: str) -> None:
    def integer(given: str) -> int:
        number = int(given) if given.isdecimal() and len(given) < 20 else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{given!r} is not a whole number from {least} to {most}")
        return number

    parser.add_argument(f"--{name}", type=integer, metavar="N", default=default, help=f"{text} (default: {default})")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr while it runs, if that is a terminal and tqdm is there."""
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield lambda text: None
        return
    done = itertools.count()
    with tqdm(total=total, file=sys.stderr, disable=None, leave=False) as bar:

        def step(text: str) -> None:
            bar.n = next(done)
            bar.set_description(text)

        yield step


# ---------------------------------------------------------------- JSON


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "setup": asdict(report.setup),
        "environment": _environment(),
        "methods": [_result_as_json(result, report) for result in report.results],
        "dense_rows": report.rows,
        "checks": [{**asdict(check), "error": _finite(check.error)} for check in report.checks],
        "passed": report.passed,
    }


def _result_as_json(result: Result, report: Report) -> dict[str, Any]:
    seconds = result.seconds
    return {
        "name": result.name,
        "share_run": result.share,
        "calls": len(result.times),
        "seconds": seconds,
        "seconds_fastest": min(result.times) / result.share if result.times else None,
        "seconds_slowest": max(result.times) / result.share if result.times else None,
        "seconds_per_vector": seconds and seconds / report.setup.outputs,
        "relative_to_diag_jac": _ratio(result, _of(OURS, report)),
        "peak_bytes": result.peak,
        "max_abs_error": _finite(result.error),
        "note": result.note,
    }


def _finite(number: float | None) -> float | None:
    return None if number is None or math.isinf(number) else number


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
    }


# ---------------------------------------------------------------- text


def _as_text(report: Report) -> str:
    return "\n\n".join("\n".join(part(report)) for part in (_heading, _table, _legend, _verdict))


def _heading(report: Report) -> list[str]:
    setup, environment = report.setup, _environment()
    width, outputs = setup.width, setup.outputs
    threads = "1 thread" if setup.threads == 1 else f"{setup.threads} threads"
    return [
        f"The {outputs} vectors dy[:, k]/dt of y = net(t), with t of shape ({setup.samples}, 1)",
        f"net = Linear(1, {width})-Tanh-Linear({width}, {width})-Tanh-Linear({width}, {outputs}), {setup.dtype}, "
        f"seed {setup.seed}, parameters frozen",
        f"Python {environment['python']}, torch {environment['torch']}, CPU, {threads}",
    ]


def _table(report: Report) -> list[str]:
    whole = f"all {report.setup.outputs}"
    header = COLUMNS.format("method", whole, "per vector", "spread", "relative", "peak memory", "max error")
    return [header, "-" * len(header), *(_row(result, report) for result in report.results)]


def _row(result: Result, report: Report) -> str:
    if result.seconds is None:
        return f"{result.name:<29}  {result.note}"
    derivative = result.name != PLAIN.name
    ratio = _ratio(result, _of(OURS, report))
    about = "~" if result.share < 1 else ""
    return COLUMNS.format(
        result.name,
        about + _time(result.seconds),
        about + _time(result.seconds / report.setup.outputs) if derivative else "-",
        _spread(result.times),
        "-" if ratio is None else about + _number(ratio),
        "-" if result.peak is None else (">" if about else "") + _size(result.peak),
        "-" if result.error is None else "the truth" if result.name == DENSE.name else _error(result.error),
    )


def _legend(report: Report) -> list[str]:
    measured = any(result.peak is not None for result in report.results)
    scaled = any(result.times and result.share < 1 for result in report.results)
    rows = report.setup.samples * report.setup.outputs
    about = f"~ >: {report.rows:,} of {rows:,} dense rows were run; time is scaled up, memory is not (try --full)"
    return [
        "all: median seconds of several calls, after one uncounted; spread: the fastest and slowest call",
        "per vector: all, divided by the number of vectors; relative: to the time of jacfunc.diag_jac",
        "peak memory: growth of resident memory in one call, allocator and all, in a process of its own"
        if measured
        else "peak memory: not measured, because it was left out or this platform does not tell it",
        *([about] if scaled else []),
    ]


def _verdict(report: Report) -> list[str]:
    ours, dense = _of(OURS, report), _of(DENSE, report)
    about = "about " if dense.share < 1 else ""
    ratios = [
        ("diag_jac takes {} times as long as a plain forward", _ratio(ours, _of(PLAIN, report))),
        ("vmap(jacfwd) takes {} times as long as diag_jac", _ratio(_of(PER_SAMPLE, report), ours)),
        (f"the dense Jacobian, row by row, takes {about}{{}} times as long as diag_jac", _ratio(dense, ours)),
    ]
    lines = [f"      {text.format(_number(ratio))}" for text, ratio in ratios if ratio is not None]
    return lines + [
        f"{'ok  ' if check.passed else 'FAIL'}  {check.name}{_comparison(check)}" for check in report.checks
    ]


def _comparison(check: Check) -> str:
    if check.error is None:
        return ""
    return f": error {_error(check.error)}, allowed {check.tolerance:g}"


def _ratio(result: Result, other: Result) -> float | None:
    return result.seconds / other.seconds if result.seconds and other.seconds else None


def _of(method: Method, report: Report) -> Result:
    return next(result for result in report.results if result.name == method.name)


def _number(number: float) -> str:
    return (
        f"{number:.2f}" if number < 9.995 else f"{number:.1f}" if number < 99.95 else f"{float(f'{number:.3g}'):,.0f}"
    )


def _error(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def _time(seconds: float) -> str:
    unit, scale = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{_number(seconds * scale)} {unit}"


def _size(size: int) -> str:
    mebibytes = size / 2**20
    return f"{_number(mebibytes)} MiB" if mebibytes < 1024 else f"{_number(mebibytes / 1024)} GiB"


def _spread(times: tuple[float, ...]) -> str:
    middle = statistics.median(times)
    return f"{min(times) / middle - 1:+.0%} {max(times) / middle - 1:+.0%}"
