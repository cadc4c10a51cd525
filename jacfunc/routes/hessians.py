"""The Hessian of every output of a sample, and how what a route computes of it fills it.

A route hands :class:`Hessians`, in order, one of

- *triangles* ``(pairs, *batch, *O)``: mixed second derivatives of all outputs, each pair of coordinates once;
- *columns* ``(r, d, *batch, *O)``: second derivatives of all outputs along the next r coordinates and every one; or
- *rows* ``(o, d, *batch, d)``: second derivatives of the next o output coordinates by all coordinates, twice;

and with each of these the first derivatives, which come with the second ones.  All d coordinates of all input leaves
count as those of one input here; nothing evaluates a function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..core.caches import computed_once
from ..evaluation.basis import Rows
from ..jet.layout import Index, Layout, pairs
from ..jet.multiindices import MultiIndices, index_of
from .collect import Partials, joined

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]
Pair = tuple[int, int]

HESSIAN, GRADIENT = "hessian", "gradient"


@computed_once(64)
def indices_of(total: int, gradient: bool) -> MultiIndices:
    """The derivatives of a Hessian, each pair of coordinates once, and those of first order where they are wanted."""
    firsts = [index_of((place,), total) for place in range(total if gradient else 0)]
    return MultiIndices.around([*firsts, *(index_of(pair, total) for pair in triangle(total))])


def triangle(total: int) -> list[Pair]:
    """Every pair of so many coordinates once."""
    return [(i, j) for i in range(total) for j in range(i, total)]


class Patch(NamedTuple):
    """A part of the triangle of pairs that jets compute at once.

    Attributes:
        coordinates: those that jets have first-order rows for.
        chosen: the pairs, in the order of the second-order rows.
        layout: that of the rows.
    """

    coordinates: tuple[int, ...]
    chosen: tuple[Pair, ...]
    layout: Layout

    def indices(self, total: int) -> Sequence[Index]:
        """The derivative that each row is, of so many coordinates."""
        firsts = [index_of((place,), total) for place in self.coordinates]
        return [*firsts, *[index_of(pair, total) for pair in self.chosen]]


@computed_once(64)
def patches(total: int, chunk_size: int | None) -> tuple[Patch, ...]:
    """The triangle in patches of at most so many rows, if one pair alone has no more."""
    size = total
    if chunk_size is not None and chunk_size < total + total * (total + 1) // 2:
        size = max(1, math.isqrt(1 + chunk_size) - 1)  # two groups have 2 size + size^2 rows
    groups = [range(start, min(start + size, total)) for start in range(0, total, size)] if total else []
    return tuple([_patch(left, right) for i, left in enumerate(groups) for right in groups[i:]])


def _patch(left: range, right: range) -> Patch:
    coordinates = tuple(left) if left == right else (*left, *right)
    places = {coordinate: place for place, coordinate in enumerate(coordinates)}
    chosen = [(i, j) for i in left for j in right if i <= j]
    layout = pairs(len(coordinates), tuple([(places[i], places[j]) for i, j in chosen]))
    return Patch(coordinates, tuple(chosen), layout)


@dataclass
class Hessians:
    """The second derivatives of every output leaf, and with ``gradient`` the first ones, as they come in.

    ``inputs`` and ``outputs`` are the rows on both sides of the function, ``leaves`` the tensors to differentiate by.
    """

    inputs: Rows
    outputs: Rows
    leaves: Tensors
    batch: Shape
    gradient: bool
    triangles: dict[int, list[Any]] = field(default_factory=dict)
    chosen: list[Pair] = field(default_factory=list)
    columns: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    rows: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    firsts: dict[int, list[Any]] = field(default_factory=dict)
    gradients: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def indices(self) -> MultiIndices:
        """The derivatives that are wanted, for a route that has mixed ones."""
        return indices_of(self.inputs.total, self.gradient)

    def take_patch(self, chosen: Sequence[Pair], firsts: Sequence[Any], seconds: Sequence[Any]) -> None:
        """Take the derivatives of these pairs, and where they are of one group of coordinates its first ones."""
        self.chosen += chosen
        for leaf, second in enumerate(seconds):
            self.triangles.setdefault(leaf, []).append(second)
        for leaf, first in enumerate(firsts):
            self.firsts.setdefault(leaf, []).append(first)

    def take_columns(self, start: int, stop: int, derivatives: Tensors) -> None:
        """Take first derivatives ``(r, *batch, *O)`` along rows of the input, of each output leaf, then second."""
        count = len(self.outputs.shapes)
        for leaf in range(count):
            self.firsts.setdefault(leaf, []).append(derivatives[leaf])
            self.columns.setdefault(leaf, []).append(derivatives[count + leaf])

    def take_rows(self, start: int, stop: int, derivatives: Tensors) -> None:
        """Take gradients ``(o, *batch, d)`` of the output coordinates from ``start``, then second derivatives."""
        gradients, seconds = derivatives
        for segment in self.outputs.segments(start, stop):
            self.gradients.setdefault(segment.leaf, []).append(gradients[segment.where])
            self.rows.setdefault(segment.leaf, []).append(seconds[segment.where])

    def take_partials(self, partials: Partials) -> None:
        """Take the mixed derivatives of a route that has these."""
        total, found = self.inputs.total, partials.derivatives
        chosen = triangle(total)
        leaves = range(len(self.outputs.shapes))

        def stacked(leaf: int, keys: Sequence[Sequence[int]]) -> torch.Tensor:
            return torch.stack([found[leaf, index_of(key, total)] for key in keys])

        firsts = [stacked(leaf, [(place,) for place in range(total)]) for leaf in leaves] if self.gradient else []
        self.take_patch(chosen, firsts, [stacked(leaf, chosen) for leaf in leaves])

    def results(self) -> dict[tuple[str, int], torch.Tensor]:
        """The Hessian ``(*batch, *O, d, d)`` of each output leaf, and its gradient ``(*batch, *O, d)`` if wanted."""
        leaves = range(len(self.outputs.shapes))
        found = {(HESSIAN, leaf): self._hessian(leaf) for leaf in leaves}
        if self.gradient:
            found |= {(GRADIENT, leaf): self._gradient(leaf) for leaf in leaves}
        return found

    def _hessian(self, leaf: int) -> Any:
        total = self.inputs.total
        shape = (*self.batch, *self.outputs.shapes[leaf], total, total)
        if parts := self.triangles.get(leaf):
            triangle = joined(parts)
            order = _unfolded(tuple(self.chosen), total)
            return triangle.index_select(0, torch.tensor(order, device=triangle.device)).movedim(0, -1).reshape(shape)
        if parts := self.columns.get(leaf):
            return _mirrored(joined(parts).movedim((0, 1), (-2, -1)).reshape(shape))
        if parts := self.rows.get(leaf):
            axes = len(self.batch)
            return _mirrored(joined(parts).movedim((0, 1), (axes, axes + 1)).reshape(shape))
        return self.leaves[0].new_zeros(shape)

    def _gradient(self, leaf: int) -> Any:
        shape = (*self.batch, *self.outputs.shapes[leaf], self.inputs.total)
        if parts := self.firsts.get(leaf):
            return joined(parts).movedim(0, -1).reshape(shape)
        if parts := self.gradients.get(leaf):
            return joined(parts).movedim(0, len(self.batch)).reshape(shape)
        return self.leaves[0].new_zeros(shape)


@computed_once(64)
def _unfolded(chosen: tuple[Pair, ...], total: int) -> list[int]:
    """For each entry of the square the place of its pair."""
    places = {pair: place for place, pair in enumerate(chosen)}
    return [places[min(i, j), max(i, j)] for i in range(total) for j in range(total)]


def _mirrored(square: torch.Tensor) -> torch.Tensor:
    """The upper triangle on both sides, where rounding made the two different."""
    return square.triu() + square.triu(1).mT
