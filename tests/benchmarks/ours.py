"""jacfunc itself, through its public names only, and the plain forward that everything is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jacfunc import batch_jac, diag_jac, divergence, laplacian, make_functional, partials, residual

from .contender import Contender, Derivative, Local, Running
from .equations import ALLEN_CAHN, EQUATIONS, STEPS
from .workloads import DIAGONAL, DIVERGENCE, FORCES, JACOBIAN, LAPLACIAN, Problem

TRANSFORMS = {
    DIAGONAL: diag_jac,
    JACOBIAN: batch_jac,
    LAPLACIAN: laplacian,
    DIVERGENCE: divergence,
    FORCES: diag_jac,
}
KINDS = tuple(TRANSFORMS)

Residual = Callable[[Any, torch.Tensor], torch.Tensor]
"""Of parameters and points."""

OURS, PLAIN = "jacfunc", "plain forward"
BLOCKS = "jacfunc, in blocks"
BY_OPTION = "jacfunc, compile=True"
SUMMED = "jacfunc, by laplacian"
NAMED, SUMS = "jacfunc, name by name", "jacfunc, partials with sums"
FORCED = "jacfunc, method"
BY_CACHES = "jacfunc, sample_chunk_size='auto'"
LEAST = {DIAGONAL: 256, LAPLACIAN: 64, DIVERGENCE: 64}
"""Samples from which on there are blocks."""
FEW = "too few samples for blocks"


def _with(problem: Problem, **options: Any) -> Running:
    """Eager, as all that are not ``torch.compile`` around it."""
    params, derivative = make_functional(problem.net)[1], _derivative(problem, **options)
    return Local(problem, lambda x: derivative(params, x))


def _derivative(problem: Problem, **options: Any) -> Residual:
    """By the public function that is for it, samples first and each sample's result of the shape that peers give."""
    f, kind = make_functional(problem.net)[0], problem.workload.kind
    if kind in EQUATIONS:
        equation = EQUATIONS[kind]
        names: Any = {"inputs": " ".join(equation.inputs), "outputs": " ".join(equation.outputs)}
        found = residual(f, equation.residual, **names, **options)
        return lambda params, x: torch.stack(found(params, x), dim=1)
    if problem.out_dims:
        derivative = TRANSFORMS[kind](f, out_dims=problem.out_dims, **options)
        return lambda params, x: derivative(params, x).movedim(problem.out_dims, 0)
    derivative = TRANSFORMS[kind](f, **options)
    inputs = problem.x.dim() - 1
    if inputs == 1 or kind not in (JACOBIAN, FORCES):
        return derivative
    return lambda params, x: derivative(params, x).flatten(-inputs)


def _eager(problem: Problem) -> Running:
    return _with(problem)


def _in_blocks(problem: Problem) -> Running:
    return _with(problem, sample_chunk_size=problem.workload.samples // 48)


def _by_caches(problem: Problem) -> Running:
    return _with(problem, sample_chunk_size="auto")


def _no_blocks(problem: Problem) -> str:
    return "" if problem.workload.samples >= LEAST[problem.workload.kind] else FEW


def _compiled(problem: Problem) -> Running:
    return _compiled_with(problem, None)


def _compiled_by_option(problem: Problem) -> Running:
    return _with(problem, compile=True)


def _compiled_in_blocks(problem: Problem) -> Running:
    return _compiled_with(problem, problem.workload.samples // 4)


def _compiled_with(problem: Problem, sample_chunk_size: int | None) -> Running:
    params = make_functional(problem.net)[1]
    derivative = _derivative(problem, sample_chunk_size=sample_chunk_size)
    if problem.workload.kind in EQUATIONS:
        derivative(params, problem.x)  # which finds out what the equation reads, before it is traced
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


ASKED = (*KINDS, ALLEN_CAHN)
"""What has a public function of its own, where a training step is written with ``partials``."""
CONTENDERS = [
    Contender(OURS, OURS, ASKED, _eager, common=True),
    Contender(OURS, OURS, ASKED, _compiled, compiled=True, common=True),
    Contender(BY_OPTION, OURS, ASKED, _compiled_by_option, compiled=True, quick=False),
    Contender(BY_CACHES, OURS, (LAPLACIAN, DIVERGENCE), _by_caches, heavy=_no_blocks),
    Contender(BLOCKS, OURS, (DIAGONAL,), _in_blocks, heavy=_no_blocks),
    Contender(BLOCKS, OURS, (LAPLACIAN,), _compiled_in_blocks, compiled=True, quick=False, heavy=_no_blocks),
]
CONTENDERS += [
    *_steps(OURS, STEPS, _by_sums),
    *_steps(NAMED, STEPS, _by_names),
    *_steps(SUMS, (ALLEN_CAHN,), _by_sums),
    *_steps(SUMMED, ("poisson",), _summed),
]


def _forced(method: str) -> Contender:
    def eager(problem: Problem) -> Running:
        return _with(problem, method=method)

    return Contender(f"{FORCED}={method!r}", FORCED, ASKED, eager, quick=False)


METHODS = [_forced(method) for method in ("taylor", "forward", "reverse")]
FORWARD = Contender(PLAIN, PLAIN, (*ASKED, *STEPS), _plain, common=True)
