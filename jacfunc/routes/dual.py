"""The forward route by dual numbers, ``torch.func.jvp``: for operations without a second reverse derivative.

Each chunk evaluates the function anew.  torch keeps one stack of forward-mode levels for all threads, so the
whole evaluation is done under the package's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import jvp

from ..core.levels import inside_transform, load_forward_mode
from ..jet.multiindices import MultiIndices
from ..modules.swapping import locked
from . import nested
from .collect import Entries, Partials
from .route import Route
from .task import Evaluation, Task, Tensors
from .verify import calls_function, verify_nested, verify_pushed


class Dual(Route):
    """Tangents carried along by dual numbers."""

    name = "dual"
    methods = ("auto", "taylor", "forward")
    last_resort = True

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        """That of an evaluation with a tangent for each coordinate."""
        return 1 + 2 * inputs if order == 1 else 1 + 3 * inputs

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        """That of each order nested in the one below."""
        return nested.cost_by_tangents(indices.separate)

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by columns."""

        def along(*tangents: torch.Tensor) -> tuple[Tensors, Tensors, Tensors]:
            outputs, pushed, aux = _pushed(task.evaluate, task.leaves, tangents)
            return _released(task, pushed), _released(task, outputs), _released(task, aux)

        if inside_transform():
            _refuse_function(task)
        with locked():
            _verify(task)
            return task.swept_columns(along, entries)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by columns of second derivatives."""

        def along(*tangents: torch.Tensor) -> tuple[Tensors, Tensors, Tensors]:
            seconds, outputs, aux = _pushed_twice(task, task.leaves, tangents)
            return _released(task, seconds), _released(task, outputs), _released(task, aux)

        _refuse_function(task)
        with locked():
            _verify(task, order=2)
            return task.swept_columns(along, entries)

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Mixed derivatives of any order, each along a coordinate of one of the order below."""
        if partials.indices.order > 1:
            _refuse_function(task)
        with locked():
            _verify(task, partials.indices.order)
            evaluation = nested.swept(task, partials, _grown)
        keys, derivatives = tuple(partials.derivatives), tuple(partials.derivatives.values())
        partials.derivatives.update(zip(keys, _released(task, derivatives), strict=True))
        return Evaluation(_released(task, evaluation.outputs), _released(task, evaluation.aux))


def _pushed(
    function: Callable[..., tuple[Any, Any]], leaves: Tensors, tangents: Tensors
) -> tuple[Tensors, Tensors, Any]:
    def recording(*leaves: torch.Tensor) -> Any:
        with torch.enable_grad():  # so that an inner no_grad can be told from the caller's
            return function(*leaves)

    # A tangent gets the strides of its leaf, so that where these overlap its elements would be written over each other.
    leaves = tuple(leaf.contiguous() for leaf in leaves)
    # What recomputes in the backward pass (checkpointing) would do so after the levels of this evaluation are gone.
    load_forward_mode()
    with disable_saved_tensors_hooks("torch.func.jvp cannot be differentiated through saved tensor hooks (checkpoint)"):
        outputs, pushed, aux = jvp(recording, leaves, tangents, has_aux=True)  # type: ignore[misc]  # typed as either form
    return outputs, pushed, aux


def _pushed_twice(task: Task, leaves: Tensors, tangents: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """Second derivatives along the tangents, outputs and aux."""

    def first(*leaves: torch.Tensor) -> tuple[Tensors, Any]:
        outputs, pushed, aux = _pushed(task.evaluate, leaves, tangents)
        return pushed, (outputs, aux)

    _, seconds, (outputs, aux) = _pushed(first, leaves, tangents)
    return seconds, outputs, aux


def _released(task: Task, tensors: Tensors) -> Tensors:
    """Without the graph that was recorded of them, where nobody asks for one."""
    # Not asked here, where the vmap of the rows may be around.
    return tensors if task.mode.differentiated_again else tuple([tensor.detach() for tensor in tensors])


def _verify(task: Task, order: int = 1) -> None:
    if not task.mode.verified:
        return
    verify_pushed(task, lambda *tangents: _pushed(task.evaluate, task.leaves, tangents)[:2])
    if order > 1:
        verify_nested(
            task,
            lambda leaves, tangents: _pushed(task.evaluate, leaves, tangents)[1],
            lambda leaves, tangents: _pushed_twice(task, leaves, tangents)[0],
        )


def _refuse_function(task: Task) -> None:
    # https://github.com/pytorch/pytorch/issues/197867
    if task.mode.verified and calls_function(task):
        raise RuntimeError("nested forward mode takes the derivative of an autograd.Function for a constant")


def _grown(task: Task, level: nested.Level, parents: nested.Parents) -> nested.Level:
    def following(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        along = {}
        for by in dict.fromkeys(by for _, by in parents):
            task.redraw()
            tensors, along[by], lower = _pushed(level, leaves, task.direction(by))
        return nested.by_tangents(task, parents, along, tensors, lower)

    return following
