"""Tasks for routes, made by hand of plain functions, and one function with all its derivatives written down.

No test lives here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jacfunc.evaluation.basis import Rows
from jacfunc.jet import Jet
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.routes.collect import Block, Entries, HessianDiagonal, Laplacian, Pair, Partials
from jacfunc.routes.route import Route
from jacfunc.routes.task import Mode, Task

Tensor = torch.Tensor
Function = Callable[..., Any]


def tensors(*rows: Any) -> Tensor:
    """In double precision."""
    return torch.tensor(rows, dtype=torch.double)


def made(f: Function, *leaves: Tensor, order: int = 1, chunk_size: int | None = None, **mode: Any) -> Task:
    """A task of one sample axis for a function of the leaves, which gives a tensor or several; aux is the first, twice."""

    def tensors_of(output: Any) -> tuple[Any, ...]:
        return output if isinstance(output, tuple) else (output,)

    def evaluate(*leaves: Tensor, others_copied: bool = False) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return tensors_of(f(*leaves)), (2 * leaves[0],)

    def propagate(jets: Any, others_copied: bool = False) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
        assert all(type(jet) is Jet for jet in jets)
        return tensors_of(f(*jets)), (2 * jets[0].value,)

    with torch.no_grad():
        outputs = tensors_of(f(*(leaf.detach().clone() for leaf in leaves)))
    inputs = Rows(tuple(tuple(leaf.shape[1:]) for leaf in leaves))
    rows = Rows(tuple(tuple(output.shape[1:]) for output in outputs))
    batch = tuple(leaves[0].shape[:1])
    return Task(order, evaluate, propagate, leaves, batch, inputs, rows, chunk_size, None, Mode(**mode), None, ())


def entries_of(task: Task, entry: Callable[[Pair], Any]) -> Entries:
    """An entry for each pair of an output and an input leaf."""
    by_pair = {
        (m, k): entry(Pair(task.batch, output, shape, task.leaves[k]))
        for m, output in enumerate(task.outputs.shapes)
        for k, shape in enumerate(task.inputs.shapes)
    }
    return Entries(by_pair, task.inputs, task.outputs, task.leaves)


class Calls:
    """How many there were; no list, by whose contents a function that holds it would be another one."""

    def __init__(self) -> None:
        self.count = 0

    def clear(self) -> None:
        """Count anew."""
        self.count = 0

    def __len__(self) -> int:
        return self.count


def counted(f: Function) -> tuple[Function, Calls]:
    """The function, and how often it was called."""
    calls = Calls()

    def counting(*leaves: Any) -> Any:
        calls.count += 1
        return f(*leaves)

    return counting, calls


# -------------------------------------------------------------------- a function with its derivatives

LEAVES = tensors([0.3, -1.2, 0.5], [2.0, 0.7, -0.4]), tensors([1.5, -0.5], [0.8, 1.1])
FACTOR = torch.tensor(3.0, dtype=torch.double, requires_grad=True)


def field(x: Any, w: Any) -> tuple[Any, Any]:
    """``(c x0 x1 w0, c exp(x2) w1^2)`` and ``c (sin x0 + sin x1 + sin x2) w0``, by ``c``, x and w."""
    pair = torch.stack([x[:, 0] * x[:, 1] * w[:, 0], torch.exp(x[:, 2]) * w[:, 1] ** 2], 1)
    return pair * FACTOR, x.sin().sum(1) * w[:, 0] * FACTOR


def _truth() -> tuple[dict[Any, Tensor], dict[Any, Tensor], dict[Any, Tensor]]:
    (a, b, c), (u, v) = LEAVES[0].unbind(1), LEAVES[1].unbind(1)
    zero, e = torch.zeros_like(a), c.exp()
    stack = lambda *rows: 3 * torch.stack([torch.stack(row, -1) for row in rows], 1)
    line = lambda *row: 3 * torch.stack(row, -1)
    firsts = {
        (0, 0): stack([b * u, a * u, zero], [zero, zero, e * v**2]),
        (0, 1): stack([a * b, zero], [zero, 2 * e * v]),
        (1, 0): line(a.cos() * u, b.cos() * u, c.cos() * u),
        (1, 1): line(a.sin() + b.sin() + c.sin(), zero),
    }
    seconds = {
        (0, 0): stack([zero, zero, zero], [zero, zero, e * v**2]),
        (0, 1): stack([zero, zero], [zero, 2 * e]),
        (1, 0): line(-a.sin() * u, -b.sin() * u, -c.sin() * u),
        (1, 1): line(zero, zero),
    }
    mixed = {
        (1, 1, 0, 1, 0): (line(1 + zero, zero), 3 * zero),
        (1, 0, 0, 1, 0): (line(b, zero), 3 * a.cos()),
        (0, 0, 1, 0, 2): (line(zero, 2 * e), 3 * zero),
        (0, 0, 3, 0, 0): (line(zero, e * v**2), -3 * c.cos() * u),
        (0, 1, 0, 0, 0): (line(a * u, zero), 3 * b.cos() * u),
    }
    partials = {(leaf, index): own for index, pair in mixed.items() for leaf, own in enumerate(pair)}
    return firsts, seconds, partials


FIRSTS, SECONDS, MIXED = _truth()
LAPLACIANS = {pair: second.sum(-1) for pair, second in SECONDS.items()}
INDICES = MultiIndices.around({index for _, index in MIXED})

each_way = pytest.mark.parametrize(
    ("vectorised", "chunk_size", "recorded"),
    [
        (True, None, True),
        (True, None, False),
        (True, 2, True),
        (True, 3, False),
        (True, 1, True),
        (False, None, False),
        (False, 2, True),
    ],
)
ROUNDING = 1e-12


def _compared(evaluation: Any, found: dict[Any, Tensor], truth: dict[Any, Tensor]) -> None:
    """Values, derivatives and their gradients by the factor, in which all are linear."""
    assert not evaluation.undifferentiable
    torch.testing.assert_close(evaluation.outputs, field(*LEAVES), rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(evaluation.aux, (2 * LEAVES[0],), rtol=0, atol=0)
    torch.testing.assert_close(found, truth, rtol=ROUNDING, atol=ROUNDING)
    recorded = torch.is_grad_enabled()
    for group in (found.values(), evaluation.outputs):
        assert any(tensor.requires_grad for tensor in group) is recorded
    assert recorded or not evaluation.aux[0].requires_grad
    if recorded:
        weighted = [
            (tensor.cos() * derivative) for tensor, derivative in zip(truth.values(), found.values(), strict=True)
        ]
        (gradient,) = torch.autograd.grad(sum(tensor.sum() for tensor in weighted), FACTOR)
        expected = sum((tensor.cos() * tensor).sum() for tensor in truth.values()) / 3
        torch.testing.assert_close(gradient, expected, rtol=ROUNDING, atol=ROUNDING)


def check_first(route: Route, **given: Any) -> None:
    """All blocks of the Jacobian."""
    task = _checked(**given)
    entries = entries_of(task, Block)
    _compared(route.first_order(task, entries), entries.results(), FIRSTS)


def check_second(route: Route, **given: Any) -> None:
    """Diagonals of the Hessians, and their sums."""
    for entry, truth in ((HessianDiagonal, SECONDS), (Laplacian, LAPLACIANS)):
        task = _checked(order=2, **given)
        entries = entries_of(task, entry)
        _compared(route.second_order(task, entries), entries.results(), truth)


def check_partials(route: Route, highest: int = 3, **given: Any) -> None:
    """Mixed derivatives up to an order, at most the third."""
    truth = {(leaf, index): own for (leaf, index), own in MIXED.items() if sum(index) <= highest}
    indices = MultiIndices.around({index for _, index in truth})
    partials = Partials(route.carried(indices), torch.double)
    evaluation = route.partials(_checked(order=indices.order, **given), partials)
    assert set(partials.derivatives) == set(truth)
    _compared(evaluation, {key: partials.derivatives[key] for key in truth}, truth)


def _checked(**given: Any) -> Task:
    return made(field, *LEAVES, verified=True, differentiated_again=torch.is_grad_enabled(), **given)
