"""The hyperbolic tangent of a value in single precision, and what computes it; its derivatives are for those who ask.

Both of torch's own are slow: MKL's, for the reason in ``kernels.py``, and the one of the vector library that
``torch.compile`` writes calls of.  Where ``kernels.py`` says so, oneDNN's, which torch has for tensors in its layout,
takes a fifth of the time of the first, the copies there and back included, and is as exact (1.3 units of ``eps / 2``,
torch's 1.0).  Compiled, the formula of Cephes (Moshier's tanhf; 2.4 units) takes a third to two thirds of the time of
the second on every processor, and is fused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core.levels import compiling, exporting, inside_transform, tracing
from ..core.torch_private import dual_level
from .kernels import kernels

Tensor = torch.Tensor


def tanh(x: Tensor) -> Tensor:
    """``torch.tanh``, differentiable as often, by whatever is fastest here."""
    if compiling():
        by = _formula if x.is_cpu and x.dtype == torch.float32 and not (inside_transform() or exporting()) else None
    else:
        by = _by_onednn if type(x) is Tensor and x.numel() >= kernels(x).tanh and _worth_it() else None
    if by is None:
        return torch.tanh(x)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return by(x)
    result: Tensor = _Tanh.apply(by, x)  # type: ignore[no-untyped-call]
    return result


def _worth_it() -> bool:
    """Whether oneDNN can and should; what has a tangent of its own is torch's."""
    if tracing() or inside_transform() or dual_level() >= 0:
        return False
    onednn: Any = torch.backends.mkldnn
    return bool(onednn.enabled)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, by: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y = by(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        return None, torch.ops.aten.tanh_backward.default(gradient, y)


def _by_onednn(x: Tensor) -> Tensor:
    flat: Any = x.reshape(-1)  # its layout has five axes at most
    result: Tensor = flat.to_mkldnn().tanh().to_dense().reshape(x.shape)
    return result


def _formula(x: Tensor) -> Tensor:
    """A polynomial near zero, for ``(tanh(x) - x) / x^3`` in ``x^2``, and an exponential away from it."""
    # No named constants: for dynamic=True Dynamo would make inputs of them, which a function of autograd cannot have.
    square = x * x
    polynomial = (-5.70498872745e-3 * square + 2.06390887954e-2) * square - 5.37397155531e-2
    polynomial = (polynomial * square + 1.33314422036e-1) * square - 3.33332819422e-1
    size = x.abs()
    away = 1 - 2 / (torch.exp(2 * size) + 1)
    return torch.copysign(torch.where(size < 0.625, polynomial * square * size + size, away), x)
