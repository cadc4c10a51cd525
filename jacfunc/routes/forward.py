"""The forward route: tangents pushed through the function, one row for each coordinate of the input.

The pushforward is the transpose of the pullback, itself taken with ``torch.func.vjp``: the pullback is linear in
its cotangent, so its own vjp is the Jacobian-vector product [1].  Against ``torch.func.jvp`` this evaluates ``f``
once for all chunks, needs no lock, compiles for changing batch sizes, and in eager mode gave a value faster in every
size that was measured, and a gradient in all but one (``docs/measurements.md``, which also says where its derivatives
are wrong).  What has no second derivative by reverse mode goes by the dual route instead.

[1] J. Townsend, "A new trick for calculating Jacobian vector products", 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..evaluation.linear import pullback, pushforward
from ..jet.multiindices import MultiIndices
from . import nested
from .collect import Entries, Partials, joined
from .hessians import Hessians
from .route import Route
from .task import Evaluation, Task, Tensors
from .verify import verify_recorded, verify_transpose
from .verify_tape import verify_again, verify_tape


class Forward(Route):
    """Tangents pushed through the function by the transpose of its pullback."""

    name = "forward"
    methods = ("auto", "taylor", "forward")

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        """That of a pullback, and of a row through it for each coordinate."""
        # Measured: a row at second order costs about two and a half of one of the reverse route.
        return 2 + inputs if order == 1 else 3 + 2.5 * inputs

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        """That of each order nested in the one below."""
        return 1 + nested.cost_by_tangents(indices.separate)

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by columns; ``f`` is evaluated once."""
        outputs, pull, aux = pullback(task.evaluate, *task.leaves)
        push = pushforward(pull, outputs)
        if task.mode.verified:
            verify_transpose(task, pull, push, outputs, by_rows=True)
            verify_recorded(task, pull, outputs)
            if task.mode.differentiated_again:
                verify_tape(task)
        for start, stop in task.input_chunks():
            tangents = task.through(push, task.inputs.basis(start, stop, task.leaves, task.batch))
            entries.take_columns(start, stop, tangents)
        return Evaluation(outputs, aux)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by columns of second derivatives; ``f`` is evaluated once for each chunk."""

        def along(*tangents: torch.Tensor) -> tuple[Tensors, Tensors, Tensors]:
            _, push, outputs, aux = _pushed(task, tangents)
            return push(*tangents), outputs, aux

        if task.mode.verified:
            verify_again(task, by_rows=True)
        return task.swept_columns(along, entries)

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Mixed derivatives of any order, each a pushforward of one of the order below; ``f`` is evaluated once."""
        if task.mode.verified:
            verify_again(task, by_rows=True)
        return nested.swept(task, partials, _grown)

    def cost_of_hessian(self, inputs: int, outputs: int) -> float:
        """That of a row through a row, for each pair of them."""
        return 3 + 1.25 * inputs**2  # measured beside the reverse route

    def hessian(self, task: Task, hessians: Hessians) -> Evaluation:
        """Fill whole Hessians by columns: what is pushed along one row is pushed again along each."""

        def along(*tangents: torch.Tensor) -> tuple[Tensors, Tensors, Tensors]:
            firsts, push, outputs, aux = _pushed(task, tangents)
            chunks = [
                task.through(push, task.inputs.basis(start, stop, task.leaves, task.batch))
                for start, stop in task.input_chunks()
            ]
            return (*firsts, *map(joined, map(list, zip(*chunks, strict=True)))), outputs, aux

        if task.mode.verified:
            verify_again(task, by_rows=True)
        outer = task.chunk_size and max(1, task.chunk_size // max(task.inputs.total, 1))
        return task.swept(along, task.inputs, outer, task.leaves, hessians.take_columns)


def _pushed(task: Task, tangents: Tensors) -> tuple[Tensors, Callable[..., Tensors], Tensors, Tensors]:
    """The derivatives along a row, how they are pushed along another, outputs and aux; ``f`` is evaluated."""

    def first(*leaves: torch.Tensor) -> tuple[Tensors, Any]:
        outputs, pull, aux = pullback(task.evaluate, *leaves)
        return pushforward(pull, outputs)(*tangents), (outputs, aux)

    firsts, pull, (outputs, aux) = pullback(first, *task.leaves)
    return firsts, pushforward(pull, firsts), outputs, aux


def _grown(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
    def following(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        tensors, pull, lower = pullback(level, *leaves)
        push = pushforward(pull, tensors)
        along = {by: push(*task.direction(by)) for _, by in parents}
        return nested.by_tangents(task, parents, along, tensors, lower)

    return following
