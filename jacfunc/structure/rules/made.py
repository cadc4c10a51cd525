"""Tensors made new: like another one, but of values that do not depend on it."""

from __future__ import annotations

import torch

from ...core.torch_operators import zeros_laid_out_like
from ..joins import joined
from ..sets import EMPTY, KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


@rule(
    *[aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros, aten.new_ones, aten.new_full],
    *[aten.new_empty, aten.new_empty_strided, aten.zero, aten.empty_strided],
    zeros_laid_out_like,
)
def _new(track: Tracker, call: Call) -> Numbers:
    return torch.tensor(float(KNOWN), dtype=torch.float64)


@rule(
    *[aten.rand_like, aten.randn_like, aten.randint_like, aten.bernoulli, aten.normal, aten.uniform, aten.random],
    *[aten.exponential, aten.multinomial],
)
def _drawn(track: Tracker, call: Call) -> Numbers:
    return torch.tensor(float(EMPTY), dtype=torch.float64)


@rule(aten.fill, aten.copy)
def _written(track: Tracker, call: Call) -> Numbers:
    """What was there before is gone."""
    value = call.args[1]
    numbers = track.numbers(value) if isinstance(value, torch.Tensor) else torch.tensor(float(KNOWN)).double()
    return numbers.expand(call.args[0].shape)


@rule(aten.native_dropout)
def _dropped(track: Tracker, call: Call) -> list[Numbers]:
    numbers = track.numbers(call.args[0])
    return [joined(track.sets, numbers, torch.tensor(float(EMPTY)).double()), numbers.clamp(max=EMPTY)]
