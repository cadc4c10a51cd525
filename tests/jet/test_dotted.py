"""Sums over rows of products, row by row into one row."""

from __future__ import annotations

import pytest
import torch

from jacfunc.jet import dotted as module
from jacfunc.jet.dotted import dotted


@pytest.fixture(autouse=True)
def _small_rows_too(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST_ROW", 1)


SHAPES = [((5, 3, 4), (5, 3, 4)), ((5, 1, 4), (5, 3, 4)), ((5, 3, 4), (5, 1, 1)), ((1, 3), (1, 3))]


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_values_and_gradients_of_both_orders(left, right):
    left, right = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in (left, right))
    assert torch.allclose(dotted(left.detach(), right.detach()), (left * right).sum(0, keepdim=True))
    assert torch.autograd.gradcheck(dotted, (left, right))
    assert torch.autograd.gradgradcheck(dotted, (left, right))


def test_of_a_stack_with_itself():
    rows = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dotted(x, x), (rows,))
    assert torch.autograd.gradgradcheck(lambda x: dotted(x, x), (rows,))


def test_inside_of_transforms_it_is_a_product_and_a_sum():
    rows = torch.randn(2, 4, 6, dtype=torch.float64)
    assert torch.allclose(torch.vmap(dotted)(rows, rows), rows.square().sum(1, keepdim=True))
    forward, _ = torch.func.jvp(dotted, (rows, rows), (rows, rows))
    assert torch.allclose(forward, rows.square().sum(0, keepdim=True))
