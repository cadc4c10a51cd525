"""Few columns or rows of a Jacobian, one after the other as a route hands them over, so that entries are read quickly.

A compiler that saw the reading of entries too would compute each where it is read, which takes several times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..routes.collect import Block, Pair, joined


@dataclass
class Stack(Block):
    """All entries of a Jacobian, ``(*batch, C, X)``: ``C`` columns of ``X`` rows each, or else rows of columns."""

    of_columns: bool = True

    def result(self) -> torch.Tensor:
        """What the entry has become, samples in front."""
        parts, batch = self.by_column or self.by_row, self.pair.batch
        if not parts:
            sizes = math.prod(self.pair.input), math.prod(self.pair.output)
            return self.pair.empty(*(sizes if self.of_columns else reversed(sizes)))
        stacked = joined(parts)
        size = math.prod(stacked.shape[1 + len(batch) :])
        stacked = stacked.reshape(len(stacked), *batch, size)
        if (len(self.by_column) > 0) != self.of_columns:
            return stacked.movedim(0, -1)
        return stacked.movedim(0, len(batch)) if batch else stacked


def of_columns(pair: Pair) -> Stack:
    """Columns, of one pair of an output and an input."""
    return Stack(pair)


def of_rows(pair: Pair) -> Stack:
    """Rows, of one pair of an output and an input."""
    return Stack(pair, of_columns=False)
