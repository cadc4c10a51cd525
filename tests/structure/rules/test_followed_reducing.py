"""``structure/rules/reducing.py`` against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found

DOUBLE = torch.float64
MASK = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
case = Cases()


@case
def cumsum_in_place(x):
    y = x.clone()
    y.cumsum_(1)
    return y


@case
def renorm_in_place(x):
    y = x.clone()
    y.renorm_(2, 0, 0.3)
    return y


@case
def trapz(x):
    return torch.cumulative_trapezoid(x, dim=1)


@case
def segment(x):
    return torch.segment_reduce(x, "sum", lengths=torch.tensor([2, 1]), axis=0)


@case
def summed(x):
    return x.sum(0)


@case
def averaged(x):
    return x.mean(1, keepdim=True)


@case
def of_all(x):
    return x.sum()


@case
def of_several_axes(x):
    return x.reshape(3, 2, 2).sum((0, 2))


@case
def multiplied(x):
    return x.prod(1)


@case
def largest(x):
    return x.amax(1)


@case
def variance(x):
    return x.var(0)


@case
def norm(x):
    return x.norm(dim=1)


@case
def log_sum_exp(x):
    return x.logsumexp(0)


@case
def softmax(x):
    return x.softmax(1)


@case
def masked_softmax(x):
    return x.masked_fill(~MASK, -torch.inf).softmax(1)


@case
def running(x):
    return x.cumsum(0)


@case
def running_products(x):
    return x.cumprod(1)


@case
def running_log_sums(x):
    return x.logcumsumexp(1)


@case
def running_largest(x):
    return x.cummax(1).values


@case
def sorted_rows(x):
    return x.sort(1).values


@case
def largest_two(x):
    return x.topk(2, 1).values


@case
def fourier(x):
    return torch.view_as_real(torch.fft.fft(x))


@case
def fourier_of_one_axis(x):
    return torch.fft.irfft(torch.fft.rfft(x, dim=0), dim=0, n=3)


@case
def median(x):
    return x.median(1).values


@case
def a_number(x):
    return x[0, 0].sum(0) + x[0, 0].cumsum(0) + x[0, 0].softmax(0)


LOOSE = [
    "fourier",
    "fourier_of_one_axis",
    "largest",
    "largest_two",
    "masked_softmax",
    "median",
    "running_largest",
    "segment",
    "sorted_rows",
]
"""Where more counts as possible than is nonzero: an index that depends on ``x``, a choice, no rule."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, name not in LOOSE)
