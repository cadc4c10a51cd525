"""Entries that are picked out of few columns or rows of a Jacobian, as a route hands them over."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from ..routes.collect import Pair, joined


@dataclass(frozen=True, eq=False)
class Places:
    """Where wanted entries are.

    Attributes:
        at: the place of each in ``(C, X)``, flattened: ``C`` colours of columns and ``X`` rows, or the other way round.
        columns: whether colours are those of columns: of coordinates that the inner function is differentiated by.
        key: tells these places from others.
    """

    at: torch.Tensor
    columns: bool
    key: Hashable

    def __call__(self, pair: Pair) -> Picking:
        """What picks them for one pair of an output and an input."""
        return Picking(pair, self)


@dataclass
class Picking:
    """Some entries of a Jacobian, ``(*batch, n)``."""

    pair: Pair
    places: Places
    by_column: list[torch.Tensor] = field(default_factory=list)
    by_row: list[torch.Tensor] = field(default_factory=list)

    def columns(self, tangents: torch.Tensor, start: int) -> None:
        """Take derivatives along the input coordinates from ``start``."""
        self.by_column.append(tangents)

    def rows(self, cotangents: torch.Tensor, start: int) -> None:
        """Take gradients of the output coordinates from ``start``."""
        self.by_row.append(cotangents)

    def result(self) -> torch.Tensor:
        """What the entry has become, samples in front."""
        parts, batch, places = self.by_column or self.by_row, self.pair.batch, self.places
        if not parts or not len(places.at):
            return self.pair.empty(len(places.at))
        colours_first = bool(self.by_column) == places.columns
        stacked = joined(parts)
        stacked = stacked.reshape(len(stacked), *batch, -1)
        if not colours_first:
            stacked = stacked.movedim(0, -1)
        elif math.prod(batch) != 1:
            stacked = stacked.movedim(0, len(batch))
        return stacked.reshape(*batch, -1).index_select(-1, places.at)
