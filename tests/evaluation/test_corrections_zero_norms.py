"""``evaluation/corrections/zero_norms.py``: norms that are zero are refused where they are differentiated twice."""

from __future__ import annotations

import pytest
import torch

from jacfunc.core import caches
from jacfunc.errors import UnsupportedOperationError
from jacfunc.evaluation.corrections.zero_norms import Differentiated, refuse_where, refuse_zeros

ZERO = torch.zeros(2, 3, requires_grad=True)


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_from_the_second_derivative_on(order: int) -> None:
    norm = torch.linalg.vector_norm(ZERO, dim=1)
    with Differentiated(order, by_tensors=True):
        if order < 2:
            refuse_zeros(torch.linalg.vector_norm, (ZERO,), {}, norm, 0)
        else:
            with pytest.raises(UnsupportedOperationError, match="vector_norm is zero here"):
                refuse_zeros(torch.linalg.vector_norm, (ZERO,), {}, norm, 0)
    assert caches.AROUND.order == 0 and not caches.AROUND.by_tensors


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "refused"),
    [
        (torch.linalg.vector_norm, (ZERO,), {"ord": 1}, False),
        (torch.linalg.vector_norm, (ZERO, 1), {}, False),
        (torch.linalg.vector_norm, (ZERO, 2), {}, True),
        (torch.norm, (ZERO,), {"p": "fro"}, True),
        (torch.norm, (ZERO, "nuc"), {}, False),
        (torch.Tensor.norm, (ZERO, 2.0), {"dim": 1}, True),
        (torch.dist, (ZERO, ZERO, 1), {}, False),
        (torch.dist, (ZERO, ZERO), {}, True),
        (torch.hypot, (ZERO, ZERO), {}, True),
        (torch.std, (ZERO, 1), {}, True),
        (torch.abs, (ZERO,), {}, False),
        (torch.abs, (torch.complex(ZERO, ZERO),), {}, True),
        (torch.sin, (ZERO,), {}, False),
    ],
)
def test_norms_that_are_roots(function, args, kwargs, refused) -> None:
    with Differentiated(2, by_tensors=True):
        result = function(*args, **kwargs)
        if not refused:
            refuse_zeros(function, args, kwargs, result, 0)
            return
        with pytest.raises(UnsupportedOperationError):
            refuse_zeros(function, args, kwargs, result, 0)


def test_what_is_not_differentiated_or_not_zero_is_let_through() -> None:
    with Differentiated(2, by_tensors=True):
        refuse_where(torch.tensor([False]), ZERO, "cdist")
        refuse_where(torch.tensor([True]), ZERO.detach(), "cdist")
        with pytest.raises(UnsupportedOperationError):
            refuse_where(torch.tensor([True]), ZERO, "cdist")


def test_derivatives_that_f_takes_itself_count_and_those_around_it_do_not() -> None:
    def norm(x):
        size = torch.linalg.vector_norm(x)
        refuse_zeros(torch.linalg.vector_norm, (x,), {}, size, entered)
        return size

    with Differentiated(1, by_tensors=True):
        entered = 0
        with pytest.raises(UnsupportedOperationError, match="vector_norm is zero here"):
            torch.func.grad(norm)(torch.zeros(2))
        entered = 1
        torch.func.grad(norm)(torch.zeros(2))
        entered = 0
        torch.func.grad(norm)(torch.ones(2))
    with Differentiated(2, by_tensors=True), pytest.raises(UnsupportedOperationError, match="vector_norm is zero here"):
        torch.vmap(norm)(torch.zeros(3, 2, requires_grad=True))
