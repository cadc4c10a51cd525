"""DeepXDE's ``jacobian`` and ``hessian`` on its PyTorch backend, in both of its modes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from types import ModuleType
from typing import Any

import torch

from ..contender import Derivative
from ..equations import EQUATIONS, KINDS
from ..workloads import DIAGONAL, DIVERGENCE, FORCES, JACOBIAN, LAPLACIAN, Problem, entries
from .local import of_one_output, peer


def _deepxde() -> ModuleType:
    os.environ["DDE_BACKEND"] = "pytorch"
    with redirect_stderr(StringIO()):  # it tells of its backends
        import deepxde

    return deepxde


def _in_mode(mode: str, whole: Callable[..., torch.Tensor]) -> Callable[[Problem], Derivative]:
    def make(problem: Problem) -> Derivative:
        library = _deepxde()

        def derivative(x: torch.Tensor) -> torch.Tensor:
            library.config.autodiff = mode
            x = x.detach().requires_grad_()
            y = problem.flat(x)
            # Forward mode wants the function beside the value.
            found = whole(library.grad, y if mode == "reverse" else (y, problem.flat), x, problem.workload)
            library.grad.clear()  # it keeps every derivative until told otherwise
            return found

        return derivative

    return make


def _rows(library: Any, y: torch.Tensor, x: torch.Tensor, workload: Any) -> torch.Tensor:
    outputs = range(workload.sizes[-1])
    if workload.kind == DIAGONAL and workload.sizes[0] > 1:
        return torch.cat([library.jacobian(y, x, i=output, j=output) for output in outputs], dim=1)
    if workload.kind == DIVERGENCE:
        return sum(library.jacobian(y, x, i=output, j=output)[:, 0] for output in outputs)
    found = torch.stack([library.jacobian(y, x, i=output) for output in outputs], dim=1)
    return entries(workload.kind, found)


def _columns(library: Any, y: Any, x: torch.Tensor, workload: Any) -> torch.Tensor:
    found = [library.jacobian(y, x, i=None, j=column)[0] for column in range(workload.sizes[0])]
    return entries(workload.kind, torch.stack(found, dim=-1))


def _laplacian(library: Any, y: Any, x: torch.Tensor, workload: Any) -> torch.Tensor:
    found = [library.hessian(y, x, i=column, j=column) for column in range(workload.sizes[0])]
    return sum(part if isinstance(part, torch.Tensor) else part[0] for part in found)


def _residual(library: Any, y: Any, x: torch.Tensor, workload: Any) -> torch.Tensor:
    """By its ``jacobian`` of what was found before, which it keeps by itself."""
    equation = EQUATIONS[workload.kind]
    known: dict[tuple[str, str], Any] = {}

    def field(unknown: str, by: str) -> Any:
        if (unknown, by) not in known:
            lower, row = (y, equation.outputs.index(unknown)) if len(by) == 1 else (field(unknown, by[:-1]), 0)
            known[unknown, by] = library.jacobian(lower, x, i=row, j=equation.inputs.index(by[-1]))
        return known[unknown, by]

    fields = {}
    for name, unknown, by in equation.names():
        found = field(unknown, by) if by else y
        tensor = found if isinstance(found, torch.Tensor) else found[0]
        fields[name] = tensor[:, 0] if by else tensor[:, equation.outputs.index(unknown)]
    return equation.stacked(fields)


FIRST = (DIAGONAL, JACOBIAN, DIVERGENCE, FORCES)
CONTENDERS = [
    *peer("DeepXDE reverse", "DeepXDE", FIRST, _in_mode("reverse", _rows), loops=True, private=True),
    *peer("DeepXDE forward", "DeepXDE", FIRST, _in_mode("forward", _columns), loops=True, private=True),
    *peer(
        "DeepXDE reverse",
        "DeepXDE",
        (LAPLACIAN,),
        _in_mode("reverse", _laplacian),
        loops=True,
        private=True,
        cannot=of_one_output,
    ),
    *peer(
        "DeepXDE forward",
        "DeepXDE",
        (LAPLACIAN,),
        _in_mode("forward", _laplacian),
        loops=True,
        private=True,
        cannot=of_one_output,
    ),
    *peer("DeepXDE reverse", "DeepXDE", KINDS, _in_mode("reverse", _residual), private=True),
    peer("DeepXDE forward", "DeepXDE", KINDS, _in_mode("forward", _residual))[0],
]
