"""``torch.autograd`` nested by hand with the sum trick: what users write who know that samples are independent."""

from __future__ import annotations

import torch

from ..contender import Derivative
from ..equations import EQUATIONS, KINDS
from ..workloads import DIAGONAL, DIVERGENCE, FORCES, GRADIENT, JACOBIAN, LAPLACIAN, Problem, entries
from .local import peer


def _first(problem: Problem) -> Derivative:
    kind, graph = problem.workload.kind, problem.workload.part == GRADIENT

    def derivative(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        y = problem.flat(x)
        rows = []
        for output in range(y.shape[1]):
            (row,) = torch.autograd.grad(y[:, output].sum(), x, retain_graph=True, create_graph=graph)
            # Only the wanted element of each row is kept, or the loop would hold the whole Jacobian.
            one = kind == DIVERGENCE or (kind == DIAGONAL and row.shape[1] > 1)
            rows.append(row[:, output] if one else row)
        found = torch.stack(rows, dim=1)
        if kind == DIVERGENCE:
            return found.sum(1)
        return entries(kind, found) if found.dim() > 2 else found

    return derivative


def _laplacian(problem: Problem) -> Derivative:
    graph = problem.workload.part == GRADIENT

    def derivative(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        y = problem.flat(x)
        return torch.stack([one(y[:, output].sum(), x) for output in range(y.shape[1])], dim=1)

    def one(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        total = torch.zeros_like(x[:, 0])
        for column in range(x.shape[1]):
            summed = gradient[:, column].sum()
            (row,) = torch.autograd.grad(summed, x, retain_graph=True, create_graph=graph)
            total = total + row[:, column]
        return total

    return derivative


def _residual(problem: Problem) -> Derivative:
    """Every gradient is taken once, and all that start with it go on from there."""
    equation = EQUATIONS[problem.workload.kind]

    def derivative(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        y = problem.flat(x)
        gradients: dict[tuple[str, str], torch.Tensor] = {}

        def field(unknown: str, coordinates: str) -> torch.Tensor:
            if not coordinates:
                return y[:, equation.outputs.index(unknown)]
            lower = unknown, coordinates[:-1]
            if lower not in gradients:
                (gradients[lower],) = torch.autograd.grad(field(*lower).sum(), x, create_graph=True)
            return gradients[lower][:, equation.inputs.index(coordinates[-1])]

        return equation.stacked({name: field(*parts) for name, *parts in equation.names()})

    return derivative


CONTENDERS = [
    *peer(
        "torch.autograd loop",
        "torch.autograd",
        (DIAGONAL, JACOBIAN, DIVERGENCE, FORCES),
        _first,
        loops=True,
        private=True,
    ),
    *peer("torch.autograd nested", "torch.autograd", (LAPLACIAN,), _laplacian, loops=True, private=True),
    *peer("torch.autograd nested", "torch.autograd", KINDS, _residual, private=True),
]
