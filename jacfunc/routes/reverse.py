"""The reverse route: cotangents pulled back with ``torch.func.vjp``, one row for each coordinate of the output."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from ..core.reasons import UNIMPLEMENTED
from ..evaluation.linear import pullback, pushforward
from . import nested
from .collect import Entries, Partials, joined, own_coordinates
from .hessians import Hessians
from .route import PullingRoute
from .task import Evaluation, Task, Tensors
from .verify import NoTransposeError, verify_recorded, verify_transpose
from .verify_tape import OffTapeError, verify_again, verify_tape


class Reverse(PullingRoute):
    """Cotangents pulled back through the function."""

    name = "reverse"
    methods = ("auto", "taylor", "reverse")

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by rows; ``f`` is evaluated once."""
        outputs, pull, aux = pullback(task.evaluate, *task.leaves)
        undifferentiable = task.mode.undifferentiable
        if task.mode.verified:
            verify_recorded(task, pull, outputs)
            undifferentiable |= task.mode.differentiated_again and _lacks_gradient(task, pull, outputs)
        for start, stop in task.outputs.chunks(task.chunk_size):
            entries.take_rows(start, stop, task.through(pull, task.outputs.basis(start, stop, outputs, task.batch)))
        return Evaluation(outputs, aux, undifferentiable)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by cells: the gradient of each output row is pulled back again for each input row.

        ``f`` is evaluated once for each chunk of output rows; ``chunk_size`` bounds the pairs of rows in flight.
        """
        return self._swept_twice(task, _second_gradients, entries.take_cells)

    def _swept_twice(
        self,
        task: Task,
        along: Callable[[Task, Tensors], tuple[Tensors, Tensors, Tensors]],
        take: Callable[[int, int, Tensors], None],
    ) -> Evaluation:
        if task.mode.verified:
            verify_again(task)
        outer = task.chunk_size and max(1, task.chunk_size // max(task.inputs.total, 1))
        like = [task.leaves[0]] * len(task.outputs.shapes)  # the outputs are not known before their evaluation
        return task.swept(lambda *cotangents: along(task, cotangents), task.outputs, outer, like, take)

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Mixed derivatives of any order, each from a gradient of one of the order below; ``f`` is evaluated once."""
        if task.mode.verified:
            verify_again(task)
        return nested.swept(task, partials, _grown)

    def cost_of_hessian(self, inputs: int, outputs: int) -> float:
        """That of the diagonal, which is cut out of it here."""
        return self.cost(2, inputs, outputs)

    def rows_of_hessian(self, inputs: int, outputs: int) -> int:
        """One for each pair of an output and an input."""
        return self.rows(2, inputs, outputs)

    def hessian(self, task: Task, hessians: Hessians) -> Evaluation:
        """Fill whole Hessians by rows, as second derivatives are: what is pulled back again is kept in full."""
        return self._swept_twice(task, _hessian_rows, hessians.take_rows)


def _lacks_gradient(task: Task, pull: Callable[..., Tensors], outputs: Tensors) -> bool:
    """Whether torch has no derivative of this one, which is good for a value then; raise if it had a wrong one."""
    try:
        verify_transpose(task, pull, pushforward(pull, outputs), outputs, by_rows=False)
        verify_tape(task)
    except OffTapeError:
        return True
    except NoTransposeError:
        raise
    except RuntimeError as error:
        return re.search(UNIMPLEMENTED, str(error)) is not None
    return False


def _twice(task: Task, cotangents: Tensors) -> tuple[Tensors, Callable[..., Tensors], tuple[Tensors, Tensors]]:
    """The gradient of one output row, how it is pulled back again, and outputs and aux."""

    def gradient(*leaves: torch.Tensor) -> tuple[Tensors, Any]:
        outputs, pull, aux = pullback(task.evaluate, *leaves)
        return pull(*(c.to(output.dtype) for c, output in zip(cotangents, outputs, strict=True))), (outputs, aux)

    return pullback(gradient, *task.leaves)


def _hessian_rows(task: Task, cotangents: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """For one output row: its gradient ``(*batch, d)`` and Hessian ``(d, *batch, d)``; outputs; aux."""
    gradient, pull, (outputs, aux) = _twice(task, cotangents)
    chunks = [
        _side_by_side(task, task.through(pull, task.inputs.basis(start, stop, task.leaves, task.batch)))
        for start, stop in task.input_chunks()
    ]
    first = _side_by_side(task, gradient)
    return (first, joined(chunks) if chunks else first.new_zeros((0, *first.shape))), outputs, aux


def _side_by_side(task: Task, gradients: Tensors) -> torch.Tensor:
    """Gradients by each leaf as one by all coordinates: ``(.., *batch, d)``."""
    flat = [
        gradient.reshape(*gradient.shape[: gradient.dim() - len(shape)], size)
        for gradient, shape, size in zip(gradients, task.inputs.shapes, task.inputs.sizes, strict=True)
    ]
    return joined(flat, -1)


def _second_gradients(task: Task, cotangents: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """For one output row: its second derivatives ``(numel(I), *batch)`` by each input leaf; outputs; aux."""
    _, pull, (outputs, aux) = _twice(task, cotangents)
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
