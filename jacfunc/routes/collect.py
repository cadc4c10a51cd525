"""Which entries of a per-sample Jacobian are wanted, and how the rows of a route fill them.

One entry object serves one pair of an output leaf and an input leaf.  A route hands :class:`Entries`, in order,

- *columns* ``(r, *batch, *O)``: (second) derivatives of all outputs along the input coordinates from ``start``;
- *rows* ``(r, *batch, *I)``: the gradients of the output coordinates from ``start``; or, at second order,
- *cells* ``(o, numel(I), *batch)``: the next o output coordinates, twice by each input coordinate;

and takes the ``result`` with the sample axes in front.  Nothing here evaluates a function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..core.levels import apart
from ..evaluation.basis import Rows
from ..jet.multiindices import Key, MultiIndices

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]


class Pair(NamedTuple):
    """The sample shapes ``I`` and ``O`` of one input and one output leaf, and the batch in front of both.

    Of ``O`` and of ``I`` so many axes lie ``ahead`` of those that have a diagonal: for each entry of them there is one.
    """

    batch: Shape
    output: Shape
    input: Shape
    like: torch.Tensor
    ahead: tuple[int, int] = (0, 0)

    def aligned(self) -> tuple[Shape, Shape]:
        """Both shapes where they have a diagonal; in one rank, if something is ahead."""
        count, own = self.ahead
        if not count:
            return self.output, self.input
        front, output = self.output[:count], self.output[count:]
        before, input = (1,) * (count - own) + self.input[:own], self.input[own:]
        if math.prod(output) == 1 and len(output) != len(input):
            output = (1,) * len(input)
        elif len(output) != len(input):
            input = (1,) * len(output)
        return front + output, before + input

    def empty(self, *shape: int) -> torch.Tensor:
        """Zeros for a result that no row contributes to."""
        return self.like.new_zeros((*self.batch, *shape))


def joined(parts: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Parts one after the other; torch.compile would fix the batch size for a concatenation of one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


@dataclass
class Block:
    """Every entry: ``(*batch, *O, *I)``."""

    pair: Pair
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
        shape = (*self.pair.batch, *self.pair.output, *self.pair.input)
        if self.by_column:
            return joined(self.by_column).movedim(0, -1).reshape(shape)
        if self.by_row:
            return joined(self.by_row).movedim(0, len(self.pair.batch)).reshape(shape)
        return self.pair.empty(*self.pair.output, *self.pair.input)


@dataclass
class Diagonal:
    """``dy[b] / dx[b]``, where the smaller of ``I`` and ``O`` is broadcast: ``(*batch, *larger)``.

    ``whole`` is all of it, where the only row is that of a single coordinate; ``taken`` are parts of it, with their
    coordinates along the last axis, and ``order`` their places where these are not in order.
    """

    pair: Pair
    whole: torch.Tensor | None = None
    taken: list[torch.Tensor] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def columns(self, tangents: torch.Tensor, start: int) -> None:
        """Take derivatives along the input coordinates from ``start``."""
        output, input = self.pair.aligned()
        self._take(tangents, start, input, output)

    def rows(self, cotangents: torch.Tensor, start: int) -> None:
        """Take gradients of the output coordinates from ``start``."""
        self._take(cotangents, start, *self.pair.aligned())

    def _take(self, block: torch.Tensor, start: int, own: Shape, other: Shape) -> None:
        """Of ``(r, *batch, *other)`` keep, for each of the r coordinates of ``own``, those that lie opposite."""
        count, batch = len(block), self.pair.batch
        if math.prod(own) == 1:
            self.whole = block
        elif math.prod(other) == 1:
            self.taken.append(block.reshape(count, *batch).movedim(0, -1))
        elif own == other:
            self.taken.append(_diagonal(block, batch, start))
        else:
            mine, theirs, place = _opposite(own, other, start, count)
            block = block.reshape(count, *batch, math.prod(other)).movedim(-1, 1)
            self.taken.append(block[mine, theirs].movedim(0, -1))
            self.order += place

    def result(self) -> torch.Tensor:
        """What the entry has become, samples in front."""
        shapes = self.pair.aligned()
        larger = tuple(map(_joint, *shapes)) if self.pair.ahead[0] else larger_shape(*shapes)
        if self.whole is not None:
            return self.whole.reshape((*self.pair.batch, *larger))
        if not self.taken:
            return self.pair.empty(*larger)
        diagonal = joined(self.taken, -1)
        if self.order:
            diagonal = diagonal[..., sorted(range(len(self.order)), key=self.order.__getitem__)]
        return diagonal if len(larger) == 1 else diagonal.reshape((*self.pair.batch, *larger))


@dataclass
class HessianDiagonal(Block):
    """Second derivatives of every output by every input element: ``(*batch, *O, *I)``."""

    def cells(self, seconds: torch.Tensor) -> None:
        """Take second derivatives of the next output coordinates."""
        self.by_row.append(seconds.movedim(1, -1))


@dataclass
class Laplacian:
    """The sum of all second derivatives of every output: ``(*batch, *O)``."""

    pair: Pair
    total: torch.Tensor | None = None
    by_row: list[torch.Tensor] = field(default_factory=list)

    def columns(self, tangents: torch.Tensor, start: int) -> None:
        """Take derivatives along the input coordinates from ``start``."""
        part = tangents.sum(0)
        self.total = part if self.total is None else self.total + part

    def cells(self, seconds: torch.Tensor) -> None:
        """Take second derivatives of the next output coordinates."""
        self.by_row.append(seconds.sum(1))

    def result(self) -> torch.Tensor:
        """What the entry has become, samples in front."""
        if self.total is not None:
            return self.total
        if self.by_row:
            return joined(self.by_row).movedim(0, -1).reshape((*self.pair.batch, *self.pair.output))
        return self.pair.empty(*self.pair.output)


@dataclass
class Entries:
    """The entries that a route fills: ``by_pair[m, k]`` for output leaf m and input leaf k; some may be absent.

    ``inputs`` and ``outputs`` are the rows on both sides of the function, ``leaves`` the tensors to differentiate by.
    """

    by_pair: dict[tuple[int, int], Any]
    inputs: Rows
    outputs: Rows
    leaves: tuple[torch.Tensor, ...]

    def results(self) -> dict[tuple[int, int], torch.Tensor]:
        """What each entry has become."""
        return {pair: entry.result() for pair, entry in self.by_pair.items()}

    def take_columns(self, start: int, stop: int, tangents: Tensors) -> None:
        """Hand the derivatives along input rows ``start`` to ``stop`` to the entries."""
        for segment in self.inputs.segments(start, stop):
            dtype = self.leaves[segment.leaf].dtype
            for leaf, tangent in enumerate(tangents):
                if entry := self.by_pair.get((leaf, segment.leaf)):
                    own = tangent if segment.size == stop - start else tangent[segment.where]
                    entry.columns(own if own.dtype == dtype else own.to(dtype), segment.start)

    def take_sums(self, start: int, stop: int, sums: Tensors) -> None:
        """Hand sums of second derivatives to the entries, one for each input leaf with rows between start and stop."""
        for place, segment in enumerate(self.inputs.segments(start, stop)):
            dtype = self.leaves[segment.leaf].dtype
            for leaf, seconds in enumerate(sums):
                if entry := self.by_pair.get((leaf, segment.leaf)):
                    entry.columns(seconds[place : place + 1].to(dtype), segment.start)

    def take_rows(self, start: int, stop: int, cotangents: Tensors) -> None:
        """Hand the gradients of output rows ``start`` to ``stop`` to the entries."""
        for segment in self.outputs.segments(start, stop):
            for leaf, cotangent in enumerate(cotangents):
                if entry := self.by_pair.get((segment.leaf, leaf)):
                    entry.rows(cotangent[segment.where], segment.start)

    def take_cells(self, start: int, stop: int, cells: Tensors) -> None:
        """Hand the second derivatives of output rows ``start`` to ``stop`` by all inputs to the entries."""
        for segment in self.outputs.segments(start, stop):
            for leaf, seconds in enumerate(cells):
                if entry := self.by_pair.get((segment.leaf, leaf)):
                    entry.cells(seconds[segment.where])


@dataclass
class Partials:
    """The mixed derivatives that a route hands over, those of ``indices``, by output leaf and key."""

    indices: MultiIndices
    dtype: torch.dtype
    derivatives: dict[tuple[int, Key], torch.Tensor] = field(default_factory=dict)

    def take(self, leaf: int, key: Key, derivative: torch.Tensor) -> None:
        """Keep a mixed derivative of an output leaf, or a sum of some."""
        self.derivatives[leaf, key] = derivative if derivative.dtype == self.dtype else derivative.to(self.dtype)


def owned(tensor: torch.Tensor, traced: bool = False) -> torch.Tensor:
    """A result as it leaves: contiguous, and holding no more memory than itself, as a view of all rows does."""
    if traced:  # where it is not known what will be a view
        return tensor.clone(memory_format=torch.contiguous_format)
    if tensor.is_contiguous() and apart(tensor):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def own_coordinates(block: torch.Tensor, batch: Shape, start: int) -> torch.Tensor:
    """Of ``(r, *batch, *S)`` keep entry ``start + j`` of row j: ``(r, *batch)``."""
    return _diagonal(block, batch, start).movedim(-1, 0)


def _diagonal(block: torch.Tensor, batch: Shape, start: int) -> torch.Tensor:
    """Of ``(r, *batch, *S)`` entry ``start + j`` of row j: ``(*batch, r)``."""
    count, axes = len(block), 1 + len(batch)
    flat = block if block.dim() == axes + 1 else block.reshape(count, *batch, math.prod(block.shape[axes:]))
    own = flat if start == 0 and flat.shape[-1] == count else flat[..., start : start + count]
    return own.diagonal(dim1=0, dim2=-1)


def have_diagonal(output: Shape, input: Shape) -> bool:
    """Whether one of the shapes broadcasts to the other on purpose: a single element, or 1s in equal rank."""
    if math.prod(output) == 1 or math.prod(input) == 1:
        return True
    if len(output) != len(input):
        return False
    pairs = list(zip(output, input, strict=True))
    return all(o in (1, i) for o, i in pairs) or all(i in (1, o) for o, i in pairs)


def larger_shape(output: Shape, input: Shape) -> Shape:
    """The shape of the diagonal of one sample; that of the input where both have one element."""
    if math.prod(output) == math.prod(input):
        return input if len(input) >= len(output) else output
    return output if math.prod(output) > math.prod(input) else input


def _opposite(own: Shape, other: Shape, start: int, count: int) -> tuple[list[int], list[int], list[int]]:
    """Of the broadcast of both shapes: indices in the chunk of ``own``, in ``other``, and in the result."""
    larger = tuple(map(_joint, own, other))
    mine, theirs = _spread(own, larger), _spread(other, larger)
    chosen = [place for place, index in enumerate(mine) if start <= index < start + count]
    return [mine[place] - start for place in chosen], [theirs[place] for place in chosen], chosen


def _joint(size: int, other: int) -> int:
    """The size of an axis to which one of these is broadcast."""
    return other if size == 1 else size


def _spread(shape: Shape, larger: Shape) -> list[int]:
    """For each element of the larger shape the index of that of a shape which is broadcast to it."""
    found = [0]
    for size, full in zip(shape, larger, strict=True):
        found = [index * size + (place if size > 1 else 0) for index in found for place in range(full)]
    return found
