"""``structure/rules/windows.py``: convolutions and pooling, also their gradients, against dense derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
from patterns import Cases, assert_found, found_of
from quick import mostly_slow
from torch import nn
from torch.nn import functional as F

DOUBLE = torch.float64
case = Cases()
GRID = [*itertools.product((False, True), (1, 2), (1, 2), (1, 2), (0, 1))]


def layer(transposed, groups, stride, dilation, padding):
    made = nn.ConvTranspose1d if transposed else nn.Conv1d
    return made(2, 2, 2, stride, padding, groups=groups, dilation=dilation).double()


@pytest.mark.parametrize("setting", mostly_slow(GRID, GRID[::5]))
def test_second_derivatives_of_convolutions(setting):
    net = layer(*setting)
    x = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    f = lambda x: (net(x) ** 3).sum()
    want = torch.autograd.functional.hessian(f, x).reshape(10, 10) != 0
    found = found_of(f, x, order=2)
    assert found.dense == ()
    assert torch.equal(found.pattern.to_dense(), want)


def test_second_derivatives_in_the_plane():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, (1, 2), stride=(1, 2))).double()
    x = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    f = lambda x: net(x).sin().sum()
    want = torch.autograd.functional.hessian(f, x).reshape(12, 12) != 0
    assert torch.equal(found_of(f, x, order=2).pattern.to_dense(), want)


def test_a_gradient_by_the_weight_is_dense():
    x = torch.randn(1, 1, 4, dtype=DOUBLE)

    def f(x):
        with torch.enable_grad():
            weight = torch.ones(1, 1, 2, dtype=DOUBLE).requires_grad_()
            return torch.autograd.grad((F.conv1d(x, weight) ** 2).sum(), weight, create_graph=True)[0]

    assert found_of(f, x).pattern.to_dense().all()


# -------------------------------------------------------------------- one after the other


@case
def zeros_in_the_weight(x):
    return F.conv1d(x, torch.tensor([[[1.0, 0, 2]]], dtype=DOUBLE).expand(1, 3, 3))


@case
def another_zero_for_each_channel(x):
    weight = torch.tensor([[[1.0, 0]], [[0, 1.0]], [[0, 0]]], dtype=DOUBLE)
    return F.conv1d(x, weight, groups=3)


@case
def without_a_batch(x):
    return F.conv2d(x[None], torch.ones(2, 1, 2, 2, dtype=DOUBLE))


@case
def wide_steps(x):
    return F.conv1d(x, torch.ones(1, 3, 2, dtype=DOUBLE), dilation=3, padding=2, stride=2)


@case
def turned_round_with_zeros(x):
    return F.conv_transpose1d(
        x, torch.tensor([[[1.0, 0, 2]]], dtype=DOUBLE).expand(3, 1, 3), stride=2, output_padding=1
    )


@case
def cut_by_padding(x):
    return F.conv_transpose1d(x, torch.ones(3, 1, 3, dtype=DOUBLE), padding=2)


@case
def averages(x):
    return F.avg_pool2d(x[None], (2, 3), 1, (1, 1), ceil_mode=True, count_include_pad=False)


@case
def adaptive_averages(x):
    return F.adaptive_avg_pool2d(x[None], (2, 3))


@case
def adaptive_averages_that_repeat(x):
    return F.adaptive_avg_pool1d(x, 7)


@pytest.mark.parametrize("name", case)
def test_exactly(name):
    assert_found(case[name], torch.randn(3, 4, dtype=DOUBLE), True)


@pytest.mark.parametrize("settings", [(2, 1, 0, 1), (3, 2, 1, 1), (2, 2, 0, 2), (3, 1, 1, 1)])
def test_the_largest_may_be_any_of_its_window(settings):
    size, stride, padding, dilation = settings
    x = torch.randn(1, 1, 5, 5, dtype=DOUBLE)
    want = found_of(lambda x: F.unfold(F.pad(x, [padding] * 4), size, dilation, 0, stride), x).pattern.to_dense()
    found = found_of(lambda x: F.max_pool2d(x, size, stride, padding, dilation), x).pattern.to_dense()
    windows = want.reshape(size * size, -1, 25).any(0)
    assert torch.equal(found, windows)


def test_a_weight_that_depends_on_x_makes_all_depend_on_all():
    assert_found(lambda x: F.conv1d(x, x[None, :, :2].sin()), torch.randn(3, 4, dtype=DOUBLE), False)
