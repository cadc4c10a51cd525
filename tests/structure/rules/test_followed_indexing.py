"""``structure/rules/indexing.py`` against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, derivative, differences

DOUBLE = torch.float64
INDEX = torch.tensor([2, 0, 2])
MASK = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
case = Cases()


@case
def index_add_in_place(x):
    y = x.clone()
    y.index_add_(0, INDEX, x.sin())
    return y


@case
def index_add_dim1(x):
    y = x.clone()
    y.index_add_(1, torch.tensor([1, 1, 0, 3]), x.sin())
    return y


@case
def index_copy_in_place(x):
    y = x.clone()
    y.index_copy_(0, INDEX[:2], x.sin()[:2])
    return y


@case
def index_fill_in_place(x):
    y = x.clone()
    y.index_fill_(0, INDEX[:2], 1.0)
    return y


@case
def index_fill_t(x):
    y = x.clone()
    y.index_fill_(0, INDEX[:2], x[0, 0])
    return y


@case
def index_reduce_in_place(x):
    y = x.clone()
    y.index_reduce_(0, INDEX, x.sin(), "prod")
    return y


@case
def scatter_reduce_in_place(x):
    y = x.clone()
    y.scatter_reduce_(0, INDEX[:, None].expand(3, 4), x.sin(), "prod", include_self=False)
    return y


@case
def put_in_place(x):
    y = x.clone()
    y.put_(INDEX[:2], x[0, :2].sin())
    return y


@case
def put_acc(x):
    y = x.clone()
    y.put_(INDEX, x[0, :3].sin(), accumulate=True)
    return y


@case
def fill_diagonal_wrap(x):
    y = x.T.repeat(2, 1).clone()
    y.fill_diagonal_(2.0, wrap=True)
    return y


@case
def swap_in_place(x):
    y = x.clone()
    y[[0, 1]] = y[[1, 0]]
    return y


@case
def movedim_swapaxes(x):
    y = x.clone()
    y.movedim(0, 1).swapaxes(0, 1)[1] = x[0]
    return y


@case
def swapdims_in_place(x):
    y = x.clone()
    y.swapaxes_(0, 1)
    y[0] *= y[1]
    y.transpose_(0, 1)
    return y


@case
def masked_fill_tensor(x):
    y = x.clone()
    y.masked_fill_(MASK, x[0, 0])
    return y


@case
def masked_scatter(x):
    return x.masked_scatter(MASK, x.flip(0))


@case
def masked_by_x(x):
    return torch.where(x > 0, x.roll(1, 0), x.roll(1, 1))


@case
def index_by_x(x):
    i = x[:, 0].argsort()
    return x[i]


@case
def index_by_x2(x):
    i = x.argmax(1)
    return x.gather(1, i[:, None]) + x[0].sum() * 0


@case
def scatter_by_x(x):
    i = x.argsort(1)
    return torch.zeros_like(x).scatter(1, i, x)


@case
def scatter_add_by_x(x):
    i = x.argsort(1)
    return torch.zeros_like(x).scatter_add(1, i, x)


@case
def index_add_by_x(x):
    i = x[:, 0].argsort()
    return torch.zeros_like(x).index_add(0, i, x)


@case
def index_copy_by_x(x):
    i = x[:, 0].argsort()
    return torch.zeros_like(x).index_copy(0, i, x)


@case
def index_put_by_x(x):
    y = x.clone()
    y[x[:, 0].argsort()] = x.sin()
    return y


@case
def take_by_x(x):
    return x.take(x.flatten().argsort())


@case
def bool_by_x_sum(x):
    return x[x > -100] * 2


@case
def searchsorted_gather(x):
    b = torch.searchsorted(torch.linspace(-1, 1, 3).to(DOUBLE), x[0].contiguous()).clamp(max=2)
    return x[b, 0]


@case
def repeat_interleave(x):
    return x.repeat_interleave(torch.tensor([1, 0, 2]), 0)


@case
def repeat_interleave_by_x(x):
    return x.repeat_interleave((x[:, 0] > -100).long() + 1, 0)


@case
def nonzero(x):
    r, c = MASK.nonzero(as_tuple=True)
    return x[r, c]


@case
def item_free_any(x):
    return x * (x.detach().abs().sum() > 0)


@case
def by_lists(x):
    return x[[0, 2], [1, 1]]


@case
def by_mask_and_slice(x):
    return x[MASK[:, 0], 1:]


@case
def by_none(x):
    return x[None, INDEX, ..., 0]


@case
def negative(x):
    return x[-1, torch.tensor([-1, -2])]


@case
def gather_shorter(x):
    return x.gather(0, INDEX[None, :2])


@case
def take_along(x):
    return x.take_along_dim(x.argsort(1).sort(1).values, 1)


@case
def put_duplicates(x):
    y = x.clone()
    y[INDEX] = x.sin()
    return y


@case
def accumulated(x):
    return x.index_put((INDEX,), x.sin(), accumulate=True)


@case
def scatter_shorter(x):
    return x.scatter(1, torch.tensor([[3, 0], [1, 2]]), x.sin())


@case
def scatter_add_shorter(x):
    return x.scatter_add(1, torch.tensor([[3, 3], [1, 2]]), x.sin())


@case
def mask_of_x_written(x):
    y = x.clone()
    y[x > 0] = 0
    return y


@case
def embedding(x):
    return torch.nn.functional.embedding(INDEX, x)


BY_DIFFERENCES = ["scatter_add_shorter", "scatter_shorter", "swapdims_in_place"]
"""What torch cannot differentiate, or gets wrong."""
LOOSE = [
    "bool_by_x_sum",
    "index_add_by_x",
    "index_by_x",
    "index_by_x2",
    "index_copy_by_x",
    "index_put_by_x",
    "mask_of_x_written",
    "masked_by_x",
    "put_acc",
    "put_in_place",
    "repeat_interleave_by_x",
    "scatter_add_by_x",
    "scatter_by_x",
    "scatter_reduce_in_place",
    "searchsorted_gather",
    "take_along",
    "take_by_x",
]
"""Where more counts as possible than is nonzero: an index that depends on ``x``, a choice, no rule."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, name not in LOOSE, differences if name in BY_DIFFERENCES else derivative)
