"""``jacfunc/call/quantity.py``: what is wanted, computed by a small route of this file, and results made of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tasks import LEAVES, made

from jacfunc.call.evaluator import Outputs
from jacfunc.call.quantity import (
    EntriesOf,
    Outcome,
    PartialsOf,
    Quantity,
    WantedEntries,
    WantedPartials,
)
from jacfunc.call.request import Request
from jacfunc.core import trees
from jacfunc.evaluation.basis import Rows
from jacfunc.jet.multiindices import MultiIndices, Sum
from jacfunc.options import Options
from jacfunc.routes.collect import Block, Diagonal, Entries, Laplacian, Partials
from jacfunc.routes.route import Route
from jacfunc.routes.task import Evaluation, Task

X = LEAVES[0]
HEAT = (((2, 0, 0), 1.0), ((0, 2, 0), 3.0))


class Fake(Route):
    """Columns of ones and twos, mixed derivatives that are their order; costs that tell the arguments apart."""

    name = "fake"
    methods = ("auto",)

    def rows(self, order: int, inputs: int, outputs: int) -> int:
        return 100 * order + 10 * inputs + outputs

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        return 1000 * order + 10 * inputs + outputs

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        return 10 * indices.rows + outputs

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        return self._filled(task, entries, 1.0)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        return self._filled(task, entries, 2.0)

    def _filled(self, task: Task, entries: Entries, number: float) -> Evaluation:
        for start, stop in task.inputs.chunks(None):
            columns = [torch.full((stop - start, *task.batch, *shape), number) for shape in task.outputs.shapes]
            entries.take_columns(start, stop, tuple(columns))
        return Evaluation(*task.evaluate(*task.leaves))

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        for leaf, shape in enumerate(task.outputs.shapes):
            for index in partials.indices.wanted:
                partials.take(leaf, index, torch.full((*task.batch, *shape), float(sum(index))))
        return Evaluation(*task.evaluate(*task.leaves))


class Carrying(Fake):
    """One that carries sums."""

    def carried(self, indices: MultiIndices) -> MultiIndices:
        return indices


FAKE, CARRYING = Fake(), Carrying()

# -------------------------------------------------------------------- entries


@pytest.mark.parametrize("order", [1, 2])
def test_entries_cost_what_the_route_says_for_their_order(order: int) -> None:
    wanted = WantedEntries(order, Block, ((0, 0),))
    assert wanted.cost(FAKE, 4, 3) == 1000 * order + 43
    assert wanted.rows(FAKE, 4, 3) == 100 * order + 43
    assert wanted.rows_of_jets(4) == order + 4  # a value and a row each; the sum of the seconds is one more


@pytest.mark.parametrize(("order", "number"), [(1, 1.0), (2, 2.0)])
def test_a_route_fills_the_entries_of_the_pairs_that_are_wanted(order: int, number: float) -> None:
    task = made(lambda x, w: (x * w, x.sum(1)), X, X[:, :1])
    wanted = WantedEntries(order, Block, ((0, 1), (1, 0)))
    evaluation, results = wanted.compute(FAKE, task)
    assert {pair: tuple(found.shape) for pair, found in results.items()} == {(0, 1): (2, 3, 1), (1, 0): (2, 3)}
    assert all((found == number).all() for found in results.values())
    torch.testing.assert_close(evaluation.outputs, (X * X[:, :1], X.sum(1)))


def test_a_trial_of_a_few_rows_has_no_results() -> None:
    wanted = WantedEntries(1, Block, ((0, 0),))
    task = made(torch.sin, X)
    task.inputs = wanted.limited(task.inputs, 2)
    assert task.inputs.total == 2 and task.inputs.shapes == ((3,),)
    evaluation, results = wanted.compute(FAKE, task)
    assert results == {} and torch.equal(evaluation.outputs[0], X.sin())


# -------------------------------------------------------------------- mixed derivatives


def test_mixed_derivatives_cost_what_the_route_carries() -> None:
    wanted = WantedPartials(MultiIndices.around([(1, 0, 0)], [HEAT]))
    sums, apart = wanted.indices.rows, wanted.indices.separate.rows
    assert sums < apart
    assert wanted.cost(FAKE, 3, 7) == 10 * sums + 7
    assert (wanted.rows(FAKE, 3, 7), wanted.rows(CARRYING, 3, 7)) == (apart, sums)
    assert wanted.rows_of_jets(3) == 1 + sums
    rows = Rows(((3,),))
    assert wanted.limited(rows, 1) is rows  # a trial has all of them


def test_a_route_hands_over_what_is_wanted_in_the_dtype_of_the_input() -> None:
    wanted = WantedPartials(MultiIndices.around([(1, 0, 0), (1, 1, 0)]))
    evaluation, results = wanted.compute(FAKE, made(lambda x: (x, x.sum(1)), X.float()))
    assert set(results) == {(leaf, index) for leaf in (0, 1) for index in ((1, 0, 0), (1, 1, 0))}
    assert float(results[1, (1, 1, 0)][0]) == 2.0 and float(results[0, (1, 0, 0)][0, 0]) == 1.0
    assert {found.dtype for found in results.values()} == {torch.float32} and len(evaluation.outputs) == 2


def outcome(wanted: WantedPartials, results: dict[Any, torch.Tensor], *outputs: torch.Tensor) -> Outcome:
    named = Outputs(trees.LEAF, ((),))
    return Outcome(wanted, results, Evaluation(outputs, ()), named, lambda tensors: None)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_a_combination_is_made_of_values_and_derivatives() -> None:
    terms = (((0, 0, 0), 5.0), ((1, 0, 0), 2.0), ((0, 1, 0), -1.0))
    wanted = WantedPartials(MultiIndices.around([(1, 0, 0), (0, 1, 0)]))
    results = {(1, (1, 0, 0)): number(10.0), (1, (0, 1, 0)): number(100.0), (0, (1, 0, 0)): number(float("nan"))}
    found = outcome(wanted, results, number(float("nan")), number(3.0)).combined(1, terms)
    assert found.tolist() == [5 * 3.0 + 2 * 10.0 - 100.0]


def test_a_sum_is_taken_whole_where_there_is_one_and_else_from_its_parts() -> None:
    wanted = WantedPartials(MultiIndices.around([(1, 0, 0)], [HEAT]))
    ((key, coefficient),) = wanted.indices.made_of(HEAT)
    assert isinstance(key, Sum)
    whole = outcome(wanted, {(0, key): number(7.0)}, number(0.0)).combined(0, HEAT)
    assert whole.tolist() == [7.0 * coefficient]
    parts = {(0, (2, 0, 0)): number(4.0), (0, (0, 2, 0)): number(5.0)}
    assert outcome(wanted, parts, number(0.0)).combined(0, HEAT).tolist() == pytest.approx([4.0 + 3 * 5.0])


def test_a_single_derivative_is_handed_on_as_it_is() -> None:
    wanted = WantedPartials(MultiIndices.around([(1, 0, 0)]))
    own = number(2.0)
    assert outcome(wanted, {(0, (1, 0, 0)): own}, number(0.0)).combined(0, (((1, 0, 0), 1.0),)) is own


# -------------------------------------------------------------------- what a transform wants


def request(*args: Any, **options: Any) -> Request:
    return Request(torch.sin, Options(**options), args, {})


def test_entries_of_all_pairs_or_of_one_of_each_in_turn() -> None:
    given = request((X, X), argnums=0)
    outputs = Outputs(trees.LEAF, ((3,), (), (3,)))
    every = EntriesOf(2, Laplacian)(given, outputs)
    assert every == WantedEntries(2, Laplacian, ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)))
    paired = EntriesOf(1, Diagonal, paired=True)(given, outputs)
    assert paired == WantedEntries(1, Diagonal, ((0, 0), (1, 1)))


def test_mixed_derivatives_may_depend_on_the_coordinates() -> None:
    outputs = Outputs(trees.LEAF, ((),))
    fixed = MultiIndices.around([(1, 0, 0)])
    assert PartialsOf(fixed)(request(X), outputs).indices is fixed
    gradient = lambda request: MultiIndices.around([(2, *(0,) * (request.input_shapes[0][0] - 1))])
    assert PartialsOf(gradient)(request(X), outputs).indices.wanted == {(2, 0, 0)}
    assert PartialsOf(gradient)(request(X[:, :1]), outputs).indices.wanted == {(2,)}


def test_in_half_precision_nothing_is_summed_on_the_way() -> None:
    outputs, indices = Outputs(trees.LEAF, ((),)), MultiIndices.around([], [HEAT])
    for dtype, sums in ((torch.float16, 0), (torch.bfloat16, 1), (torch.float64, 1)):
        wanted = PartialsOf(indices)(request(X.to(dtype)), outputs)
        assert len(wanted.indices.sums) == sums
    mixed = PartialsOf(indices)(request((X, X.half()), argnums=0), outputs)
    assert not mixed.indices.sums


def test_quantities_are_told_apart_by_name_and_key() -> None:
    make = lambda name, key=None: Quantity(name, 1, lambda *_: None, lambda *_: None, key)  # type: ignore[arg-type, return-value]
    one = make("partials", (1, 2))
    assert one.identity == make("partials", (1, 2)).identity
    assert len({one.identity, make("partials", (1, 3)).identity, make("partials").identity, make("jac").identity}) == 4
    assert one.refuse is None and one.refuse_inputs is None
