"""Writes through .data, and the graphs that they spoil."""

from __future__ import annotations

import pytest
import torch

from jacfunc import batch_jac
from jacfunc.errors import UnsupportedOperationError
from jacfunc.evaluation.corrections.unseen import Access, data_of, refuse_overwritten


def spoilt(outputs: list[torch.Tensor], accesses: list[Access]) -> bool:
    try:
        refuse_overwritten(outputs, accesses)
    except UnsupportedOperationError as error:
        assert "is overwritten through .data, out of sight of torch" in str(error)
        return True
    return False


def numbers() -> torch.Tensor:
    return torch.tensor([0.3, -1.2, 2.0], requires_grad=True) * 1


def test_what_a_backward_keeps_may_not_be_overwritten() -> None:
    x, accesses = numbers(), []
    y = x.sin()
    data_of(x, accesses).mul_(2)
    assert spoilt([y], accesses)


def test_what_is_kept_later_is_what_was_written() -> None:
    x, accesses = numbers(), []
    data_of(x, accesses).mul_(2)
    y = x.sin()
    assert not spoilt([y], accesses)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, x.detach().cos())


def test_what_nothing_keeps_may_be_overwritten() -> None:
    x, accesses = numbers(), []
    y = x + 1
    data_of(x, accesses).mul_(2)
    assert not spoilt([y], accesses)


def test_an_access_alone_changes_nothing() -> None:
    x, accesses = numbers(), []
    y = x.sin()
    assert data_of(x, accesses).data_ptr() == x.data_ptr()
    assert len(accesses) == 1
    assert not spoilt([y], accesses)


def test_numbers_that_are_the_same_again_are_no_change() -> None:
    x, accesses = numbers(), []
    y = x.sin()
    shared = data_of(x, accesses)
    shared.add_(1)
    assert spoilt([y], accesses)
    shared.copy_(torch.tensor([0.3, -1.2, 2.0]))
    assert not spoilt([y], accesses)


def test_nan_is_equal_to_nan() -> None:
    x, accesses = torch.tensor([torch.nan, 1.0], requires_grad=True) * 1, []
    y = x.sin()
    data_of(x, accesses)
    assert not spoilt([y], accesses)


def test_only_the_part_that_is_kept_matters() -> None:
    buffer, accesses = torch.zeros(4, requires_grad=True) * 1, []
    kept = buffer[:2].sin()
    shared = data_of(buffer, accesses)
    shared[2:] = 5
    assert not spoilt([kept], accesses)
    shared[1] = 5
    assert spoilt([kept], accesses)


def test_an_older_part_of_the_graph_is_found() -> None:
    x, accesses = numbers(), []
    y = x.sin()
    data_of(x, accesses).mul_(2)
    for _ in range(3):
        y = y + 1
    assert spoilt([y], accesses)
    assert not spoilt([torch.ones(3)], accesses)  # of no graph


def test_other_bytes_of_the_same_memory_count() -> None:
    x, accesses = numbers(), []
    y = x.sin()
    data_of(x.detach().view(torch.int32), accesses).add_(1)
    assert spoilt([y], accesses)


def test_sparse_tensors_are_not_watched() -> None:
    accesses: list[Access] = []
    data_of(torch.eye(2).to_sparse(), accesses)
    assert not accesses


class Filling(torch.autograd.Function):
    """Fills a buffer that it keeps, and keeps it before that."""

    @staticmethod
    def forward(ctx, x):
        buffer = torch.zeros_like(x)
        ctx.save_for_backward(buffer)
        buffer.data.copy_(2 * x)
        return x.square()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * ctx.saved_tensors[0]


def test_a_function_may_fill_what_it_keeps_itself() -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    found = batch_jac(Filling.apply, method="reverse", check=False)
    try:
        torch.testing.assert_close(found(x), torch.diag_embed(2 * x))
    except UnsupportedOperationError as error:
        pytest.fail(str(error))


def test_a_transform_refuses_a_function_that_spoils_its_graph() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        z = y.sin()
        y.data.mul_(2)
        return z

    x = torch.rand(3, 2, dtype=torch.float64)
    with pytest.raises(UnsupportedOperationError):
        batch_jac(f, method="reverse", check=False)(x)
