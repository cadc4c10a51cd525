"""Pullback and pushforward of a function at a point: ``torch.func.vjp`` with one form of results, and its transpose.

And the pullback along a graph that is recorded already, by ``torch.autograd.grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.func import vjp

from ..core.levels import dynamo_loaded, run_backward

Tensors = tuple[torch.Tensor, ...]
Gradients = tuple[torch.Tensor | None, ...]


def pullback(
    function: Callable[..., tuple[Any, Any]], *leaves: torch.Tensor
) -> tuple[Tensors, Callable[..., Tensors], Any]:
    """Outputs, the map from their cotangents to those of the leaves, and aux, of ``function -> (outputs, aux)``.

    torch's own map loads all of Dynamo at its first call, to see that no compiled backward is asked for; where that is
    not loaded, nobody can have asked, and this is the same without.
    """
    if dynamo_loaded():
        return _by_torch(function, leaves)
    inner: list[Tensors] = []

    def kept(*leaves: torch.Tensor) -> tuple[Any, Any]:
        outputs, aux = function(*leaves)
        inner.extend((leaves, outputs))
        return outputs, aux

    outputs, _, aux = vjp(kept, *leaves, has_aux=True)  # type: ignore[misc]  # typed as either form

    def back(*cotangents: torch.Tensor) -> Tensors:
        leaves, outputs = inner
        found = gradients(outputs, leaves, cotangents, torch.is_grad_enabled())
        return tuple([torch.zeros_like(leaf) if own is None else own for own, leaf in zip(found, leaves, strict=True)])

    return outputs, back, aux


def _by_torch(function: Callable[..., tuple[Any, Any]], leaves: Tensors) -> tuple[Tensors, Callable[..., Tensors], Any]:
    outputs, pull, aux = vjp(function, *leaves, has_aux=True)  # type: ignore[misc]  # typed as either form
    return outputs, lambda *cotangents: pull(cotangents), aux


def gradients(outputs: Sequence[torch.Tensor], leaves: Tensors, cotangents: Tensors, recorded: bool) -> Gradients:
    """The gradients by the leaves, None where nothing depends on one; with a graph where ``recorded``."""
    used = [(output, row) for output, row in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not used:
        return (None,) * len(leaves)
    return run_backward(tuple([output for output, _ in used]), tuple([row for _, row in used]), leaves, recorded)


def pushforward(pull: Callable[..., Tensors], outputs: Tensors) -> Callable[..., Tensors]:
    """The map from tangents of the leaves to those of the outputs: a pullback is linear, so this is its pullback."""
    _, push, _ = pullback(
        lambda *cotangents: (pull(*cotangents), ()), *(torch.zeros_like(output) for output in outputs)
    )
    return push


def graph_gradients(outputs: Sequence[torch.Tensor], leaves: Tensors, cotangents: Tensors, recorded: bool) -> Tensors:
    """Gradients by ``torch.autograd.grad``, zeros where nothing depends on a leaf, in whatever mode the caller is."""
    with torch.enable_grad():
        found = gradients(outputs, leaves, cotangents, recorded)
    part = recorded and any(output.requires_grad for output in outputs)
    return tuple(
        [
            torch.zeros_like(leaf, requires_grad=part) if own is None else own
            for own, leaf in zip(found, leaves, strict=True)
        ]
    )
