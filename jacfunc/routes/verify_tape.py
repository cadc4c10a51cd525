"""Whether the backward of an ``autograd.Function`` depends on its input in sight of torch, checked once a plan.

A backward may use what its forward computed of the input (``1 - y * y``), a detached tensor, an attribute of ``ctx`` or
numpy.  Its first derivatives are right then, but what is differentiated again takes that for a constant: torch has no
word for it.  So the derivative of the pullback along one direction is compared with differences of the pullback, for
those samples at which that is the derivative of the values (it is not for a straight-through estimator, whose backward
is meant to be another one).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext, suppress

import torch

from ..core.levels import inside_transform, inside_vmap
from ..core.torch_private import outside_transforms
from ..errors import RefusedOperationError
from ..evaluation.linear import graph_gradients, pullback
from . import functions
from .functions import CONSISTENT, INEXACT, SMALLEST, WIDER
from .points import REFUSED, Projection, elsewhere, moved, projected, quotient, recorded, replayed, waves
from .task import Task, Tensors, aside
from .verify import NoTransposeError, calls_function, verify_backward

Pulled = Callable[[Task, Tensors], tuple[Tensors, Tensors, Callable[[], Tensors]]]
"""From leaves the outputs there, the pullback of waves, and what computes its derivative along waves."""


class OffTapeError(NoTransposeError):
    """A backward whose dependence on the input torch does not see."""


@aside
def verify_again(task: Task, by_rows: bool = False) -> None:
    """All that is asked of backwards that are differentiated again, ``by_rows`` of the input if they are pushed."""
    verify_backward(task, by_rows)
    if task.order > 1 or task.mode.differentiated_again:
        verify_tape(task)


@aside
def verify_tape(task: Task, pulled: Pulled | None = None) -> None:
    """Raise where the derivative of a pullback is not that of its values, and an ``autograd.Function`` is to blame."""
    if not functions.defined() or not calls_function(task):
        return
    task.opaque.append("the backward of an autograd.Function")
    calls = functions.called(task)
    if calls:
        with replayed(task), outside_transforms() if inside_transform() else nullcontext():
            _verify_each(task, calls)
    elif not inside_vmap():  # where no number may be looked at
        _verify_whole(task, pulled or by_func)


OFF = (
    "an autograd.Function whose backward depends on the input out of torch's sight (through what forward "
    "computed, a detached tensor, an attribute of ctx or numpy)"
)


def _verify_each(task: Task, calls: list[functions.Call], depth: int = 0) -> None:
    """By each Function alone, and those that its backward calls; what is wrong for a gradient of the result is noted.

    A backward is differentiated ``order - 1`` times, and once more for that gradient.
    """
    wanted, again = depth < task.order - 1, task.mode.differentiated_again and depth < task.order
    if not (wanted or again):
        return
    told = True
    for call in calls:
        verdict = functions.off_tape(task, call)
        if verdict.off and wanted:
            raise OffTapeError(OFF)
        others = again and call.others and not verdict.off and functions.off_tape(task, call, by_others=True).off
        if verdict.off or others:
            task.lacking.append(OFF)
        told = told and verdict.told
        _verify_each(task, functions.within(task, call), depth + 1)
    if not told:
        task.open.append(UNTOLD)


UNTOLD = "no sample told whether the backward of an autograd.Function depends on its input"


def _verify_whole(task: Task, pulled: Pulled) -> None:
    """By f as a whole, where its Functions cannot be called alone."""
    told = True  # of what refuses to be differentiated again by itself
    with replayed(task), suppress(RefusedOperationError):
        told = task.leaves[0].numel() > 0 and any(
            _told(task, pulled, at) for at in (task.leaves, elsewhere(task.leaves))
        )
    if not told:
        task.open.append(UNTOLD)


def _told(task: Task, pulled: Pulled, leaves: Tensors) -> bool:
    """Whether a sample says anything; values beside these that the function refuses say nothing."""
    try:
        return _compared(task, pulled, leaves)
    except (OffTapeError, RefusedOperationError):
        raise
    except REFUSED:
        return False


def _compared(task: Task, pulled: Pulled, leaves: Tensors) -> bool:
    """Whether a sample says anything, and raise where most of those that differ do so at two steps alike."""
    coarsest = max(torch.finfo(leaf.dtype).eps for leaf in leaves)
    step = coarsest ** (1 / 3)

    def along(tensors: Tensors) -> Projection:
        return projected(tensors, waves(tensors), task)

    def at(width: float) -> list[Projection]:
        outputs, gradients, _ = pulled(task, moved(leaves, width))
        return [along(outputs), along(gradients)]

    outputs, gradients, slopes = pulled(task, leaves)
    here, again = [along(outputs), along(gradients), along(slopes())], at(0.0)
    near, wide = [
        [
            quotient(now[0], low[0], high[0], width)
            for now, low, high in zip(here[:2], at(-width), at(width), strict=True)
        ]
        for width in (step, WIDER * step)
    ]
    room = [64 * step**2 * (lower[1] + upper[1]).amax() for lower, upper in itertools.pairwise(here)]
    first, second = [slope[0] - found for slope, (found, _) in zip(here[1:], near, strict=True)]
    finite = first.isfinite() & second.isfinite() & wide[1][0].isfinite()
    steady = (here[1][0] - again[1][0]).abs() <= step**2 * here[1][1]  # no backward that draws
    meant = steady & (first.abs() <= near[0][1] + room[0])
    off = finite & meant & (second.abs() > near[1][1] + room[1])
    missing = _relative(second, here[2], near[1])
    exact = (missing > INEXACT * _relative(first, here[1], near[0])) & (missing > SMALLEST)
    alike = off & exact & ((near[1][0] - wide[1][0]).abs() <= CONSISTENT * second.abs())
    if 2 * int(alike.sum()) > int(off.sum()):
        raise OffTapeError(OFF)
    return bool((finite & (here[2][1] + near[1][0].abs() > 0)).any())


def _relative(difference: torch.Tensor, one: Projection, other: Projection) -> torch.Tensor:
    size = one[1] + other[0].abs()
    return difference.abs() / size.clamp(min=torch.finfo(size.dtype).tiny)


def by_func(task: Task, leaves: Tensors) -> tuple[Tensors, Tensors, Callable[[], Tensors]]:
    """By ``torch.func``; a field of gradients is its own transpose's, so pulled back is pushed forward."""

    def gradient(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        task.redraw()
        outputs, pull, _ = pullback(task.evaluate, *leaves)
        return pull(*waves(outputs)), outputs

    gradients, pull, outputs = pullback(gradient, *leaves)
    return outputs, gradients, lambda: pull(*waves(leaves))


def by_graph(task: Task, leaves: Tensors) -> tuple[Tensors, Tensors, Callable[[], Tensors]]:
    """By ``torch.autograd.grad``."""
    own, outputs = recorded(task, leaves)
    gradients = graph_gradients(outputs, own, waves(outputs), True)
    return outputs, gradients, lambda: graph_gradients(gradients, own, waves(own), False)
