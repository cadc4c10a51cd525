"""Random programs of steps that move, write, add up and mix elements, for sparsity patterns; no test lives here.

A step is made for a shape, with constants of its own that are drawn once, and is then a function of one tensor.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

Step = Callable[[torch.Tensor], torch.Tensor]
LARGEST = 40  # elements, or the dense Jacobian takes too long


class Draw:
    """Constants of a program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def mask(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator) < 0.5

    def below(self, bound: int, *shape: int) -> torch.Tensor:
        return torch.randint(bound, shape, generator=self.generator)

    def order(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator)

    def axis(self, x: torch.Tensor) -> int:
        return self.random.randrange(x.dim())

    def axes(self, x: torch.Tensor) -> list[int]:
        return self.random.sample(range(x.dim()), x.dim())


# Each takes a draw and a tensor of the shape that comes in, and returns the step.
MAKERS: dict[str, Callable[[Draw, torch.Tensor], Step | None]] = {}


def maker(made: Callable[[Draw, torch.Tensor], Step | None]) -> Callable[[Draw, torch.Tensor], Step | None]:
    MAKERS[made.__name__] = made
    return made


# -------------------------------------------------------------------- element by element


@maker
def smooth(draw, x):
    return draw.random.choice([torch.tanh, torch.sin, F.softplus, torch.sigmoid, F.gelu, lambda h: h * h, torch.atan])


@maker
def kinked(draw, x):
    return draw.random.choice([F.leaky_relu, torch.abs, lambda h: h.clamp(-1, 1) + 0.1 * h, F.elu, F.hardswish])


@maker
def scaled(draw, x):
    weight = draw.normal(*x.shape)
    return lambda h: h * weight + weight


@maker
def masked(draw, x):
    mask = draw.mask(*x.shape).double()
    return lambda h: h * mask


@maker
def chosen(draw, x):
    mask = draw.mask(*x.shape)
    return lambda h: torch.where(mask, h, h.roll(1, 0).sin())


@maker
def filled(draw, x):
    mask, value = draw.mask(*x.shape), draw.normal()
    return draw.random.choice([lambda h: h.masked_fill(mask, value), lambda h: h.clone().masked_fill_(mask, 0.3)])


@maker
def rounded(draw, x):
    return draw.random.choice([lambda h: h + h.roll(1, 0).round(), lambda h: h * (h.flip(0) > 0), lambda h: h % 0.7])


@maker
def compared(draw, x):
    return draw.random.choice([lambda h: torch.maximum(h, h.flip(0)), lambda h: torch.minimum(h, h.roll(1, -1))])


@maker
def complex_parts(draw, x):
    if x.shape[-1] % 2:
        return None
    weight = torch.complex(draw.normal(), draw.normal())
    shape = (*x.shape[:-1], x.shape[-1] // 2, 2)
    return lambda h: torch.view_as_real(torch.view_as_complex(h.reshape(shape).contiguous()) * weight).reshape(h.shape)


@maker
def real_and_imaginary(draw, x):
    def step(h):
        z = torch.complex(h, h.flip(0))
        z.real[0] = h[-1].sin()
        z.imag.mul_(2)
        return z.real * 2 + z.imag.roll(1, 0)

    return step


# -------------------------------------------------------------------- moved


@maker
def rolled(draw, x):
    shift, axis = draw.random.randrange(-2, 3), draw.axis(x)
    return lambda h: h + 0.5 * h.roll(shift, axis)


@maker
def flipped(draw, x):
    axis = draw.axis(x)
    return lambda h: h.flip(axis)


@maker
def permuted(draw, x):
    axes = draw.axes(x)
    return lambda h: h.permute(axes)


@maker
def reshaped(draw, x):
    count = x.numel()
    first = draw.random.choice([n for n in range(1, count + 1) if count % n == 0])
    return lambda h: h.reshape(first, -1)


@maker
def sliced(draw, x):
    axis, step = draw.axis(x), draw.random.choice([1, 2])
    start = draw.random.choice([0, 1]) if x.shape[axis] > 2 else 0
    places = (slice(None),) * axis + (slice(start, None, step),)
    return lambda h: h[places]


@maker
def indexed(draw, x):
    axis = draw.axis(x)
    index = draw.below(x.shape[axis], draw.random.randrange(1, 6))
    return draw.random.choice([lambda h: h.index_select(axis, index), lambda h: h[(slice(None),) * axis + (index,)]])


@maker
def gathered(draw, x):
    axis = draw.axis(x)
    index = draw.below(x.shape[axis], *x.shape)
    return draw.random.choice(
        [lambda h: h.gather(axis, index), lambda h: h.take_along_dim(index, axis) + h.tanh()],
    )


@maker
def taken(draw, x):
    index = draw.below(x.numel(), 2, 3)
    return draw.random.choice([lambda h: h.take(index), lambda h: h.flatten()[index]])


@maker
def selected(draw, x):
    mask = draw.mask(*x.shape)
    mask.view(-1)[0] = True
    return draw.random.choice(
        [lambda h: h[mask], lambda h: torch.masked_select(h, mask), lambda h: h[mask.nonzero().T.unbind()]]
    )


@maker
def several_indices(draw, x):
    if x.dim() < 2:
        return None
    rows, columns = draw.below(x.shape[0], 4), draw.below(x.shape[-1], 3, 1)
    return lambda h: h[rows, ..., columns]


@maker
def joined(draw, x):
    axis = draw.axis(x)
    return draw.random.choice([lambda h: torch.cat([h, h.sin()], axis), lambda h: torch.stack([h, h.flip(0)], axis)])


@maker
def parted(draw, x):
    axis = draw.axis(x)
    return draw.random.choice(
        [
            lambda h: torch.cat([part * (k + 1) for k, part in enumerate(h.split(2, axis))][::-1], axis),
            lambda h: torch.stack(h.unbind(axis)[::-1], axis),
            lambda h: torch.cat(h.chunk(2, axis)[::-1], axis),
        ]
    )


@maker
def padded(draw, x):
    if x.dim() not in (2, 3) or x.shape[-1] < 2:
        return lambda h: F.pad(h, (1, 1), value=0.5)
    mode = draw.random.choice(["reflect", "replicate", "circular"])
    return lambda h: F.pad(h, (1, 1), mode=mode)


@maker
def repeated(draw, x):
    axis, repeats = draw.axis(x), draw.below(3, 1)
    counts = draw.below(3, x.shape[axis])
    counts[0] = 1
    return draw.random.choice(
        [
            lambda h: h.repeat_interleave(counts, axis),
            lambda h: h.expand(2, *h.shape) * torch.tensor([1.0, 2.0]).reshape(2, *[1] * h.dim()),
            lambda h: h.repeat(*[1] * (h.dim() - 1), 2),
            lambda h: h.repeat_interleave(int(repeats) + 1, axis),
        ]
    )


@maker
def triangles(draw, x):
    if x.dim() < 2:
        return None
    return draw.random.choice(
        [torch.tril, torch.triu, lambda h: h.diagonal(0, 0, 1), lambda h: h.T if h.dim() == 2 else h.mT]
    )


@maker
def unfolded(draw, x):
    axis = draw.axis(x)
    if x.shape[axis] < 3:
        return None
    return draw.random.choice([lambda h: h.unfold(axis, 2, 1), lambda h: h.unfold(axis, 3, 2).sin()])


@maker
def strided(draw, x):
    count = x.numel()
    if count < 4:
        return None
    return lambda h: h.contiguous().as_strided((count // 2, 2), (1, 2), 0)


@maker
def differences(draw, x):
    axis = draw.axis(x)
    return (lambda h: h.diff(dim=axis)) if x.shape[axis] > 1 else None


# -------------------------------------------------------------------- written


@maker
def written_rows(draw, x):
    to, source = draw.random.randrange(x.shape[0]), draw.random.randrange(x.shape[0])

    def step(h):
        h = h.clone()
        v = h.view(h.shape)[:]
        v[to] = h[source].clone().cos()
        h[-1] += v[0]
        return h

    return step


@maker
def written_through_views(draw, x):
    way = draw.random.randrange(8)

    def step(h):
        h = h.contiguous().clone()
        flat = h.view(-1)
        if way == 0:
            flat[::2] = flat[: (flat.numel() + 1) // 2].clone().sin()
        elif way == 1:
            h.transpose(0, -1)[0].mul_(h.sum())
        elif way == 2:
            flat.select(0, 0).copy_(flat[-1] * 2)
        elif way == 3:
            for start in range(0, flat.numel(), 2):
                part = flat.narrow(0, start, min(2, flat.numel() - start))
                part[:1].add_(part[-1:] * 3)
        elif way == 4:
            flat.as_strided(((flat.numel() + 1) // 2,), (2,)).mul_(3)
        elif way == 5:
            h.unsqueeze_(0).transpose_(0, -1)
            h[0].zero_()
        elif way == 6:
            flat.narrow(0, 0, 1).expand(1).neg_()
            flat.flip(0)[0] = 7  # a copy: h stays as it was
        else:
            flat = flat.unsqueeze(0).squeeze_(0)
            flat[-1:] = h.select(0, 0).reshape(-1)[:1].clone() * h.reshape(-1)[:1].clone()
        return h

    return step


@maker
def put_at_indices(draw, x):
    count = x.numel()
    index, values = draw.below(count, 4), draw.normal(4)
    accumulate = draw.random.choice([True, False])

    def step(h):
        flat = h.flatten().clone()
        return flat.index_put_((index,), h.flatten()[:1].sin() * values, accumulate=accumulate).view(h.shape)

    return step


@maker
def scattered(draw, x):
    axis = draw.axis(x)
    index, way = draw.below(x.shape[axis], *x.shape), draw.random.randrange(4)

    def step(h):
        if way == 0:
            return torch.zeros_like(h).scatter_add(axis, index, h.sin())
        if way == 1:
            return h.clone().scatter_(axis, index, h.flip(0))
        if way == 2:
            return h.scatter_reduce(axis, index, h.flip(0), "amax")
        return h.clone().scatter_(axis, index, 2.5)

    return step


@maker
def index_added(draw, x):
    axis = draw.axis(x)
    index, way = draw.below(x.shape[axis], x.shape[axis]), draw.random.randrange(4)

    def step(h):
        if way == 0:
            return h.index_add(axis, index, h.sin(), alpha=2)
        if way == 1:
            return h.clone().index_copy_(axis, index, h.sin())
        if way == 2:
            return h.clone().index_fill_(axis, index[:1], 1.5)
        return torch.zeros_like(h).index_add_(axis, index, h)

    return step


@maker
def masked_writes(draw, x):
    mask, way = draw.mask(*x.shape), draw.random.randrange(3)
    mask.view(-1)[-1] = True

    def step(h):
        h = h.clone()
        if way == 0:
            h[mask] = h.flatten()[0] * 2
        elif way == 1:
            h.masked_scatter_(mask, h.flip(0).contiguous())
        else:
            h[mask] *= h[mask].flip(0)
        return h

    return step


@maker
def diagonal_writes(draw, x):
    if x.dim() != 2:
        return None
    way = draw.random.randrange(3)

    def step(h):
        h = h.clone()
        if way == 0:
            h.fill_diagonal_(0.5)
        elif way == 1:
            h.diagonal().copy_(h[0, 0].exp())
        else:
            h.T[0] = h.T[-1] * 2
        return h

    return step


@maker
def made_beforehand(draw, x):
    way = draw.random.randrange(2)

    def step(h):
        out = torch.empty_like(h)
        if way == 0:
            out.copy_(h)
            out[0] = 0
        else:
            out = h.new_zeros(h.shape)
            out[..., :1] = h[..., -1:]
            out += h
        return out

    return step


# -------------------------------------------------------------------- along axes


@maker
def reduced(draw, x):
    axis, keep = draw.axis(x), draw.random.choice([True, False])
    if x.dim() == 1:
        keep = True
    name = draw.random.choice(["sum", "mean", "prod", "amax", "logsumexp", "var", "norm"])
    if name == "var" and x.shape[axis] < 2:
        return None
    return lambda h: getattr(h, name)(dim=axis, keepdim=keep)


@maker
def accumulated(draw, x):
    axis = draw.axis(x)
    return draw.random.choice([lambda h: h.cumsum(axis), lambda h: h.cumprod(axis), lambda h: h.logcumsumexp(axis)])


@maker
def by_constant_matrix(draw, x):
    matrix = draw.normal(x.shape[-1], 3) * draw.mask(x.shape[-1], 3)
    vector = draw.normal(x.shape[0]) * draw.mask(x.shape[0])
    return draw.random.choice(
        [lambda h: h @ matrix, lambda h: torch.einsum("i...,i->...", h, vector)[None], lambda h: F.linear(h, matrix.T)]
    )


@maker
def products_of_itself(draw, x):
    if x.dim() != 2 or x.numel() > 12:
        return None
    return draw.random.choice(
        [lambda h: torch.einsum("ij,kj->ik", h, h.sin()), lambda h: h.mT @ h, lambda h: h[:, :, None] * h[:, None]]
    )


@maker
def convolved(draw, x):
    if x.dim() not in (2, 3) or x.shape[-1] < 3:
        return None
    rows = x.shape[-2]
    way = draw.random.randrange(5)
    dense, deep, spread = draw.normal(2, rows, 3), draw.normal(rows, 1, 2), draw.normal(rows, 2, 3)
    zeroed = dense * draw.mask(2, rows, 3)
    steps = (
        lambda h: F.conv1d(h, dense, padding=1),
        lambda h: F.conv1d(h, deep, groups=rows),
        lambda h: F.conv1d(h, dense, stride=2, padding=1),
        lambda h: F.conv_transpose1d(h, spread, stride=2, padding=1, output_padding=1),
        lambda h: F.conv1d(h, zeroed, padding=2, dilation=2),
    )
    return steps[way]


@maker
def pooled(draw, x):
    if x.dim() not in (2, 3) or x.shape[-1] < 3:
        return None
    return draw.random.choice(
        [
            lambda h: F.avg_pool1d(h, 2, 1),
            lambda h: F.max_pool1d(h, 2, 1),
            lambda h: F.max_pool1d(h, 3, 2, 1),
            lambda h: F.adaptive_avg_pool1d(h, 2),
            lambda h: F.interpolate(h[None] if h.dim() == 2 else h, size=5, mode="nearest"),
            lambda h: F.interpolate(h[None] if h.dim() == 2 else h, size=5, mode="linear"),
            lambda h: F.lp_pool1d(h, 2, 2, 1),
        ]
    )


@maker
def normalised(draw, x):
    size = x.shape[-1]
    if size < 3:
        return None
    return draw.random.choice(
        [lambda h: F.layer_norm(h, (size,)), lambda h: h.softmax(-1), lambda h: F.normalize(h, dim=-1)]
    )


@maker
def attended(draw, x):
    if x.dim() != 2:
        return None
    rows = x.shape[0]
    mask = draw.mask(rows, rows) | torch.eye(rows, dtype=torch.bool)
    away = torch.zeros(rows, rows, dtype=torch.float64).masked_fill(~mask, -math.inf)
    attend = F.scaled_dot_product_attention
    return draw.random.choice(
        [
            lambda h: attend(h[None], h[None], h[None], attn_mask=mask)[0],
            lambda h: attend(h[None], h[None].sin(), h[None], is_causal=True)[0],
            lambda h: (h @ h.T + away).softmax(-1) @ h,
            lambda h: attend(h[None], h[None], h[None], attn_mask=away)[0],
        ]
    )


@maker
def of_everything(draw, x):
    """Each element that comes out depends on a whole axis, or on all of it: what counts as a dense operation."""
    return draw.random.choice(
        [
            lambda h: torch.fft.fft(h).real,
            lambda h: torch.fft.rfft(h, dim=0).imag + 1,
            lambda h: torch.fft.ifft(torch.fft.fft(h) * 2).real,
            lambda h: h.sort(0).values,
        ]
    )


@maker
def mapped(draw, x):
    return draw.random.choice(
        [
            lambda h: torch.vmap(lambda row: row * row.roll(1, 0) if row.dim() else row.sin())(h),
            lambda h: torch.func.grad(lambda g: (g[1:] * g[:-1].sin()).sum())(h),
            lambda h: torch.func.jvp(torch.sin, (h.contiguous(),), (h.flip(0),))[1],
        ]
    )


# -------------------------------------------------------------------- programs


DENSE = ("of_everything", "attended", "normalised")
"""Steps that mix a whole axis, where by the values alone some entries are zero."""


@dataclass
class Program:
    """Steps one after the other; every other one may be added to what there was before, if that fits."""

    names: list[str]
    steps: list[Step]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        return x.clone()


def program(seed: int, length: int = 5) -> tuple[Program, torch.Tensor]:
    """A program, and a point."""
    draw = Draw(seed)
    shape = draw.random.choice([(6,), (8,), (3, 4), (4, 4), (2, 3, 3), (2, 6), (12,), (5, 2)])
    x = draw.normal(*shape)
    made, h = Program([], []), x
    count = draw.random.randrange(1, length + 1)
    while len(made.steps) < count:
        name = draw.random.choice([*MAKERS])
        step = MAKERS[name](draw, h)
        if step is None:
            continue
        after = step(h)
        if 0 < after.numel() <= LARGEST and after.dim() and after.isfinite().all():
            made.names.append(name)
            made.steps.append(step)
            h = after
    return made, x
