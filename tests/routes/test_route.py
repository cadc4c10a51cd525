"""``jacfunc/routes/route.py``: what a new route has to say, and what it need not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tasks import LEAVES, entries_of, made

from jacfunc.errors import UnsupportedOperationError
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes.collect import Block, Entries, Partials
from jacfunc.routes.route import Route
from jacfunc.routes.task import Evaluation, Task

X = LEAVES[0]


class Stencil(Route):
    """First derivatives by differences, and no more than a route must have."""

    name = "stencil"
    methods = ("auto",)

    def rows(self, order: int, inputs: int, outputs: int) -> int:
        return inputs

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        return 1 + 2 * inputs

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        return float("inf")

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        def along(*tangents: torch.Tensor) -> Any:
            ends = []
            for h in (1e-4, -1e-4):
                moved = (leaf + h * tangent for leaf, tangent in zip(task.leaves, tangents, strict=True))
                ends.append(task.evaluate(*moved)[0])
            outputs, aux = task.evaluate(*task.leaves)
            return tuple((one - two) / 2e-4 for one, two in zip(*ends, strict=True)), outputs, aux

        return task.swept_columns(along, entries)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        raise UnsupportedOperationError("differences of differences")


def test_what_a_route_says_is_enough_to_compute() -> None:
    task = made(torch.sin, X, chunk_size=2)
    entries = entries_of(task, Block)
    Stencil().first_order(task, entries)
    torch.testing.assert_close(entries.results()[0, 0], torch.diag_embed(X.cos()), rtol=0, atol=1e-7)


def test_what_it_leaves_out() -> None:
    route = Stencil()
    assert (route.last_resort, route.on_jets, route.slower) == (False, False, "row by row")
    assert route.hindrance((X,)) is None
    assert Route.rows(route, 1, 3, 7) == Route.rows(route, 2, 3, 7) == 3
    task = made(torch.sin, X)
    with pytest.raises(UnsupportedOperationError, match="the route stencil has no mixed derivatives"):
        route.partials(task, Partials(MultiIndices.around([(1, 0, 0)]), torch.double))


def test_sums_are_carried_each_derivative_by_itself() -> None:
    heat = MultiIndices.around([], [(((2, 0), 1.0), ((0, 2), 1.0))])
    carried = Stencil().carried(heat)
    assert carried.wanted == {(2, 0), (0, 2)} and not carried.sums and heat.sums
    alone = MultiIndices.around([(1, 1)])
    assert Stencil().carried(alone) is alone


@pytest.mark.parametrize("name", ["cost", "cost_of_partials", "first_order", "second_order"])
def test_what_it_must_not_leave_out(name: str) -> None:
    members = {key: value for key, value in vars(Stencil).items() if key != name and not key.startswith("_")}
    incomplete = type("Incomplete", (Route,), members)
    with pytest.raises(TypeError, match=f"abstract.*{name}"):
        incomplete()
