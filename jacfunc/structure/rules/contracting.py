"""Matrix products: a sum over pairs, of which those with a factor that is always zero are left out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ...core.torch_operators import pair_distances
from ..joins import joined, listed_union, over_axes
from ..sets import EMPTY, KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten

PAIRS = 10**7
"""Of more pairs zeros are not looked for, since each would be listed."""


@rule(aten.bmm)
def _batched(track: Tracker, call: Call) -> Numbers:
    return _product(track, *call.args[:2])


@rule(aten.mm)
def _matrices(track: Tracker, call: Call) -> Numbers:
    one, other = call.args[:2]
    return _product(track, one[None], other[None])[0]


@rule(aten.mv)
def _by_vector(track: Tracker, call: Call) -> Numbers:
    one, other = call.args[:2]
    return _product(track, one[None], other[None, :, None])[0, :, 0]


@rule(aten.dot, aten.vdot)
def _of_vectors(track: Tracker, call: Call) -> Numbers:
    one, other = call.args[:2]
    return _product(track, one[None, None], other[None, :, None])[0, 0, 0]


@rule(aten.baddbmm)
def _added(track: Tracker, call: Call) -> Numbers:
    return joined(track.sets, track.numbers(call.args[0]), _product(track, *call.args[1:3])).expand(
        call.results[0].shape
    )


@rule(pair_distances)
def _distances(track: Tracker, call: Call) -> Numbers:
    """Between all pairs of rows ``(.., n, k)`` and ``(.., m, k)``."""
    ends = [over_axes(track.sets, track.numbers(points), (-1,)) for points in call.args[:2]]
    return joined(track.sets, ends[0][..., :, None], ends[1][..., None, :])


def _product(track: Tracker, one: torch.Tensor, other: torch.Tensor) -> Numbers:
    """That of ``(B, n, k)`` and ``(B, k, m)``: ``(B, n, m)``."""
    rows = _Factor(track.numbers(one), track.always(one, 0.0))
    columns = _Factor(track.numbers(other).transpose(1, 2), track.always(other, 0.0).transpose(1, 2))
    if not (rows.zeros.any() or columns.zeros.any()):
        return _whole(track, rows, columns)
    return _of_different(track, rows, columns)


class _Factor(NamedTuple):
    """The numbers of one factor, ``(B, n, k)``, and where it is always zero."""

    numbers: Numbers
    zeros: torch.Tensor

    def at(self, *places: Any) -> _Factor:
        """Some of it."""
        return _Factor(self.numbers[places], self.zeros[places])

    def keys(self, axes: int) -> torch.Tensor:
        """A row for each place on the first ``axes`` axes, equal where all of it there is."""
        both = torch.stack([self.numbers, self.zeros.to(self.numbers)], -1)
        return both.flatten(axes).flatten(0, axes - 1)


def _of_different(track: Tracker, rows: _Factor, columns: _Factor) -> Numbers:
    """The product, by one of all equal matrices, rows and columns, as those of all samples are."""
    batch, n, k = rows.numbers.shape
    m = columns.numbers.shape[1]
    if batch * n * k * m <= PAIRS:
        return _by_pairs(track, rows, columns)
    which, each = _different(torch.cat([rows.keys(1), columns.keys(1)], 1))
    if len(which) < batch:
        return _of_different(track, rows.at(which), columns.at(which))[each]
    if batch == 1:
        (some, of_row), (few, of_column) = _different(rows.keys(2)), _different(columns.keys(2))
        if len(some) < n or len(few) < m:
            found = _of_different(track, rows.at(slice(None), some), columns.at(slice(None), few))
            return found[:, of_row][:, :, of_column]
    track.dense.setdefault("a large matrix product with zeros", None)
    return _whole(track, rows, columns)


def _different(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One place of each different row, and for each row which of them it is."""
    unique, each = torch.unique(keys, dim=0, return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    return torch.zeros(len(unique), dtype=torch.int64, device=keys.device).scatter_(0, each, places), each


def _whole(track: Tracker, rows: _Factor, columns: _Factor) -> Numbers:
    """That of two factors without zeros."""
    by_row, by_column = [over_axes(track.sets, factor.numbers, (2,)) for factor in (rows, columns)]
    return joined(track.sets, by_row[:, :, None], by_column[:, None])


def _by_pairs(track: Tracker, rows: _Factor, columns: _Factor) -> Numbers:
    """That by all pairs of which none is always zero."""
    batch, n, k = rows.numbers.shape
    m = columns.numbers.shape[1]
    left = ~(rows.zeros[:, :, None] | columns.zeros[:, None])  # (B, n, m, k)
    place, inner = left.flatten(0, 2).nonzero().unbind(1)
    shape = (batch, n, m, k)
    listed = [rows.numbers[:, :, None].expand(shape), columns.numbers[:, None].expand(shape)]
    numbers = torch.cat([each.reshape(-1, k)[place, inner] for each in listed])
    found = listed_union(track.sets, torch.cat([place, place]), numbers, batch * n * m).reshape(batch, n, m)
    every = (rows.numbers == KNOWN).all(2)[:, :, None] & (columns.numbers == KNOWN).all(2)[:, None]
    return torch.where(every | ~left.any(3), float(KNOWN), found.clamp(min=EMPTY))
