"""``jacfunc/routes/points.py``: points, directions and numbers of what is verified."""

from __future__ import annotations

import torch
from tasks import LEAVES, made

from jacfunc.evaluation.rng import RandomState
from jacfunc.routes.points import elsewhere, moved, others, projected, quotient, recorded, replayed, waves

X = LEAVES[0]


def test_waves_are_the_same_at_every_call_and_have_no_symmetry() -> None:
    (one,), (other,) = waves([X]), waves([X.clone()])
    assert torch.equal(one, other) and one.shape == X.shape and one.dtype == X.dtype
    assert one.unique().numel() == one.numel() and not bool((one == 0).any())
    assert one.abs().max() < 2


def test_other_points_are_finite_wherever_those_given_are() -> None:
    given = [torch.tensor([[float("nan"), float("inf")], [1.0, -float("inf")]])]
    (beside,), (usual,) = others(given)
    assert bool(beside.isfinite().all()) and torch.equal(usual, waves(given)[0])
    assert torch.equal(beside, elsewhere(given)[0])
    assert torch.allclose(moved([X], 0.5)[0], X + 0.5 * waves([X])[0])


def test_a_projection_is_a_number_a_sample_and_the_size_of_its_terms() -> None:
    task = made(torch.sin, X)
    value, size = projected((X,), (-X,), task)
    assert torch.allclose(value, -(X**2).sum(1)) and torch.allclose(size, (X**2).sum(1))


def test_a_quotient_and_what_is_between_both_sides_of_a_kink() -> None:
    step = 1e-3
    at = lambda x: torch.tensor([x**2, abs(x)], dtype=torch.double)
    middle, half = quotient(at(0.0), at(-step), at(step), step)
    assert torch.allclose(middle, torch.zeros(2).double(), atol=1e-9)
    assert half[0] <= 2 * step and half[1] == 1


def test_an_evaluation_that_is_recorded_draws_as_the_first_did() -> None:
    task = made(lambda x: x * torch.rand((), dtype=torch.double), X)
    task.random_state = RandomState.capture()
    first = torch.rand((), dtype=torch.double) * X[0]
    leaves, outputs = recorded(task, task.leaves)
    assert torch.equal(outputs[0][0].detach(), first)
    assert outputs[0].requires_grad and leaves[0].requires_grad and leaves[0] is not X
    state = torch.get_rng_state()
    with replayed(task):
        recorded(task, task.leaves)
    assert torch.equal(state, torch.get_rng_state())
