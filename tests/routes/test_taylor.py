"""``jacfunc/routes/taylor.py``: jets against derivatives written down; few rows; what is evaluated and refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tasks import (
    INDICES,
    LAPLACIANS,
    LEAVES,
    check_first,
    check_partials,
    check_second,
    counted,
    each_way,
    entries_of,
    field,
    made,
)

from jacfunc.errors import UnsupportedOperationError
from jacfunc.evaluation.rng import RandomState
from jacfunc.jet import CannotFollowError, Jet
from jacfunc.jet.frame import AllRowsError
from jacfunc.jet.multiindices import MultiIndices, Sum
from jacfunc.routes import taylor
from jacfunc.routes.collect import Block, Diagonal, HessianDiagonal, Laplacian, Partials
from jacfunc.routes.taylor import Taylor
from jacfunc.routes.verify_followed import OtherwiseError

TAYLOR = Taylor()
X = LEAVES[0]
WIDE = torch.arange(12, dtype=torch.double).reshape(3, 4).cos()


@each_way
def test_first_and_second_derivatives(vectorised: bool, chunk_size: int | None, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_first(TAYLOR, vectorised=vectorised, chunk_size=chunk_size)
        check_second(TAYLOR, vectorised=vectorised, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 9])
@pytest.mark.parametrize("recorded", [True, False])
def test_mixed_derivatives(recorded: bool, chunk_size: int | None) -> None:
    with torch.set_grad_enabled(recorded):
        check_partials(TAYLOR, chunk_size=chunk_size)


@pytest.mark.parametrize(("chunk_size", "chunks"), [(None, 1), (5, 1), (2, 3), (1, 5)])
def test_each_chunk_is_one_evaluation(chunk_size: int | None, chunks: int) -> None:
    f, calls = counted(field)
    task = made(f, *LEAVES, chunk_size=chunk_size)
    for run, entry in ((TAYLOR.first_order, Block), (TAYLOR.second_order, HessianDiagonal)):
        calls.clear()
        run(task, entries_of(task, entry))
        assert len(calls) == chunks
    calls.clear()
    TAYLOR.partials(task, Partials(INDICES, torch.double))
    assert len(calls) == len(INDICES.parts(chunk_size))


def test_no_input_coordinates_are_a_plain_evaluation() -> None:
    task = made(lambda x: x.sum(1), X[:, :0])
    entries = entries_of(task, Block)
    evaluation = TAYLOR.first_order(task, entries)
    assert torch.equal(evaluation.outputs[0], torch.zeros(2)) and entries.results()[0, 0].shape == (2, 0)


# -------------------------------------------------------------------- few rows


def test_a_laplacian_takes_one_row_for_all_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    task = made(field, *LEAVES, order=2)
    entries = entries_of(task, Laplacian)
    counts: list[int] = []
    take = entries.take_sums
    monkeypatch.setattr(entries, "take_columns", None)
    monkeypatch.setattr(entries, "take_sums", lambda *given: (counts.extend(map(len, given[2])), take(*given)))
    TAYLOR.second_order(task, entries)
    assert counts == [2, 2]  # a row for each leaf, of two outputs
    torch.testing.assert_close(entries.results(), LAPLACIANS)


def test_one_entry_that_wants_each_second_alone_gets_them_all() -> None:
    task = made(field, *LEAVES, order=2)
    entries = entries_of(task, Laplacian)
    entries.by_pair[0, 0] = HessianDiagonal(entries.by_pair[0, 0].pair)
    TAYLOR.second_order(task, entries)
    found = entries.results()
    torch.testing.assert_close({**found, (0, 0): found[0, 0].sum(-1)}, LAPLACIANS)


def test_the_diagonal_of_a_last_linear_layer_is_taken_without_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taylor, "rows_of", None)
    back = WIDE.T.contiguous() * 0.3
    task = made(lambda x: torch.nn.functional.linear(torch.tanh(x @ WIDE), back.T), X)
    entries = entries_of(task, Diagonal)
    TAYLOR.first_order(task, entries)
    slope = 1 - torch.tanh(X @ WIDE) ** 2
    expected = torch.einsum("ij,nj,ji->ni", WIDE, slope, back)
    torch.testing.assert_close(entries.results()[0, 0], expected)
    task = replace(task, chunk_size=2)
    with pytest.raises(TypeError):  # a part of the rows has no diagonal of its own
        TAYLOR.first_order(task, entries_of(task, Diagonal))


def narrow(x: Any) -> Any:
    """Through a layer narrower than the rows: ``sum sin(w . x)`` of the only hidden number, and of x beside."""
    return (x @ WIDE[:, :1]).sin()


def test_a_laplacian_through_a_narrow_layer_has_one_row_unless_all_are_asked_for() -> None:
    found = {}
    for vectorised in (True, False):
        seen: list[Any] = []

        def f(x: Any, seen: list[Any] = seen) -> Any:
            y = narrow(x)
            seen.append(y)
            return y

        task = made(f, X, order=2, vectorised=vectorised)
        entries = entries_of(task, Laplacian)
        TAYLOR.second_order(task, entries)
        found[vectorised] = (type(seen[-1]), seen[-1].frame.parent is not None, entries.results()[0, 0])
    truth = -(WIDE[:, 0] ** 2).sum() * narrow(X)
    for vectorised, (kind, narrowed, second) in found.items():
        assert kind is Jet and narrowed is vectorised
        torch.testing.assert_close(second, truth)


def test_an_input_that_is_used_beside_its_narrow_layer_needs_all_rows() -> None:
    f = lambda x: narrow(x) + x.prod(1, keepdim=True) * x
    task = made(f, X, order=2)
    with pytest.raises(AllRowsError):
        TAYLOR.second_order(task, entries_of(task, Laplacian))
    task = made(f, X, order=2, vectorised=False, verified=True)
    entries = entries_of(task, Laplacian)
    TAYLOR.second_order(task, entries)
    prod = X.prod(1, keepdim=True)
    second = -(WIDE[:, 0] ** 2).sum() * narrow(X) + 2 * prod / X  # of x_i^2 times the others
    torch.testing.assert_close(entries.results()[0, 0], second)


def test_sums_have_a_row_where_it_carries_them() -> None:
    heat = (((2, 0, 0), 1.0), ((0, 2, 0), 0.5), ((0, 0, 2), 2.0))
    indices = MultiIndices.around([], [heat])
    task, partials = made(lambda x: x.sin() * x[:, :1], X, order=2), Partials(indices, torch.double)
    TAYLOR.partials(task, partials)
    ((_, key), found), *others = partials.derivatives.items()
    assert (
        isinstance(key, Sum) and not others and dict(key.terms) == {index: c / key_lead(heat, key) for index, c in heat}
    )
    a, s, c = X[:, :1], X.sin(), X.cos()
    seconds = torch.tensor([1.0, 0.5, 2.0]) * -s * a + torch.tensor([1.0, 0.0, 0.0]) * 2 * c
    torch.testing.assert_close(found * key_lead(heat, key), seconds)
    assert TAYLOR.carried(indices) is indices


def key_lead(terms: Any, key: Sum) -> float:
    return dict(terms)[key.lead]


# -------------------------------------------------------------------- what is verified, drawn and refused


def by_kind(x: Any) -> Any:
    return x.sin() if isinstance(x, torch.Tensor) else x.cos()


@pytest.mark.parametrize("verified", [True, False])
def test_a_function_that_does_another_thing_with_jets_is_found_out_once(verified: bool) -> None:
    task = made(by_kind, X, verified=verified)
    entries = entries_of(task, Block)
    if verified:
        for run, entry in ((TAYLOR.first_order, Block), (TAYLOR.second_order, HessianDiagonal)):
            with pytest.raises(OtherwiseError):
                run(task, entries_of(task, entry))
        with pytest.raises(OtherwiseError):
            TAYLOR.partials(task, Partials(MultiIndices.around([(1, 0, 0)]), torch.double))
    else:
        TAYLOR.first_order(task, entries)
        torch.testing.assert_close(entries.results()[0, 0], torch.diag_embed(-X.sin()))


def test_every_evaluation_sees_the_same_draw() -> None:
    f = lambda x: x * torch.rand(3, dtype=torch.double)
    task = made(f, X, chunk_size=1, verified=True)
    task = replace(task, random_state=RandomState.capture())
    factors = torch.rand(3, dtype=torch.double)
    entries = entries_of(task, Diagonal)
    TAYLOR.first_order(task, entries)
    torch.testing.assert_close(entries.results()[0, 0], factors.expand(2, 3))


@pytest.mark.parametrize("order", [1, 2])
def test_several_evaluations_cannot_be_traced(order: int) -> None:
    task = made(lambda x: x.sin(), X, order=order, chunk_size=2, traced=True)
    run = TAYLOR.first_order if order == 1 else TAYLOR.second_order
    with pytest.raises(UnsupportedOperationError, match="chunk_size makes this derivative evaluate f several times"):
        run(task, entries_of(task, Block if order == 1 else HessianDiagonal))
    with pytest.raises(UnsupportedOperationError, match="chunk_size makes this derivative evaluate f several times"):
        TAYLOR.partials(task, Partials(MultiIndices.around([(1, 0, 0), (0, 1, 0), (0, 0, 1)]), torch.double))


def test_a_jet_is_of_no_use_when_its_evaluation_is_over() -> None:
    kept: list[Any] = []

    def keeping(x: Any) -> Any:
        kept.append(x)
        return x.sin()

    task = made(keeping, X)
    TAYLOR.first_order(task, entries_of(task, Block))
    assert not kept[-1].propagation.alive


def test_the_differentiated_one_that_changes_with_a_detached_one_is_refused() -> None:
    def f(x: Any) -> Any:
        y = x * 1
        y.detach().add_(1)
        return y.sin()

    task = made(f, X)
    with pytest.raises(CannotFollowError, match="a detached tensor that is changed in place"):
        TAYLOR.first_order(task, entries_of(task, Block))


def test_where_no_value_is_wanted_there_is_none() -> None:
    task = made(lambda x: x.sin(), X, wants_value=False)
    evaluation = TAYLOR.first_order(task, entries_of(task, Block))
    assert evaluation.outputs == () and torch.equal(evaluation.aux[0], 2 * X)


def test_what_it_costs() -> None:
    assert [TAYLOR.rows(order, 4, 7) for order in (1, 2)] == [4, 4]
    assert [TAYLOR.cost(order, 4, 7) for order in (1, 2)] == [3, 6]
    assert TAYLOR.cost_of_partials(MultiIndices.around([(1, 1)]), 7) == 4
