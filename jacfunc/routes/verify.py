"""What a route checks of a function when it is taken for the first time.

The Taylor route: that its derivative along one direction is that of reverse mode, for a function may look at what it is
given (``isinstance``) and go another way with a jet.  The others: that no backward is silently a constant.  A user's
``autograd.Function`` whose backward is not differentiable (``once_differentiable``, ``.detach()``) has a pullback
without a transpose, which torch.func takes for zero without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from ..core.levels import inside_transform
from ..errors import UnsupportedOperationError
from ..evaluation.linear import graph_gradients, pullback, pushforward
from ..evaluation.rng import replaying
from ..jet import CannotFollowError, Propagation, layout
from ..jet.readout import rows_of
from ..jet.values import plain
from .task import Task, Tensors


class NoTransposeError(RuntimeError):
    """A backward that cannot be differentiated by its cotangent, and does not say so."""


class OtherwiseError(CannotFollowError):
    """Other derivatives by jets than by tensors: the function does another thing with them."""


def verify_backward(task: Task) -> None:
    """:func:`verify_transpose` of the function, evaluated for it."""
    outputs, pull, _ = pullback(task.evaluate, *task.leaves)
    verify_transpose(task, pull, pushforward(pull, outputs), outputs)


def verify_transpose(
    task: Task, pull: Callable[..., Tensors], push: Callable[..., Tensors], outputs: Sequence[torch.Tensor]
) -> None:
    """Raise unless ``<u, push(v)> = <pull(u), v>`` for some u and v, or no ``autograd.Function`` is to blame.

    Where all derivatives cancel to rounding the two sides differ as well.
    """
    tangents, cotangents = _waves(task.leaves), _waves(outputs)
    by_push = _dot(cotangents, push(*tangents))
    by_pull = _dot(pull(*cotangents), tangents)
    coarsest = max((*task.leaves, *outputs), key=lambda tensor: torch.finfo(tensor.dtype).eps).dtype
    close = (by_push[0] - by_pull[0]).abs() <= torch.finfo(coarsest).eps ** 0.5 * (by_push[1] + by_pull[1])
    pushed, pulled = bool(by_push[1].isfinite()), bool(by_pull[1].isfinite())
    if pulled and not pushed:
        raise CannotFollowError("derivatives that are finite by reverse mode are not along rows of the input")
    if not bool(close) and pushed and pulled and calls_function(task):
        raise NoTransposeError(
            "an autograd.Function or custom operator has a backward that cannot be differentiated by its cotangent"
        )


class _Value(torch.autograd.Function):
    """The identity, whose backward refuses; the outputs stand for all that the derivative depends on."""

    @staticmethod
    def forward(ctx: Any, derivative: torch.Tensor, *outputs: torch.Tensor) -> torch.Tensor:
        return derivative.view_as(derivative)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        raise UnsupportedOperationError(
            "this derivative has no gradient: an autograd.Function inside f (or a custom operator, one like torch.cond "
            "or one whose backward this torch has no derivative of) has a backward that cannot be differentiated "
            "(once_differentiable, or detached); write it with differentiable operations"
        )


def value_only(derivative: torch.Tensor, outputs: Tensors) -> torch.Tensor:
    """The value of a derivative whose gradient would be wrong, or zero: torch keeps no graph of such a backward."""
    result: torch.Tensor = _Value.apply(derivative, *outputs)  # type: ignore[no-untyped-call]
    return result


Projection = tuple[torch.Tensor, torch.Tensor]
"""For each sample an inner product, and the sum of the sizes of its terms."""


def verify_followed(task: Task, follow: Callable[..., Any]) -> None:
    """Raise unless the jets' derivatives along one direction, projected to one number a sample, are reverse mode's.

    ``follow`` runs the function on jets (``taylor.py``).  What torch.func cannot differentiate (checkpointing, an
    ``autograd.Function`` in the old style) ``torch.autograd.grad`` may; what neither can proves nothing.  Inside a
    function that jets go through nothing is verified but that function.
    """
    if task.within is not None:
        return
    found, cotangents, coarsest = _followed_projections(task, follow)
    for reverse in (_reverse_projections, _graph_projections):
        try:
            true = reverse(task, cotangents)
        except (RuntimeError, NotImplementedError):
            continue
        _compare(task, follow, reverse, found, true, coarsest)
        return


def _compare(
    task: Task,
    follow: Callable[..., Any],
    reverse: Callable[..., list[Projection]],
    found: list[Projection],
    true: list[Projection],
    coarsest: float,
) -> None:
    room = [min(0.5, 4**k * coarsest**0.5) * _scale(found[k], true[k]) for k in range(task.order + 1)]
    if _agree(found, true, room):
        return
    noise = _noise(task, follow, reverse, found, true, coarsest)
    if not _agree(found, true, [a + b for a, b in zip(room, noise, strict=True)]):
        raise OtherwiseError("the derivatives by jets are not those of reverse mode")


def _noise(
    task: Task,
    follow: Callable[..., Any],
    reverse: Callable[..., list[Projection]],
    found: list[Projection],
    true: list[Projection],
    coarsest: float,
) -> list[torch.Tensor]:
    """How far derivatives that cancel to nothing may be off by rounding, as those of what is linear in effect.

    Of the size of rounding beside the orders below, and no more than they move by where the input moves a little.
    """
    waves = _waves(task.leaves)
    near = tuple(leaf + leaf * wave * coarsest**0.25 for leaf, wave in zip(task.leaves, waves, strict=True))
    moved, cotangents, _ = _followed_projections(replace(task, leaves=near), follow)
    turned = reverse(replace(task, leaves=near), cotangents)
    allowed, beside = [torch.zeros(())], torch.zeros(())
    for k in range(1, task.order + 1):
        beside = torch.maximum(beside, _scale(found[k - 1], true[k - 1]))
        change = torch.maximum(_difference(found[k], moved[k]).amax(), _difference(true[k], turned[k]).amax())
        allowed.append(torch.minimum(8 * change, 64 * coarsest * beside))
    return allowed


def _followed_projections(task: Task, follow: Callable[..., Any]) -> tuple[list[Projection], Tensors, float]:
    """What :func:`_reverse_projections` gives, by jets; the cotangents u; and the coarsest precision on the way."""
    tangents = _waves(task.leaves)
    rows_layout = layout.closed(tuple((k,) for k in range(1, task.order + 1)))
    propagations: list[Propagation] = []

    def rows(propagation: Propagation) -> list[torch.Tensor | None]:
        propagations.append(propagation)
        return [tangent[None] for tangent in tangents]

    outputs, _, _ = follow(task, rows_layout, rows)
    values = tuple(output.detach() for output in plain(outputs))
    cotangents = _waves(values)
    found = [_projected(cotangents, values, task)]
    for k in range(1, task.order + 1):
        found.append(_projected(cotangents, [rows_of(o, k, 1, task.leaves[0])[0] for o in outputs], task))
    return found, cotangents, max(propagations[0].coarsest, *(torch.finfo(leaf.dtype).eps for leaf in task.leaves))


def _reverse_projections(task: Task, cotangents: Tensors) -> list[Projection]:
    """``<u, f>``, ``<J^T u, v>``, ``<H v, v> / 2`` and so on of ``<u, f>``, of each sample, up to the order wanted."""
    tangents = _waves(task.leaves)

    def gradient(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        task.redraw()
        outputs, pull, _ = pullback(task.evaluate, *leaves)
        return pull(*cotangents), outputs

    level = gradient
    for k in range(2, task.order + 1):
        level = _differentiated(level, tangents, k)
    last, others = level(*task.leaves)
    return _all_projected(task, cotangents, [*grouped(others, len(tangents), len(cotangents)), last])


def _graph_projections(task: Task, cotangents: Tensors) -> list[Projection]:
    """What :func:`_reverse_projections` gives, from a graph by ``torch.autograd.grad``."""
    tangents = _waves(task.leaves)
    task.redraw()
    with torch.enable_grad():
        leaves = tuple(leaf.detach().requires_grad_() for leaf in task.leaves)
        tensors, _ = task.evaluate(*leaves, others_copied=True)
    found, along = [tensors], cotangents
    for k in range(1, task.order + 1):
        tensors = tuple(tensor / k for tensor in graph_gradients(tensors, leaves, along, k < task.order))
        found.append(tensors)
        along = tangents
    return _all_projected(task, cotangents, found)


def _all_projected(task: Task, cotangents: Tensors, found: Sequence[Tensors]) -> list[Projection]:
    """Outputs along the cotangents, and derivatives of every order along the tangents."""
    tangents = _waves(task.leaves)
    pairs = [(cotangents, found[0]), *((tensors, tangents) for tensors in found[1:])]
    return [_projected(left, right, task) for left, right in pairs]


Level = Callable[..., tuple[Tensors, Tensors]]
"""Derivatives of one order, and those of the lower ones."""


def _differentiated(level: Level, tangents: Tensors, order: int) -> Level:
    """The next order along the tangents, over its factorial: the field is a gradient, so it is its own transpose's."""

    def following(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        tensors, pull, lower = pullback(level, *leaves)
        return tuple(tensor / order for tensor in pull(*tangents)), (*lower, *tensors)

    return following


def grouped(tensors: Tensors, size: int, first: int) -> list[Tensors]:
    """Tensors in groups of a size, after a first group of another."""
    starts = range(first, len(tensors), size)
    return [tensors[:first], *(tensors[start : start + size] for start in starts)]


def _projected(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor], task: Task) -> Projection:
    axes = len(task.batch)
    terms = [(a.double() * b.double()).detach() for a, b in zip(left, right, strict=True)]
    joined = torch.cat([term.reshape(*term.shape[:axes], math.prod(term.shape[axes:])) for term in terms], dim=-1)
    return joined.sum(-1), joined.abs().sum(-1)


def _finite(one: Projection, other: Projection) -> torch.Tensor:
    return one[1].isfinite() & other[1].isfinite()


def _scale(one: Projection, other: Projection) -> torch.Tensor:
    """The largest size among samples; a derivative that is missing is off by its own size."""
    size = torch.where(_finite(one, other), one[1] + other[1], 0.0)
    return size.amax() if size.numel() else size.sum()


def _difference(one: Projection, other: Projection) -> torch.Tensor:
    return torch.where(_finite(one, other), (one[0] - other[0]).abs(), 0.0)


def _agree(found: list[Projection], true: list[Projection], room: list[torch.Tensor]) -> bool:
    """Whether derivatives of every order are equal but for so much, and finite wherever those of reverse mode are.

    What is finite in reverse mode only is a zero times an infinity (``relu(x).sqrt()`` below zero), which that does not
    multiply.
    """
    for one, other, allowed in zip(found[1:], true[1:], room[1:], strict=True):
        close = _difference(one, other) <= allowed
        if not bool((close & (one[1].isfinite() | ~other[1].isfinite())).all()):
            return False
    return True


def calls_function(task: Task) -> bool:
    """Whether an ``autograd.Function`` of Python is part of the function's graph."""
    found = []

    def looked_at(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        outputs, aux = task.evaluate(*leaves, others_copied=True)
        found.append(_has_function(outputs))
        return outputs, aux

    with torch.enable_grad(), replaying(task.random_state) if task.random_state else nullcontext():
        if inside_transform():  # where no tensor can be made to require a gradient
            pullback(looked_at, *task.leaves)
        else:
            looked_at(*(leaf.detach().requires_grad_() for leaf in task.leaves))
    return found[0]


def _has_function(outputs: Tensors) -> bool:
    nodes, seen = [output.grad_fn for output in outputs], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, BackwardCFunction):
            return True
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    return False


def _waves(tensors: Sequence[torch.Tensor]) -> Tensors:
    """Values without symmetries, the same at every call, so that no random number is drawn."""
    return tuple(
        torch.arange(tensor.numel(), device=tensor.device)
        .add(1)
        .mul(0.7)
        .sin()
        .add(0.3)
        .to(tensor.dtype)
        .reshape(tensor.shape)
        for tensor in tensors
    )


def _dot(left: Tensors, right: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The inner product and the sum of the sizes of its terms."""
    terms = [(a.double() * b.double()).detach() for a, b in zip(left, right, strict=True)]
    return sum((t.sum() for t in terms), torch.zeros(())), sum((t.abs().sum() for t in terms), torch.zeros(()))
