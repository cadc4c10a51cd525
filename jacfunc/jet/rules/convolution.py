"""Convolutions, their transposes, and what repeats over a batch of images: pools, paddings, resampling, shuffles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ...core.torch_private import UPSAMPLING
from ...core.torch_private import c_nn as _nn
from ..build import Operand, frame_of, linear, of_windows
from ..fallback import pushed
from ..jet import Coefficients, Jet
from ..registry import add
from ..values import plain
from ..vmap_rules import batched, in_batch, mapped_product, stacked, unexpanded
from ..windows import windows_of
from .products import multiplies
from .shared import enter, enter_each

Tensor = torch.Tensor


# -------------------------------------------------------------------- convolutions


def convolution(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """The rule of a convolution, of a batch or of one sample, which has one axis less."""

    def rule(input: Operand, weight: Operand, bias: Operand = None, *args: Any, **kwargs: Any) -> Jet:
        def product(x: Tensor, w: Tensor) -> Tensor:
            return function(x, w, None, *args, **kwargs)

        value = function(plain(input), plain(weight), plain(bias), *args, **kwargs)
        windows = windows_of(input) if type(input) is Jet and type(bias) is not Jet else None
        if windows is not None and function in LOCAL:
            reach = _reach(input, weight, value, dict(zip(OPTIONS, args, strict=False)) | kwargs)
            if reach is not None:
                rows = windows.then(lambda rows: in_batch(rows, lambda x: product(x, weight)), reach, given=(weight,))
                return of_windows(rows, value, input.frame)
        spatial = weight.dim() - 2
        return _convolved(
            value, (input, weight, bias), product, None if input.dim() == spatial + 1 else 0, -1 - spatial
        )

    return rule


def _reach(input: Jet, weight: Operand, value: Tensor, options: dict[str, Any]) -> tuple[int, ...] | None:
    """How far around its own place each pixel of the result looks, along each axis; None where there is no such place.

    Of one size, with a stride of one, are only images padded by half of what the kernel spans, on average.
    """
    if type(weight) is Jet or not multiplies(input, weight) or input.dim() != weight.dim():
        return None
    axes = weight.dim() - 2
    if value.shape[2:] != input.shape[2:] or any(step != 1 for step in _for_each(options.get("stride", 1), axes)):
        return None
    dilation = _for_each(options.get("dilation", 1), axes)
    spans = [(size - 1) * step for size, step in zip(weight.shape[2:], dilation, strict=True)]
    return tuple([span - span // 2 for span in spans])


def _for_each(option: Any, axes: int) -> tuple[int, ...]:
    given = (option,) if isinstance(option, int) else tuple(option)
    return given * axes if len(given) == 1 else given


def conv_tbc(input: Operand, weight: Operand, bias: Operand, pad: int = 0) -> Jet:
    """The one with time in front, and channels last."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.conv_tbc(x, w, w.new_zeros(w.shape[-1]), pad)

    value = torch.conv_tbc(plain(input), plain(weight), plain(bias), pad)
    return _convolved(value, (input, weight, bias), product, 1, -1)


def _convolved(
    value: Tensor,
    operands: tuple[Operand, Operand, Operand],
    product: Callable[[Tensor, Tensor], Tensor],
    batch: int | None,
    channels: int,
) -> Jet:
    """The rows of a product of input and weight, and of the bias along the axis of channels.

    ``batch``: the axis of the input that rows are joined to; None where it has none, so that they are the batch.
    """
    input, weight, bias = operands
    frame = frame_of(*operands)
    rows: Coefficients = (None,) * frame.layout.order
    if type(weight) is Jet:
        rows = mapped_product(input, weight, product).coefficients
    elif type(input) is Jet:
        rows = tuple(None if c is None else _on_input(c, input, weight, product, batch) for c in input.coefficients)
    if type(bias) is Jet:
        rows = tuple(_with_bias(row, b, value, channels) for row, b in zip(rows, bias.coefficients, strict=True))
    return Jet(value, rows, frame)


def _on_input(rows: Tensor, input: Jet, weight: Tensor, product: Any, batch: int | None) -> Tensor:
    if batch is None:
        result: Tensor = product(rows.expand(rows.shape[0], *input.shape), weight)
        return result
    return in_batch(unexpanded(rows, input.value, batch), lambda x: product(x, weight), batch)


def _with_bias(rows: Tensor | None, bias: Tensor | None, value: Tensor, channels: int) -> Tensor | None:
    if bias is None:
        return rows
    shape = [1] * value.dim()
    shape[channels] = bias.shape[-1]
    added = bias.reshape(bias.shape[0], *shape)
    return added if rows is None else rows + added


# -------------------------------------------------------------------- images


def pad(input: Jet, pad: Any, mode: str = "constant", value: float | None = None) -> Jet:
    """Zeros around the rows, whatever number stands around the value; or what the value has there, mirrored."""
    sizes = tuple(pad)
    if mode == "constant":
        return linear(input, lambda x: _nn.pad(x, sizes, mode, value), lambda rows: _nn.pad(rows, sizes, mode, None))
    mirrored: Jet = batched(_nn.pad, len(sizes) // 2 + 1)(input, sizes, mode, value)
    return mirrored


def constant_pad(input: Jet, sizes: Any, value: float = 0.0) -> Jet:
    """``torch.constant_pad_nd``."""
    return pad(input, sizes, "constant", value)


def grid_sampler(input: Any, grid: Any, *options: Any) -> Any:
    """An image at places that do not vary: rows are further channels of it."""
    if type(grid) is Jet:
        return pushed(torch.grid_sampler, (input, grid, *options), {})
    return batched(torch.grid_sampler, axis=1)(input, grid, *options)


def affine_grid(theta: Jet, size: Any, align_corners: bool) -> Jet:
    """The places that affine maps, one for each sample, send a grid to."""

    def on(maps: Tensor) -> Tensor:
        return torch.affine_grid_generator(maps, [maps.shape[0], *list(size)[1:]], align_corners)

    result: Jet = batched(on)(theta)
    return result


UNBATCHED: dict[str, int] = {
    "avg_pool1d": 2,
    "avg_pool2d": 3,
    "avg_pool3d": 4,
    "adaptive_avg_pool1d": 2,
    "adaptive_avg_pool2d": 3,
    "adaptive_avg_pool3d": 4,
    "im2col": 3,
    "col2im": 2,
    "channel_shuffle": 0,
    "native_channel_shuffle": 0,
}
"""Linear in images, and how many axes one without a batch has."""
RESAMPLED = [name for name in dir(_nn) if name.startswith(UPSAMPLING) and "backward" not in name]
LOCAL = (torch.conv2d, torch.conv3d)
"""Those that leave an image its size, or may, and what they are told by position."""
OPTIONS = ("stride", "padding", "dilation", "groups")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")


def install() -> None:
    """Enter the rules of this file."""
    enter_each(convolution, *[getattr(torch, name) for name in CONVOLUTIONS])
    enter(
        {
            "conv_tbc": conv_tbc,
            _nn.pad: pad,
            "constant_pad_nd": constant_pad,
            "grid_sampler": grid_sampler,
            "affine_grid_generator": affine_grid,
        }
    )
    for name, rank in UNBATCHED.items():
        function = getattr(_nn, name, None) or getattr(torch, name)
        add(batched(function, rank), function)
    enter_each(functools.partial(batched, rank=0), *[getattr(_nn, name) for name in RESAMPLED])
    enter_each(stacked, torch.pixel_shuffle, torch.pixel_unshuffle)
