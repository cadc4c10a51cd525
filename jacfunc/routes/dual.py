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

from ..slots import locked
from .task import Evaluation, Task, Tensors

NAME = "dual"


def _pushed(
    function: Callable[..., tuple[Any, Any]], leaves: Tensors, tangents: Tensors
) -> tuple[Tensors, Tensors, Any]:
    # What recomputes in the backward pass (checkpointing) would do so after the levels of this evaluation are gone.
    with disable_saved_tensors_hooks("torch.func.jvp cannot be differentiated through saved tensor hooks (checkpoint)"):
        outputs, pushed, aux = jvp(function, leaves, tangents, has_aux=True)  # type: ignore[misc]  # typed as either form
    return outputs, pushed, aux


def first_order(task: Task) -> Evaluation:
    """Fill the entries by columns."""

    def along(*tangents: torch.Tensor) -> tuple[Tensors, Tensors, Tensors]:
        outputs, pushed, aux = _pushed(task.evaluate, task.leaves, tangents)
        return pushed, outputs, aux

    with locked():
        return task.swept_columns(along)


def second_order(task: Task) -> Evaluation:
    """Fill the entries by columns of second derivatives."""

    def along(*tangents: torch.Tensor) -> tuple[Tensors, Tensors, Tensors]:
        def first(*leaves: torch.Tensor) -> tuple[Tensors, Any]:
            outputs, pushed, aux = _pushed(task.evaluate, leaves, tangents)
            return pushed, (outputs, aux)

        _, seconds, (outputs, aux) = _pushed(first, task.leaves, tangents)
        return seconds, outputs, aux

    with locked():
        return task.swept_columns(along)
