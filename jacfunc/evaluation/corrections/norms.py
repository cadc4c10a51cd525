"""Normalisations from means and rsqrt: torch's second derivatives take the statistics of the input for constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from ...core.torch_private import indexed_native
from .expansion import Tensor, constant, exactly, wide


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The standardised input, its mean and the inverse of its standard deviation."""
    x = wide(x)
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance: Tensor = centred.square().mean(axes, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    return centred * inverse, mean, inverse


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_normalised(
    input: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, the mean and the inverse of the standard deviation."""
    x, mean, inverse = _standardised(input, tuple(range(-len(shape), 0)), eps)
    return _scaled(x, weight, bias, shape), mean, inverse


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """For ``F.layer_norm`` and ``torch.layer_norm``."""
    value = torch.layer_norm(input.detach(), normalized_shape, constant(weight), constant(bias), eps, cudnn_enable)
    return exactly(value, _layer_normalised(input, tuple(normalized_shape), weight, bias, eps)[0])


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """For ``torch.native_layer_norm``, which also returns the mean and the inverse standard deviation."""
    values = torch.native_layer_norm(input.detach(), normalized_shape, constant(weight), constant(bias), eps)
    expanded = _layer_normalised(input, tuple(normalized_shape), weight, bias, eps)
    return tuple(exactly(value, e.reshape(value.shape)) for value, e in zip(values, expanded, strict=True))


def _channels(input: Tensor) -> tuple[int, ...]:
    return (1, -1, *(1 for _ in input.shape[2:]))


def _by_channels(
    input: Tensor, first: int, running_mean: Tensor | None, running_var: Tensor | None, training: bool, eps: float
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Each channel standardised, over the axes from ``first`` on but its own, or by running statistics."""
    if training or running_mean is None or running_var is None:
        return _standardised(input, tuple(axis for axis in range(first, input.dim()) if axis != 1), eps)
    # The running statistics of this moment: the caller may update them in place before the backward.
    mean, variance = (statistic.clone().reshape(_channels(input)) for statistic in (running_mean, running_var))
    return (wide(input) - mean) * torch.rsqrt(variance + eps), None, None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """For ``F.batch_norm``."""
    x, _, _ = _by_channels(input, 0, running_mean, running_var, training, eps)
    value = F.batch_norm(
        input.detach(), running_mean, running_var, constant(weight), constant(bias), training, momentum, eps
    )
    return exactly(value, _scaled(x, weight, bias, _channels(input)))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """For ``F.instance_norm``."""
    x, _, _ = _by_channels(input, 2, running_mean, running_var, use_input_stats, eps)
    value = F.instance_norm(
        input.detach(), running_mean, running_var, constant(weight), constant(bias), use_input_stats, momentum, eps
    )
    return exactly(value, _scaled(x, weight, bias, _channels(input)))


def other_order(
    instead: Callable[..., Tensor],
    /,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
    use_input_stats: bool = False,
) -> Tensor:
    """For ``torch.batch_norm`` and ``torch.instance_norm``, which take weight and bias before the statistics."""
    return instead(input, running_mean, running_var, weight, bias, training or use_input_stats, momentum, eps)


def native_batch_norm(
    native: Callable[..., Any],
    /,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *rest: Any,
    **named: Any,
) -> Any:
    """For ``torch.native_batch_norm`` and its kin, which also return what they saved for their backward."""
    statistics, training, eps = _native_arguments(rest, named)
    x, mean, inverse = _by_channels(input, 0, *statistics, training, eps)
    values = native(input.detach(), constant(weight), constant(bias), *rest, **named)
    expanded = (_scaled(x, weight, bias, _channels(input)), mean, inverse)
    pairs = zip(values[:3], expanded, strict=True)
    exact = [value if e is None else exactly(value, e.reshape(value.shape)) for value, e in pairs]
    return (*exact, *values[3:])


def indexed_batch_norm(*args: Any, **named: Any) -> Any:
    """For ``torch._batch_norm_impl_index``, which also takes whether cuDNN may be used."""
    *others, enabled = (*args, named.pop("cudnn_enabled")) if "cudnn_enabled" in named else args
    return native_batch_norm(partial(indexed_native, cudnn_enabled=enabled), *others, **named)


def _native_arguments(rest: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, Any], bool, float]:
    """Running statistics, mode and eps; the statistics may be absent, or the mode, which is then training."""
    tensors = [item for item in rest if item is None or isinstance(item, Tensor)]
    numbers = list(rest[len(tensors) :])
    mean = named.get("running_mean", tensors[0] if tensors else None)
    variance = named.get("running_var", tensors[-1] if tensors else None)
    eps = named["eps"] if "eps" in named else numbers.pop()
    if "momentum" not in named:
        numbers.pop()
    return (mean, variance), bool(named.get("training", numbers[0] if numbers else True)), eps
