"""omnibias-torch: closed-form recursions for a list of dense layers; it takes no function and no module."""

from __future__ import annotations

import torch

from ..contender import Derivative
from ..workloads import DIAGONAL, JACOBIAN, LAPLACIAN, Problem, entries
from .local import peer


def _layers(problem: Problem) -> list[tuple[torch.Tensor, torch.Tensor, str | None]]:
    linears = problem.linears
    return [(layer.weight, layer.bias, None if layer is linears[-1] else "tanh") for layer in linears]


def _first(problem: Problem) -> Derivative:
    from omnibias.torch.laplacian import deep_field_value_grad_laplacian

    layers, kind = _layers(problem), problem.workload.kind
    # It has no first derivative of a batch by itself; compiled, the unused Laplacian is not computed.
    return lambda x: entries(kind, deep_field_value_grad_laplacian(x, layers)[1].transpose(1, 2))


def _laplacian(problem: Problem) -> Derivative:
    from omnibias.torch.laplacian import deep_field_laplacian

    layers = _layers(problem)
    return lambda x: deep_field_laplacian(x, layers)


CONTENDERS = [
    *peer("omnibias-torch", "omnibias-torch", (DIAGONAL, JACOBIAN), _first),
    *peer("omnibias-torch", "omnibias-torch", (LAPLACIAN,), _laplacian, common="compiled"),
]
