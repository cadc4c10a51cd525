"""The operations whose derivatives torch gets wrong or lacks, and what runs in their place: one table.

``corrected()`` watches the calls that a function makes and exchanges those in the table.  An entry either computes the
same from primitives whose derivatives of every order are right, with torch's own value (:func:`_exactly`), or refuses.
Since the primitives are what is recorded, a derivative that is taken again from outside is right as well.  What torch
does inside scripted or C++ code is not seen; which route may take an operation is decided in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .levels import compiling

Tensor = torch.Tensor
ISSUES = "https://github.com/pytorch/pytorch/issues/"


@dataclass(frozen=True)
class Entry:
    """One operation: under which Python functions it is called, what replaces it, and why."""

    name: str
    functions: tuple[Callable[..., Any], ...]
    instead: Callable[..., Any]
    why: str
    issue: int | None = None


def _exactly(value: Tensor, expanded: Tensor) -> Tensor:
    """``value`` to the bit, with the derivatives of ``expanded``, which is equal to it but for rounding."""
    return value.detach() + (expanded - expanded.detach()).to(value.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """In a precision in which a mean over many elements is sound, as torch's own kernels accumulate."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    x = _wide(x)
    centred = x - x.mean(axes, keepdim=True)
    variance: Tensor = centred.square().mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    value = torch.layer_norm(input.detach(), normalized_shape, _constant(weight), _constant(bias), eps, cudnn_enable)
    shape = tuple(normalized_shape)
    x = _standardised(input, tuple(range(-len(shape), 0)), eps)
    return _exactly(value, _scaled(x, weight, bias, shape))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    value = F.batch_norm(
        input.detach(), running_mean, running_var, _constant(weight), _constant(bias), training, momentum, eps
    )
    channels = (1, -1, *(1 for _ in input.shape[2:]))
    if training:
        x = _standardised(input, (0, *range(2, input.dim())), eps)
    else:
        assert running_mean is not None  # or the call above has raised
        assert running_var is not None
        x = (_wide(input) - running_mean.reshape(channels)) * torch.rsqrt(running_var.reshape(channels) + eps)
    return _exactly(value, _scaled(x, weight, bias, channels))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    value = F.instance_norm(
        input.detach(), running_mean, running_var, _constant(weight), _constant(bias), use_input_stats, momentum, eps
    )
    channels = (1, -1, *(1 for _ in input.shape[2:]))
    if use_input_stats:
        x = _standardised(input, tuple(range(2, input.dim())), eps)
    else:
        assert running_mean is not None  # or the call above has raised
        assert running_var is not None
        x = (_wide(input) - running_mean.reshape(channels)) * torch.rsqrt(running_var.reshape(channels) + eps)
    return _exactly(value, _scaled(x, weight, bias, channels))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    attended, _ = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    result: Tensor = attended
    return result


def _constant(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _other_order(instead: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For ``torch.batch_norm`` and ``torch.instance_norm``, which take weight and bias before the statistics."""

    def replaced(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        return instead(input, running_mean, running_var, weight, bias, training, momentum, eps)

    return replaced


FORGETS = "its second derivative takes the statistics of the input for constants"
NO_FLASH = "its flash kernel has neither a forward mode nor a second derivative"

ENTRIES = (
    Entry("layer_norm", (F.layer_norm, torch.layer_norm), _layer_norm, FORGETS, 196700),
    Entry("batch_norm", (F.batch_norm,), _batch_norm, FORGETS, 196699),
    Entry("batch_norm", (torch.batch_norm,), _other_order(_batch_norm), FORGETS, 196699),
    Entry("instance_norm", (F.instance_norm,), _instance_norm, FORGETS, 196699),
    Entry("instance_norm", (torch.instance_norm,), _other_order(_instance_norm), FORGETS, 196699),
    Entry("scaled_dot_product_attention", (F.scaled_dot_product_attention,), _attention, NO_FLASH),
)

TABLE: Mapping[Any, Entry] = {function: entry for entry in ENTRIES for function in entry.functions}
NAMES = frozenset(function.__name__ for function in TABLE)


def _opened(function: FunctionType) -> Callable[..., Any]:
    """A Python function of torch that calls operations of the table, such that the mode sees these calls.

    As it is, it would hand itself to the mode again and for ever.
    """
    names = {name: _never for name in function.__globals__ if name.startswith("has_torch_function")}
    opened = FunctionType(function.__code__, {**function.__globals__, **names}, None, function.__defaults__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


def _never(*tensors: Any) -> bool:
    return False


OPENED = {
    function: _opened(function)
    for function in vars(F).values()
    if type(function) is FunctionType and function not in TABLE and not NAMES.isdisjoint(function.__code__.co_names)
}


class Corrections(TorchFunctionMode):
    """While active, exchanges the operations of the table."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in TABLE:
            return TABLE[func].instead(*args, **kwargs)
        if func in OPENED:
            with self:
                return OPENED[func](*args, **kwargs)
        return func(*args, **kwargs)


def corrected() -> AbstractContextManager[Any]:
    """A context in which the operations of the table are exchanged; once, also inside another one."""
    modes = () if compiling() else _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    active = any(isinstance(mode, Corrections) for mode in modes)
    return nullcontext() if active else Corrections()
