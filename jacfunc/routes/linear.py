"""Pullback and pushforward of a function at a point: ``torch.func.vjp`` with one form of results, and its transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.func import vjp

Tensors = tuple[torch.Tensor, ...]


def pullback(
    function: Callable[..., tuple[Any, Any]], *leaves: torch.Tensor
) -> tuple[Tensors, Callable[..., Tensors], Any]:
    """Outputs, the map from their cotangents to those of the leaves, and aux, of ``function -> (outputs, aux)``."""
    outputs, pull, aux = vjp(function, *leaves, has_aux=True)  # type: ignore[misc]  # typed as either form

    def back(*cotangents: torch.Tensor) -> Tensors:
        result: Tensors = pull(cotangents)
        return result

    return outputs, back, aux


def pushforward(pull: Callable[..., Tensors], outputs: Tensors) -> Callable[..., Tensors]:
    """The map from tangents of the leaves to those of the outputs: a pullback is linear, so this is its pullback."""
    _, push, _ = pullback(
        lambda *cotangents: (pull(*cotangents), ()), *(torch.zeros_like(output) for output in outputs)
    )
    return push


class NoTransposeError(RuntimeError):
    """A backward that cannot be differentiated by its cotangent, and does not say so."""


def verify_backward(function: Callable[..., tuple[Any, Any]], leaves: Tensors) -> None:
    """:func:`verify_transpose` of a function that is evaluated for it."""
    outputs, pull, _ = pullback(function, *leaves)
    verify_transpose(pull, pushforward(pull, outputs), leaves, outputs)


def verify_transpose(
    pull: Callable[..., Tensors],
    push: Callable[..., Tensors],
    leaves: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> None:
    """Raise unless ``<u, push(v)> = <pull(u), v>`` for some u and v.

    A user's ``autograd.Function`` whose backward is not differentiable (``once_differentiable``, ``.detach()``) has a
    pullback without a transpose, which torch.func takes for zero without a word.
    """
    tangents, cotangents = _waves(leaves), _waves(outputs)
    by_push = _dot(cotangents, push(*tangents))
    by_pull = _dot(pull(*cotangents), tangents)
    coarsest = max((*leaves, *outputs), key=lambda tensor: torch.finfo(tensor.dtype).eps).dtype
    close = (by_push[0] - by_pull[0]).abs() <= torch.finfo(coarsest).eps ** 0.5 * (by_push[1] + by_pull[1])
    finite = by_push[1].isfinite() & by_pull[1].isfinite()
    if not bool(close | ~finite):
        raise NoTransposeError("an autograd.Function has a backward that cannot be differentiated by its cotangent")


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
