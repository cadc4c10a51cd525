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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .levels import compiling

Tensor = torch.Tensor


@dataclass(frozen=True)
class Entry:
    """One operation: under which Python functions it is called, what replaces it, and why."""

    name: str
    functions: tuple[Callable[..., Any], ...]
    instead: Callable[..., Any]
    why: str
    issue: int | None = None

    def __str__(self) -> str:
        source = f" (pytorch issue {self.issue})" if self.issue else ""
        return f"{self.name} is computed from simpler operations: {self.why}{source}"


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


def _multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    if compiling():  # which cannot trace the copy; the switch is one for all threads, or it would do for both
        with sdpa_kernel(SDPBackend.MATH):
            return F.multi_head_attention_forward(*args, **kwargs)
    return _MULTI_HEAD(*args, **kwargs)


def _with_inner(function: Any, **replaced: Callable[..., Any]) -> Callable[..., Any]:
    """A Python function of torch with other functions in place of those that it calls by these names.

    It no longer looks for modes, to which it would hand itself over again and for ever.
    """
    never = {name: _never for name in function.__globals__ if name.startswith("has_torch_function")}
    inner = {**function.__globals__, **never, **replaced}
    copied = FunctionType(function.__code__, inner, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _never(*tensors: Any) -> bool:
    return False


_MULTI_HEAD = _with_inner(F.multi_head_attention_forward, scaled_dot_product_attention=_attention)


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


FORGETS = "torch's second derivative takes the statistics of the input for constants"
NO_FLASH = "torch's flash kernel has neither a forward mode nor a second derivative"

ENTRIES = (
    Entry("layer_norm", (F.layer_norm, torch.layer_norm), _layer_norm, FORGETS, 196700),
    Entry("batch_norm", (F.batch_norm,), _batch_norm, FORGETS, 196699),
    Entry("batch_norm", (torch.batch_norm,), _other_order(_batch_norm), FORGETS, 196699),
    Entry("instance_norm", (F.instance_norm,), _instance_norm, FORGETS, 196699),
    Entry("instance_norm", (torch.instance_norm,), _other_order(_instance_norm), FORGETS, 196699),
    Entry("scaled_dot_product_attention", (F.scaled_dot_product_attention,), _attention, NO_FLASH),
    Entry("scaled_dot_product_attention", (F.multi_head_attention_forward,), _multi_head_attention, NO_FLASH),
)

TABLE: Mapping[Any, Entry] = {function: entry for entry in ENTRIES for function in entry.functions}


class Corrections(TorchFunctionMode):
    """While active, exchanges the operations of the table."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in TABLE:
            return self.exchanged(TABLE[func], args, kwargs)
        return func(*args, **kwargs)

    def exchanged(self, entry: Entry, args: Any, kwargs: Any) -> Any:
        """The result of what the table has instead of the operation."""
        return entry.instead(*args, **kwargs)


class Noting(Corrections):
    """Also keeps the entries that it met, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.met: dict[str, Entry] = {}

    def exchanged(self, entry: Entry, args: Any, kwargs: Any) -> Any:
        """The same, noted."""
        self.met[entry.name] = entry
        return super().exchanged(entry, args, kwargs)


def corrected() -> AbstractContextManager[Any]:
    """A context in which the operations of the table are exchanged; once, also inside another one."""
    modes = () if compiling() else _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    active = any(isinstance(mode, Corrections) for mode in modes)
    return nullcontext() if active else Corrections()
