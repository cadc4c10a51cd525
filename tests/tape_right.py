"""The right Functions of ``traps/test_traps_tape_more.py``, and those that mean something else than the derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tape_functions import (
    MATRIX,
    Member,
    SavedSwish,
    arm,
    bias,
    block,
    both,
    coupled,
    harmonics,
    polar,
    saving_input,
    scaled,
    system,
    weight,
)
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


class Swish(Function):
    """Memory-efficient: the sigmoid is computed again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s * (1 + x * (1 - s)))


class SwishTwice(Function):
    """With a backward that is a Function of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return SwishBackward.apply(g, ctx.saved_tensors[0])


class SwishBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        s = torch.sigmoid(x)
        return h * s * (1 + x * (1 - s)), h * g * s * (1 - s) * (2 + x * (1 - 2 * s))


class Linear(Function):
    """The layer of PyTorch's notes, with what is needed only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        y = x.mm(weight.t())
        if bias is not None:
            y += bias.unsqueeze(0).expand_as(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        gx = gw = gb = None
        if ctx.needs_input_grad[0]:
            gx = g.mm(weight)
        if ctx.needs_input_grad[1]:
            gw = g.t().mm(x)
        if bias is not None and ctx.needs_input_grad[2]:
            gb = g.sum(0)
        return gx, gw, gb


class Convolution(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, padding: int) -> Tensor:
        return F.conv1d(x, weight, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        x, weight, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        gx = torch.nn.grad.conv1d_input(x.shape, weight, g, padding=ctx.padding)
        return gx, torch.nn.grad.conv1d_weight(x, weight.shape, g, padding=ctx.padding), None


class Norm(Function):
    """LayerNorm, whose statistics are computed again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        rstd = (x.var(-1, unbiased=False, keepdim=True) + eps).rsqrt()
        return (x - x.mean(-1, keepdim=True)) * rstd * weight

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rstd = (x.var(-1, unbiased=False, keepdim=True) + ctx.eps).rsqrt()
        xhat = (x - x.mean(-1, keepdim=True)) * rstd
        h = g * weight
        h = rstd * (h - h.mean(-1, keepdim=True) - xhat * (h * xhat).mean(-1, keepdim=True))
        return h, (g * xhat).sum(0), None


class Softmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        z = (x - x.max(dim, keepdim=True).values).exp_()
        y = z.div_(z.sum(dim, keepdim=True))
        ctx.save_for_backward(y)
        ctx.dim = dim
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return y * (g - (g * y).sum(ctx.dim, keepdim=True)), None


class Cube(Function):
    """Of PyTorch's tutorial: what the backward needs is an output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x**3, 3 * x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> Tensor:
        x, slope = ctx.saved_tensors
        return g * slope + h * 6 * x


class NumpySin(Function):
    """Two wrappers of numpy, each the other's derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * NumpyCos.apply(ctx.saved_tensors[0])


class NumpyCos(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.cos(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g * NumpySin.apply(ctx.saved_tensors[0])


class HarmonicsTwice(Function):
    """Solid harmonics, whose gradients are computed again in the backward."""

    @staticmethod
    def forward(ctx: Any, r: Tensor) -> Tensor:
        ctx.save_for_backward(r)
        return harmonics(r)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, y, z = ctx.saved_tensors[0].unbind(-1)
        a, b, c = g.unbind(-1)
        return torch.stack((a * y - 2 * c * x, a * x + b * z - 2 * c * y, b * y + 4 * c * z), -1)


class Kinematics(Function):
    @staticmethod
    def forward(angles: Tensor) -> Tensor:
        return arm(angles)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        a, b, _ = ctx.saved_tensors[0].unbind(-1)
        gx, gy, turn = g.unbind(-1)
        outer = gy * (a + b).cos() - gx * (a + b).sin() + turn
        return torch.stack((outer + gy * a.cos() - gx * a.sin(), outer, turn), -1)


class Recomputed(Function):
    """Checkpointing by hand that can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            y = ctx.run(x)
            return None, torch.autograd.grad(y, x, g, create_graph=True)[0]


class Root(Function):
    """``y + y^3 = b x`` by Newton's iteration under no_grad, its derivatives by the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
        y = x.clone()
        for _ in range(15):
            y -= (y + y**3 - b * x) / (1 + 3 * y * y)
        ctx.save_for_backward(x, b, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, b, y = ctx.saved_tensors
        h = g / (1 + 3 * y * y)
        return h * b, (h * x).sum()


def root(w: Tensor, x: Tensor) -> Tensor:
    y = w * x
    for _ in range(15):
        y = y - (y + y**3 - w * x) / (1 + 3 * y * y)
    return y


class Solve(Function):
    """A linear solve, whose backward is another."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        y = torch.linalg.solve(a, b)
        ctx.save_for_backward(a, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        a, y = ctx.saved_tensors
        gb = Solve.apply(a.mT, g)
        return -gb @ y.mT, gb


class Reversible(Function):
    """The input is found again from the output, in sight of torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = coupled(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        y1, y2 = ctx.saved_tensors[0].split((1, 2), -1)
        g1, g2 = g.split((1, 2), -1)
        x2 = y2 - y1.sin()
        g1 = g1 + (g2 * y1.cos()).sum(-1, keepdim=True)
        return torch.cat((g1, g2 + g1 * (1 - x2.tanh() ** 2)), -1)


class MaskedReLU(Function):
    """Of PyTorch's tutorial, squared: a copy of the gradient is written to."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0) ** 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gx = g.clone()
        gx[x < 0] = 0
        gx *= 2 * x
        return gx


class KeptInput(Function):
    """In an attribute, which leaks and is right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.x.cos()


class KeptOutput(Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.y = output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 - ctx.y * ctx.y)


class Masked(Function):
    """ReLU, whose mask is kept in an attribute: off the tape, and of no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mask = x > 0
        return x * ctx.mask

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.mask


class SavedSign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.sign())
        return x.abs()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return g * y, g * x


class Table(Function):
    """Linear interpolation, whose slopes the forward looks up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        places = torch.linspace(-6, 6, 23, dtype=x.dtype)
        values = places.sin()
        i = torch.bucketize(x, places) - 1
        slope = (values[i + 1] - values[i]) / (places[i + 1] - places[i])
        ctx.save_for_backward(slope)
        return values[i] + slope * (x - places[i])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class InPlaceExp(Function):
    """Writes over its input, and says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.exp_()
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class Polar(Function):
    """Two inputs and two outputs, whose gradients may be None."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(r, angle)
        return r * angle.cos(), r * angle.sin()

    @staticmethod
    def backward(ctx: Any, gx: Tensor | None, gy: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        r, angle = ctx.saved_tensors
        if gx is None and gy is None:
            return None, None
        gx = torch.zeros_like(r) if gx is None else gx
        gy = torch.zeros_like(r) if gy is None else gy
        return gx * angle.cos() + gy * angle.sin(), r * (gy * angle.cos() - gx * angle.sin())


class Largest(Function):
    """The largest and its place, which has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values, places = x.max(-1, keepdim=True)
        ctx.mark_non_differentiable(places)
        ctx.save_for_backward(places)
        ctx.width = x.shape[-1]
        return values, places

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Tensor:
        (places,) = ctx.saved_tensors
        return g.new_zeros(*g.shape[:-1], ctx.width).scatter_(-1, places, g)


class Sparsemax(Function):
    """The projection onto the simplex; its backward knows the support."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = sparsemax(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        support = ctx.saved_tensors[0] > 0
        mean = (g * support).sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        return (g - mean) * support


def sparsemax(x: Tensor) -> Tensor:
    z = x.sort(-1, descending=True).values
    k = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    inside = 1 + k * z > z.cumsum(-1)
    total = torch.where(inside, z, 0).sum(-1, keepdim=True)
    return (x - (total - 1) / inside.sum(-1, keepdim=True)).clamp(min=0)


class Tangents(Function):
    """Both modes, and a rule for vmap."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sinh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t * ctx.saved_tensors[0].cosh()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cosh()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        return Tangents.apply(x), in_dims[0]


class Amp(Function):
    """With the decorators of mixed precision."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, m: Tensor) -> Tensor:
        ctx.save_for_backward(x, m)
        return x.sin() @ m

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, m = ctx.saved_tensors
        return (g @ m.mT) * x.cos(), x.sin().mT @ g


class SingleBackward(Function):
    """The backward computes in single precision, in sight of torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (g.float() * x.float().cos()).to(x.dtype)


class Fixed(Function):
    """A quantity of the weight alone, off the tape: only once is it differentiated."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        y = w.exp()
        ctx.slope = y.detach()
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.slope


@torch.library.custom_op("jacfunc_tape::right", mutates_args=())
def right(x: Tensor, factor: float) -> Tensor:
    return torch.sin(x) * factor


@right.register_fake
def _(x: Tensor, factor: float) -> Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    x, ctx.factor = inputs
    ctx.save_for_backward(x)


right.register_autograd(lambda ctx, g: (g * ctx.saved_tensors[0].cos() * ctx.factor, None), setup_context=_keep)

SINE = saving_input(torch.sin, lambda g, x: g * x.cos())
ROUND = saving_input(torch.round, lambda g, x: g)
KERNEL = torch.tensor([[[0.5, -0.3, 0.8]]], dtype=torch.float64)
RIGHT: dict[str, Member] = {
    "swish": both(Swish.apply, F.silu),
    "swish with a second Function": both(SwishTwice.apply, F.silu),
    "linear": Member(
        lambda w, x: Linear.apply(x.sin(), weight(w), bias(w)).tanh(),
        lambda w, x: F.linear(x.sin(), weight(w), bias(w)).tanh(),
    ),
    "linear without bias": Member(
        lambda w, x: Linear.apply(Linear.apply(x, MATRIX.to(x)).sin(), weight(w)),
        lambda w, x: F.linear(F.linear(x, MATRIX.to(x)).sin(), weight(w)),
    ),
    "convolution": Member(
        lambda w, x: Convolution.apply(x.sin()[:, None], w * KERNEL.to(x), 1)[:, 0] * x,
        lambda w, x: F.conv1d(x.sin()[:, None], w * KERNEL.to(x), padding=1)[:, 0] * x,
    ),
    "LayerNorm": Member(
        lambda w, x: Norm.apply(x, bias(w), 0.1), lambda w, x: F.layer_norm(x, (3,), bias(w), eps=0.1)
    ),
    "softmax": both(lambda x: Softmax.apply(x, -1) * x, lambda x: x.softmax(-1) * x),
    "cube with its slope": both(lambda x: Cube.apply(x)[0], lambda x: x**3),
    "numpy twice": both(NumpySin.apply, torch.sin),
    "harmonics": both(HarmonicsTwice.apply, harmonics),
    "kinematics": both(Kinematics.apply, arm),
    "checkpoint": both(lambda x: Recomputed.apply(block, x), block),
    "Newton": Member(lambda w, x: Root.apply(x, w), root),
    "linear solve": both(
        lambda x: Solve.apply(*system(x))[..., 0], lambda x: torch.linalg.solve(*system(x))[..., 0]
    ),
    "reversible": both(Reversible.apply, coupled),
    "masked copy": both(MaskedReLU.apply, lambda x: x.relu() ** 2),
    "input as an attribute": both(KeptInput.apply, torch.sin),
    "output as an attribute": both(KeptOutput.apply, torch.tanh),
    "mask as an attribute": both(lambda x: Masked.apply(x.sin()) * x, lambda x: x.sin().relu() * x),
    "sign saved": both(lambda x: SavedSign.apply(x.sin()) * x, lambda x: x.sin().abs() * x),
    "of what is constant": Member(
        lambda w, x: SINE(torch.ones_like(x) * w) * x**2, lambda w, x: w.sin() * x**2
    ),
    "cancelled": both(lambda x: SINE(x) - SINE(x) + x**2, lambda x: x**2),
    "dead": both(lambda x: SINE((x - 100).relu()) + x.sin(), torch.sin),
    "steep": both(
        lambda x: saving_input(torch.sqrt, lambda g, y: g / (2 * y.sqrt()))(x**2 + 1e-2),
        lambda x: (x**2 + 1e-2).sqrt(),
    ),
    "one after another": both(
        lambda x: Softmax.apply(Swish.apply(x), -1) * KeptInput.apply(x), lambda x: F.silu(x).softmax(-1) * x.sin()
    ),
    "in place": both(lambda x: InPlaceExp.apply(x * 1), torch.exp),
    "polar": Member(polar(Polar.apply), polar(lambda r, a: (r * a.cos(), r * a.sin()))),
    "largest": both(lambda x: x.sin() - Largest.apply(x)[0] ** 2, lambda x: x.sin() - x.amax(-1, keepdim=True) ** 2),
    "sparsemax": both(lambda x: Sparsemax.apply(x).sin() * x, lambda x: sparsemax(x).sin() * x),
    "both modes": both(Tangents.apply, torch.sinh),
    "mixed precision": Member(lambda w, x: Amp.apply(x, weight(w)), lambda w, x: x.sin() @ weight(w)),
    "single precision backward": both(SingleBackward.apply, torch.sin),
    "weight off the tape": Member(lambda w, x: (Fixed.apply(w) * x).sin(), lambda w, x: (w.exp() * x).sin()),
    "custom operator": both(lambda x: right(x, 0.7), lambda x: x.sin() * 0.7),
}  # fmt: skip


class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * g, None


class ReversalOnce(Function):
    """With a factor that is a tensor, in the new style."""

    @staticmethod
    def forward(x: Tensor, strength: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g.neg() * ctx.saved_tensors[0], None


class Sign(Function):
    """A binary activation, whose gradient passes within one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g.masked_fill(x.abs() > 1, 0)


class Surrogate(Function):
    """A spike with the slope of an arctangent, as snntorch has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.alpha / 2 / (1 + (math.pi / 2 * ctx.alpha * x) ** 2) * g, None


class FastSigmoid(Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g / (5 * x.abs() + 1) ** 2


class Quantised(Function):
    """A learned step (LSQ), with gradients for the input and the step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(x, step)
        return (x / step).round().clamp(-4, 3) * step

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, step = ctx.saved_tensors
        q = x / step
        inside = ((q >= -4) & (q <= 3)).to(x.dtype)
        return g * inside, (g * torch.where(inside > 0, q.round() - q, q.clamp(-4, 3))).sum()


def unseen(x: Tensor) -> Tensor:
    """A wrong Function where nothing is differentiated."""
    with torch.no_grad():
        return SavedSwish.apply(x)


MEANT: dict[str, Member] = {
    "rounded": Member(lambda w, x: ROUND(4 * w * x) ** 2, None),
    "rounded in a sine": Member(lambda w, x: ROUND(4 * w * x).sin(), None),
    "scaled": Member(lambda w, x: saving_input(torch.clone, lambda g, _: 0.1 * g)((w * x).sin()) ** 2, None),
    "zeroed": Member(lambda w, x: saving_input(torch.clone, lambda g, _: 0 * g)((w * x).sin()) + x**3, None),
    "NaN removed": Member(lambda w, x: saving_input(torch.clone, lambda g, _: g.nan_to_num())((w * x).sin()) * x, None),
    "a table": Member(lambda w, x: Table.apply(w * x) * x.exp(), None),
    "wrong under no_grad": Member(lambda w, x: unseen(w * x) * x, None),
    "wrong and detached": Member(lambda w, x: SavedSwish.apply(w * x).detach() * x, None),
    "by what is detached": Member(lambda w, x: Product.apply(w * x, (w * x).detach()) + x**3, None),
    "of what is detached": Member(lambda w, x: SINE((w * x).detach()) * x**2 + SINE(w * x) * x.detach(), None),
    "reversal before a network": Member(
        lambda w, x: (Reversal.apply((x @ weight(w).T).tanh(), 0.5) @ weight(w).T).tanh(), None
    ),
    "spike squared": Member(lambda w, x: Surrogate.apply(w * x, 2.0) ** 2 * x, None),
    "reversal": Member(lambda w, x: Reversal.apply((w * x).sin(), 0.5) * x, None),
    "reversal by a tensor": Member(lambda w, x: ReversalOnce.apply((w * x).sin(), x.new_tensor(0.5)) * x, None),
    "sign": Member(lambda w, x: Sign.apply((w * x).sin() * x), None),
    "spike by arctangent": Member(lambda w, x: Surrogate.apply(w * x, 2.0), None),
    "spike in a layer": Member(lambda w, x: Surrogate.apply(x @ weight(w).T - 0.1, 2.0) @ MATRIX.to(x), None),
    "spike by fast sigmoid": Member(scaled(FastSigmoid.apply), None),
    "a learned step": Member(lambda w, x: Quantised.apply(x.sin() * x, 0.3 * w), None),
}  # fmt: skip
