"""A peer in this process: eager and, from the same function, through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._dynamo
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..contender import Contender, Derivative, Local, Running
from ..workloads import FORCES, LAPLACIAN, Problem

MOST_UNROLLED = 32
"""A Python loop of more rounds is not compiled: its graph takes minutes to build and longer to compile."""


def peer(
    name: str,
    family: str,
    kinds: tuple[str, ...],
    make: Callable[[Problem], Derivative],
    *,
    common: str = "",
    loops: bool = False,
    private: bool = False,
    cannot: Callable[[Problem], str] = lambda problem: "",
) -> list[Contender]:
    """Both of them; ``common`` says which of ``eager`` and ``compiled`` runs in sweeps too.

    ``private``: that it calls ``torch.autograd.grad``, which torch compiles by a switch of its own only.
    ``cannot`` says why it is not tried on a problem, or nothing.
    """

    def eager(problem: Problem) -> Running:
        return Local(problem, _of_vectors(problem, make(problem)))

    def compiled(problem: Problem) -> Running:
        # Off by default, and without it these compile in pieces that cannot be differentiated twice.
        torch._dynamo.config.trace_autograd_ops = True
        return Local(problem, torch.compile(_of_vectors(problem, make(problem))))

    def heavy(problem: Problem) -> str:
        sizes, kind = problem.workload.sizes, problem.workload.kind
        rounds = sizes[0] if kind == LAPLACIAN else 1 if kind == FORCES else max(sizes[0], sizes[-1])
        long = f"not compiled: a Python loop of {rounds} rounds" if loops and rounds > MOST_UNROLLED else ""
        return cannot(problem) or long

    return [
        Contender(name, family, kinds, eager, common=common == "eager", heavy=cannot),
        Contender(
            name,
            family,
            kinds,
            compiled,
            compiled=True,
            private=private,
            common=common == "compiled",
            quick=False,
            heavy=heavy,
        ),
    ]


def of_one_output(problem: Problem) -> str:
    """Why a peer that differentiates the sum of outputs does not run, or nothing."""
    return "for one output" if problem.workload.sizes[-1] > 1 else ""


def _of_vectors(problem: Problem, derivative: Derivative) -> Derivative:
    """Peers take samples that are vectors, and attention by a kernel that torch can differentiate as they do."""
    if problem.x.dim() == 2:
        return derivative
    attention = any(isinstance(module, nn.MultiheadAttention) for module in problem.net.modules())
    if not attention:
        return lambda x: derivative(x.flatten(1))

    def by_products(x: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return derivative(x.flatten(1))

    return by_products
