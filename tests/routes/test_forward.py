"""``jacfunc/routes/forward.py``: columns against derivatives written down; what is evaluated; what is refused."""

from __future__ import annotations

import pytest
import torch
from functions import Detaching, Dual, OnlyOnce
from tasks import LEAVES, check_first, check_partials, check_second, counted, each_way, entries_of, field, made

from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes.collect import Block, Diagonal, HessianDiagonal, Partials
from jacfunc.routes.forward import Forward
from jacfunc.routes.verify import NoTransposeError

FORWARD = Forward()
X = LEAVES[0]


@each_way
def test_first_and_second_derivatives(vectorised: bool, chunk_size: int | None, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_first(FORWARD, vectorised=vectorised, chunk_size=chunk_size)
        check_second(FORWARD, vectorised=vectorised, chunk_size=chunk_size)


@pytest.mark.parametrize(("recorded", "highest"), [(True, 3), (False, 2)])
def test_mixed_derivatives(recorded: bool, highest: int) -> None:
    with torch.set_grad_enabled(recorded):
        check_partials(FORWARD, highest)


@pytest.mark.parametrize(("chunk_size", "chunks"), [(None, 1), (2, 3), (1, 5)])
def test_it_evaluates_once_at_first_order_and_for_each_chunk_at_second(chunk_size: int | None, chunks: int) -> None:
    f, calls = counted(field)
    task = made(f, *LEAVES, chunk_size=chunk_size)
    calls.clear()
    FORWARD.first_order(task, entries_of(task, Block))
    assert len(calls) == 1
    FORWARD.second_order(task, entries_of(task, HessianDiagonal))
    assert len(calls) == 1 + chunks


def test_mixed_derivatives_take_one_evaluation() -> None:
    f, calls = counted(field)
    task = made(f, *LEAVES)
    calls.clear()
    indices = MultiIndices.around([(1, 1, 0, 0, 0)])
    FORWARD.partials(task, Partials(indices, torch.double))
    assert len(calls) == 1


@pytest.mark.parametrize("function", [OnlyOnce, Detaching])
@pytest.mark.parametrize("order", [1, 2])
def test_a_backward_without_a_transpose_is_refused_and_no_zero(function: type[OnlyOnce], order: int) -> None:
    task = made(lambda x: function.apply(x), X, order=order, verified=True)
    run = FORWARD.first_order if order == 1 else FORWARD.second_order
    with pytest.raises(NoTransposeError):
        run(task, entries_of(task, Diagonal if order == 1 else HessianDiagonal))
    with pytest.raises(NoTransposeError):
        FORWARD.partials(task, Partials(MultiIndices.around([(1, 0, 0)]), torch.double))


def test_its_forward_formula_does_not_help_a_backward() -> None:
    task = made(lambda x: Dual.apply(x), X, verified=True)
    with pytest.raises(NoTransposeError):
        FORWARD.first_order(task, entries_of(task, Block))


def test_what_it_costs() -> None:
    assert [FORWARD.rows(order, 4, 7) for order in (1, 2)] == [4, 4]
    assert [FORWARD.cost(order, 4, 7) for order in (1, 2)] == [6, 13]
