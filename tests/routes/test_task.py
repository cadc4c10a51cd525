"""``jacfunc/routes/task.py``: what a task hands a route: chunks, draws, directions, and the sweep over rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tasks import LEAVES, counted, entries_of, field, made

from jacfunc.errors import UnsupportedOperationError
from jacfunc.evaluation.basis import Rows
from jacfunc.evaluation.rng import RandomState
from jacfunc.routes.collect import Block
from jacfunc.routes.task import Evaluation, Mode, Task, times

X = LEAVES[0]
MATRIX = torch.arange(6, dtype=torch.double).reshape(2, 3)


def linear(x: torch.Tensor) -> torch.Tensor:
    return x @ MATRIX.T


def along(task: Task) -> Any:
    """The derivatives of a linear function, as a route gives them: for one row derivatives, outputs and aux."""

    def one(tangent: torch.Tensor) -> Any:
        outputs, aux = task.evaluate(*task.leaves)
        return (tangent @ MATRIX.T,), outputs, aux

    return one


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3])
def test_a_sweep_hands_over_each_chunk_and_the_value_of_any_row(chunk_size: int | None, vectorised: bool) -> None:
    task = made(linear, X, chunk_size=chunk_size, vectorised=vectorised)
    taken: list[tuple[int, int]] = []
    entries = entries_of(task, Block)

    def take(start: int, stop: int, derivatives: Any) -> None:
        taken.append((start, stop))
        entries.take_columns(start, stop, derivatives)

    evaluation = task.swept(along(task), task.inputs, chunk_size, task.leaves, take)
    assert taken == task.inputs.chunks(chunk_size) == task.input_chunks()
    assert torch.equal(entries.results()[0, 0], MATRIX.expand(2, 2, 3))
    assert torch.equal(evaluation.outputs[0], linear(X)) and torch.equal(evaluation.aux[0], 2 * X)
    assert not evaluation.undifferentiable and evaluation.notes == ()
    by_columns = entries_of(task, Block)
    task.swept_columns(along(task), by_columns)
    assert torch.equal(by_columns.results()[0, 0], MATRIX.expand(2, 2, 3))


def test_aux_holds_no_more_memory_than_itself() -> None:
    task = made(linear, X, vectorised=False)  # for each row an aux, of which one is kept
    evaluation = task.swept_columns(along(task), entries_of(task, Block))
    assert evaluation.aux[0].untyped_storage().nbytes() == evaluation.aux[0].nbytes


def test_without_rows_there_is_one_plain_evaluation() -> None:
    f, calls = counted(lambda x: x.sum(1))
    task = made(f, X[:, :0])
    calls.clear()
    evaluation = task.swept_columns(lambda row: None, entries_of(task, Block))
    assert len(calls) == 1 and torch.equal(evaluation.outputs[0], torch.zeros(2))


def test_every_call_in_a_sweep_sees_the_same_draw() -> None:
    noisy = lambda x: x * torch.rand(3, dtype=torch.double)
    task = replace(made(noisy, X, chunk_size=1), random_state=RandomState.capture())
    factors = torch.rand(3, dtype=torch.double)

    def one(tangent: torch.Tensor) -> Any:
        return (tangent * torch.rand(3, dtype=torch.double),), (), ()

    for vectorised in (True, False):
        task = replace(task, mode=Mode(vectorised=vectorised))
        entries = entries_of(task, Block)
        task.swept_columns(one, entries)
        torch.testing.assert_close(entries.results()[0, 0], torch.diag(factors).expand(2, 3, 3))
    task.redraw()
    assert torch.equal(torch.rand(3, dtype=torch.double), factors)


def test_where_nothing_is_drawn_nothing_is_set_back() -> None:
    task = made(linear, X)
    before = RandomState.capture()
    torch.rand(3)
    task.redraw()
    assert not before.is_now()


@pytest.mark.parametrize(("chunk_size", "refused"), [(None, False), (3, False), (2, True)])
def test_evaluations_of_a_traced_call_are_at_most_one(chunk_size: int | None, refused: bool) -> None:
    task = made(linear, X, traced=True)
    if refused:
        with pytest.raises(UnsupportedOperationError, match="compile or export it without chunk_size"):
            task.evaluations(task.inputs, chunk_size)
    else:
        assert task.evaluations(task.inputs, chunk_size) == [(0, 3)]
    assert made(linear, X).evaluations(task.inputs, 2) == [(0, 2), (2, 3)]
    assert task.evaluations(Rows(((0,),)), 1) == []


def test_rows_go_through_a_linear_function_as_the_mode_says() -> None:
    f, calls = counted(lambda row: (MATRIX @ row,))
    rows = (torch.eye(3, dtype=torch.double),)
    for mode, expected in ((Mode(), 1), (Mode(verified=True), 2), (Mode(vectorised=False), 3)):
        calls.clear()
        (found,) = replace(made(linear, X), mode=mode).through(f, rows)
        assert len(calls) == expected and torch.equal(found, MATRIX.T)


@pytest.mark.parametrize("coordinate", range(5))
def test_a_direction_is_a_tangent_of_every_leaf(coordinate: int) -> None:
    x, w = made(field, *LEAVES).direction(coordinate)
    assert x.shape == (2, 3) and w.shape == (2, 2)
    hot = torch.eye(5, dtype=torch.double)[coordinate].expand(2, 5)
    assert torch.equal(torch.cat([x, w], 1), hot)


def test_once_a_derivative_is_itself() -> None:
    assert times(X, 1) is X and torch.equal(times(X, 2), 2 * X) and torch.equal(times(X, -1.0), -X)


def test_an_evaluation_has_derivatives_unless_it_is_said() -> None:
    evaluation = Evaluation((X,), ())
    assert evaluation.undifferentiable is False and evaluation.notes == ()
