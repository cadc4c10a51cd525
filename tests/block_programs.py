"""Random programs on samples that have parts: layers of each part, what mixes parts, and what moves their axis."""

from __future__ import annotations

import random

import torch
from torch.nn import functional as F

UNARY = (
    torch.tanh,
    torch.sin,
    torch.square,
    F.gelu,
    F.softplus,
    lambda h: torch.exp(-h * h),
    lambda h: F.silu(h.clone(), inplace=True),
    torch.sigmoid,
    lambda h: torch.where(h > 0, h, 0.5 * h.sin()),
    lambda h: h.clamp(max=0.7),
    lambda h: h.masked_fill(h.detach() > 1, 0.3),
    lambda h: h.detach() * h + h.isnan().to(h.dtype),
    lambda h: h.to(torch.float64).contiguous(),
    lambda h: torch.zeros_like(h) + h**3 + h.new_ones(1),
)
LARGEST = 300
"""Numbers of one sample of an intermediate result at most."""


class Program:
    """A function of parameters and ``(N, *sample)`` in float64, made of so many random steps."""

    def __init__(self, seed, sample=(3, 2), steps=7, norms=True):
        self.random, self.norms = random.Random(seed), norms
        self.generator = torch.Generator().manual_seed(seed)
        self.weights, self.steps, self.names = [], [], []
        pool = [self.tensor(2, *sample)]
        first = self.random.choice(["linear", "unary", "reshape", "getitem", None])
        for number in range(steps):
            name = first if number == 0 and first else self.random.choice(sorted(STEPS))
            try:
                step = STEPS[name](self, pool)
                result = None if step is None else step(pool, self.weights)
            except (IndexError, RuntimeError):  # of these shapes there is none
                continue
            if (
                result is None
                or not 0 < result.numel() <= 2 * LARGEST
                or len(result) != 2
                or not result.isfinite().all()
            ):
                continue
            pool.append(result)
            self.steps.append(step)
            self.names.append(name)
        self.output = self.random.choice(["last", "sums", "last"])

    def tensor(self, *shape):
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def weight(self, *shape):
        """The place of a new parameter."""
        self.weights.append((self.tensor(*shape) * 0.6).requires_grad_())
        return len(self.weights) - 1

    def pick(self, pool, least=2):
        """The place of a tensor with so many axes; recent ones are likelier."""
        fitting = [place for place, tensor in enumerate(pool) if tensor.dim() >= least]
        return self.random.choice(fitting[-2:] + fitting)

    def __call__(self, params, x):
        pool = [x]
        for step in self.steps:
            pool.append(step(pool, params))
        if self.output == "last":
            return pool[-1]
        return torch.stack([tensor.reshape(len(tensor), -1).sum(1) for tensor in pool], 1)


def _unary(program, pool):
    at, function = program.pick(pool, 1), program.random.choice(UNARY)
    return lambda pool, w: function(pool[at])


def _linear(program, pool):
    at = program.pick(pool)
    place, bias = program.weight(program.random.choice([1, 2, 3]), pool[at].shape[-1]), program.weight(1)
    way = program.random.choice([0, 1, 2])
    if way == 0:
        return lambda pool, w: F.linear(pool[at], w[place]) + w[bias]
    if way == 1:
        return lambda pool, w: pool[at] @ w[place].T
    return lambda pool, w: torch.einsum("...i,oi->...o", pool[at], w[place])


def _scaled(program, pool):
    at = program.pick(pool)
    shape = [size if program.random.random() < 0.6 else 1 for size in pool[at].shape[1:]]
    place = program.weight(*shape[program.random.randrange(len(shape)) :])
    return program.random.choice(
        [lambda pool, w: pool[at] * w[place], lambda pool, w: pool[at] + w[place], lambda pool, w: w[place] - pool[at]]
    )


def _mixed(program, pool):
    at = program.pick(pool, 3)
    place = program.weight(program.random.choice([2, 3]), pool[at].shape[-2])
    return lambda pool, w: w[place] @ pool[at]


def _axes(program, pool):
    at = program.pick(pool)
    tensor = pool[at]
    axis = program.random.randrange(1, tensor.dim())
    other = program.random.randrange(1, tensor.dim())
    ways = [
        lambda pool, w: pool[at].transpose(axis, other),
        lambda pool, w: pool[at].movedim(axis, other),
        lambda pool, w: pool[at].unsqueeze(axis),
        lambda pool, w: pool[at].unsqueeze(-axis),
        lambda pool, w: pool[at].flatten(1),
        lambda pool, w: pool[at].flatten(axis),
        lambda pool, w: pool[at].reshape(len(pool[at]), 1, -1),
        lambda pool, w: pool[at].squeeze(),
        lambda pool, w: pool[at].flip(axis),
        lambda pool, w: pool[at].roll(1, axis),
        lambda pool, w: pool[at].unsqueeze(1).expand(-1, 2, *pool[at].shape[1:]),
        lambda pool, w: pool[at].repeat(*(1,) * axis, 2, *(1,) * (pool[at].dim() - axis - 1)),
    ]
    return program.random.choice(ways)


def _reshape(program, pool):
    at = program.pick(pool)
    size = pool[at][0].numel()
    first = program.random.choice([k for k in range(1, size + 1) if size % k == 0])
    rest = size // first
    second = program.random.choice([k for k in range(1, rest + 1) if rest % k == 0])
    return lambda pool, w: pool[at].reshape(-1, first, second, rest // second)


def _reduced(program, pool):
    at = program.pick(pool)
    axis, keep = program.random.randrange(1, pool[at].dim()), program.random.random() < 0.5
    axes = (axis, program.random.randrange(1, pool[at].dim())) if program.random.random() < 0.3 else (axis,)
    axes = tuple(dict.fromkeys(axes))
    ways = [
        lambda pool, w: pool[at].sum(axes, keepdim=keep),
        lambda pool, w: pool[at].mean(axes, keepdim=keep),
        lambda pool, w: pool[at].mean(axis, keep),
        lambda pool, w: torch.logsumexp(pool[at], axes, keep),
        lambda pool, w: torch.softmax(pool[at], axis),
        lambda pool, w: F.log_softmax(pool[at], dim=-1),
        lambda pool, w: (pool[at] + 2).cumsum(axis),
        lambda pool, w: pool[at].amax(axes, keep),
        lambda pool, w: pool[at].var(axes, correction=0, keepdim=keep),
        lambda pool, w: pool[at].square().sum(axes, keepdim=keep).add(0.1).sqrt(),
        lambda pool, w: (pool[at] + 0.3).norm(dim=axis, keepdim=keep),
        lambda pool, w: torch.linalg.vector_norm(pool[at] + 0.2, dim=axes, keepdim=keep),
    ]
    return program.random.choice(ways)


def _getitem(program, pool):
    at = program.pick(pool)
    tensor = pool[at]
    index = [slice(None)]
    for size in tensor.shape[1:]:
        items = [slice(None), slice(None), slice(0, max(1, size - 1)), slice(None, None, 2), slice(-1, None)]
        items += [program.random.randrange(size)]
        if not any(isinstance(item, list) for item in index):
            items.append(program.random.sample(range(size), size))
        index.append(program.random.choice(items))
        if program.random.random() < 0.15:
            index.append(None)
    if any(isinstance(item, list) for item in index):
        index = [slice(None) if isinstance(item, int) or item is None else item for item in index]
    index = tuple(index)
    return lambda pool, w: pool[at][index]


def _pieces(program, pool):
    at = program.pick(pool)
    axis = program.random.randrange(1, pool[at].dim())
    size = pool[at].shape[axis]
    length = program.random.randrange(1, size + 1)
    ways = [
        lambda pool, w: pool[at].split(length, axis)[0],
        lambda pool, w: pool[at].chunk(2, axis)[-1],
        lambda pool, w: pool[at].unbind(axis)[-1],
        lambda pool, w: pool[at].narrow(axis, size - length, length),
        lambda pool, w: pool[at].index_select(axis, torch.arange(size - 1, -1, -1)),
        lambda pool, w: torch.cat([pool[at].select(axis, 0).unsqueeze(axis), pool[at].tanh()], axis),
    ]
    return program.random.choice(ways)


def _pairs(program, pool):
    at = program.pick(pool, 3)
    if pool[at].shape[1] ** 2 * pool[at][0, 0].numel() > LARGEST:
        return None
    if program.random.random() < 0.4:
        first, second = torch.triu_indices(pool[at].shape[1], pool[at].shape[1], 1)
        return lambda pool, w: (pool[at][:, first] - pool[at][:, second]).square()
    return lambda pool, w: pool[at][:, :, None] - 0.5 * pool[at][:, None]


def _binary(program, pool):
    one, two = program.pick(pool, 1), program.pick(pool, 1)
    way = program.random.choice(
        [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - b, lambda a, b: a / (2 + b * b), torch.maximum]
    )
    try:
        torch.broadcast_shapes(pool[one].shape, pool[two].shape)
        same = way(pool[one], pool[two]).shape[0] == 2
    except RuntimeError:
        return None
    independent = pool[one].dim() == pool[two].dim()
    return (lambda pool, w: way(pool[one], pool[two])) if same and independent else None


def _attention(program, pool):
    at = program.pick(pool, 3)
    if pool[at].shape[-2] ** 2 > LARGEST:
        return None
    place = program.weight(pool[at].shape[-1], pool[at].shape[-1])
    if program.random.random() < 0.5:
        return lambda pool, w: F.scaled_dot_product_attention(pool[at] @ w[place], pool[at], pool[at].sin())

    def attended(pool, w):
        scores = torch.softmax((pool[at] @ w[place]) @ pool[at].transpose(-1, -2), -1)
        return scores @ pool[at].cos()

    return attended


def _joined(program, pool):
    one, two = program.pick(pool), program.pick(pool)
    axis = program.random.randrange(1, pool[one].dim())
    if pool[one].shape != pool[two].shape:
        two = one
    constant = program.tensor(*pool[one].shape[1:])
    ways = [
        lambda pool, w: torch.cat([pool[one], pool[two].sin()], axis),
        lambda pool, w: torch.stack([pool[one], pool[two].cos()], axis),
        lambda pool, w: torch.cat([pool[one], constant.expand_as(pool[one])], axis),
        lambda pool, w: torch.cat([constant.expand_as(pool[one]), pool[two]], -axis),
    ]
    return program.random.choice(ways)


def _written(program, pool):
    at = program.pick(pool)
    place = program.random.randrange(pool[at].shape[1])

    def rows(pool, w):
        y = pool[at].sin()
        y[:, place] = y[:, place] * 2
        return y

    def added(pool, w):
        y = pool[at].cos()
        y[:, place] += 3 * pool[at][:, 0].sin()
        return y

    def scaled(pool, w):
        y = pool[at].clone()
        y *= 0.7
        y.add_(pool[at].sin())
        return y

    def through(pool, w):
        y = pool[at] * 1.5
        y[..., 0].mul_(2)
        return y

    def zeros(pool, w):
        y = torch.zeros_like(pool[at])
        y[:, place:] = pool[at][:, place:].tanh()
        return y

    return program.random.choice([rows, added, scaled, zeros, lambda pool, w: F.relu(pool[at] * 1.0, inplace=True)])


def _norm(program, pool):
    at = program.pick(pool)
    if not program.norms:

        def plainly(pool, w):
            centred = pool[at] - pool[at].mean(-1, keepdim=True)
            return centred * (centred.square().mean(-1, keepdim=True) + 0.5).rsqrt()

        return plainly
    return program.random.choice(
        [
            lambda pool, w: F.layer_norm(pool[at], pool[at].shape[-1:], eps=0.5),
            lambda pool, w: F.rms_norm(pool[at], pool[at].shape[-1:], eps=0.5),
            lambda pool, w: F.normalize(pool[at] + 0.1, dim=-1),
        ]
    )


def _determinant(program, pool):
    at = program.pick(pool, 3)
    size = pool[at].shape[-1]
    if size != pool[at].shape[-2] or size < 2:
        return None
    eye = 4 * torch.eye(size, dtype=torch.float64) + program.tensor(size, size)
    if program.random.random() < 0.5:
        return lambda pool, w: torch.linalg.slogdet(pool[at].tanh() + eye)[1].unsqueeze(1)
    return lambda pool, w: torch.slogdet(eye - pool[at].sin())[1][..., None]


STEPS = {
    "attention": _attention,
    "axes": _axes,
    "binary": _binary,
    "determinant": _determinant,
    "getitem": _getitem,
    "joined": _joined,
    "linear": _linear,
    "mixed": _mixed,
    "norm": _norm,
    "pairs": _pairs,
    "pieces": _pieces,
    "reduced": _reduced,
    "reshape": _reshape,
    "scaled": _scaled,
    "unary": _unary,
    "written": _written,
    "linear again": _linear,
    "unary again": _unary,
}
