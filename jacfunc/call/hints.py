"""What is warned of at the first look at a function: numbers that are right, and hardly what was meant.

Orders that a dtype hardly carries (``precision.py``); parameters that were detached before the call, so that no
gradient reaches the network; and derivatives that are zero at every sample: f is made of straight pieces, or detached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..core import trees
from ..core.levels import inside_transform
from ..core.unasked import unasked
from ..core.warned import warn
from ..errors import DetachedParametersWarning, ZeroDerivativeWarning
from .evaluator import Evaluator
from .precision import warn_of_rounding
from .quantity import Outcome, Quantity
from .request import Request

BOUNDED = frozenset(["abs", "clamp", "clamp_max", "clamp_min", "clip", "maximum", "minimum", "hardtanh", "threshold"])
RECTIFIED = frozenset(["relu", "relu6", "leaky_relu", "prelu", "rrelu", "hardshrink", "softshrink"])
STRAIGHT = BOUNDED | RECTIFIED | {"max_pool1d", "max_pool2d", "max_pool3d"}
"""Operations of straight pieces, by the names that they have in torch (those in place end with an underscore)."""


def before(request: Request, quantity: Quantity) -> None:
    """Warn of what the arguments show: few digits, and parameters without gradients."""
    warn_of_rounding(request, quantity.order)
    _about_parameters(request)


def _about_parameters(request: Request) -> None:
    """Warn where parameters of f's own modules were given without their gradients, as ``state_dict()`` has them."""
    if not torch.is_grad_enabled() or inside_transform() or request.within is not None:
        return
    live = {
        _place(parameter)
        for module in request.fingerprint.tree()
        for parameter in module._parameters.values()
        if parameter is not None and parameter.requires_grad
    }
    given = trees.tensors((request.beside(request.args), request.kwargs)) if live else []
    detached = [tensor for tensor in given if _place(tensor) in live]
    if not detached or any(tensor.requires_grad for tensor in given):
        return
    warn(
        f"{len(detached)} tensors that were given to f are parameters of its module without requires_grad, as "
        "net.state_dict() and detach() return them, so .backward() will not reach the network; give those that "
        "make_functional returns, or dict(net.named_parameters()); call under torch.no_grad() if no gradient is meant",
        DetachedParametersWarning,
    )


def _place(tensor: torch.Tensor) -> object:
    """Where its numbers are; two tensors with one place are views of the same numbers."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or not tensor.numel() or tensor.is_meta:  # of which nothing says where its numbers are
        return tensor
    return tensor.data_ptr(), tensor.shape


def about_zeros(request: Request, quantity: Quantity, outcome: Outcome) -> None:
    """Warn where derivatives are exactly zero, because f is detached from its input or is made of straight pieces."""
    if inside_transform() or request.within is not None or not request.samples:
        return
    if _zero(list(outcome.results.values())) and not _connected(request):
        warn(
            f"{quantity.name}: every derivative is exactly zero, because no output of f is connected to "
            f"{request.input_paths()[0]}: f computes under torch.no_grad(), after detach(), or without it; take the "
            "derivative of a function that uses it",
            ZeroDerivativeWarning,
        )
        return
    curved = outcome.wanted.curved(outcome.results)
    pieces = _straight(request) if quantity.order > 1 and _zero(curved) else []
    if pieces:
        warn(
            f"{quantity.name}: every derivative of the second order or above is exactly zero, at all {request.samples} "
            f"samples, because f is made of straight pieces ({', '.join(pieces)}); a loss of such derivatives trains "
            "nothing, so use a smooth activation (torch.nn.Tanh, SiLU, Softplus, GELU, or a sine)",
            ZeroDerivativeWarning,
        )


def _zero(tensors: Sequence[torch.Tensor]) -> bool:
    return bool(tensors) and not any(bool(tensor.detach().any()) for tensor in tensors)


def _connected(request: Request) -> bool:
    """Whether autograd finds a way from an output of f to its input."""
    leaves = tuple([leaf.detach().clone().requires_grad_() for leaf in request.leaves])
    state = request.random_state()
    try:
        with unasked(), torch.enable_grad():
            outputs = [output for output in Evaluator(request).evaluate(*leaves)[0] if output.requires_grad]
            ones = [torch.ones_like(output) for output in outputs]
            found = torch.autograd.grad(outputs, leaves, ones, allow_unused=True) if outputs else ()
    except Exception:  # of what has no backward: it may well be connected
        return True
    finally:
        state.restore()
    return any(gradient is not None for gradient in found)


def _straight(request: Request) -> list[str]:
    """The names of operations of straight pieces that a plain forward of f calls."""
    with unasked(), _Named() as named:
        Evaluator(request).look(request.random_state())
    return sorted(named.seen)


class _Named(TorchFunctionMode):
    """Notes which operations of straight pieces are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        if name in STRAIGHT:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))
