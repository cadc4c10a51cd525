"""Which programs a plan was found of: who compares them with what runs, and how they are added to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..core import caches
from ..core.levels import inside_vmap
from ..evaluation.program import PROGRAMS, Held, Met, Program
from ..evaluation.recorder import Recorder
from .plan import Findings, Plan
from .request import Request


class Ran(NamedTuple):
    """Which program ran, and the tensors from outside that it met, where it was asked what they hold."""

    program: Program | None
    outside: Sequence[Met | Held]


def recorder_of(findings: Findings, request: Request) -> Recorder | None:
    """Who compares what the function does with what is known, or notes it; nobody for plain layers."""
    if findings.settled:  # without programs where nothing can be noted
        holding = getattr(request.function, "holds_outside", False)
        return Recorder(request.samples, findings.programs, holding) if findings.programs else None
    if request.traced or request.alone or request.within is not None or inside_vmap():
        return None
    return Recorder(request.samples)


def unless_due(plan: Plan | None, request: Request) -> Plan | None:
    """A known plan, but for calls 2, 3, 5, 9 and so on of what no program shows: it is forgotten then, and verified."""
    if plan is None or not plan.findings.opaque:
        return plan
    fingerprint, signature = request.fingerprint, (plan.quantity.identity, request.signature)
    count = 1 + (caches.OPAQUE.get(fingerprint.key, signature) or 0)
    caches.OPAQUE.put(fingerprint.key, fingerprint.parts, signature, count)
    if not caches.due(count):
        return plan
    caches.forget_plans(fingerprint.key)
    return None


def with_program(
    findings: Findings, recorder: Recorder | None, looked_at: Program | None, on_jets: bool
) -> tuple[Program, ...]:
    """The known programs, and the one that has run."""
    program = None if recorder is None else recorder.program
    if program is None:
        return findings.programs
    if findings.proved:
        program = program.sure()
    elif looked_at is not None:
        if not on_jets:  # else all that is made of samples is a jet
            program = program.of_constants(looked_at.held)
        program = replace(program, obstacle=looked_at.obstacle)
    others = [known for known in findings.programs if not known.covers(program)]
    return (program, *others)[:PROGRAMS]


def which_ran(recorder: Recorder | None, findings: Findings) -> Ran:
    """The known program that has run, or that is known from now on, and what it met; nothing if none is noted."""
    if recorder is None:
        return Ran(None, ())
    if recorder.known is not None:
        return Ran(recorder.program, recorder.outside)
    return Ran(next(iter(findings.programs), None), recorder.held)
