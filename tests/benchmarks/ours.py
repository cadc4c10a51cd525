"""jacfunc itself, through its public names only, and the plain forward that everything is compared with."""

from __future__ import annotations

import torch

from jacfunc import batch_jac, diag_jac, laplacian, make_functional

from .contender import Contender, Derivative, Local, Running
from .workloads import DIAGONAL, JACOBIAN, LAPLACIAN, Problem

TRANSFORMS = {DIAGONAL: diag_jac, JACOBIAN: batch_jac, LAPLACIAN: laplacian}
KINDS = tuple(TRANSFORMS)

OURS, PLAIN = "jacfunc", "plain forward"
BLOCKS = "jacfunc, in blocks"
LEAST = {DIAGONAL: 256, LAPLACIAN: 64}
"""Samples from which on there are blocks."""
FEW = "too few samples for blocks"


def _eager(problem: Problem) -> Running:
    f, params = make_functional(problem.net)
    derivative = TRANSFORMS[problem.workload.kind](f)
    return Local(problem, lambda x: derivative(params, x))


def _in_blocks(problem: Problem) -> Running:
    f, params = make_functional(problem.net)
    derivative = TRANSFORMS[problem.workload.kind](f, sample_chunk_size=problem.workload.samples // 48)
    return Local(problem, lambda x: derivative(params, x))


def _no_blocks(problem: Problem) -> str:
    return "" if problem.workload.samples >= LEAST[problem.workload.kind] else FEW


def _compiled(problem: Problem) -> Running:
    return _compiled_with(problem, None)


def _compiled_in_blocks(problem: Problem) -> Running:
    return _compiled_with(problem, problem.workload.samples // 4)


def _compiled_with(problem: Problem, sample_chunk_size: int | None) -> Running:
    f, params = make_functional(problem.net)
    derivative = TRANSFORMS[problem.workload.kind](f, sample_chunk_size=sample_chunk_size)
    call = torch.compile(lambda params, x: derivative(params, x), fullgraph=True)
    return Local(problem, lambda x: call(params, x))


def _plain(problem: Problem) -> Running:
    forward: Derivative = problem.net
    return Local(problem, forward)


CONTENDERS = [
    Contender(OURS, OURS, KINDS, _eager, common=True),
    Contender(OURS, OURS, KINDS, _compiled, compiled=True, common=True),
    Contender(BLOCKS, OURS, (DIAGONAL,), _in_blocks, heavy=_no_blocks),
    Contender(BLOCKS, OURS, (LAPLACIAN,), _compiled_in_blocks, compiled=True, heavy=_no_blocks),
]
FORWARD = Contender(PLAIN, PLAIN, KINDS, _plain, common=True)
