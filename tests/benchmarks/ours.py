"""jacfunc itself, through its public names only, and the plain forward that everything is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jacfunc import batch_jac, diag_jac, laplacian, make_functional, partials

from .contender import Contender, Derivative, Local, Running
from .equations import EQUATIONS
from .equations import KINDS as STEPS
from .workloads import DIAGONAL, JACOBIAN, LAPLACIAN, Problem

TRANSFORMS = {DIAGONAL: diag_jac, JACOBIAN: batch_jac, LAPLACIAN: laplacian}
KINDS = tuple(TRANSFORMS)

Residual = Callable[[Any, torch.Tensor], torch.Tensor]
"""Of parameters and points."""

OURS, PLAIN = "jacfunc", "plain forward"
BLOCKS = "jacfunc, in blocks"
BY_OPTION = "jacfunc, compile=True"
SUMMED = "jacfunc, by laplacian"
NAMED = "jacfunc, name by name"
FORCED = "jacfunc, method"
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


def _compiled_by_option(problem: Problem) -> Running:
    f, params = make_functional(problem.net)
    derivative = TRANSFORMS[problem.workload.kind](f, compile=True)
    return Local(problem, lambda x: derivative(params, x))


def _compiled_in_blocks(problem: Problem) -> Running:
    return _compiled_with(problem, problem.workload.samples // 4)


def _compiled_with(problem: Problem, sample_chunk_size: int | None) -> Running:
    f, params = make_functional(problem.net)
    derivative = TRANSFORMS[problem.workload.kind](f, sample_chunk_size=sample_chunk_size)
    call = torch.compile(lambda params, x: derivative(params, x), fullgraph=True)
    return Local(problem, lambda x: call(params, x))


def _by_sums(problem: Problem) -> Residual:
    equation = EQUATIONS[problem.workload.kind]
    wanted = _partials(problem, equation.sums)
    return lambda params, x: torch.stack(equation.of_sums(*wanted(params, x)), dim=1)


def _by_names(problem: Problem) -> Residual:
    """With every derivative by itself."""
    equation = EQUATIONS[problem.workload.kind]
    wanted = _partials(problem, equation.wanted)
    return lambda params, x: torch.stack(equation.residual(wanted(params, x)), dim=1)


def _partials(problem: Problem, wanted: str) -> Callable[..., Any]:
    equation = EQUATIONS[problem.workload.kind]
    f, _ = make_functional(problem.net)
    return partials(f, wanted, inputs=" ".join(equation.inputs), outputs=" ".join(equation.outputs))


def _summed(problem: Problem) -> Residual:
    """Poisson's equation by the sum that it is about."""
    derivative = laplacian(make_functional(problem.net)[0])
    return lambda params, x: derivative(params, x) - 1.0


def _steps(name: str, kinds: tuple[str, ...], make: Callable[[Problem], Residual]) -> list[Contender]:
    """Both of them, eager and compiled."""

    def eager(problem: Problem) -> Running:
        return _with_parameters(problem, make(problem))

    def compiled(problem: Problem) -> Running:
        return _with_parameters(problem, torch.compile(make(problem), fullgraph=True))

    return [Contender(name, OURS, kinds, eager), Contender(name, OURS, kinds, compiled, compiled=True)]


def _with_parameters(problem: Problem, residual: Residual) -> Running:
    params = make_functional(problem.net)[1]
    return Local(problem, lambda x: residual(params, x))


def _plain(problem: Problem) -> Running:
    forward: Derivative = problem.net
    return Local(problem, forward)


CONTENDERS = [
    Contender(OURS, OURS, KINDS, _eager, common=True),
    Contender(OURS, OURS, KINDS, _compiled, compiled=True, common=True),
    Contender(BY_OPTION, OURS, KINDS, _compiled_by_option, compiled=True),
    Contender(BLOCKS, OURS, (DIAGONAL,), _in_blocks, heavy=_no_blocks),
    Contender(BLOCKS, OURS, (LAPLACIAN,), _compiled_in_blocks, compiled=True, heavy=_no_blocks),
]
CONTENDERS += [
    *_steps(OURS, STEPS, _by_sums),
    *_steps(NAMED, STEPS, _by_names),
    *_steps(SUMMED, ("poisson",), _summed),
]


def _forced(method: str) -> Contender:
    def eager(problem: Problem) -> Running:
        f, params = make_functional(problem.net)
        derivative = TRANSFORMS[problem.workload.kind](f, method=method)
        return Local(problem, lambda x: derivative(params, x))

    return Contender(f"{FORCED}={method!r}", FORCED, KINDS, eager, quick=False)


METHODS = [_forced(method) for method in ("taylor", "forward", "reverse")]
FORWARD = Contender(PLAIN, PLAIN, (*KINDS, *STEPS), _plain, common=True)
