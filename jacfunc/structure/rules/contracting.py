"""Matrix products: a sum over pairs, of which those with a factor that is always zero are left out."""

from __future__ import annotations

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
    zeros = (track.always(one, 0.0), track.always(other, 0.0))
    rows, columns = track.numbers(one), track.numbers(other)
    batch, n, k = one.shape
    m = other.shape[2]
    if not (zeros[0].any() or zeros[1].any()) or batch * n * k * m > PAIRS:
        by_row = over_axes(track.sets, rows, (2,), keepdim=True)
        by_column = over_axes(track.sets, columns, (1,), keepdim=True)
        return joined(track.sets, by_row, by_column)
    left = ~(zeros[0][:, :, None, :] | zeros[1].transpose(1, 2)[:, None])  # (B, n, m, k)
    place, inner = left.flatten(0, 2).nonzero().unbind(1)
    shape = (batch, n, m, k)
    listed = [rows[:, :, None, :].expand(shape), columns.transpose(1, 2)[:, None].expand(shape)]
    numbers = torch.cat([each.reshape(-1, k)[place, inner] for each in listed])
    found = listed_union(track.sets, torch.cat([place, place]), numbers, batch * n * m).reshape(batch, n, m)
    every = (rows == KNOWN).all(2)[:, :, None] & (columns == KNOWN).all(1)[:, None]
    return torch.where(every | ~left.any(3), float(KNOWN), found.clamp(min=EMPTY))
