"""omnibias-torch: closed-form recursions for a list of dense layers; it takes no function and no module."""

from __future__ import annotations

import torch
from torch import nn

from ..contender import Derivative
from ..networks import Sine
from ..workloads import DIAGONAL, DIVERGENCE, FORCES, JACOBIAN, LAPLACIAN, Problem, entries
from .local import peer

ACTIVATIONS = {nn.Tanh: "tanh", Sine: "sin", nn.SiLU: "silu", nn.Softplus: "softplus"}


def _layers(problem: Problem) -> list[tuple[torch.Tensor, torch.Tensor, str | None]]:
    layers = list(problem.net.children())
    names = [ACTIVATIONS[type(layer)] for layer in layers[1::2]]
    return [(layer.weight, layer.bias, name) for layer, name in zip(layers[::2], [*names, None], strict=True)]


def _not_dense(problem: Problem) -> str:
    layers = list(problem.net.children())
    dense = all(isinstance(layer, nn.Linear) for layer in layers[::2])
    if dense and all(type(layer) in ACTIVATIONS for layer in layers[1::2]) and isinstance(problem.net, nn.Sequential):
        return ""
    return "takes dense layers only"


def _first(problem: Problem) -> Derivative:
    from omnibias.torch.laplacian import deep_field_value_grad_laplacian

    layers, kind = _layers(problem), problem.workload.kind
    # It has no first derivative of a batch by itself; compiled, the unused Laplacian is not computed.
    return lambda x: entries(kind, deep_field_value_grad_laplacian(x, layers)[1].transpose(1, 2))


def _laplacian(problem: Problem) -> Derivative:
    from omnibias.torch.laplacian import deep_field_laplacian

    layers = _layers(problem)
    return lambda x: deep_field_laplacian(x, layers)


FIRST = (DIAGONAL, JACOBIAN, DIVERGENCE, FORCES)
CONTENDERS = [
    *peer("omnibias-torch", "omnibias-torch", FIRST, _first, cannot=_not_dense),
    *peer("omnibias-torch", "omnibias-torch", (LAPLACIAN,), _laplacian, common="compiled", cannot=_not_dense),
]
