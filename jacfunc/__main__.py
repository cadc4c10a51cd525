"""``python -m jacfunc``: the founding example, checked and timed; exit status 1 if a check fails.

Options, the table, the JSON and the progress bar.  The example and what is measured of it are in ``founding.py``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from . import founding
from .founding import DENSE, OURS, PER_SAMPLE, PLAIN, Check, Method, Report, Result, Sizes

COLUMNS = "{:<29} {:>10} {:>11} {:>13} {:>9} {:>12} {:>10}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and print what was found; the exit status."""
    options = _parser().parse_args(arguments)
    sizes = Sizes(options.samples, options.outputs, options.width, options.seed, options.dtype)
    with _progress(founding.steps(options.memory)) as step:
        report = founding.run(sizes, full=options.full, calls=options.calls, memory=options.memory, step=step)
    print(json.dumps(_as_json(report), indent=2, allow_nan=False) if options.json else _as_text(report))
    return 0 if report.passed else 1


# ---------------------------------------------------------------- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jacfunc",
        description="The derivatives dy[n, k]/dt[n] of all outputs of a small tanh network for every sample: checked "
        "against dense Jacobian rows, with seconds and peak memory next to those of the usual ways.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, text in (
        ("samples", "samples in t, of shape (samples, 1)"),
        ("outputs", "outputs of the network, one vector of derivatives for each"),
        ("width", "width of its two hidden layers"),
    ):
        parser.add_argument(f"--{name}", type=_positive, default=getattr(Sizes, name), help=text)
    parser.add_argument("--seed", type=_seed, default=Sizes.seed, help="seed of the network and of t")
    parser.add_argument(
        "--dtype", choices=sorted(founding.TOLERANCES), default=Sizes.dtype, help="of the network and of t"
    )
    parser.add_argument("--calls", type=_positive, default=30, help="timed calls of each method, fewer of slow ones")
    parser.add_argument("--full", action="store_true", help="run the dense Jacobians whole: minutes and gigabytes")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


def _positive(text: str) -> int:
    return _integer(text, 1, 2**31 - 1)


def _seed(text: str) -> int:
    return _integer(text, 0, 2**63 - 1)


def _integer(text: str, least: int, most: int) -> int:
    number = int(text) if text.isdecimal() else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return number


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal's stderr if it takes long and tqdm is there."""
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield lambda text: None
        return
    with tqdm(total=total, file=sys.stderr, disable=None, delay=1, leave=False) as bar:

        def step(text: str) -> None:
            bar.set_description(text, refresh=False)
            bar.update()

        yield step


# ---------------------------------------------------------------- JSON


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "sizes": asdict(report.sizes),
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
        "seconds": seconds,
        "seconds_per_vector": seconds and seconds / report.sizes.outputs,
        "relative_to_diag_jac": _ratio(result, _of(OURS, report)),
        "share_run": result.share,
        "seconds_of_calls": list(result.times),
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
        "threads": torch.get_num_threads(),
    }


# ---------------------------------------------------------------- text


def _as_text(report: Report) -> str:
    return "\n\n".join("\n".join(part(report)) for part in (_heading, _table, _legend, _verdict))


def _heading(report: Report) -> list[str]:
    sizes, environment = report.sizes, _environment()
    width, outputs = sizes.width, sizes.outputs
    return [
        f"The {outputs} vectors dy[:, k]/dt of y = net(t), with t of shape ({sizes.samples}, 1)",
        f"net = Linear(1, {width})-Tanh-Linear({width}, {width})-Tanh-Linear({width}, {outputs}), {sizes.dtype}, "
        f"seed {sizes.seed}, parameters frozen",
        f"Python {environment['python']}, torch {environment['torch']}, CPU, {environment['threads']} threads",
    ]


def _table(report: Report) -> list[str]:
    whole = f"all {report.sizes.outputs}"
    header = ("method", whole, "per vector", "spread", "relative", "peak memory", "max error")
    return [
        COLUMNS.format(*header),
        "-" * len(COLUMNS.format(*header)),
        *(_row(result, report) for result in report.results),
    ]


def _row(result: Result, report: Report) -> str:
    if result.seconds is None:
        return f"{result.name:<29}  {result.note}"
    derivative = result.name != PLAIN.name
    ratio = _ratio(result, _of(OURS, report))
    about = "~" if result.share < 1 else ""
    return COLUMNS.format(
        result.name,
        about + _time(result.seconds),
        about + _time(result.seconds / report.sizes.outputs) if derivative else "-",
        _spread(result.times),
        "-" if ratio is None else about + _number(ratio),
        "-" if result.peak is None else (">" if about else "") + _size(result.peak),
        "-" if result.error is None else "the truth" if result.name == DENSE.name else f"{result.error:.1e}",
    )


def _legend(report: Report) -> list[str]:
    lines = [
        "seconds: the median of several calls after an uncounted one; spread: the fastest and the slowest of them",
        "relative: to the time of jacfunc.diag_jac; per vector: the time for all, divided by their number",
    ]
    if any(result.peak is not None for result in report.results):
        lines.append("peak memory: what one call adds to the resident memory, in a process of its own, after set-up")
    if any(result.times and result.share < 1 for result in report.results):
        rows = report.sizes.samples * report.sizes.outputs
        lines.append(
            f"~ >: only {report.rows} of {rows} dense rows were run; time is scaled up, memory is not; see --full"
        )
    return lines


def _verdict(report: Report) -> list[str]:
    ours = _of(OURS, report)
    ratios = [
        ("diag_jac takes {} times as long as a plain forward", _ratio(ours, _of(PLAIN, report))),
        ("vmap(jacfwd) takes {} times as long as diag_jac", _ratio(_of(PER_SAMPLE, report), ours)),
        ("the dense Jacobian takes {} times as long as diag_jac", _ratio(_of(DENSE, report), ours)),
    ]
    return [text.format(_number(ratio)) for text, ratio in ratios if ratio is not None] + [
        f"{'ok  ' if check.passed else 'FAIL'}  {check.name}{_comparison(check)}" for check in report.checks
    ]


def _comparison(check: Check) -> str:
    if check.error is None:
        return ""
    return f": error {check.error:.1e}, allowed {check.tolerance:g}"


def _ratio(result: Result, other: Result) -> float | None:
    return result.seconds / other.seconds if result.seconds and other.seconds else None


def _of(method: Method, report: Report) -> Result:
    return next(result for result in report.results if result.name == method.name)


def _number(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            break
    return f"{_number(seconds * scale)} {unit}"


def _size(size: int) -> str:
    mebibytes = size / 2**20
    return f"{_number(mebibytes)} MiB" if mebibytes < 1024 else f"{_number(mebibytes / 1024)} GiB"


def _spread(times: tuple[float, ...]) -> str:
    middle = statistics.median(times)
    return f"{min(times) / middle - 1:+.0%} {max(times) / middle - 1:+.0%}"


if __name__ == "__main__":
    sys.exit(main())
