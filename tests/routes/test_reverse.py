"""``jacfunc/routes/reverse.py``: rows and cells against derivatives written down; what is evaluated and refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functions import Detaching, OnlyOnce
from tasks import LEAVES, check_first, check_partials, check_second, counted, each_way, entries_of, field, made

from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes.collect import Block, HessianDiagonal, Partials
from jacfunc.routes.reverse import Reverse
from jacfunc.routes.verify import NoTransposeError

REVERSE = Reverse()
X = LEAVES[0]


@each_way
def test_first_and_second_derivatives(vectorised: bool, chunk_size: int | None, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_first(REVERSE, vectorised=vectorised, chunk_size=chunk_size)
        check_second(REVERSE, vectorised=vectorised, chunk_size=chunk_size)


@pytest.mark.parametrize(("recorded", "highest"), [(True, 3), (False, 2)])
def test_mixed_derivatives(recorded: bool, highest: int) -> None:
    with torch.set_grad_enabled(recorded):
        check_partials(REVERSE, highest)


@pytest.mark.parametrize(("chunk_size", "chunks"), [(None, 1), (15, 1), (10, 2), (5, 3), (1, 3)])
def test_chunks_at_second_order_bound_the_pairs_of_rows(chunk_size: int | None, chunks: int) -> None:
    """Three output rows with five input rows each."""
    f, calls = counted(field)
    task = made(f, *LEAVES, chunk_size=chunk_size)
    calls.clear()
    REVERSE.second_order(task, entries_of(task, HessianDiagonal))
    assert len(calls) == chunks
    REVERSE.first_order(task, entries_of(task, Block))
    REVERSE.partials(task, Partials(MultiIndices.around([(1, 1, 0, 0, 0)]), torch.double))
    assert len(calls) == chunks + 2


@pytest.mark.parametrize("function", [OnlyOnce, Detaching])
def test_a_backward_without_a_transpose_gives_first_derivatives_that_nothing_is_asked_of(function: Any) -> None:
    for mode in ({"verified": True}, {"differentiated_again": True}):
        task = made(lambda x: function.apply(x), X, **mode)
        entries = entries_of(task, Block)
        with torch.no_grad():
            REVERSE.first_order(task, entries)
        torch.testing.assert_close(entries.results()[0, 0], torch.diag_embed(X.cos()))
    task = made(lambda x: function.apply(x), X, verified=True, differentiated_again=True)
    with pytest.raises(NoTransposeError):
        REVERSE.first_order(task, entries_of(task, Block))


@pytest.mark.parametrize("function", [OnlyOnce, Detaching])
def test_second_derivatives_of_it_are_refused_and_no_zeros(function: Any) -> None:
    task = made(lambda x: function.apply(x), X, order=2, verified=True)
    with pytest.raises(NoTransposeError):
        REVERSE.second_order(task, entries_of(task, HessianDiagonal))
    with pytest.raises(NoTransposeError):
        REVERSE.partials(task, Partials(MultiIndices.around([(2, 0, 0)]), torch.double))


def test_outputs_of_another_dtype_are_pulled_back_in_it() -> None:
    task = made(lambda x: (x.float() ** 2, x**3), X, order=2)
    entries = entries_of(task, HessianDiagonal)
    REVERSE.second_order(task, entries)
    seconds = {pair: torch.diagonal(found, dim1=1, dim2=2) for pair, found in entries.results().items()}
    torch.testing.assert_close(seconds, {(0, 0): torch.full_like(X, 2), (1, 0): 6 * X})


def test_an_input_without_coordinates() -> None:
    task = made(lambda x, e: x.sin() + e.sum(1, keepdim=True), X, X[:, :0], order=2)
    entries = entries_of(task, HessianDiagonal)
    REVERSE.second_order(task, entries)
    assert entries.results()[0, 1].shape == (2, 3, 0)
    torch.testing.assert_close(entries.results()[0, 0].sum(-1), -X.sin())


def test_what_it_costs() -> None:
    assert [REVERSE.rows(order, 4, 7) for order in (1, 2)] == [7, 28]
    assert [REVERSE.cost(order, 4, 7) for order in (1, 2)] == [8, 36]
