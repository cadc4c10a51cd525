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
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from ..jet import CannotFollowError, layout
from ..jet.ending import rows_of
from ..jet.values import plain
from ..levels import inside_transform
from ..linear import pullback, pushforward
from ..rng import replaying
from .task import Task, Tensors


class NoTransposeError(RuntimeError):
    """A backward that cannot be differentiated by its cotangent, and does not say so."""


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
    finite = by_push[1].isfinite() & by_pull[1].isfinite()
    if not bool(close | ~finite) and calls_function(task):
        raise NoTransposeError(
            "an autograd.Function or custom operator has a backward that cannot be differentiated by its cotangent"
        )


def verify_followed(task: Task, follow: Callable[..., Any]) -> None:
    """Raise unless the jets' derivatives along one direction, projected to one number a sample, are reverse mode's.

    ``follow`` runs the function on jets (``taylor.py``).  What reverse mode cannot differentiate proves nothing.
    """
    tangents = _waves(task.leaves)
    rows_layout = layout.first_order(1) if task.order == 1 else layout.diagonal(1)
    outputs, _, _ = follow(task, rows_layout, lambda _: [tangent[None] for tangent in tangents])
    cotangents = _waves([output.detach() for output in plain(outputs)])
    found = [
        _projected(cotangents, [rows_of(o, k, 1, task.leaves[0])[0] for o in outputs], task)
        for k in range(1, task.order + 1)
    ]
    try:
        true = _reverse_projections(task, tangents, cotangents)
    except (RuntimeError, NotImplementedError):
        return
    for k, (one, other) in enumerate(zip(found, true, strict=False), start=1):
        if not _agree(one, other, task, k):
            raise CannotFollowError("the derivatives by jets are not those of reverse mode: f treats tensors otherwise")


def _projected(left: Tensors, right: Sequence[torch.Tensor], task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """For each sample the inner product, and the sum of the sizes of its terms."""
    axes = len(task.batch)
    terms = [(a.double() * b.double()).detach() for a, b in zip(left, right, strict=True)]
    joined = torch.cat([term.reshape(*term.shape[:axes], math.prod(term.shape[axes:])) for term in terms], dim=-1)
    return joined.sum(-1), joined.abs().sum(-1)


def _reverse_projections(task: Task, tangents: Tensors, cotangents: Tensors) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``<J^T u, v>`` of each sample, and ``<H v, v> / 2`` of ``<u, f>``."""

    def gradient(*leaves: torch.Tensor) -> tuple[Tensors, tuple[()]]:
        task.redraw()
        _, pull, _ = pullback(task.evaluate, *leaves)
        return pull(*cotangents), ()

    if task.order == 1:
        gradients, _ = gradient(*task.leaves)
        return [_projected(gradients, tangents, task)]
    gradients, pull, _ = pullback(gradient, *task.leaves)
    seconds = tuple(second / 2 for second in pull(*tangents))
    return [_projected(gradients, tangents, task), _projected(seconds, tangents, task)]


def _agree(
    one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor], task: Task, order: int
) -> bool:
    """Equal but for rounding wherever both are finite; a derivative that is missing is off by its own size."""
    room = min(0.5, 4**order * max(torch.finfo(leaf.dtype).eps for leaf in task.leaves) ** 0.5)
    finite = one[1].isfinite() & other[1].isfinite()
    size = torch.where(finite, one[1] + other[1], 0.0)
    scale = size.amax() if size.numel() else size.sum()
    return bool((torch.where(finite, (one[0] - other[0]).abs(), 0.0) <= room * scale).all())


def calls_function(task: Task) -> bool:
    """Whether an ``autograd.Function`` of Python is part of the function's graph."""
    found = []

    def looked_at(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        outputs, aux = task.evaluate(*leaves, others_copied=True)
        found.append(_has_function(outputs))
        return outputs, aux

    with torch.enable_grad(), replaying(task.draw) if task.draw else nullcontext():
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
