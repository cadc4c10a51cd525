"""``jacfunc/routes/dual.py``: dual numbers against derivatives written down; the lock; what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from functions import Dual as Formula
from functions import OldStyle
from tasks import LEAVES, check_first, check_partials, check_second, counted, entries_of, field, made
from torch.utils.checkpoint import checkpoint

from jacfunc.core import caches
from jacfunc.jet import CannotFollowError
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes.collect import Block, HessianDiagonal, Partials
from jacfunc.routes.dual import Dual
from jacfunc.routes.task import Task

DUAL = Dual()
X = LEAVES[0]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.mark.parametrize(
    ("vectorised", "chunk_size", "recorded"), [(True, None, False), (True, 2, True), (False, None, True)]
)
def test_first_and_second_derivatives(vectorised: bool, chunk_size: int | None, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_first(DUAL, vectorised=vectorised, chunk_size=chunk_size)
        check_second(DUAL, vectorised=vectorised, chunk_size=chunk_size)


@pytest.mark.parametrize("recorded", [True, False])
def test_mixed_derivatives(recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_partials(DUAL, 2)


@pytest.mark.parametrize(("chunk_size", "chunks"), [(None, 1), (2, 3), (1, 5)])
def test_each_chunk_evaluates_anew(chunk_size: int | None, chunks: int) -> None:
    f, calls = counted(field)
    task = made(f, *LEAVES, chunk_size=chunk_size)
    calls.clear()
    DUAL.first_order(task, entries_of(task, Block))
    assert len(calls) == chunks
    DUAL.second_order(task, entries_of(task, HessianDiagonal))
    assert len(calls) == 2 * chunks


def runs(task: Task) -> Iterator[None]:
    """The three ways to run."""
    yield DUAL.first_order(task, entries_of(task, Block))
    yield DUAL.second_order(task, entries_of(task, HessianDiagonal))
    yield DUAL.partials(task, Partials(MultiIndices.around([(2, 0, 0)]), torch.double))


def test_the_lock_is_held_while_it_runs_and_not_after() -> None:
    taken: list[bool] = []

    def other() -> None:
        taken.append(caches.LOCK.acquire(blocking=False))
        if taken[-1]:
            caches.LOCK.release()

    def f(x: torch.Tensor) -> torch.Tensor:
        if torch._C._functorch.get_dynamic_layer_stack_depth():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return x.sin()

    for _ in runs(made(f, X)):
        assert taken and not any(taken)
        taken.clear()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert taken == [True]
        taken.clear()


def test_a_forward_formula_serves_the_first_order_and_no_other() -> None:
    """Nested, torch takes what it gives for a constant."""
    task = made(lambda x: Formula.apply(x), X, verified=True)
    entries = entries_of(task, Block)
    DUAL.first_order(task, entries)
    torch.testing.assert_close(entries.results()[0, 0], torch.diag_embed(X.cos()))
    with pytest.raises(RuntimeError, match="takes the derivative of an autograd.Function for a constant"):
        DUAL.second_order(task, entries_of(task, HessianDiagonal))
    with pytest.raises(RuntimeError, match="takes the derivative of an autograd.Function for a constant"):
        DUAL.partials(task, Partials(MultiIndices.around([(2, 0, 0)]), torch.double))
    partials = Partials(MultiIndices.around([(1, 0, 0)]), torch.double)
    DUAL.partials(task, partials)
    torch.testing.assert_close(partials.derivatives[0, (1, 0, 0)][:, 0], X[:, 0].cos())


def test_what_saves_for_a_backward_of_its_own_is_refused() -> None:
    task = made(lambda x: checkpoint(torch.sin, x, use_reentrant=False), X)
    with pytest.raises(RuntimeError, match="saved tensor hooks|_NoopSaveInputs"):
        DUAL.first_order(task, entries_of(task, Block))
    task = made(lambda x: OldStyle.apply(x), X)
    with pytest.raises(RuntimeError, match="setup_context"):
        DUAL.first_order(task, entries_of(task, Block))


def test_leaves_whose_elements_share_memory() -> None:
    x = X[:, :1].expand(2, 3)
    task = made(lambda x: x**3, x)
    entries = entries_of(task, Block)
    DUAL.first_order(task, entries)
    torch.testing.assert_close(entries.results()[0, 0], torch.diag_embed(3 * x**2))


def test_an_inner_no_grad_is_constant_also_under_the_callers_no_grad() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_grad_enabled())
        return x * 2

    seen: list[bool] = []
    with torch.no_grad():
        task = made(f, X)
        seen.clear()
        DUAL.first_order(task, entries_of(task, Block))
        assert seen == [True] and not torch.is_grad_enabled()


def test_what_it_costs() -> None:
    assert [DUAL.rows(order, 4, 7) for order in (1, 2)] == [4, 4]
    assert [DUAL.cost(order, 4, 7) for order in (1, 2)] == [9, 13]


MATRICES = torch.randn(4, 9, dtype=torch.double, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.linalg.slogdet(x.view(-1, 3, 3)).logabsdet,
        lambda x: torch.logdet(x.view(-1, 3, 3) @ x.view(-1, 3, 3).mT),
        lambda x: torch.linalg.solve(x.view(-1, 3, 3), x[:, :3]),
    ],
    ids=["slogdet", "logdet", "solve"],
)
def test_second_derivatives_that_torch_takes_in_part_for_constants_are_refused(
    f: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """https://github.com/pytorch/pytorch/issues/192540."""
    task = made(f, MATRICES, verified=True)
    DUAL.first_order(task, entries_of(task, Block))
    with pytest.raises(CannotFollowError, match="nested forward mode takes part of a derivative for a constant"):
        DUAL.second_order(task, entries_of(task, HessianDiagonal))
    with pytest.raises(CannotFollowError, match="nested forward mode takes part of a derivative for a constant"):
        DUAL.partials(task, Partials(MultiIndices.around([(2, *[0] * 8)]), torch.double))


def test_they_are_refused_beside_a_sample_that_has_none() -> None:
    x = MATRICES.clone()
    x[0] = 1.0
    task = made(lambda x: torch.linalg.slogdet(x.view(-1, 3, 3)).logabsdet, x, verified=True)
    with pytest.raises(CannotFollowError, match="nested forward mode takes part of a derivative for a constant"):
        DUAL.second_order(task, entries_of(task, HessianDiagonal))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.relu() * x,
        lambda x: (x / MATRICES.abs().max()).clamp(-3, 3).exp(),
        lambda x: x.sin().cumsum(1),
        lambda x: torch.linalg.inv(x.view(-1, 3, 3)).sum(2),
        lambda x: 3 * x,
        lambda x: x.abs().log(),
    ],
    ids=["relu", "exp", "sin", "inv", "linear", "log"],
)
def test_those_that_are_right_are_not(
    f: Callable[[torch.Tensor], torch.Tensor], scale: float, dtype: torch.dtype
) -> None:
    x = (MATRICES * scale).to(dtype)
    task = made(f, x, verified=True)
    DUAL.second_order(task, entries_of(task, HessianDiagonal))
