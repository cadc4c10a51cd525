"""``structure/rules/made.py``: tensors made like another one, filled, drawn, written over."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, found_of
from torch.nn import functional as F

DOUBLE = torch.float64
case = Cases()

NEW = {
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
    "full_like": lambda x: torch.full_like(x, 3.0),
    "new_zeros": lambda x: x.new_zeros(x.shape),
    "new_ones": lambda x: x.new_ones(x.shape),
    "new_full": lambda x: x.new_full(x.shape, 2.0),
    "zero_": lambda x: x.clone().zero_(),
    "fill_": lambda x: x.clone().fill_(2.0),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "normal_": lambda x: x.clone().normal_(),
    "uniform_": lambda x: x.clone().uniform_(),
    "exponential_": lambda x: x.clone().exponential_(),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.5),
}


@pytest.mark.parametrize("name", NEW)
def test_what_is_made_anew_depends_on_nothing(name):
    x = torch.rand(3, 4, dtype=DOUBLE)
    found = found_of(NEW[name], x)
    assert (found.pattern.nnz, found.dense) == (0, ())
    assert found_of(lambda x: NEW[name](x) + x.roll(1, 0), x).pattern.nnz == 12


@pytest.mark.parametrize("name", ["rand_like", "bernoulli", "normal_", "uniform_", "exponential_", "bernoulli_"])
def test_what_is_drawn_is_never_taken_for_zero(name):
    x = torch.rand(3, 4, dtype=DOUBLE)
    assert found_of(lambda x: NEW[name](x).mul(0) * x, x).pattern.nnz == 12


@pytest.mark.parametrize("seed", range(4))
def test_dropout_keeps_any(seed):
    torch.manual_seed(seed)
    x = torch.rand(3, 4, dtype=DOUBLE)
    for drop in (F.dropout, F.alpha_dropout, F.feature_alpha_dropout):
        found = found_of(lambda x, drop=drop: drop(x, 0.5, True), x)
        assert found.pattern.nnz == 12
        assert torch.equal(found.pattern.to_dense(), torch.eye(12).bool())


@case
def filled_by_an_element(x):
    y = x.clone()
    y[0].fill_(x[2, 2])
    return y


@case
def copied_and_broadcast(x):
    y = torch.empty(2, 3, 4, dtype=DOUBLE)
    y.copy_(x)
    y[1, :1].copy_(x[1])
    return y


@case
def zeros_added_to(x):
    y = torch.zeros_like(x)
    y += x.roll(1, 0)
    y[:, 1].zero_()
    return y


@pytest.mark.parametrize("name", case)
def test_exactly(name):
    assert_found(case[name], torch.randn(3, 4, dtype=DOUBLE), True)
