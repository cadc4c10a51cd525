"""How many points a block has, and the bar that shows how many are done."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any, Literal

import torch

from ..errors import ArgumentError
from .graph import kept_bytes
from .terms import Block

Size = int | Literal["auto"]

MEASURED = 256
"""Points of the first block of a term, by which an automatic size is measured: enough to outweigh the parameters."""

LEAST = 64
"""Points in an automatic block: below, the overhead of operations outweighs what a cache saves."""

BUDGET = 16 * 2**20
"""The bytes that the graph of an automatic block keeps on a CPU (``docs/guides/many.md`` has what was measured)."""

BUDGET_ELSEWHERE = 512 * 2**20
"""Those on an accelerator, which is idle in small blocks."""


def check_size(size: Any) -> Size:
    """A number of points, or ``"auto"``."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        if isinstance(size, str) and size == "auto":
            return "auto"
        raise ArgumentError(f"sample_chunk_size={size!r} is no number of points, 1 or more; pass one, or 'auto'")
    return size


class Sizes:
    """The size of the next block of each term: what was asked for, or what a first, small block was measured to be."""

    def __init__(self, asked: Size) -> None:
        self.asked = asked
        self.measured: dict[int, int] = {}

    def next(self, place: int, given: bool) -> int | None:
        """How many points the next block of a term may have; None for as many as it has, where blocks are given."""
        if self.asked != "auto":
            return self.asked
        return None if given else self.measured.get(place, MEASURED)

    def note(self, place: int, block: Block, values: torch.Tensor) -> None:
        """Look at what the graph of a first block keeps."""
        if self.asked != "auto" or place in self.measured or not block.count:
            return
        budget = BUDGET if values.device.type == "cpu" else BUDGET_ELSEWHERE
        of_a_point = max(kept_bytes(values) / block.count, 1.0)
        self.measured[place] = max(LEAST, int(budget / of_a_point) // LEAST * LEAST)


def check_tqdm() -> Any:
    """The class of the bar; refused where there is none."""
    with suppress(ImportError):
        return importlib.import_module("tqdm").tqdm
    raise ArgumentError(
        "progress=True needs tqdm, which is not installed; install it by pip install 'jacfunc[progress]', or leave "
        "progress out"
    )


class Bar:
    """A bar of the points, or whatever they are, that are done, or nothing, where it is given no class."""

    def __init__(self, tqdm: Any, total: int | None, unit: str = "points") -> None:
        self.shown = None if tqdm is None else tqdm(total=total, unit=unit, unit_scale=True, leave=False)

    def update(self, points: int) -> None:
        """So many more are done."""
        if self.shown is not None:
            self.shown.update(points)

    def close(self) -> None:
        """No more will be."""
        if self.shown is not None:
            self.shown.close()
