"""Convolutions and pooling: each element depends on a window of the axes of space, of one channel or of a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from ...core.torch_operators import adaptive_pools
from ..joins import listed_union, over_axes
from ..sets import EMPTY, KNOWN
from ..tracker import Call, Numbers, Tracker, rule

aten = torch.ops.aten


class Window(NamedTuple):
    """Which elements are seen from a place, by axis of space."""

    sizes: Sequence[int]
    strides: Sequence[int]
    steps: Sequence[int]


def windows(numbers: Numbers, window: Window, counts: Sequence[int]) -> Numbers:
    """``(.., *spatial)`` to ``(.., *counts, *sizes)``, where ``counts`` windows fit, or more, KNOWN beyond the edge."""
    axes = len(window.sizes)
    spatial = numbers.shape[-axes:]
    reach = zip(window.sizes, window.strides, window.steps, counts, spatial, strict=True)
    short = [max((count - 1) * stride + (size - 1) * step + 1 - have, 0) for size, stride, step, count, have in reach]
    numbers = F.pad(numbers, [pad for each in reversed(short) for pad in (0, each)], value=KNOWN)
    strides, kept = numbers.stride(), numbers.dim() - axes
    return numbers.as_strided(
        (*numbers.shape[:kept], *counts, *window.sizes),
        (
            *strides[:kept],
            *[stride * window.strides[axis] for axis, stride in enumerate(strides[kept:])],
            *[stride * window.steps[axis] for axis, stride in enumerate(strides[kept:])],
        ),
    )


def _padded(numbers: Numbers, before: Sequence[int]) -> Numbers:
    """With so many KNOWN elements on both sides of each axis of space."""
    return F.pad(numbers, [each for pad in reversed(before) for each in (pad, pad)], value=KNOWN)


def _each(value: Any, axes: int) -> list[int]:
    """One number for each axis."""
    found = [value] if isinstance(value, int) else list(value)
    return found * axes if len(found) == 1 else found


# -------------------------------------------------------------------- convolutions


@rule(aten.convolution)
def _convolution(track: Tracker, call: Call) -> Numbers:
    values, weight, bias = call.args[:3]
    axes = weight.dim() - 2
    strides, padding, steps = [_each(call.argument(name), axes) for name in ("stride", "padding", "dilation")]
    groups, shape = call.argument("groups"), tuple(call.results[0].shape)
    numbers = track.numbers(values)
    if values.dim() == axes + 1:
        numbers, shape = numbers[None], (1, *shape)
    zeros, sizes = track.always(weight, 0.0), weight.shape[2:]
    if call.argument("transposed"):
        numbers = _spread(numbers, strides)
        around = [step * (size - 1) - pad for step, size, pad in zip(steps, sizes, padding, strict=True)]
        strides, zeros = [1] * axes, _turned(zeros, groups)
    else:
        around = padding
    numbers = _padded(numbers, around)  # where that is negative, it cuts
    by_group = numbers.reshape(numbers.shape[0], groups, -1, *numbers.shape[2:])
    seen = windows(by_group, Window(sizes, strides, steps), shape[2:])
    # (N, groups, C, *places, *sizes) to (N, groups, *places, C * sizes)
    seen = seen.movedim(2, 2 + axes).flatten(2 + axes)
    found = _by_channel(track, seen, zeros.reshape(groups, zeros.shape[0] // groups, -1)).clamp(min=EMPTY)
    whole = track.everything_in([weight] if bias is None else [weight, bias])
    found = found if whole <= EMPTY else track.everything_in(call.operands()).expand(shape)
    return found.reshape(call.results[0].shape)


@rule(aten.convolution_backward)
def _backward(track: Tracker, call: Call) -> list[Numbers]:
    """The gradient by the input is a convolution the other way round; those by the weight and the bias are dense."""
    gradient, values, weight = call.args[:3]
    every = track.everything_in(call.operands())
    found = [every.expand(result.shape) for result in call.results]
    if call.argument("output_mask")[0]:
        names = ("stride", "padding", "dilation", "transposed", "groups")
        strides, padding, steps, transposed, groups = [call.argument(name) for name in names]
        with track:
            back = _turned_round(gradient, weight, values.shape[2:], strides, padding, steps, transposed, groups)
        found[0] = track.numbers(back)
    return found


def _turned_round(
    gradient: torch.Tensor,
    weight: torch.Tensor,
    spatial: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    steps: Sequence[int],
    transposed: bool,
    groups: int,
) -> torch.Tensor:
    """The gradient by the input of a convolution, as a convolution of the gradient by its output."""
    short = [0] * len(spatial)
    if not transposed:
        ends = zip(spatial, gradient.shape[2:], weight.shape[2:], strides, padding, steps, strict=True)
        short = [n - ((m - 1) * stride - 2 * pad + step * (size - 1) + 1) for n, m, size, stride, pad, step in ends]
    return aten.convolution(gradient, weight, None, strides, padding, steps, not transposed, short, groups)  # type: ignore[no-any-return]


def _by_channel(track: Tracker, seen: Numbers, zeros: torch.Tensor) -> Numbers:
    """For windows ``(N, G, *places, K)`` and weights ``(G, O, K)`` the numbers ``(N, G * O, *places)``."""
    groups, count, _ = zeros.shape
    kinds, which = torch.unique(zeros.reshape(groups * count, -1), dim=0, return_inverse=True)
    found = seen.new_empty(seen.shape[0], groups * count, *seen.shape[2:-1])
    for group in range(groups):
        of_group = which[group * count : (group + 1) * count]
        for kind in of_group.unique().tolist():
            union = over_axes(track.sets, seen[:, group][..., ~kinds[kind]], (-1,))
            channels = group * count + (of_group == kind).nonzero()[:, 0]
            found[:, channels] = union[:, None]
    return found


def _spread(numbers: Numbers, strides: Sequence[int]) -> Numbers:
    """With KNOWN elements between those of each axis of space, as a transposed convolution sees its input."""
    sizes = [(size - 1) * stride + 1 for size, stride in zip(numbers.shape[2:], strides, strict=True)]
    found = numbers.new_full((*numbers.shape[:2], *sizes), KNOWN)
    places: tuple[Any, ...] = (..., *[slice(None, None, stride) for stride in strides])
    found[places] = numbers
    return found


def _turned(zeros: torch.Tensor, groups: int) -> torch.Tensor:
    """The weight ``(C, O / G, *sizes)`` of a transposed convolution as that of a plain one, ``(O, C / G, *sizes)``."""
    by_group = zeros.reshape(groups, zeros.shape[0] // groups, *zeros.shape[1:]).transpose(1, 2).flatten(0, 1)
    return by_group.flip(list(range(2, zeros.dim())))


# -------------------------------------------------------------------- pooling


@rule(
    *[aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.max_pool2d_with_indices],
    *[aten.max_pool3d_with_indices, aten.max_pool1d, aten.max_pool2d, aten.max_pool3d],
)
def _pooled(track: Tracker, call: Call) -> list[Numbers]:
    numbers, shape = track.numbers(call.args[0]), call.results[0].shape
    axes = int(str(call.function.overloadpacket).partition("pool")[2][0])
    sizes = _each(call.argument("kernel_size"), axes)
    strides = _each(call.argument("stride") or sizes, axes)
    steps = _each(call.argument("dilation", default=1), axes)
    numbers = _padded(numbers, _each(call.argument("padding", default=0), axes))
    seen = windows(numbers, Window(sizes, strides, steps), shape[-axes:])
    found = over_axes(track.sets, seen, range(seen.dim() - axes, seen.dim()))
    return [found.reshape(result.shape) for result in call.results]


@rule(*adaptive_pools, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d)
def _adapted(track: Tracker, call: Call) -> list[Numbers]:
    """Windows whose sizes differ by one: from ``floor(i n / m)`` to ``ceil((i + 1) n / m)``."""
    numbers, shape = track.numbers(call.args[0]), call.results[0].shape
    axes = 3 if "3d" in str(call.function) else 2
    for axis in range(-axes, 0):
        have, want = numbers.shape[axis], shape[axis]
        ends = [(i * have // want, math.ceil((i + 1) * have / want)) for i in range(want)]
        parts = [over_axes(track.sets, numbers.narrow(axis, a, b - a), (axis,), keepdim=True) for a, b in ends]
        numbers = torch.cat(parts, axis)
    return [numbers for _ in call.results]


@rule(aten.unfold_backward)
def _windows_back(track: Tracker, call: Call) -> Numbers:
    """Each element the union of all windows that it was in."""
    gradient, shape, *window = call.args
    count = math.prod(shape)
    places = torch.arange(count).reshape(tuple(shape)).unfold(*window)
    numbers = track.numbers(gradient).expand(places.shape)
    return listed_union(track.sets, places.reshape(-1), numbers.reshape(-1), count).reshape(tuple(shape))
