"""``python -m benchmarks`` (from ``tests/``): jacfunc beside plain forwards and its peers, and the bars it has to reach."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

from .alone import measured_alone
from .charts import charted
from .contender import CLOCK
from .cuda import on_device
from .elsewhere import keep
from .harness import Settings
from .page import all_results, page, text
from .peers.jax import versions
from .plots import drawn
from .results import Run
from .together import measured_together
from .workloads import WORKLOADS, Workload, sweeps

DOCS = Path(__file__).parents[2] / "docs"
QUICK = Settings(rounds=2, seconds=0.05, slow=0.5, patience=60, wait=5, memory=False)


def main(arguments: Sequence[str] | None = None, docs: Path = DOCS) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.resume and not options.json:
        parser.error("--resume needs --json FILE, where the earlier run is")
    run = Run.from_json(options.read.read_text(encoding="utf-8")) if options.read else _run(options)
    print(text(run))
    if options.keep:
        keep(run)
    if options.page:
        folder = docs / "benchmarks"
        figures = [*drawn(run, folder), *charted(all_results(run), folder)]
        (docs / "benchmarks.md").write_text(page(run, figures, docs), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument(
        "--workload", nargs="+", metavar="NAME", default=[], help=f"only these, * and ? allowed: {names}, sweep-*"
    )
    parser.add_argument("--rounds", type=int, help=f"how often all run in turn ({Settings.rounds})")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short rounds, no sweeps, no memory, only ours compiled, tanh networks and a small one unless others are named",
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="no peaks of memory, and no safety from peers that crash"
    )
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of the environment that has JAX and folx")
    parser.add_argument(
        "--by-processor",
        action="store_true",
        help="time what the processor was busy for, for a machine that others use too, with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--patience", type=int, help="seconds after which who is not ready is given up (180, quick 60)")
    parser.add_argument(
        "--together",
        nargs="?",
        type=int,
        const=0,
        metavar="SEED",
        help="then all workloads of a kind in one process, as in a notebook, in an order by the seed; ours alone",
    )
    parser.add_argument("--keep", action="store_true", help="write the numbers as those of this processor's vendor")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md and its figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every number is written")
    parser.add_argument("--resume", action="store_true", help="keep the workloads that the JSON file already has")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing, take the numbers of an earlier run")
    return parser


def _run(options: argparse.Namespace) -> Run:
    settings = replace(QUICK if options.quick else Settings(), second=options.peers)
    settings = replace(settings, rounds=options.rounds or settings.rounds)
    settings = replace(settings, patience=options.patience or settings.patience)
    settings = replace(settings, memory=settings.memory and not options.no_memory)
    if options.by_processor:
        os.environ[CLOCK] = "1"
        settings = replace(settings, wait=0)
    workloads = _chosen(options.workload, options.quick)
    run = Run(_machine(), _versions(options.peers), [], vendor=_vendor(), date=f"{date.today():%B %Y}")
    if options.resume and options.json.exists():
        run.found = Run.from_json(options.json.read_text(encoding="utf-8")).found
        workloads = [workload for workload in workloads if run.of(workload.name) is None]
    with tqdm(workloads, unit="workload", smoothing=0) as bar:
        for workload in bar:
            run.found.append(measured_alone(workload, options.quick, settings, bar.set_postfix_str))
            _save(run, options.json)  # after each, because a crash of one peer ends the run
        if options.together is not None:
            run.together = measured_together(workloads, settings, options.together, bar.set_postfix_str)
        run.cuda = on_device([workload for workload in workloads if not workload.sweep], bar.set_postfix_str)
    _save(run, options.json)
    return run


def _save(run: Run, file: Path | None) -> None:
    if file:
        file.write_text(run.to_json(), encoding="utf-8")


def _chosen(patterns: list[str], quick: bool) -> list[Workload]:
    everything = [*WORKLOADS, *sweeps()]
    if not patterns:
        return [workload for workload in WORKLOADS if workload.network in ("", "small")] if quick else everything
    for pattern in patterns:
        if not fnmatch.filter([workload.name for workload in everything], pattern):
            raise SystemExit(f"no workload is called {pattern}; see --help")
    return [workload for workload in everything if any(fnmatch.fnmatch(workload.name, one) for one in patterns)]


def _machine() -> str:
    """In words: what matters of it and nothing that names it."""
    memory = ""
    with suppress(ValueError, OSError, AttributeError):  # not on Windows
        memory = f" and {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    device = " and a CUDA device" if torch.cuda.is_available() else ""
    processor = f", {name}" if (name := _told("model name")) else ""
    capability = torch.backends.cpu.get_cpu_capability()
    cores = f"{os.cpu_count()} cores ({capability}{processor})"
    timed = ", time by the processor" if os.environ.get(CLOCK) else ""
    return f"a machine with {cores}{memory}{device} ({torch.get_num_threads()} threads{timed})"


def _vendor() -> str:
    """Who made the processor, or nothing."""
    makers = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
    return makers.get(_told("vendor_id"), _told("vendor_id"))


def _told(field: str) -> str:
    """What Linux says of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
    return ""


def _versions(second: Path | None) -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("jacfunc", "torch", "deepxde", "omnibias-torch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | versions(second)


if __name__ == "__main__":
    main()
