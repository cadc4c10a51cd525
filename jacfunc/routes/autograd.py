"""Row by row with ``torch.autograd.grad``: for what ``torch.func`` cannot transform at all.

That is an ``autograd.Function`` in the old style (``forward(ctx, ...)``) and ``torch.utils.checkpoint``.  It works
eagerly and under ``.backward()``; inside another transform it cannot work, and ``plan.py`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ..errors import UnsupportedOperationError
from ..evaluation.basis import Rows
from ..evaluation.linear import graph_gradients
from . import nested
from .collect import joined, own_coordinates
from .task import Evaluation, Task, Tensors
from .verify import verify_transpose

NAME = "autograd"


def first_order(task: Task) -> Evaluation:
    """Fill the entries by rows; ``f`` is evaluated once."""
    recorded = torch.is_grad_enabled()
    leaves, outputs, aux = _evaluated(task)
    for index, cotangents in _single_rows(task, outputs):
        gradients = graph_gradients(outputs, leaves, cotangents, recorded)
        task.take_rows(index, index + 1, tuple(gradient[None] for gradient in gradients))
    no_gradient = task.verified and recorded and not _has_gradient(task, outputs, leaves)
    return _released(outputs, aux, recorded)._replace(undifferentiable=no_gradient)


def second_order(task: Task) -> Evaluation:
    """Fill the entries by cells, the gradients of the gradients; ``f`` is evaluated once."""
    recorded = torch.is_grad_enabled()
    leaves, outputs, aux = _evaluated(task)
    if task.verified:
        _verify(task, outputs, leaves)
    for index, cotangents in _single_rows(task, outputs):
        gradients = graph_gradients(outputs, leaves, cotangents, True)
        cells = tuple(
            _diagonal(leaf, gradient, len(task.batch), recorded)
            for leaf, gradient in zip(leaves, gradients, strict=True)
        )
        task.take_cells(index, index + 1, cells)
    return _released(outputs, aux, recorded)


def partials(task: Task) -> Evaluation:
    """Mixed derivatives of any order, each from a gradient of one of the order below; ``f`` is evaluated once."""
    recorded = torch.is_grad_enabled()
    leaves, outputs, aux = _evaluated(task)
    if task.verified:
        _verify(task, outputs, leaves)

    def grown(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
        def following(*_: torch.Tensor) -> tuple[Tensors, Tensors]:
            tensors, lower = level()

            def gradients(place: int, cotangent: torch.Tensor) -> Tensors:
                return graph_gradients([tensors[place]], leaves, (cotangent,), True)

            with torch.enable_grad():
                return nested.by_gradients(task, parents, gradients, tensors, lower)

        return following

    evaluation = nested.swept(replace(task, evaluate=lambda *_: (outputs, aux)), grown)
    if not recorded:
        task.derivatives.update({key: derivative.detach() for key, derivative in task.derivatives.items()})
    return _released(evaluation.outputs, evaluation.aux, recorded)


class _Value(torch.autograd.Function):
    """The identity, whose backward refuses; the outputs stand for all that the derivative depends on."""

    @staticmethod
    def forward(ctx: Any, derivative: torch.Tensor, *outputs: torch.Tensor) -> torch.Tensor:
        return derivative.view_as(derivative)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        raise UnsupportedOperationError(
            "this derivative has no gradient: an autograd.Function inside f (or a custom operator, or one like "
            "torch.cond) has a backward that cannot be differentiated (once_differentiable, or detached); write it "
            "with differentiable operations"
        )


def value_only(derivative: torch.Tensor, outputs: Tensors) -> torch.Tensor:
    """The value of a derivative whose gradient would be wrong, or zero: torch keeps no graph of such a backward."""
    result: torch.Tensor = _Value.apply(derivative, *outputs)  # type: ignore[no-untyped-call]
    return result


def _verify(task: Task, outputs: Tensors, leaves: Tensors) -> None:
    """The same as on the other routes: the pullback has a transpose."""

    def pull(*cotangents: torch.Tensor) -> Tensors:
        return graph_gradients(outputs, leaves, cotangents, True)

    def push(*tangents: torch.Tensor) -> Tensors:
        cotangents = tuple(torch.zeros_like(output).requires_grad_() for output in outputs)
        return graph_gradients(pull(*cotangents), cotangents, tangents, False)

    verify_transpose(task, pull, push, outputs)


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


def _released(outputs: Tensors, aux: Tensors, recorded: bool) -> Evaluation:
    if recorded:
        return Evaluation(outputs, aux)
    return Evaluation(tuple(output.detach() for output in outputs), tuple(tensor.detach() for tensor in aux))
