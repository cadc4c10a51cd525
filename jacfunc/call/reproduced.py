"""Whether what a route gave as the value is what a plain forward gives, but for rounding and for what no two share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..core import trees
from ..core.closeness import agree
from ..core.unasked import unasked
from ..evaluation.rng import RandomState
from ..routes.points import REFUSED
from ..routes.task import Evaluation
from .evaluator import Evaluator, OutputsChangedError

Tensors = tuple[torch.Tensor, ...]


@unasked()
def reproduces(outputs: Tensors, values: Tensors, evaluator: Evaluator, state: RandomState | None) -> bool:
    """Whether the outputs of a route are the ``values`` of a plain forward.

    Where they are not, that is made once more: a function that gives others then tells nothing, and one that computes
    in a coarser dtype than that of its outputs is compared in its precision.
    """
    if _same(outputs, values):
        return True
    state = state or evaluator.request.random_state()
    after = evaluator.request.random_state()
    state.restore()
    another = Evaluator(evaluator.request, scripted=evaluator.scripted)
    with Precision() as precision:
        again, _ = another.look(state)
        state.restore()
        with torch.enable_grad():  # f may ask whether graphs are recorded, as they are on every route
            recorded, _ = another.evaluate(*another.request.leaves, others_copied=True)
    after.restore()
    if not _same(again, values):
        return True
    return _same(outputs, values, precision.coarsest) or _same(outputs, recorded, precision.coarsest)


def tells_nothing(values: Tensors) -> bool:
    """Whether values are zero or not finite, and so would be the same whatever f multiplied them by."""
    return not any(bool((value.isfinite() & (value != 0)).any()) for value in values)


@unasked()
def reproduces_at(
    leaves: Tensors, compute: Callable[[], Evaluation], evaluator: Evaluator, state: RandomState | None
) -> bool:
    """Whether a route gives what a plain forward gives for other leaves; what f refuses for them says nothing."""
    state = state or evaluator.request.random_state()
    after = evaluator.request.random_state()
    try:
        state.restore()
        found = compute().outputs
        state.restore()
        values = evaluator.values(leaves)
        state.restore()
        again = evaluator.values(leaves)
    except (*REFUSED, OutputsChangedError):
        return True
    finally:
        after.restore()
    eps = max(torch.finfo(value.dtype).eps for value in (*leaves, *values))
    return _same(found, values, eps) or not _same(again, values)


def _same(ones: Tensors, others: Tensors, eps: float = 0.0) -> bool:
    return all(
        one.shape == other.shape and one.dtype == other.dtype and agree(one, other, eps)
        for one, other in zip(ones, others, strict=True)
    )


class Precision(TorchFunctionMode):
    """Notes the coarsest dtype of what is computed while it is active."""

    coarsest = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in trees.tensors(result):
            if tensor.is_floating_point():
                self.coarsest = max(self.coarsest, torch.finfo(tensor.dtype).eps)
        return result
