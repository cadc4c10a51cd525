"""At which points what is verified is evaluated, along which directions, and how what comes out is put in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from ..errors import RefusedOperationError, UnsupportedOperationError
from ..evaluation.rng import replaying
from .task import Task, Tensors


def recorded(task: Task, leaves: Sequence[torch.Tensor]) -> tuple[Tensors, Tensors]:
    """Leaves with these values, and the outputs there with a graph."""
    task.redraw()
    with torch.enable_grad():
        own = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        outputs, _ = task.evaluate(*own, others_copied=True)
    return own, outputs


def replayed(task: Task) -> AbstractContextManager[None]:
    """A context after which the random generators stand where they stood, if the function draws."""
    return replaying(task.random_state) if task.random_state else nullcontext()


REFUSED = (
    UnsupportedOperationError,
    RefusedOperationError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
)
"""What a function may raise for values that it was not given: they say nothing then."""


def elsewhere(leaves: Sequence[torch.Tensor]) -> Tensors:
    """Values beside these without symmetries, finite wherever they are."""
    return moved([leaf.detach().nan_to_num(0.0, 0.0, 0.0) for leaf in leaves], 1.0)


def others(leaves: Sequence[torch.Tensor]) -> tuple[Tensors, Tensors]:
    """Values that say something where those given do not: beside them, and of size one."""
    return elsewhere(leaves), waves(leaves)


def moved(leaves: Sequence[torch.Tensor], step: float) -> Tensors:
    """The leaves so far along the waves."""
    return tuple(leaf.detach() + step * wave for leaf, wave in zip(leaves, waves(leaves), strict=True))


def waves(tensors: Sequence[torch.Tensor]) -> Tensors:
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


Projection = tuple[torch.Tensor, torch.Tensor]
"""For each sample an inner product, and the sum of the sizes of its terms."""


def projected(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor], task: Task) -> Projection:
    """The inner products of the samples."""
    axes = len(task.batch)
    terms = [(a.double() * b.double()).detach() for a, b in zip(left, right, strict=True)]
    joined = torch.cat([term.reshape(*term.shape[:axes], math.prod(term.shape[axes:])) for term in terms], dim=-1)
    return joined.sum(-1), joined.abs().sum(-1)


def quotient(here: torch.Tensor, below: torch.Tensor, above: torch.Tensor, step: float) -> Projection:
    """The difference quotient, and half of what is between those back and ahead, as at a kink."""
    back, ahead = (here - below) / step, (above - here) / step
    return (back + ahead) / 2, (back - ahead).abs() / 2
