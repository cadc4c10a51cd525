"""``torch.func`` in all its ways: samples under ``vmap``, or the sum trick with the rows under ``vmap``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.functional import jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from ..contender import Derivative
from ..equations import EQUATIONS, KINDS
from ..workloads import DIAGONAL, DIVERGENCE, FORCES, JACOBIAN, LAPLACIAN, Problem, entries
from .local import of_one_output, peer

FAMILY = "torch.func"
MOST_DENSE = 10**7
"""A whole Jacobian of more numbers, nearly all of them zeros, is not computed."""


def _per_sample(transform: Callable[..., Callable[..., Any]]) -> Callable[[Problem], Derivative]:
    def make(problem: Problem) -> Derivative:
        jacobian, kind = vmap(transform(problem.sample)), problem.workload.kind
        return lambda x: entries(kind, jacobian(x))

    return make


def _dense(problem: Problem) -> Derivative:
    """Every output by every input, of other samples too, as the documentation of PyTorch computes a Jacobian."""

    def derivative(x: torch.Tensor) -> torch.Tensor:
        whole = jacobian(problem.flat, x, vectorize=True, strategy="forward-mode")
        samples = torch.arange(len(x))
        return entries(problem.workload.kind, whole[samples, :, samples])

    return derivative


def _too_dense(problem: Problem) -> str:
    sizes, samples = problem.workload.sizes, problem.workload.samples
    count = samples**2 * sizes[0] * sizes[-1]
    return f"not run: {count:.0e} numbers" if count > MOST_DENSE else ""


def _pushed(problem: Problem) -> Derivative:
    def derivative(x: torch.Tensor) -> torch.Tensor:
        rows = vmap(lambda row: jvp(problem.flat, (x,), (_everywhere(row, x),))[1])(_identity(x))
        return entries(problem.workload.kind, rows.movedim(0, -1))

    return derivative


def _pulled(problem: Problem) -> Derivative:
    def derivative(x: torch.Tensor) -> torch.Tensor:
        y, pull = vjp(problem.flat, x)
        rows = vmap(lambda row: pull(_everywhere(row, y))[0])(_identity(y))
        return entries(problem.workload.kind, rows.movedim(0, 1))

    return derivative


def _hessian(problem: Problem) -> Derivative:
    per_sample = vmap(hessian(problem.sample))
    return lambda x: per_sample(x).diagonal(dim1=-2, dim2=-1).sum(-1)


def _nested_jvp(problem: Problem) -> Derivative:
    def derivative(x: torch.Tensor) -> torch.Tensor:
        def second(row: torch.Tensor) -> torch.Tensor:
            tangent = _everywhere(row, x)
            return jvp(lambda x: jvp(problem.flat, (x,), (tangent,))[1], (x,), (tangent,))[1]

        return vmap(second)(_identity(x)).sum(0)

    return derivative


def _jvp_of_grad(problem: Problem) -> Derivative:
    gradient = grad(lambda x: problem.flat(x).sum())

    def derivative(x: torch.Tensor) -> torch.Tensor:
        def second(row: torch.Tensor) -> torch.Tensor:
            tangent = _everywhere(row, x)
            return (jvp(gradient, (x,), (tangent,))[1] * tangent).sum(-1, keepdim=True)

        return vmap(second)(_identity(x)).sum(0)

    return derivative


def _vjp_of_grad(problem: Problem) -> Derivative:
    gradient = grad(lambda x: problem.flat(x).sum())

    def derivative(x: torch.Tensor) -> torch.Tensor:
        y, pull = vjp(gradient, x)

        def second(row: torch.Tensor) -> torch.Tensor:
            cotangent = _everywhere(row, y)
            return (pull(cotangent)[0] * cotangent).sum(-1, keepdim=True)

        return vmap(second)(_identity(y)).sum(0)

    return derivative


def _towers(problem: Problem) -> Derivative:
    """For each coordinate nested jvp to the highest order that is named (no name here is mixed)."""
    equation = EQUATIONS[problem.workload.kind]
    names = equation.names()
    orders = {letter: max(len(by) for *_, by in names if set(by) <= {letter}) for letter in equation.inputs}

    def derivative(x: torch.Tensor) -> torch.Tensor:
        found: dict[str, tuple[torch.Tensor, ...]] = {}
        for place, (letter, order) in enumerate(orders.items()):
            tangent = torch.zeros_like(x)
            tangent[:, place] = 1
            found[letter] = _tower(problem.flat, tangent, order)(x)
        fields = {}
        for name, unknown, by in names:
            fields[name] = found[by[0] if by else equation.inputs[0]][len(by)][:, equation.outputs.index(unknown)]
        return equation.stacked(fields)

    return derivative


def _tower(function: Callable[..., Any], tangent: torch.Tensor, order: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The value and all derivatives along a direction up to an order."""
    if order == 0:
        return lambda x: (function(x),)
    lower = _tower(function, tangent, order - 1)

    def upper(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, tangents = jvp(lower, (x,), (tangent,))
        return *values, tangents[-1]

    return upper


def _grads(problem: Problem) -> Derivative:
    """``grad`` of sums nested for each name, as far as it goes."""
    equation = EQUATIONS[problem.workload.kind]

    def of(unknown: str, by: str) -> Callable[[torch.Tensor], torch.Tensor]:
        if not by:
            return lambda x: problem.flat(x)[:, equation.outputs.index(unknown)]
        lower = grad(lambda x: of(unknown, by[:-1])(x).sum())
        return lambda x: lower(x)[:, equation.inputs.index(by[-1])]

    fields = {name: of(*parts) for name, *parts in equation.names()}
    return lambda x: equation.stacked({name: field(x) for name, field in fields.items()})


def _everywhere(row: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The same row for every sample."""
    rows = row.expand_as(like)
    # With expanded tangents the C++ that inductor writes for nested forward mode crashes (torch 2.13).
    return rows.contiguous() if torch.compiler.is_compiling() else rows


def _identity(like: torch.Tensor) -> torch.Tensor:
    """A row for each element of a sample."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


FIRST = (DIAGONAL, JACOBIAN, DIVERGENCE, FORCES)
CONTENDERS = [
    *peer("vmap(jacfwd)", FAMILY, FIRST, _per_sample(jacfwd), common="eager"),
    *peer("vmap(jacrev)", FAMILY, FIRST, _per_sample(jacrev), common="eager"),
    replace(peer("dense Jacobian", FAMILY, FIRST, _dense)[0], heavy=_too_dense),
    *peer("batched jvp", FAMILY, FIRST, _pushed),
    *peer("batched vjp", FAMILY, FIRST, _pulled),
    *peer("vmap(hessian)", FAMILY, (LAPLACIAN,), _hessian),
    peer("nested jvp", FAMILY, (LAPLACIAN,), _nested_jvp)[0],  # compiled, a kernel of torch 2.13 ends the process
    *peer("jvp of grad", FAMILY, (LAPLACIAN,), _jvp_of_grad, common="eager", cannot=of_one_output),
    *peer("vjp of grad", FAMILY, (LAPLACIAN,), _vjp_of_grad, cannot=of_one_output),
    peer("nested jvp", FAMILY, KINDS, _towers)[0],
    *peer("nested grad", FAMILY, KINDS, _grads),
]
