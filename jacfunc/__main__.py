"""``python -m jacfunc``: the founding example, checked and timed; exit status 1 if a check fails.

Options, the table, the JSON and the progress bar.  The example and what is measured of it are in ``founding.py``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from . import founding
from .founding import DENSE, OURS, PER_SAMPLE, PLAIN, Report, Result, Sizes

COLUMNS = "{:<29} {:>10} {:>11} {:>13} {:>9} {:>12} {:>10}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and print what was found; the exit status."""
    options = _parser().parse_args(arguments)
    sizes = Sizes(options.samples, options.outputs, options.width, options.seed, options.dtype)
    with _progress(founding.steps(options.memory)) as step:
        report = founding.run(sizes, full=options.full, calls=options.calls, memory=options.memory, step=step)
    print(json.dumps(_as_json(report), indent=2, allow_nan=False) if options.json else _as_text(report, options.memory))
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
    parser.add_argument("--dtype", choices=sorted(founding.TOLERANCES), default=Sizes.dtype, help="of the network and of t")
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
        "dense_rows": report.rows,
        "environment": _environment(),
        "methods": [_result_as_json(result, report.sizes) for result in report.results],
        "times_as_long_as_diag_jac": {result.name: _ratio(result, report) for result in report.results},
        "checks": [{**asdict(check), "error": _finite(check.error)} for check in report.checks],
        "passed": report.passed,
    }


def _result_as_json(result: Result, sizes: Sizes) -> dict[str, Any]:
    return {
        "name": result.name,
        "seconds": result.seconds,
        "seconds_per_vector": result.seconds and result.seconds / sizes.outputs,
        "extrapolated": result.share < 1,
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


def _ratio(result: Result, report: Report) -> float | None:
    ours = _of(OURS, report).seconds
    return result.seconds / ours if result.seconds and ours else None


def _of(method: founding.Method, report: Report) -> Result:
    return next(result for result in report.results if result.name == method.name)


# ---------------------------------------------------------------- text


def _as_text(report: Report, memory: bool) -> str:
    return "\n".join([*_heading(report.sizes), "", *_table(report), "", *_legend(report, memory), "", *_verdict(report)])


def _heading(sizes: Sizes) -> list[str]:
    environment = _environment()
    width = sizes.width
    return [
        f"The founding example: the {sizes.outputs} vectors dy[:, k]/dt of y = net(t), t of shape ({sizes.samples}, 1)",
        f"net: Linear(1, {width})-Tanh-Linear({width}, {width})-Tanh-Linear({width}, {sizes.outputs}), "
        f"{sizes.dtype}, seed {sizes.seed}, parameters frozen",
        f"on: Python {environment['python']}, torch {environment['torch']}, CPU, {environment['threads']} threads",
    ]
