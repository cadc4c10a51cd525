"""``structure/rules/moving.py`` against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, derivative, differences
from torch.nn import functional as F

DOUBLE = torch.float64
case = Cases()


@case
def expand_read_after_write(x):
    y = x.clone()
    e = y[:1].expand(3, 4)
    y[0] = x[1]
    return e * x


@case
def as_strided_in_place(x):
    y = x.clone()
    y.as_strided_((2, 3), (6, 2))
    y[0] = y[1].clone() * 2
    return y


@case
def as_strided_overlap(x):
    y = x.clone()
    return y.as_strided((5, 3), (2, 1))


@case
def as_strided_scatter(x):
    return torch.as_strided_scatter(x, x.flatten()[:6].sin(), (6,), (2,))


@case
def slice_scatter(x):
    return torch.slice_scatter(x, x[:1].sin(), 0, 1, 2)


@case
def select_scatter(x):
    return torch.select_scatter(x, x[0].sin(), 0, 1)


@case
def diagonal_scatter(x):
    return torch.diagonal_scatter(x, x[:, 3])


@case
def meshgrid(x):
    a, b = torch.meshgrid(x[0], x[1], indexing="ij")
    return a * b


@case
def cartesian(x):
    return torch.cartesian_prod(x[0], x[1])


@case
def block_diag(x):
    return torch.block_diag(x, x[:2])


@case
def combinations(x):
    return torch.combinations(x[0])


@case
def unflatten(x):
    return x.unflatten(1, (2, 2)) * x.unflatten(1, (2, 2)).flip(0)


@case
def nested_clone_memory_format(x):
    y = x.reshape(1, 3, 2, 2).clone(memory_format=torch.channels_last)
    y[:, 0] = y[:, 1]
    return y


@case
def empty_strided(x):
    y = torch.empty_strided((3, 4), (1, 3), dtype=x.dtype)
    y.copy_(x)
    y.T[0] = x[:, 1]
    return y


@case
def new_tensor(x):
    y = x.new_empty(2, 4)
    y[:] = x[:2]
    y[1] = x[2]
    return y


@case
def list_of_scalars(x):
    return torch.stack([x[i, j] * x[j, i] for i in range(3) for j in range(3)])


@case
def cat(x):
    return torch.cat([x, x.sin()], 1)


@case
def stack(x):
    return torch.stack([x, x.roll(1, 0)], 2)


@case
def roll(x):
    return x.roll((1, 2), (0, 1))


@case
def flip(x):
    return x.flip((0, 1))


@case
def rot90(x):
    return x.rot90()


@case
def repeat(x):
    return x.repeat(2, 1)


@case
def tril(x):
    return x.tril() + x.triu(1)


@case
def padded(x):
    return F.pad(x, (1, -1, 0, 2), value=3.0)


@case
def reflected(x):
    return F.pad(x[None], (2, 1), mode="reflect")


@case
def replicated(x):
    return F.pad(x[None], (2, 1), mode="replicate")


@case
def circular(x):
    return F.pad(x[None], (2, 1), mode="circular")


@case
def unfolded(x):
    return x.unfold(1, 2, 1)


@case
def im2col(x):
    return F.unfold(x[None, None], 2)


@case
def shuffled(x):
    return F.pixel_shuffle(x.reshape(1, 4, 3, 1), 2)


@case
def diag_embed(x):
    return torch.diag_embed(x)


@case
def to_single(x):
    return x.to(torch.float32).to(DOUBLE)


@case
def copies(x):
    return torch.permute_copy(torch.slice_copy(x, 0, 1), (1, 0))


@case
def upsampled(x):
    return F.interpolate(x[None], scale_factor=2)


BY_DIFFERENCES = ["as_strided_scatter"]
"""What torch cannot differentiate, or gets wrong."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, True, differences if name in BY_DIFFERENCES else derivative)
