"""``python -m sweep`` (from ``tests/``): judges all operations and modules of torch and writes what came out."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

import torch

from .cases import operations
from .page import page
from .pool import in_processes
from .served import networks_served

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sweep", description=__doc__)
    parser.add_argument("--ops", default="", help="a regular expression for the names to judge; no page is written")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("sweep.json"), help="where every outcome is written")
    parser.add_argument("--page-only", action="store_true", help="write the page from the JSON of an earlier run")
    options = parser.parse_args()
    if not options.page_only:
        names = [name for name in operations() if re.search(options.ops, name)]
        entries = _swept(names, options.processes)
        called, without = networks_served()
        found = {
            "torch": torch.__version__,
            "entries": entries,
            "networks": {"called": sorted(called), "without": sorted(without)},
        }
        options.json.write_text(json.dumps(found, indent=1))
    if not options.ops:
        PAGE.write_text(page(json.loads(options.json.read_text())))


def _swept(names: list[str], processes: int) -> dict[str, list[dict[str, object]]]:
    start, entries = time.monotonic(), {}
    for name, records in in_processes(names, processes):
        entries[name] = records
        print(f"{len(entries)}/{len(names)} {time.monotonic() - start:.0f} s {name}", file=sys.stderr, flush=True)
    return {name: entries[name] for name in sorted(entries)}


if __name__ == "__main__":
    main()
