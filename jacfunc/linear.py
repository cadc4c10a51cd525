"""Pullback and pushforward of a function at a point: ``torch.func.vjp`` with one form of results, and its transpose.

And the pullback along a graph that is recorded already, by ``torch.autograd.grad``.
"""

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


def graph_gradients(outputs: Sequence[torch.Tensor], leaves: Tensors, cotangents: Tensors, recorded: bool) -> Tensors:
    """The gradients by the leaves, zeros where nothing depends on one; ``recorded``: with a graph of their own."""
    used = [(output, row) for output, row in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not used:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    with torch.enable_grad():
        return torch.autograd.grad(
            [output for output, _ in used],
            leaves,
            [row for _, row in used],
            retain_graph=True,
            create_graph=recorded,
            materialize_grads=True,
        )
