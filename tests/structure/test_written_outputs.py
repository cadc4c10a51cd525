"""Operations that write to what they are given by ``out=``: patterns as if they returned it."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, derivative, differences

DOUBLE = torch.float64
INDEX = torch.tensor([2, 0, 2])
MASK = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
case = Cases()


@case
def out_sin(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.sin(x, out=o)
    return o


@case
def out_resize(x):
    o = torch.empty(0).to(DOUBLE)
    torch.sin(x, out=o)
    return o


@case
def out_cat(x):
    o = torch.empty(6, 4).to(DOUBLE)
    torch.cat([x, x.sin()], out=o)
    return o


@case
def out_gather(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.gather(x, 0, INDEX[:, None].expand(3, 4), out=o)
    return o


@case
def out_index_select(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.index_select(x, 0, INDEX, out=o)
    return o


@case
def out_take(x):
    o = torch.empty(3).to(DOUBLE)
    torch.take(x, INDEX, out=o)
    return o


@case
def out_max(x):
    o = torch.empty(3).to(DOUBLE)
    torch.max(x, 1, out=(o, torch.empty(3).long()))
    return o


@case
def out_sort(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.sort(x, 1, out=(o, torch.empty(3, 4).long()))
    return o


@case
def out_matmul(x):
    o = torch.empty(3, 3).to(DOUBLE)
    torch.matmul(x, x.T, out=o)
    return o


@case
def out_addmm(x):
    o = torch.empty(3, 3).to(DOUBLE)
    torch.addmm(x[:, :3], x, x.T.sin(), out=o)
    return o


@case
def out_scatter(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.scatter(x, 0, INDEX[:, None].expand(3, 4), x.sin(), out=o)
    return o


@case
def out_index_add(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.index_add(x, 0, INDEX, x.sin(), out=o)
    return o


@case
def out_sum(x):
    o = torch.empty(3).to(DOUBLE)
    torch.sum(x, 1, out=o)
    return o


@case
def out_cumsum(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.cumsum(x, 1, out=o)
    return o


@case
def out_where(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.where(MASK, x, x.sin(), out=o)
    return o


@case
def out_into_view(x):
    o = torch.zeros(2, 3, 4).to(DOUBLE)
    torch.sin(x, out=o[1])
    return o


@case
def out_masked_select(x):
    o = torch.empty(5).to(DOUBLE)
    torch.masked_select(x, MASK, out=o)
    return o


@case
def out_tril(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.tril(x, out=o)
    return o


@case
def out_roll(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.stack([x, x], out=torch.empty(2, 3, 4).to(DOUBLE))
    torch.mean(x, 0, out=o[0])
    o[1:] = x[1:]
    return o


@case
def out_softmax(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.softmax(x, 1, out=o)
    return o


@case
def out_fft(x):
    o = torch.empty(3, 4).to(torch.complex128)
    torch.fft.fft(x, out=o)
    return o.real


@case
def out_scatter_reduce(x):
    o = torch.empty(3, 4).to(DOUBLE)
    torch.scatter_reduce(x, 0, INDEX[:, None].expand(3, 4), x.sin(), "amax", out=o)
    return o


@case
def out_diag(x):
    o = torch.empty(3).to(DOUBLE)
    torch.diag(x, out=o)
    return o


@case
def out_convsum(x):
    o = torch.empty(3).to(DOUBLE)
    torch.linalg.vector_norm(x, 2, 1, out=o)
    return o


BY_DIFFERENCES = [
    "out_addmm",
    "out_cat",
    "out_convsum",
    "out_cumsum",
    "out_diag",
    "out_fft",
    "out_gather",
    "out_index_add",
    "out_index_select",
    "out_into_view",
    "out_masked_select",
    "out_matmul",
    "out_max",
    "out_resize",
    "out_roll",
    "out_scatter",
    "out_scatter_reduce",
    "out_sin",
    "out_softmax",
    "out_sort",
    "out_sum",
    "out_take",
    "out_tril",
    "out_where",
]
"""What torch cannot differentiate, or gets wrong."""
LOOSE = ["out_fft", "out_max", "out_scatter", "out_scatter_reduce", "out_sort"]
"""Where more counts as possible than is nonzero: an index that depends on ``x``, a choice, no rule."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, name not in LOOSE, differences if name in BY_DIFFERENCES else derivative)
