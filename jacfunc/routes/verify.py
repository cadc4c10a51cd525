"""What a route checks of a function when it is taken for the first time: that no backward is silently a constant.

A user's ``autograd.Function`` whose backward is not differentiable (``once_differentiable``, ``.detach()``) has a
pullback without a transpose, which torch.func takes for zero without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch.autograd.function import BackwardCFunction

from ..levels import inside_transform
from ..rng import replaying
from .linear import pullback, pushforward
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
        raise NoTransposeError("an autograd.Function has a backward that cannot be differentiated by its cotangent")


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
