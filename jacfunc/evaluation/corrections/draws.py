"""Draws of the gamma distribution, whose slope by its parameter torch has, and no second derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function

from ...core.levels import compiling
from ...core.torch_private import draw_gamma, gamma_slope
from ...errors import RefusedOperationError

Tensor = torch.Tensor


class _Slope(Function):
    """The derivative of the draw by the parameter."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, drawn: Tensor) -> Tensor:
        return gamma_slope(alpha, drawn)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        raise RefusedOperationError(
            "_standard_gamma, a draw of Gamma, Chi2, StudentT or their kin, has no second derivative in torch; take a "
            "distribution whose draws have one, such as LogNormal or Weibull, or the derivative without its gradient"
        )


class _Draw(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, generator: torch.Generator | None) -> Tensor:
        return draw_gamma(alpha, generator=generator)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent * _Slope.apply(*ctx.saved_tensors), None  # type: ignore[no-untyped-call]


def standard_gamma(input: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For ``torch._standard_gamma``, refused by name where its second derivative is asked for."""
    if compiling():
        return draw_gamma(input, generator=generator)
    drawn: Tensor = _Draw.apply(input, generator)  # type: ignore[no-untyped-call]
    return drawn
