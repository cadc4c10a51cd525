"""The wrong Functions of ``traps/test_traps_tape_more.py``: right first derivatives, what follows off the tape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Map = Callable[[Tensor, Tensor], Tensor]


class Member(NamedTuple):
    """A map of a scalar parameter and of samples of three numbers to three, and the same in plain operations.

    ``plain`` is None where the backward is meant as something else than the derivative: torch's own answer is right.
    """

    f: Map
    plain: Map | None


MATRIX = torch.tensor([[0.6, -0.3, 0.2], [0.1, 0.5, -0.4], [-0.2, 0.3, 0.7]], dtype=torch.float64)
BIAS = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)


def scaled(function: Callable[[Tensor], Tensor]) -> Map:
    """Of one argument, which the parameter scales."""
    return lambda w, x: function(w * x)


def both(function: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]) -> Member:
    return Member(scaled(function), scaled(plain))


class SavedSwish(Function):
    """With the sigmoid of the forward, beside the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        return g * (s * (1 + x * (1 - s)))


class TanhLinear(Function):
    """A fused layer, with gradients for weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.tanh(F.linear(x, weight, bias))
        ctx.save_for_backward(x, weight)
        ctx.slope = 1 - y * y
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        g = g * ctx.slope
        return g @ weight, g.T @ x, g.sum(0)


class SavedNorm(Function):
    """LayerNorm that keeps what the kernels keep: the normalised input and the reciprocal deviation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rstd = (x.var(-1, unbiased=False, keepdim=True) + eps).rsqrt()
        xhat = (x - x.mean(-1, keepdim=True)) * rstd
        ctx.save_for_backward(xhat, rstd, weight)
        return xhat * weight

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        xhat, rstd, weight = ctx.saved_tensors
        h = g * weight
        h = rstd * (h - h.mean(-1, keepdim=True) - xhat * (h * xhat).mean(-1, keepdim=True))
        return h, (g * xhat).sum(0), None


class CopiedSoftmax(Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.softmax(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.probabilities = output.detach().clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        p = ctx.probabilities
        return p * (g - (g * p).sum(-1, keepdim=True))


class NumpyGelu(Function):
    """Of a C library, whose derivative is asked for in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach().cpu().numpy()
        return x * torch.from_numpy(normal(ctx.x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        density = np.exp(-0.5 * ctx.x**2) / math.sqrt(2 * math.pi)
        return g * torch.as_tensor(normal(ctx.x) + ctx.x * density, dtype=g.dtype)


def normal(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2)))


class Harmonics(Function):
    """Solid harmonics of degree two, whose gradients are computed along with them."""

    @staticmethod
    def forward(ctx: Any, r: Tensor) -> Tensor:
        x, y, z = r.unbind(-1)
        rows = ((y, x, 0 * z), (0 * x, z, y), (-2 * x, -2 * y, 4 * z))
        ctx.save_for_backward(torch.stack([torch.stack(row, -1) for row in rows], -2))
        return torch.stack((x * y, y * z, 2 * z * z - x * x - y * y), -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (gradients,) = ctx.saved_tensors
        return (g[..., None] * gradients).sum(-2)


def harmonics(r: Tensor) -> Tensor:
    x, y, z = r.unbind(-1)
    return torch.stack((x * y, y * z, 2 * z * z - x * x - y * y), -1)


def arm(angles: Tensor) -> Tensor:
    """Where a planar arm of two links ends, and how it points there."""
    a, b, c = angles.unbind(-1)
    return torch.stack((a.cos() + (a + b).cos(), a.sin() + (a + b).sin(), a + b + c), -1)


class Kinematics(Function):
    """The geometric Jacobian from the frames of the forward."""

    @staticmethod
    def forward(angles: Tensor) -> tuple[Tensor, Tensor]:
        end = arm(angles)
        elbow = torch.stack((angles[..., 0].cos(), angles[..., 0].sin()), -1)
        first, second = end[..., :2], end[..., :2] - elbow
        columns = [torch.stack((-p[..., 1], p[..., 0]), -1) for p in (first, second)]
        planar = torch.stack([*columns, torch.zeros_like(first)], -1)
        return end, torch.cat((planar, torch.ones_like(planar[..., :1, :])), -2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Tensor:
        return (ctx.saved_tensors[0].mT @ g[..., None])[..., 0]


class Recomputed(Function):
    """Checkpointing as it is written by hand: run again on a detached input."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.run(x)
        return None, torch.autograd.grad(y, x, g)[0]


def block(x: Tensor) -> Tensor:
    return torch.tanh(x @ MATRIX.to(x)) * x


class OnceSine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cos()


class Quiet(Function):
    """A gate whose whole backward is under no_grad, to save memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, gate = ctx.saved_tensors
        with torch.no_grad():
            s = gate.sigmoid()
            return g * s, g * x * s * (1 - s)


def kepler(x: Tensor) -> Tensor:
    """The root of ``y - 0.3 sin(y) = x``."""
    y = x.clone()
    for _ in range(10):
        y = y - (y - 0.3 * y.sin() - x) / (1 - 0.3 * y.cos())
    return y


class KeplerByNumbers(Function):
    """Slopes by Python's numbers, one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = kepler(x)
        ctx.slopes = [1 / (1 - 0.3 * math.cos(v)) for v in y.flatten().tolist()]
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * torch.tensor(ctx.slopes, dtype=g.dtype).reshape(g.shape)


class SavedInverse(Function):
    """A linear solve that keeps the inverse, in sight of the output alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        inverse = torch.linalg.inv(a)
        y = inverse @ b
        ctx.save_for_backward(inverse, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        inverse, y = ctx.saved_tensors
        gb = inverse.mT @ g
        return -gb @ y.mT, gb


def system(x: Tensor) -> tuple[Tensor, Tensor]:
    a = 3 * torch.eye(3, dtype=x.dtype) + x[..., None] * x.sin()[..., None, :]
    return a, x.cos()[..., None]


class Reversible(Function):
    """A reversible block, whose input is found again from its output and run once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = coupled(x)
        ctx.output = y.detach()
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        y1, y2 = ctx.output.split((1, 2), -1)
        with torch.no_grad():
            x2 = y2 - y1.sin()
            x1 = y1 - x2.tanh().sum(-1, keepdim=True)
        with torch.enable_grad():
            x = torch.cat((x1, x2), -1).requires_grad_()
            y = coupled(x)
        return torch.autograd.grad(y, x, g)[0]


def coupled(x: Tensor) -> Tensor:
    x1, x2 = x.split((1, 2), -1)
    y1 = x1 + x2.tanh().sum(-1, keepdim=True)
    return torch.cat((y1, x2 + y1.sin()), -1)


class InPlace(Function):
    """With the slope of the forward, written over a copy of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.softplus(x)
        ctx.save_for_backward(1 - (-y).exp())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clone().mul_(ctx.saved_tensors[0])


class OverGradient(Function):
    """Writes over the gradient that it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = x.cos()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        g *= ctx.slope
        return g


LAST: dict[str, Tensor] = {}


class Cached(Function):
    """With what the module remembers of the last forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        LAST["slope"] = 1 / (1 + x.detach() ** 2)
        return x.atan()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * LAST["slope"]


class Simulator(Function):
    """A black box, whose backward is a difference of its values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach().numpy()
        return torch.from_numpy(simulated(ctx.x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        h = 1e-5
        return g * torch.from_numpy((simulated(ctx.x + h) - simulated(ctx.x - h)) / (2 * h))


def simulated(x: np.ndarray) -> np.ndarray:
    return np.sin(x) * np.exp(-0.1 * x * x)


class HalfWay(Function):
    """Right below zero, off the tape above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.where(x > 0, x.detach(), x).cos()


class Batched(Function):
    """With a rule for vmap of its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.slope = (output * (1 - output)).detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.slope

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        return Batched.apply(x), in_dims[0]


class TangentOff(Function):
    """Reverse mode in sight of torch, forward mode by what was detached."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sinh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.slope = inputs[0].detach().cosh()

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t * ctx.slope

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cosh()


class TangentWrong(Function):
    """With a jvp that is none, which reverse mode never asks."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sinh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t * ctx.saved_tensors[0].sinh()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cosh()


class Stubborn(Function):
    """A gradient that can be differentiated once only, though nothing depends on the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return -x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class SecondWithout(Function):
    """The backward of a sine as a Function that forgets one of its arguments."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, forgotten: int) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.forgotten = forgotten
        return g * x.cos()

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        return None if ctx.forgotten == 0 else h * x.cos(), None if ctx.forgotten == 1 else -h * g * x.sin(), None


class SecondSign(Function):
    """The backward of a sine as a Function whose own has the wrong sign."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return g * x.cos()

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return h * x.cos(), h * g * x.sin()


def saving_input(forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """A Function of old style that saves its input."""

    class Made(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return backward(g, ctx.saved_tensors[0])

    return Made.apply


class LowPrecision(Function):
    """Kept in half of the bits, as an optimiser of memory does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.exp()
        ctx.save_for_backward(y.float())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return (g.float() * ctx.saved_tensors[0]).to(g.dtype)


class Pair(Function):
    """Two inputs, two outputs, of which what was computed for one is used for the other."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angle.cos(), angle.sin()
        ctx.save_for_backward(r, cos, sin)
        return r * cos, r * sin

    @staticmethod
    def backward(ctx: Any, gx: Tensor, gy: Tensor) -> tuple[Tensor, Tensor]:
        r, cos, sin = ctx.saved_tensors
        return gx * cos + gy * sin, r * (gy * cos - gx * sin)


@torch.library.custom_op("jacfunc_tape::off", mutates_args=())
def off(x: Tensor) -> Tensor:
    return torch.tanh(x)


@off.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _keep_slope(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.slope = 1 - output.detach() ** 2


off.register_autograd(lambda ctx, g: g * ctx.slope, setup_context=_keep_slope)


def weight(w: Tensor) -> Tensor:
    return w * MATRIX.to(w)


def bias(w: Tensor) -> Tensor:
    return w * BIAS.to(w)


def polar(pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Map:
    return lambda w, x: torch.cat((*pair(w * x[..., :1], x[..., 1:2]), x[..., 2:] ** 3), -1)


WRONG: dict[str, Member] = {
    "swish with its sigmoid": both(SavedSwish.apply, F.silu),
    "tanh layer": Member(
        lambda w, x: TanhLinear.apply(x, weight(w), bias(w)), lambda w, x: torch.tanh(F.linear(x, weight(w), bias(w)))
    ),
    "LayerNorm with statistics": Member(
        lambda w, x: SavedNorm.apply(x, bias(w), 1e-2), lambda w, x: F.layer_norm(x, (3,), bias(w), eps=1e-2)
    ),
    "softmax copied": both(CopiedSoftmax.apply, lambda x: x.softmax(-1)),
    "GELU by numpy": both(NumpyGelu.apply, F.gelu),
    "harmonics with gradients": both(Harmonics.apply, harmonics),
    "kinematics with Jacobian": both(lambda x: Kinematics.apply(x)[0], arm),
    "checkpoint of the detached": Member(scaled(lambda x: Recomputed.apply(block, x)), scaled(block)),
    "once differentiable": both(OnceSine.apply, torch.sin),
    "no_grad over all of backward": Member(
        lambda w, x: Quiet.apply(x, w * x.flip(-1)), lambda w, x: x * (w * x.flip(-1)).sigmoid()
    ),
    "Kepler by numbers": both(KeplerByNumbers.apply, kepler),
    "inverse saved": Member(
        scaled(lambda x: SavedInverse.apply(*system(x))[..., 0]),
        scaled(lambda x: torch.linalg.solve(*system(x))[..., 0]),
    ),
    "reversible": both(Reversible.apply, coupled),
    "in place": both(InPlace.apply, F.softplus),
    "over the gradient": both(OverGradient.apply, torch.sin),
    "a cache of the module": both(Cached.apply, torch.atan),
    "simulator": both(Simulator.apply, lambda x: x.sin() * (-0.1 * x * x).exp()),
    "half way": both(HalfWay.apply, torch.sin),
    "vmap of its own": both(Batched.apply, torch.sigmoid),
    "jvp wrong": both(TangentWrong.apply, torch.sinh),
    "jvp off the tape": both(TangentOff.apply, torch.sinh),
    "low precision": both(LowPrecision.apply, torch.exp),
    "two of two": Member(polar(Pair.apply), polar(lambda r, a: (r * a.cos(), r * a.sin()))),
    "once differentiable, linear": both(Stubborn.apply, torch.neg),
    "second Function without input": both(
        saving_input(torch.sin, lambda g, x: SecondWithout.apply(g, x, 1)), torch.sin
    ),
    "second Function without cotangent": both(
        saving_input(torch.sin, lambda g, x: SecondWithout.apply(g, x, 0)), torch.sin
    ),
    "second Function of wrong sign": both(saving_input(torch.sin, SecondSign.apply), torch.sin),
    "in a network": Member(
        lambda w, x: SavedSwish.apply(SavedSwish.apply(x @ weight(w).T) @ weight(w).T) @ weight(w).T,
        lambda w, x: F.silu(F.silu(x @ weight(w).T) @ weight(w).T) @ weight(w).T,
    ),
    "beside another sample": both(
        lambda x: 1e6 * (x - 1.5).relu() ** 2 + SavedSwish.apply(x), lambda x: 1e6 * (x - 1.5).relu() ** 2 + F.silu(x)
    ),
    "tiny": both(lambda x: 1e-9 * SavedSwish.apply(x), lambda x: 1e-9 * F.silu(x)),
    "tiny argument": both(lambda x: 1e6 * SavedSwish.apply(1e-6 * x), lambda x: 1e6 * F.silu(1e-6 * x)),
    "saturated": both(lambda x: SavedSwish.apply(20 * x), lambda x: F.silu(20 * x)),
    "custom operator": Member(scaled(off), scaled(torch.tanh)),
}  # fmt: skip
