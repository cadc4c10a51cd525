"""A peer in this process: eager and, from the same function, through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._dynamo

from ..contender import Contender, Derivative, Local, Running
from ..workloads import LAPLACIAN, Problem

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
) -> list[Contender]:
    """Both of them; ``common`` says which of ``eager`` and ``compiled`` runs in sweeps too.

    ``private``: that it calls ``torch.autograd.grad``, which torch compiles by a switch of its own only.
    """

    def eager(problem: Problem) -> Running:
        return Local(problem, make(problem))

    def compiled(problem: Problem) -> Running:
        # Off by default, and without it these compile in pieces that cannot be differentiated twice.
        torch._dynamo.config.trace_autograd_ops = True
        return Local(problem, torch.compile(make(problem)))

    def heavy(problem: Problem) -> str:
        sizes = problem.workload.sizes
        rounds = sizes[0] if problem.workload.kind == LAPLACIAN else max(sizes[0], sizes[-1])
        return f"not compiled: a Python loop of {rounds} rounds" if loops and rounds > MOST_UNROLLED else ""

    return [
        Contender(name, family, kinds, eager, common=common == "eager"),
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
