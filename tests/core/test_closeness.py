"""``jacfunc/core/closeness.py``: rounding is forgiven, anything else is not."""

import math

import pytest
import torch

from jacfunc.core.closeness import agree

inf, nan = math.inf, math.nan


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
def test_rounding_relative_to_the_largest_is_forgiven(dtype):
    room = torch.finfo(dtype).eps ** 0.5
    x = torch.tensor([100.0, 1e-3, 0.0], dtype=dtype)
    assert agree(x, x + 50 * room)
    assert not agree(x, x + 500 * room)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1.0, nan], [1.0, nan], True),
        ([1.0, inf], [1.0, inf], True),
        ([1.0, nan], [1.0, inf], False),
        ([1.0, inf], [1.0, -inf], False),
        ([1.0, inf], [1.0, 1e30], False),
        ([1.0, nan], [1.1, nan], False),
        ([], [], True),
    ],
)
def test_what_is_not_finite_has_to_be_the_same(one, other, same):
    assert agree(torch.tensor(one), torch.tensor(other)) is same


def test_integers_have_to_be_equal():
    assert agree(torch.tensor([1, 2]), torch.tensor([1, 2]))
    assert not agree(torch.tensor([1, 10**6]), torch.tensor([1, 10**6 + 1]))
