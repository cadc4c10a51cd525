"""``jacfunc/routes/autograd.py``: row by row against derivatives written down; where it cannot work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functions import Detaching, OldStyle, OnlyOnce
from tasks import LEAVES, check_first, check_partials, check_second, counted, each_way, entries_of, field, made
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes.autograd import Autograd
from jacfunc.routes.collect import Block, HessianDiagonal, Partials
from jacfunc.routes.verify import NoTransposeError

AUTOGRAD = Autograd()
X = LEAVES[0]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@each_way
def test_first_and_second_derivatives(vectorised: bool, chunk_size: int | None, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_first(AUTOGRAD, vectorised=vectorised, chunk_size=chunk_size)
        check_second(AUTOGRAD, vectorised=vectorised, chunk_size=chunk_size)


@pytest.mark.parametrize("recorded", [True, False])
def test_mixed_derivatives(recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        check_partials(AUTOGRAD)


def test_it_evaluates_once() -> None:
    f, calls = counted(field)
    task = made(f, *LEAVES)
    for run, entry in ((AUTOGRAD.first_order, Block), (AUTOGRAD.second_order, HessianDiagonal)):
        calls.clear()
        run(task, entries_of(task, entry))
        assert len(calls) == 1
    calls.clear()
    AUTOGRAD.partials(task, Partials(MultiIndices.around([(1, 1, 0, 0, 0)]), torch.double))
    assert len(calls) == 1


REBUILT = {
    "old style": lambda x: OldStyle.apply(x),
    "checkpoint": lambda x: checkpoint(torch.sin, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", REBUILT)
def test_what_torch_func_cannot_transform(name: str) -> None:
    task = made(REBUILT[name], X, order=2, verified=True)
    first, second = entries_of(task, Block), entries_of(task, HessianDiagonal)
    AUTOGRAD.first_order(task, first)
    AUTOGRAD.second_order(task, second)
    torch.testing.assert_close(first.results()[0, 0], torch.diag_embed(X.cos()))
    torch.testing.assert_close(second.results()[0, 0], torch.diag_embed(-X.sin()))


def test_leaves_of_the_callers_graph_stay_in_it() -> None:
    x = X.clone().requires_grad_()
    task = made(lambda x: x**3, x * 2)
    entries = entries_of(task, Block)
    evaluation = AUTOGRAD.first_order(task, entries)
    (gradient,) = torch.autograd.grad(entries.results()[0, 0].sum() + evaluation.outputs[0].sum(), x)
    torch.testing.assert_close(gradient, 24 * X + 24 * X**2)  # of 3 (2x)^2 and (2x)^3
    with torch.no_grad():
        evaluation = AUTOGRAD.first_order(task, entries_of(task, Block))
    assert not evaluation.outputs[0].requires_grad and not evaluation.aux[0].requires_grad


class OldOnce(torch.autograd.Function):
    """In the old style, and once_differentiable."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize("function", [OldOnce, OnlyOnce, Detaching])
def test_a_result_without_derivatives_is_marked_where_it_is_in_a_graph(function: Any) -> None:
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            task = made(lambda x: function.apply(x), X, verified=True)
            entries = entries_of(task, Block)
            evaluation = AUTOGRAD.first_order(task, entries)
        assert evaluation.undifferentiable is recorded
        torch.testing.assert_close(entries.results()[0, 0].detach(), torch.diag_embed(X.cos()))
    known = made(lambda x: function.apply(x), X, undifferentiable=True)
    assert AUTOGRAD.first_order(known, entries_of(known, Block)).undifferentiable


@pytest.mark.parametrize("function", [OldOnce, OnlyOnce, Detaching])
def test_second_derivatives_of_it_are_refused_and_no_zeros(function: Any) -> None:
    task = made(lambda x: function.apply(x), X, order=2, verified=True)
    refused = NoTransposeError if function is Detaching else RuntimeError
    with pytest.raises(refused):
        AUTOGRAD.second_order(task, entries_of(task, HessianDiagonal))
    with pytest.raises(refused):
        AUTOGRAD.partials(task, Partials(MultiIndices.around([(2, 0, 0)]), torch.double))


def test_where_it_cannot_work() -> None:
    assert AUTOGRAD.hindrance((X,)) is None
    said = []

    def f(x: torch.Tensor) -> torch.Tensor:
        said.append(AUTOGRAD.hindrance((x,)))
        return x

    torch.func.vmap(f)(X)
    with forward_ad.dual_level():
        said.append(AUTOGRAD.hindrance((X, forward_ad.make_dual(X, X))))
        assert AUTOGRAD.hindrance((X,)) is None
    assert said == [
        "torch.autograd.grad cannot run inside another torch.func transform",
        "torch.autograd.grad forgets the tangents of forward mode",
    ]


def test_what_it_costs() -> None:
    assert [AUTOGRAD.rows(order, 4, 7) for order in (1, 2)] == [7, 28]
    assert [AUTOGRAD.cost(order, 4, 7) for order in (1, 2)] == [8, 36]
