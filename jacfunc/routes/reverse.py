"""The reverse route: cotangents pulled back with ``torch.func.vjp``, one row for each coordinate of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..evaluation.linear import pullback, pushforward
from ..jet.multiindices import MultiIndices
from . import nested
from .collect import Entries, Partials, joined, own_coordinates
from .route import Route
from .task import Evaluation, Task, Tensors
from .verify import NoTransposeError, verify_backward, verify_transpose


class Reverse(Route):
    """Cotangents pulled back through the function."""

    name = "reverse"
    methods = ("auto", "taylor", "reverse")

    def rows(self, order: int, inputs: int, outputs: int) -> int:
        """One for each coordinate of the output, and at second order for each pair with one of the input."""
        return outputs if order == 1 else outputs * inputs

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        """That of an evaluation, and of a pass back for each row."""
        return 1 + outputs if order == 1 else 1 + outputs * (1 + inputs)

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        """That of each order nested in the one below."""
        return nested.cost_by_gradients(indices.separate, outputs)

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by rows; ``f`` is evaluated once."""
        outputs, pull, aux = pullback(task.evaluate, *task.leaves)
        if task.mode.verified and task.mode.differentiated_again:
            _verify(task, pull, outputs)
        for start, stop in task.outputs.chunks(task.chunk_size):
            entries.take_rows(start, stop, task.through(pull, task.outputs.basis(start, stop, outputs, task.batch)))
        return Evaluation(outputs, aux)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by cells: the gradient of each output row is pulled back again for each input row.

        ``f`` is evaluated once for each chunk of output rows; ``chunk_size`` bounds the pairs of rows in flight.
        """
        if task.mode.verified:
            verify_backward(task)
        outer = task.chunk_size and max(1, task.chunk_size // max(task.inputs.total, 1))
        like = [task.leaves[0]] * len(task.outputs.shapes)  # the outputs are not known before their evaluation
        return task.swept(
            lambda *cotangents: _second_gradients(task, cotangents), task.outputs, outer, like, entries.take_cells
        )

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Mixed derivatives of any order, each from a gradient of one of the order below; ``f`` is evaluated once."""
        if task.mode.verified:
            verify_backward(task)
        return nested.swept(task, partials, _grown)


def _verify(task: Task, pull: Callable[..., Tensors], outputs: Tensors) -> None:
    """Raise if a derivative of this one would be wrong without a word; one that would raise is good for a value."""
    try:
        verify_transpose(task, pull, pushforward(pull, outputs), outputs)
    except NoTransposeError:
        raise
    except RuntimeError:
        return


def _second_gradients(task: Task, cotangents: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """For one output row: its second derivatives ``(numel(I), *batch)`` by each input leaf; outputs; aux."""

    def gradient(*leaves: torch.Tensor) -> tuple[Tensors, Any]:
        outputs, pull, aux = pullback(task.evaluate, *leaves)
        return pull(*(c.to(output.dtype) for c, output in zip(cotangents, outputs, strict=True))), (outputs, aux)

    _, pull, (outputs, aux) = pullback(gradient, *task.leaves)

    parts: list[list[torch.Tensor]] = [[] for _ in task.leaves]
    for start, stop in task.input_chunks():
        hessian = task.through(pull, task.inputs.basis(start, stop, task.leaves, task.batch))
        for segment in task.inputs.segments(start, stop):
            block = hessian[segment.leaf][segment.where]
            parts[segment.leaf].append(own_coordinates(block, task.batch, segment.start))
    empty = [leaf.new_zeros((0, *task.batch)) for leaf in task.leaves]
    return tuple(joined(part) if part else none for part, none in zip(parts, empty, strict=True)), outputs, aux


def _grown(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
    def following(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        tensors, pull, lower = pullback(level, *leaves)

        def gradients(place: int, cotangent: torch.Tensor) -> Tensors:
            zeros = [torch.zeros_like(tensor) for tensor in tensors]
            zeros[place] = cotangent
            return pull(*zeros)

        return nested.by_gradients(task, parents, gradients, tensors, lower)

    return following
