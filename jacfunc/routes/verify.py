"""What a route that calls torch's backwards checks of a function when it is taken for the first time.

That no backward is silently a constant: a user's ``autograd.Function`` whose backward is not differentiable
(``once_differentiable``, ``.detach()``) has a pullback without a transpose, which torch.func takes for zero without a
word.  What the Taylor route checks is in ``verify_followed.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from ..core.closeness import agree
from ..core.graphs import nodes
from ..core.levels import inside_transform
from ..errors import RefusedOperationError, UnsupportedOperationError
from ..evaluation.linear import graph_gradients, pullback, pushforward
from ..jet import CannotFollowError
from . import functions
from .points import REFUSED, moved, others, recorded, replayed, waves
from .task import Task, Tensors, aside

SCALED, COARSELY = 1.01, 8
"""Cotangents so much larger are rounded in another way, by which the sides may differ so many times."""


class NoTransposeError(RuntimeError):
    """A backward that cannot be differentiated by its cotangent, and does not say so."""


@aside
def verify_backward(task: Task, by_rows: bool = True) -> None:
    """:func:`verify_transpose` of the function, evaluated for it, and :func:`verify_recorded`."""
    pull, push, outputs = _transposed(task)
    verify_transpose(task, pull, push, outputs, by_rows)
    verify_recorded(task, pull, outputs)


def _transposed(task: Task) -> tuple[Callable[..., Tensors], Callable[..., Tensors], Tensors]:
    outputs, pull, _ = pullback(task.evaluate, *task.leaves)
    return pull, pushforward(pull, outputs), outputs


@aside
def verify_recorded(task: Task, pull: Callable[..., Tensors], outputs: Tensors) -> None:
    """Raise where torch.func has another derivative than a graph, as of what f does in a thread of its own."""
    if inside_transform():
        return
    try:
        leaves, again = recorded(task, task.leaves)
        true = graph_gradients(again, leaves, waves(again), False)
    except REFUSED:
        return
    found = pull(*waves(outputs))
    eps = max(torch.finfo(tensor.dtype).eps for tensor in (*leaves, *again))
    if all(agree(one.detach(), other, eps) for one, other in zip(found, true, strict=True)):
        return
    drawn = any(not torch.equal(one, other) for one, other in zip(pull(*waves(outputs)), found, strict=True))
    if not drawn:
        raise CannotFollowError("torch.func has another derivative than a graph, as of what f does in a thread")


@aside
def verify_transpose(
    task: Task,
    pull: Callable[..., Tensors],
    push: Callable[..., Tensors],
    outputs: Sequence[torch.Tensor],
    by_rows: bool = True,
) -> None:
    """Raise unless ``<u, push(v)> = <pull(u), v>`` for some u and v, or no ``autograd.Function`` is to blame.

    Where all derivatives cancel to rounding the two sides differ as well.  Where they are zero or not finite they tell
    nothing, so others are taken; if these do not either, it stays open.  Those that are pushed are finite wherever the
    others are, if they are wanted ``by_rows`` of the input.
    """
    if _told(task, pull, push, outputs, by_rows) or not calls_function(task):
        return
    if not task.leaves[0].numel() or not _told_elsewhere(task, by_rows):
        task.open.append("no sample told whether the backward of an autograd.Function can be differentiated")


def _told_elsewhere(task: Task, by_rows: bool) -> bool:
    with replayed(task):
        for leaves in others(task.leaves):
            there = replace(task, leaves=leaves)
            try:
                if _told(there, *_transposed(there), by_rows):
                    return True
            except NoTransposeError:
                raise
            except REFUSED:
                continue
    return False


def _told(
    task: Task,
    pull: Callable[..., Tensors],
    push: Callable[..., Tensors],
    outputs: Sequence[torch.Tensor],
    by_rows: bool,
) -> bool:
    """Whether the two sides say anything, and raise where they differ."""
    tangents, cotangents = waves(task.leaves), waves(outputs)
    by_push = _dot(cotangents, push(*tangents))
    by_pull = _dot(pull(*cotangents), tangents)
    coarsest = max((*task.leaves, *outputs), key=lambda tensor: torch.finfo(tensor.dtype).eps).dtype
    room = torch.finfo(coarsest).eps ** 0.5 * (by_push[1] + by_pull[1])
    close = (by_push[0] - by_pull[0]).abs() <= room
    pushed, pulled = bool(by_push[1].isfinite()), bool(by_pull[1].isfinite())
    if pulled and not pushed and by_rows:
        raise CannotFollowError("derivatives that are finite by reverse mode are not along rows of the input")
    if not bool(close) and pushed and pulled and calls_function(task):
        off = (by_push[0] - by_pull[0]).abs()
        if bool((_dot(pull(*cotangents), tangents)[0] - by_pull[0]).abs() > room / 16):
            return True  # a backward that draws random numbers, by more than sums are rounded in another order
        larger = _dot(pull(*(SCALED * cotangent for cotangent in cotangents)), tangents)[0] / SCALED
        if bool(off <= COARSELY * (larger - by_pull[0]).abs()):
            return True  # one that computes with fewer digits
        if functions.cancelled(task, by_push[1] + by_pull[1]):
            return True
        raise NoTransposeError(
            "an autograd.Function or custom operator has a backward that cannot be differentiated by its cotangent"
        )
    return pushed and pulled and bool(by_push[1] + by_pull[1] > 0)


@aside
def verify_pushed(task: Task, push: Callable[..., tuple[Tensors, Tensors]]) -> None:
    """Raise where forward mode has another derivative than the backward of a graph, if there is one.

    An ``autograd.Function`` has a formula for each, a full backward hook runs in one of them only, and what f runs in a
    thread is in a graph alone.
    """
    if inside_transform():
        return
    tangents = waves(task.leaves)
    try:
        leaves, outputs = recorded(task, task.leaves)
        cotangents = waves(outputs)
        pulled = graph_gradients(outputs, leaves, cotangents, False)
    except REFUSED:
        return
    task.redraw()
    _, pushed = push(*tangents)
    by_push, by_pull = _dot(cotangents, pushed), _dot(pulled, tangents)
    room = torch.finfo(task.leaves[0].dtype).eps ** 0.5 * (by_push[1] + by_pull[1])
    if bool(room.isfinite()) and not bool((by_push[0] - by_pull[0]).abs() <= room):
        raise CannotFollowError(
            "forward mode has another derivative (of an autograd.Function, a hook, a thread) than its backward"
        )


CONSISTENT, OFF, NOISE = 0.02, 0.1, 16
"""By which part differences of two steps differ that are a measure, and what is off from them; units of rounding."""


@aside
def verify_nested(task: Task, first: Callable[..., Tensors], second: Callable[..., Tensors]) -> None:
    """Raise where nested forward mode has other second derivatives than differences of ``first`` ones.

    torch takes part of some derivatives for a constant there (of ``slogdet``, ``solve``: pytorch/pytorch 192540).  Both
    functions are of leaves and a tangent.  Samples say nothing where they are not finite, or where differences by a
    step and by two are not nearly the same, as at a kink.
    """
    if inside_transform():
        return
    tangents = waves(task.leaves)
    eps = max(torch.finfo(leaf.dtype).eps for leaf in task.leaves)
    step = _size(task.leaves) * eps ** (1 / 3)

    def difference(length: float) -> Tensors:
        ends = []
        for signed in (length, -length):
            task.redraw()
            ends.append(first(moved(task.leaves, signed), tangents))
        return tuple((ahead - back) / (2 * length) for ahead, back in zip(*ends, strict=True))

    with replayed(task):
        task.redraw()
        found = second(task.leaves, tangents)
        try:
            near, far = difference(step), difference(2 * step)
            slopes = first(task.leaves, tangents)
        except REFUSED:
            return
    for tensors in zip(found, near, far, slopes, strict=True):
        one, by_step, by_two, slope = (each.detach().double().reshape(math.prod(task.batch), -1) for each in tensors)
        if _are_others(one, by_step, by_two, NOISE * eps / step * slope.abs()):
            raise CannotFollowError("nested forward mode takes part of a derivative for a constant")


def _size(leaves: Tensors) -> float:
    """Of the largest finite number, or one."""
    sizes = [float(leaf.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()) for leaf in leaves if leaf.numel()]
    return max(sizes, default=0.0) or 1.0


def _are_others(found: torch.Tensor, near: torch.Tensor, far: torch.Tensor, rounding: torch.Tensor) -> bool:
    """Whether derivatives, a row for each sample, are not those of differences, for most samples that these tell of."""
    size, noise = near.abs().sum(1), rounding.sum(1)
    finite = (found + near + far).sum(1).isfinite() & noise.isfinite()
    told = finite & ((near - far).abs().sum(1) <= CONSISTENT * size) & (size > noise)
    off = told & ((found - near).abs().sum(1) > OFF * size)
    return bool(4 * told.sum() >= finite.sum()) and bool(2 * off.sum() > told.sum())


class _Value(torch.autograd.Function):
    """The identity, whose backward refuses; the outputs stand for all that the derivative depends on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivative: torch.Tensor, *outputs: torch.Tensor) -> torch.Tensor:
        return derivative.view_as(derivative)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        raise UnsupportedOperationError(NO_GRADIENT)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        raise UnsupportedOperationError(NO_GRADIENT)


NO_GRADIENT = (
    "this derivative has no gradient: an autograd.Function inside f (or a custom operator, one like torch.cond or one "
    "whose backward this torch has no derivative of) has a backward that cannot be differentiated "
    "(once_differentiable, detached, or of what its forward computed out of torch's sight); write it with "
    "differentiable operations of what ctx.save_for_backward was given, inputs or outputs"
)


def value_only(derivative: torch.Tensor, outputs: Tensors) -> torch.Tensor:
    """The value of a derivative whose gradient would be wrong, or zero: torch keeps no graph of such a backward."""
    result: torch.Tensor = _Value.apply(derivative, *outputs)  # type: ignore[no-untyped-call]
    return result


@aside
def calls_function(task: Task) -> bool:
    """Whether an ``autograd.Function`` of Python is part of the function's graph; not where that is refused by name."""
    found = []

    def looked_at(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        outputs, aux = task.evaluate(*leaves, others_copied=True)
        found.append(_has_function(outputs))
        return outputs, aux

    with torch.enable_grad(), replayed(task), suppress(RefusedOperationError):
        if inside_transform():  # where no tensor can be made to require a gradient
            pullback(looked_at, *task.leaves)
        else:
            looked_at(*(leaf.detach().requires_grad_() for leaf in task.leaves))
    return any(found)


def _has_function(outputs: Tensors) -> bool:
    return any(isinstance(node, BackwardCFunction) for node in nodes(outputs))


def _dot(left: Tensors, right: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The inner product and the sum of the sizes of its terms."""
    terms = [(a.double() * b.double()).detach() for a, b in zip(left, right, strict=True)]
    return sum((t.sum() for t in terms), torch.zeros(())), sum((t.abs().sum() for t in terms), torch.zeros(()))
