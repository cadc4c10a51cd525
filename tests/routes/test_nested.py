"""``jacfunc/routes/nested.py``: levels grown by rules of a function whose derivatives are its multiples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tasks import LEAVES, counted, made

from jacfunc.evaluation.rng import RandomState
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes import nested
from jacfunc.routes.collect import Partials
from jacfunc.routes.task import Task

X, W = LEAVES[0][:, :2], LEAVES[1][:, :1]
RATES = ((2.0, 3.0, -1.0), (0.5, -2.0, 4.0))
"""Of two outputs by x0, x1 and w: ``exp(r . (x, w))``, so a derivative by a coordinate is a multiple."""


def waves(x: Any, w: Any) -> tuple[Any, ...]:
    together = torch.cat([x, w], 1)
    one, two = (torch.exp(together @ torch.tensor(rate, dtype=torch.double)) for rate in RATES)
    return one, torch.stack([two, -two], 1)


def truth(leaf: int, index: tuple[int, ...]) -> torch.Tensor:
    factor = torch.tensor(RATES[leaf], dtype=torch.double).pow(torch.tensor(index)).prod()
    return waves(X, W)[leaf] * factor


def by_tangents(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
    def following(*leaves: torch.Tensor) -> Any:
        tensors, lower = level(*leaves)
        coordinates = {by for _, by in parents}
        along = {by: tuple(t * RATES[n % 2][by] for n, t in enumerate(tensors)) for by in coordinates}
        return nested.by_tangents(task, parents, along, tensors, lower)

    return following


def by_gradients(calls: list[int]) -> nested.Grow:
    def grow(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
        def following(*leaves: torch.Tensor) -> Any:
            tensors, lower = level(*leaves)

            def gradients(place: int, cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
                calls.append(place)
                assert cotangent.shape == tensors[place].shape
                assert torch.equal(cotangent.flatten(1).sum(1) if cotangent.dim() > 1 else cotangent, torch.ones(2))
                along = (tensors[place] * cotangent).reshape(2, -1).sum(1, keepdim=True)
                rates = torch.tensor(RATES[place % 2], dtype=torch.double)
                return along * rates[:2], along * rates[2:]

            return nested.by_gradients(task, parents, gradients, tensors, lower)

        return following

    return grow


SETS = [
    [(1, 1, 0)],
    [(0, 2, 1), (1, 0, 0)],
    [(3, 0, 0), (0, 0, 2), (0, 1, 1)],
    [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
    [(0, 0, 0)],
]


@pytest.mark.parametrize("grow", [by_tangents, by_gradients([])])
@pytest.mark.parametrize("wanted", SETS)
def test_levels_have_the_derivatives_that_are_wanted_and_no_others(
    wanted: list[tuple[int, ...]], grow: nested.Grow
) -> None:
    f, calls = counted(waves)
    task, partials = made(f, X, W), Partials(MultiIndices.around(wanted), torch.double)
    calls.clear()
    evaluation = nested.swept(task, partials, grow)
    assert len(calls) == 1
    torch.testing.assert_close(evaluation.outputs, waves(X, W))
    torch.testing.assert_close(evaluation.aux, (2 * X,))
    kept = {index for index in wanted if any(index)}
    assert set(partials.derivatives) == {(leaf, index) for leaf in (0, 1) for index in kept}
    for (leaf, index), found in partials.derivatives.items():
        torch.testing.assert_close(found, truth(leaf, index))


def test_a_gradient_is_taken_once_for_all_coordinates() -> None:
    """Three first derivatives of three output coordinates come of three gradients."""
    calls: list[int] = []
    indices = MultiIndices.around([(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    nested.swept(made(waves, X, W), Partials(indices, torch.double), by_gradients(calls))
    assert calls == [0, 1, 1]


def test_an_output_without_elements_has_derivatives_without_elements() -> None:
    task = made(lambda x: x[:, :0], X)
    partials = Partials(MultiIndices.around([(1, 0)]), torch.double)

    def grow(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
        def following(*leaves: torch.Tensor) -> Any:
            tensors, lower = level(*leaves)
            return nested.by_gradients(task, parents, lambda place, row: (), tensors, lower)

        return following

    nested.swept(task, partials, grow)
    assert partials.derivatives[0, (1, 0)].shape == (2, 0)


def test_a_sweep_starts_from_the_draw_of_the_task() -> None:
    task = made(lambda x: x * torch.rand(2, dtype=torch.double), X)
    task.random_state = RandomState.capture()
    factors = torch.rand(2, dtype=torch.double)
    evaluation = nested.swept(
        task,
        Partials(MultiIndices.around([(0, 0)]), torch.double),
        lambda task, level, _: lambda *leaves: ((), level(*leaves)[0] + level(*leaves)[1]),
    )
    first = evaluation.outputs[0] if evaluation.outputs else evaluation.aux[0]
    torch.testing.assert_close(first, X * factors)


COSTS: list[tuple[list[tuple[int, ...]], float, float]] = [
    ([(1, 0)], 1 + 1, 1 + 3),
    ([(1, 0), (0, 1)], 1 + 2, 1 + 3),  # all from one gradient of the value
    ([(1, 1)], 1 + 2 + 2, 1 + 3 * (1 + 2)),
    ([(2, 0), (0, 2)], 1 + 2 + 2 * 2, 1 + 3 * (1 + 2 * 2)),
    ([(3, 0)], 1 + 1 + 2 + 4, 1 + 3 * (1 + 2 + 4)),
]


@pytest.mark.parametrize(("wanted", "tangents", "gradients"), COSTS)
def test_costs_by_hand(wanted: list[tuple[int, ...]], tangents: float, gradients: float) -> None:
    """A pass in a pass costs two, one in that four; gradients are of three output coordinates."""
    indices = MultiIndices.around(wanted)
    cost: Callable[[MultiIndices], float] = nested.cost_by_tangents
    assert cost(indices) == tangents and nested.cost_by_gradients(indices, 3) == gradients
