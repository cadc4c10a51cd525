"""Which networks of linear layers and activations are small, so that value and all rows go through them in one stack.

How they do is in ``network.py``; what is large, or is differentiated by anything but autograd, goes layer by layer
(``layers.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..core import caches
from ..core.levels import inside_transform
from ..core.torch_private import autocasting, dual_level
from .frame import OneHot
from .fused import Elementwise
from .jet import Jet
from .layout import Layout
from .network import ONE_HOT, Network, Part, Pick, recorded

Tensor = torch.Tensor
Params = Mapping[str, Tensor]

LARGEST = 2**16
"""Entries of a stack up to which a network is small: beyond, arithmetic takes longer than launching it."""
NARROW = 8
"""Outputs up to which the last linear layer is multiplied out at once, whatever of it is wanted."""
DTYPES = frozenset([torch.float32, torch.float64])
PLAIN = frozenset([Tensor, torch.nn.Parameter])


class Layer(NamedTuple):
    """A linear layer by the names of its parameters, and the function of the activation after it, if any."""

    weight: str
    bias: str
    activation: Callable[..., Any] | None


class Picked(NamedTuple):
    """What is wanted of a network: the layout of its rows, those of the input, and each result of the output.

    ``alone``: the one result is all that is returned.
    """

    layout: Layout
    rows: tuple[Any, ...]
    picks: tuple[Pick, ...]
    alone: bool


def stacked(layers: Sequence[Layer], params: Params, x: Jet) -> Jet | None:
    """The output of these layers, where there are any and this is the way to it."""
    frame, value = x._frame, x._value
    if not layers or value is None or not _is_matrix(x, value) or not undisturbed():
        return None
    functions = small(layers, params, frame.layout, value.shape[0])
    tensors: list[Any] | None = None if functions is None else tensors_of(layers, params, value)
    if functions is None or tensors is None or (frame.layout.order == 1 and not recorded(value, tensors)):
        return None  # of one order and without a graph there is little to put together
    last: list[Any] = []
    if len(layers) > len(functions):
        width = tensors[-2].shape[0]
        if width > NARROW or width == frame.layout.sizes[0] > 1:  # of which few entries may be wanted, as of a diagonal
            tensors, last = tensors[:-2], tensors[-2:]
    identity = frame.propagation.is_identity
    rows = tuple([ONE_HOT if part is not None and identity(part) else part for part in x._coefficients])
    y, *z = Network(frame.layout, rows, functions, frame.propagation.identity(1, value)).of(value, tensors)
    result = Jet(y, tuple(z), frame)
    return Jet.linear(result, *last) if last else result


def undisturbed() -> bool:
    """Whether nothing but autograd is told of operations, or changes their dtype."""
    return not (autocasting() or inside_transform() or dual_level() >= 0)


def small(layers: Sequence[Layer], params: Params, layout: Layout, samples: int) -> tuple[Elementwise, ...] | None:
    """The activations of layers that are small; None where any is not, or is none that is known here."""
    rows, functions = layout.sizes, []
    entries = (1 + sum(rows)) * samples
    for weight, _, activation in layers:
        if activation is None:  # of the last one alone
            continue
        width, whole = params[weight].shape[0], getattr(caches.RULES[activation][0], "whole", None)
        # What is narrower than its rows is for frames.
        if whole is None or entries * width > LARGEST or 2 * width <= rows[0]:
            return None
        functions.append(whole)
    return tuple(functions)


def tensors_of(layers: Sequence[Layer], params: Params, value: Tensor) -> list[Part] | None:
    """Weight and bias of each layer; None where any is no plain tensor of the dtype and device of the value."""
    found: list[Part] = []
    dtype, device = value.dtype, value.device
    for weight_name, bias_name, _ in layers:
        weight, bias = params[weight_name], params.get(bias_name)
        if type(weight) not in PLAIN or weight.dtype is not dtype or weight.device != device:
            return None
        if bias is not None and (type(bias) not in PLAIN or bias.dtype is not dtype or bias.device != device):
            return None
        found += (weight, bias)
    return found


def _is_matrix(x: Jet, value: Tensor) -> bool:
    """Whether a jet is a matrix, relative to the input, with rows that are the same for all samples."""
    frame = x._frame
    if x.pending is not None or x.root is not None or frame.metric is not None or frame.factor is not None:
        return False
    if frame.propagation.traced or type(value) is not Tensor or value.dim() != 2 or value.dtype not in DTYPES:
        return False
    return all(rows is None or type(rows) is OneHot or _is_shared(rows) for rows in x._coefficients)


def _is_shared(rows: Any) -> bool:
    return type(rows) is Tensor and rows.dim() == 3 and rows.shape[1] == 1 and not rows.requires_grad
