"""Operations along axes: what comes out depends on a whole axis, or on what comes before on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...core.torch_operators import fourier, softmaxes
from ..joins import all_joined, over_axes, up_to_each
from ..sets import EMPTY, KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


@rule(
    *[aten.sum, aten.nansum, aten.mean, aten.prod, aten.amax, aten.amin, aten.max, aten.min, aten.median],
    *[aten.nanmedian, aten.mode, aten.kthvalue, aten.logsumexp, aten.var, aten.std, aten.var_mean, aten.std_mean],
    *[aten.norm, aten.linalg_vector_norm, aten.aminmax, aten.any, aten.all, aten.argmax, aten.argmin],
    *[aten.count_nonzero],
)
def _reduced(track: Tracker, call: Call) -> Numbers:
    numbers = track.numbers(call.args[0])
    if call.function.overloadpacket in (aten.max, aten.min) and len(call.operands()) > 1:
        return _between(track, call)
    axes = _axes(call, numbers)
    return over_axes(track.sets, numbers, axes, keepdim=bool(call.argument("keepdim", default=False)))


def _between(track: Tracker, call: Call) -> Numbers:
    """Of two tensors, element by element: an overload of maximum and minimum."""
    return all_joined(track.sets, [track.numbers(operand) for operand in call.operands()])


def _axes(call: Call, numbers: Numbers) -> Sequence[int]:
    """Those that are reduced: all, if none is named."""
    named = call.argument("dim")
    if named is None or named == []:
        return range(numbers.dim())
    return [named] if isinstance(named, int) else list(named)


@rule(aten.cumsum, aten.cumprod, aten.logcumsumexp, aten.cummax, aten.cummin)
def _accumulated(track: Tracker, call: Call) -> Numbers:
    numbers = track.numbers(call.args[0])
    return up_to_each(track.sets, numbers, call.argument("dim")) if numbers.dim() else numbers


@rule(
    *[aten.sort, aten.topk, aten.argsort, *fourier],
)
def _mixed(track: Tracker, call: Call) -> list[Numbers]:
    """Any element of an axis may depend on all of it."""
    numbers = track.numbers(call.args[0])
    named = call.argument("dim", default=-1)
    axes = [named] if isinstance(named, int) else list(named)
    whole = over_axes(track.sets, numbers, axes, keepdim=True) if numbers.dim() else numbers
    return [whole.expand(result.shape) for result in call.results]


@rule(*softmaxes)
def _softmax(track: Tracker, call: Call) -> Numbers:
    """Of all that is not left out by minus infinity; what is left out is zero."""
    values = call.args[0]
    numbers = track.numbers(values)
    whole = over_axes(track.sets, numbers, (call.argument("dim"),), keepdim=True).clamp(min=EMPTY)
    return whole.expand(numbers.shape).masked_fill(track.always(values, -math.inf), KNOWN)
