"""Row by row with ``torch.autograd.grad``: for what ``torch.func`` cannot transform at all.

That is an ``autograd.Function`` in the old style (``forward(ctx, ...)``) and ``torch.utils.checkpoint``.  It works
eagerly and under ``.backward()``; inside another transform it cannot work, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..core.levels import inside_transform, is_dual
from ..evaluation.basis import Rows
from ..evaluation.linear import graph_gradients
from . import nested
from .collect import Entries, Partials, joined, own_coordinates
from .route import PullingRoute
from .task import Evaluation, Task, Tensors, aside
from .verify import verify_transpose
from .verify_tape import by_graph, verify_tape


class Autograd(PullingRoute):
    """Cotangents pulled back row by row through the graph of one evaluation."""

    name = "autograd"
    methods = ("auto", "taylor", "reverse")
    # Before the dual route, which works inside other transforms, where this one does not, and is the worse outside.
    last_resort = True
    slower = None

    def hindrance(self, leaves: Sequence[torch.Tensor]) -> str | None:
        """Another transform, or a tangent of forward mode."""
        if inside_transform():
            return "torch.autograd.grad cannot run inside another torch.func transform"
        return "torch.autograd.grad forgets the tangents of forward mode" if any(map(is_dual, leaves)) else None

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by rows; ``f`` is evaluated once."""
        recorded = torch.is_grad_enabled()
        leaves, outputs, aux = _evaluated(task)
        for index, cotangents in _single_rows(task, outputs):
            gradients = graph_gradients(outputs, leaves, cotangents, recorded)
            entries.take_rows(index, index + 1, tuple(gradient[None] for gradient in gradients))
        no_gradient = task.mode.verified and recorded and not _has_gradient(task, outputs, leaves)
        return _released(task, outputs, aux, recorded, no_gradient)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by cells, the gradients of the gradients; ``f`` is evaluated once."""
        recorded = torch.is_grad_enabled()
        leaves, outputs, aux = _evaluated(task)
        if task.mode.verified:
            _verify(task, outputs, leaves)
        for index, cotangents in _single_rows(task, outputs):
            gradients = graph_gradients(outputs, leaves, cotangents, True)
            cells = tuple(
                _diagonal(leaf, gradient, len(task.batch), recorded)
                for leaf, gradient in zip(leaves, gradients, strict=True)
            )
            entries.take_cells(index, index + 1, cells)
        return _released(task, outputs, aux, recorded)

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Mixed derivatives of any order, each from a gradient of one of the order below; ``f`` is evaluated once."""
        recorded = torch.is_grad_enabled()
        leaves, outputs, aux = _evaluated(task)
        if task.mode.verified:
            _verify(task, outputs, leaves)

        def grown(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
            def following(*_: torch.Tensor) -> tuple[Tensors, Tensors]:
                tensors, lower = level()

                def gradients(place: int, cotangent: torch.Tensor) -> Tensors:
                    return graph_gradients([tensors[place]], leaves, (cotangent,), True)

                with torch.enable_grad():
                    return nested.by_gradients(task, parents, gradients, tensors, lower)

            return following

        evaluation = nested.swept(replace(task, evaluate=lambda *_: (outputs, aux)), partials, grown)
        if not recorded:
            partials.derivatives.update({key: derivative.detach() for key, derivative in partials.derivatives.items()})
        return _released(task, evaluation.outputs, evaluation.aux, recorded)


@aside
def _verify(task: Task, outputs: Tensors, leaves: Tensors) -> None:
    """Raise where the pullback has no transpose or not the derivative of its values, as the other routes do."""

    def pull(*cotangents: torch.Tensor) -> Tensors:
        return graph_gradients(outputs, leaves, cotangents, True)

    def push(*tangents: torch.Tensor) -> Tensors:
        cotangents = tuple(torch.zeros_like(output).requires_grad_() for output in outputs)
        return graph_gradients(pull(*cotangents), cotangents, tangents, False)

    verify_transpose(task, pull, push, outputs, by_rows=False)
    verify_tape(task, by_graph)


def _has_gradient(task: Task, outputs: Tensors, leaves: Tensors) -> bool:
    try:
        _verify(task, outputs, leaves)
    except RuntimeError:
        return False
    return True


def _evaluated(task: Task) -> tuple[Tensors, Tensors, Tensors]:
    with torch.enable_grad():
        leaves = tuple(leaf if leaf.requires_grad else leaf.detach().requires_grad_() for leaf in task.leaves)
        outputs, aux = task.evaluate(*leaves, others_copied=True)
    return leaves, outputs, aux


def _single_rows(task: Task, outputs: Tensors) -> Iterator[tuple[int, Tensors]]:
    for start, stop in task.outputs.chunks(1):
        yield start, tuple(row[0] for row in task.outputs.basis(start, stop, outputs, task.batch))


def _diagonal(leaf: torch.Tensor, gradient: torch.Tensor, batch_dims: int, recorded: bool) -> torch.Tensor:
    """``(1, numel(I), *batch)``: the derivative of each coordinate of the gradient by the same coordinate."""
    batch = tuple(leaf.shape[:batch_dims])
    rows = Rows((tuple(leaf.shape[batch_dims:]),))
    coordinates = []
    for start, stop in rows.chunks(1):
        (row,) = rows.basis(start, stop, (leaf,), batch)
        (second,) = graph_gradients([gradient], (leaf,), (row[0],), recorded)
        coordinates.append(own_coordinates(second[None], batch, start))
    return joined(coordinates)[None] if coordinates else leaf.new_zeros((1, 0, *batch))


def _released(task: Task, outputs: Tensors, aux: Tensors, recorded: bool, no_gradient: bool = False) -> Evaluation:
    undifferentiable = no_gradient or task.mode.undifferentiable
    if recorded:
        return Evaluation(outputs, aux, undifferentiable)
    outputs, aux = (tuple(tensor.detach() for tensor in tensors) for tensors in (outputs, aux))
    return Evaluation(outputs, aux, undifferentiable)
