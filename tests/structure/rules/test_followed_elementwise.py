"""``structure/rules/elementwise.py`` against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found

DOUBLE = torch.float64
MASK = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
case = Cases()


@case
def addcmul_in_place(x):
    y = x.clone()
    y.addcmul_(x.roll(1, 0), x.roll(2, 0))
    return y


@case
def addcdiv_in_place(x):
    y = x.clone()
    y.addcdiv_(x.roll(1, 0), x.roll(2, 0))
    return y


@case
def lerp_in_place(x):
    y = x.clone()
    y.lerp_(x.roll(1, 0), 0.5)
    return y


@case
def clamp_tensor(x):
    y = x.clone()
    y.clamp_(x.roll(1, 0))
    return y


@case
def histc_const(x):
    return x * torch.histc(x.detach(), 4).to(DOUBLE)


@case
def bincount(x):
    return x * torch.bincount((x[:, 0] > 0).long(), minlength=4).to(DOUBLE)


@case
def lerp(x):
    return torch.lerp(x, x.roll(1, 0), x.roll(1, 1))


@case
def polar(x):
    return torch.view_as_real(torch.polar(x, x.roll(1, 0)))


@case
def rounded(x):
    return x.round() + x.floor() * x.ceil() + x.trunc() + x.sign() + x.frac()


@case
def divided_by_x(x):
    return torch.zeros(4, dtype=DOUBLE) / x + (x / 2)


@case
def zero_factor(x):
    return x * torch.tensor([1.0, 0, 2, 0], dtype=DOUBLE)


@case
def minus_infinity(x):
    return (x + torch.tensor([0, -torch.inf, 0, 0], dtype=DOUBLE)).exp()


@case
def comparison(x):
    return (x > x.roll(1, 0)).to(DOUBLE) * x


@case
def masked_twice(x):
    return (x * MASK).masked_fill(~MASK, 2.0)


@case
def where_of_numbers(x):
    return torch.where(MASK, x, 0.0) + torch.where(MASK, 1.0, x.roll(1, 0))


@case
def three_operands(x):
    return torch.addcmul(x, x.roll(1, 0), x.roll(1, 1))


@case
def complex_products(x):
    z = torch.complex(x, x.roll(1, 0)) * 1j
    return z.abs() + z.angle()


LOOSE = ["bincount", "clamp_tensor", "comparison"]
"""Where more counts as possible than is nonzero: an index that depends on ``x``, a choice, no rule."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, name not in LOOSE)
