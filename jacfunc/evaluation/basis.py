"""Rows: the one-hot tangents or cotangents of a list of leaves, counted through, cut into chunks and pushed through.

A row is one coordinate of one sample of one leaf, the same for every sample of the batch.  Which rows a route
needs is its own business; what becomes of their results is in ``collect.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.func import vmap

from ..core.closeness import agree
from ..core.levels import inside_vmap

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]


class Segment(NamedTuple):
    """The part of a chunk that belongs to one leaf: ``where`` in the chunk, from coordinate ``start`` of ``leaf``."""

    leaf: int
    where: slice
    start: int

    @property
    def size(self) -> int:
        """How many rows it is."""
        size: int = self.where.stop - self.where.start
        return size


class Rows:
    """All rows of leaves whose samples have these shapes, each of ``sizes`` coordinates.

    ``total`` is how many there are, at most ``limit`` for a trial; ``whole`` the segments of all of them at once.
    """

    def __init__(self, shapes: tuple[Shape, ...], limit: int | None = None) -> None:
        self.shapes = shapes
        self.limit = limit
        self.sizes = [math.prod(shape) for shape in shapes]
        total = sum(self.sizes)
        self.total = total if limit is None else min(total, limit)
        self.whole = self._segments(0, self.total)

    def chunks(self, size: int | None) -> list[tuple[int, int]]:
        """Start and stop of every chunk of at most ``size`` rows."""
        step = size or max(self.total, 1)
        return [(start, min(start + step, self.total)) for start in range(0, self.total, step)]

    def segments(self, start: int, stop: int) -> list[Segment]:
        """The leaves that rows ``start`` to ``stop`` belong to."""
        return self.whole if stop - start == self.total else self._segments(start, stop)

    def _segments(self, start: int, stop: int) -> list[Segment]:
        segments, offset = [], 0
        for leaf, size in enumerate(self.sizes):
            first, last = max(start, offset), min(stop, offset + size)
            if first < last:
                segments.append(Segment(leaf, slice(first - start, last - start), first - offset))
            offset += size
        return segments

    def basis(self, start: int, stop: int, like: Sequence[torch.Tensor], batch: Shape) -> Tensors:
        """Rows ``start`` to ``stop``, one-hot, ``(stop - start, *batch, *shape)`` for each leaf.

        Contiguous: ``torch.compile`` cannot take another batch size after expanded (stride 0) tangents.
        """
        found = {segment.leaf: segment for segment in self.segments(start, stop)}
        basis = []
        for leaf, (shape, size, tensor) in enumerate(zip(self.shapes, self.sizes, like, strict=True)):
            rows = tensor.new_zeros((stop - start, size))
            if segment := found.get(leaf):
                hot = torch.arange(segment.start, segment.start + segment.size, device=tensor.device)
                # Not one_hot, which looks at the values and so cannot be traced by make_fx.
                rows[segment.where] = (hot[:, None] == torch.arange(size, device=tensor.device)).to(tensor.dtype)
            rows = rows.reshape(stop - start, *(1 for _ in batch), *shape)
            basis.append(rows.expand(stop - start, *batch, *shape).contiguous())
        return tuple(basis)


def through(linear: Callable[..., Tensors], rows: Tensors, vectorised: bool, verified: bool = False) -> Tensors:
    """The results of a linear function for each of the rows, stacked in front; a single row needs no ``vmap``.

    ``verified`` asks that the last row be computed on its own as well: some of torch's batching rules (that of the
    backward of ``cdist``, say) give every row the result of the first.
    """
    count = len(rows[0])
    if count == 1:
        return tuple(result[None] for result in linear(*(row[0] for row in rows)))
    if not vectorised:
        looped = [linear(*(row[index] for row in rows)) for index in range(count)]
        return tuple(torch.stack(results) for results in zip(*looped, strict=True))
    results: Tensors = vmap(linear, randomness="same")(*rows)
    if verified and not inside_vmap():
        last = linear(*(row[-1] for row in rows))
        if not all(agree(result[-1], alone) for result, alone in zip(results, last, strict=True)):
            raise RuntimeError("an operation inside f gives other derivatives under torch.func.vmap than by itself")
    return results


def flattened(
    function: Callable[..., tuple[Tensors, ...]],
) -> tuple[Callable[..., Tensors], Callable[[Tensors], list[Tensors]]]:
    """``function`` with its groups of results in one tuple, as ``through`` takes it, and how to group them again."""
    sizes: list[int] = []

    def flat(*args: torch.Tensor) -> Tensors:
        groups = function(*args)
        sizes[:] = [len(group) for group in groups]
        return tuple(tensor for group in groups for tensor in group)

    def group(tensors: Tensors) -> list[Tensors]:
        remaining = iter(tensors)
        return [tuple(next(remaining) for _ in range(size)) for size in sizes]

    return flat, group
