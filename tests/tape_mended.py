"""Functions that were taken though wrong, or refused though right, until each was judged by itself."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from tape_functions import MATRIX, WRONG, Map, Member, SavedSwish, both, saving_input, weight
from tape_right import Softmax
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


class Mended(NamedTuple):
    member: Member
    kinds: tuple[str, ...]
    refusable: bool = True


class WeightByNumber(Function):
    """A scale that becomes a number: by the input all is right, by the scale what follows is missing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scale = float(scale)
        return (scale * x).sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        h = g * (ctx.scale * x).cos()
        return h * ctx.scale, (h * x).sum()


class DetachedWeight(Function):
    """A linear layer whose backward uses the data of its weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return g @ weight.data, g.T @ x


class ScaleByAttribute(Function):
    """The same in the new style."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return (scale * x).sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1].detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        h = g * (ctx.scale * x).cos()
        return h * ctx.scale, (h * x).sum()


class WeightNorm(Function):
    """Saves the norms of the rows, and the rows over them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor) -> Tensor:
        norms = v.norm(dim=1, keepdim=True)
        ctx.save_for_backward(x, norms, v / norms)
        return x @ (v / norms).T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, norms, rows = ctx.saved_tensors
        h = g.T @ x
        return g @ rows, (h - rows * (rows * h).sum(1, keepdim=True)) / norms


class Spike(Function):
    """A surrogate gradient that the forward computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(1 / (1 + (math.pi * x) ** 2))
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class TangentOnly(Function):
    """Forward mode in sight of torch, reverse mode not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sinh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(inputs[0].detach())

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t * ctx.saved_tensors[0].cosh()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cosh()


class SecondOff(Function):
    """The backward of a sine as a Function, right once more, and off the tape from there."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.slope = -x.detach().sin()
        return g * x.cos()

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return h * x.cos(), h * g * ctx.slope


class Clip(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g.clamp(-ctx.bound, ctx.bound), None


def shortened(g: Tensor, _: Tensor) -> Tensor:
    """Clipping by the norm of each sample's gradient."""
    return g / (2 * g.norm(dim=-1, keepdim=True)).clamp(min=1)


def rows(w: Tensor) -> Tensor:
    return MATRIX.to(w) * torch.stack((w, w + 1, 0 * w)) + MATRIX.to(w)


def beside(activation: Any, scale: float) -> Map:
    """With a first output that is much larger than the others."""
    return lambda w, x: torch.cat((scale * (w * x[..., :1]) ** 2, activation(w * x[..., 1:])), -1)


PARAMETERS = ("parameter", "laplacian by parameter")
SECOND = ("hess_diag", "laplacian", "partials", "nested", "backward", "parameter")
MENDED: dict[str, Mended] = {
    # by the input all is right, by the weight it is not
    "scale by number": Mended(
        Member(lambda w, x: WeightByNumber.apply(x, w), lambda w, x: (w * x).sin()), PARAMETERS
    ),
    "scale by number, and a product": Mended(
        Member(lambda w, x: WeightByNumber.apply(x, w) * w, lambda w, x: (w * x).sin() * w), PARAMETERS
    ),
    "scale by attribute, and a product": Mended(
        Member(lambda w, x: ScaleByAttribute.apply(x, w) * w, lambda w, x: (w * x).sin() * w),
        (*PARAMETERS, "func.grad"),
    ),
    "weight detached": Mended(
        Member(lambda w, x: DetachedWeight.apply(x.sin(), weight(w)), lambda w, x: x.sin() @ weight(w).T), PARAMETERS
    ),
    "weight norm": Mended(
        Member(
            lambda w, x: WeightNorm.apply(x.sin(), rows(w)), lambda w, x: x.sin() @ F.normalize(rows(w), dim=1).T
        ),
        PARAMETERS,
    ),
    # the forward is a step, the slope that forward computes off the tape is not
    "spike": Mended(both(Spike.apply, lambda x: (math.pi * x).atan() / math.pi), (*SECOND, PARAMETERS[1])),
    "jvp right, backward off": Mended(both(TangentOnly.apply, torch.sinh), ("nested", "vmap", "func.jvp")),
    "vmap of its own": Mended(WRONG["vmap of its own"], ("vmap",)),
    # hess_diag is right, and its gradient wrong
    "second Function off": Mended(both(saving_input(torch.sin, SecondOff.apply), torch.sin), (PARAMETERS[1],)),
    "beside a large output": Mended(Member(beside(SavedSwish.apply, 1e4), beside(F.silu, 1e4)), ("hess_diag",)),
    # right: the pullback of (1, 1, 1) is zero
    "softmax by itself": Mended(both(lambda x: Softmax.apply(x, -1), lambda x: x.softmax(-1)), ("partials",), False),
    # right: the backward computes in half precision
    "half in backward": Mended(
        Member(
            lambda w, x: saving_input(torch.sin, lambda g, y: (g.half() * y.half().cos()).to(y.dtype))(w * x), None
        ),
        SECOND,
        False,
    ),
}  # fmt: skip

NOT_LINEAR: dict[str, Map] = {
    "clipped": lambda w, x: Clip.apply((w * x).sin(), 0.5),
    "clipped by norm": lambda w, x: saving_input(torch.clone, shortened)((w * x).sin()) * x,
}
"""Backwards that are not linear in their cotangent have no transpose, and nothing that could be differentiated."""
