"""Elementwise operations where less is nonzero than what goes in: roundings, products with zeros, choices by a mask."""

from __future__ import annotations

import math

import torch

from ..joins import all_joined, constant, joined
from ..sets import KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


def _all(track: Tracker, call: Call) -> Numbers:
    return all_joined(track.sets, [track.numbers(operand) for operand in call.operands()])


@rule(
    *[aten.ceil, aten.floor, aten.floor_divide, aten.heaviside, aten.round, aten.sgn, aten.sign, aten.trunc],
    aten.fix,
)
def _roundings(track: Tracker, call: Call) -> Numbers:
    return constant(_all(track, call))


@rule(aten.bucketize, aten.searchsorted, aten.repeat_interleave, aten.histc, aten.bincount)
def _counts(track: Tracker, call: Call) -> Numbers:
    """Numbers of elements and places, by all that goes in."""
    return constant(track.everything_in(call.operands()))


@rule(aten.mul, aten.logical_and, aten.bitwise_and)
def _products(track: Tracker, call: Call) -> Numbers:
    """A factor that is always zero leaves nothing of the other."""
    found = _all(track, call)
    for operand in call.operands():
        found = found.masked_fill(track.always(operand, 0.0), KNOWN)
    return found


@rule(aten.div, aten.true_divide)
def _quotients(track: Tracker, call: Call) -> Numbers:
    found = _all(track, call)
    over = call.args[0]
    return found.masked_fill(track.always(over, 0.0), KNOWN) if isinstance(over, torch.Tensor) else found


@rule(aten.add)
def _sums(track: Tracker, call: Call) -> Numbers:
    """A score of a pair that a mask of minus infinity leaves out is that, whatever it was."""
    found = _all(track, call)
    for operand in call.operands():
        found = found.masked_fill(track.always(operand, -math.inf), KNOWN)
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
