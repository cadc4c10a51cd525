"""Elementwise operations where less is nonzero than what goes in: roundings, products with zeros, choices by a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...core.trees import tensors
from ..joins import Union, constant, joined
from ..sets import KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


@rule(
    *[aten.ceil, aten.floor, aten.floor_divide, aten.heaviside, aten.round, aten.sgn, aten.sign, aten.trunc],
    aten.fix,
)
def _roundings(track: Tracker, call: Call) -> Union:
    return track.united(call.operands()).mapped(constant)


@rule(aten.bucketize, aten.searchsorted, aten.repeat_interleave, aten.histc, aten.bincount)
def _counts(track: Tracker, call: Call) -> Numbers:
    """Numbers of elements and places, by all that goes in."""
    return constant(track.everything_in(call.operands()))


@rule(aten.mul, aten.logical_and, aten.bitwise_and)
def _products(track: Tracker, call: Call) -> Union:
    """A factor that is always zero leaves nothing of the other."""
    return _without(track, call, call.operands(), 0.0)


@rule(aten.div, aten.true_divide)
def _quotients(track: Tracker, call: Call) -> Union:
    return _without(track, call, tensors(call.args[0]), 0.0)


@rule(aten.add)
def _sums(track: Tracker, call: Call) -> Union:
    """A score of a pair that a mask of minus infinity leaves out is that, whatever it was."""
    return _without(track, call, call.operands(), -math.inf)


def _without(track: Tracker, call: Call, operands: Sequence[torch.Tensor], value: float) -> Union:
    """What all operands depend on, but nothing where one of some has a value that decides alone."""
    found = track.united(call.operands())
    for operand in operands:
        decides = track.always(operand, value)
        if decides.any():
            found = found.mapped(lambda part, decides=decides: part.masked_fill(decides, KNOWN))  # type: ignore[misc]
    return found


@rule(aten.where)
def _choices(track: Tracker, call: Call) -> Numbers:
    """By a condition that is always the same, one of two; else it may be either."""
    condition, *pair = call.args
    return _chosen(track, condition, *[_numbers(track, item) for item in pair])


@rule(aten.masked_fill)
def _filled(track: Tracker, call: Call) -> Numbers:
    values, mask, filling = call.args
    return _chosen(track, mask, _numbers(track, filling), track.numbers(values))


def _chosen(track: Tracker, condition: torch.Tensor, one: Numbers, other: Numbers) -> Numbers:
    if track.are_known(condition):
        return torch.where(condition.bool(), one, other)
    return joined(track.sets, joined(track.sets, one, other), track.numbers(condition))


def _numbers(track: Tracker, item: object) -> Numbers:
    if isinstance(item, torch.Tensor):
        return track.numbers(item)
    return torch.tensor(float(KNOWN), dtype=torch.float64)
