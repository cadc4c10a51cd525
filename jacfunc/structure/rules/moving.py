"""Operations that put elements elsewhere: they move the numbers of sets as they move the elements."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...core.torch_operators import to_copy
from ...core.trees import mapped
from ..joins import Union
from ..sets import KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


@rule(
    *[aten.cat, aten.stack, aten.roll, aten.flip, aten.repeat, aten.tril, aten.triu, aten.im2col, aten.rot90],
    *[aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.native_channel_shuffle, aten.block_diag],
    *[aten.slice_scatter, aten.select_scatter, aten.diagonal_scatter, aten.diag_embed],
    *[aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d, aten.slice_backward, aten.select_backward],
    *[aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d, aten.diagonal_backward, aten.diag],
    *[aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.unfold_copy, aten.view_copy],
    *[aten.expand_copy, aten.permute_copy, aten.slice_copy, aten.select_copy],
    *[aten.as_strided_scatter, aten.diagonal_copy, aten.transpose_copy, aten.as_strided_copy],
)
def _moved(track: Tracker, call: Call) -> list[Numbers] | Union:
    """By the operation itself, each part of a union by itself; the zeros that some of them put in are KNOWN."""
    operands = call.operands()
    if len(operands) == 1 and len(call.results) == 1:
        return track.united(operands).mapped(lambda part: _by_itself(call, lambda _: part)[0])
    return _by_itself(call, track.numbers)


def _by_itself(call: Call, numbers: Callable[[torch.Tensor], Numbers]) -> list[Numbers]:
    args, kwargs = mapped(numbers, (call.args, call.kwargs))
    found = call.returning(*args, **kwargs)
    return list(found) if isinstance(found, list | tuple) else [found]


@rule(aten.clone, to_copy, aten.contiguous, aten.lift_fresh_copy, aten.alias_copy, aten.detach_copy)
def _copied(track: Tracker, call: Call) -> Union:
    return track.united([call.args[0]])


@rule(aten.constant_pad_nd)
def _padded(track: Tracker, call: Call) -> Numbers:
    return call.returning(track.numbers(call.args[0]), call.args[1], KNOWN)  # type: ignore[no-any-return]
