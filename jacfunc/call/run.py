"""A plan found, run and remembered, and the next route where an operation inside the function forbids the first.

What a plan is, and which route comes first, is in ``plan.py``; what a route does is in ``routes/``.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from ..core import caches
from ..core.levels import compiling, differentiated_again, exporting, inside_transform, inside_vmap, is_dual
from ..core.reasons import first_line, note, place, reason
from ..errors import JacfuncError, RefusedOperationError, UnsupportedOperationError
from ..evaluation.basis import Rows
from ..evaluation.rng import Draw
from ..evaluation.scripted import plainly
from ..jet.frame import CannotFollowError
from ..modules.swapping import locked
from ..routes import ROUTES
from ..routes.autograd import value_only
from ..routes.collect import Pair
from ..routes.task import Task
from . import independence
from .parting import parting
from .plan import Outcome, Plan, Wanted, make_plan, no_route, treats_otherwise
from .request import OutputsChangedError, Request

FATAL = (JacfuncError, torch.OutOfMemoryError)
"""What is no reason to try another route; what is the function's own fault shows in a plain forward."""


def run(request: Request, wanted: Wanted, limit: int | None = None) -> Outcome:
    """Find the plan, run it, and remember what worked; ``limit`` bounds the rows for a trial."""
    if request.traced:
        return _run_traced(request, wanted)
    plan = request.plan or _remembered(request, wanted)
    try:
        if plan is not None and not plan.random:
            return _descend(plan, request, None, limit)
        with locked():  # the generators belong to all threads: no other one may draw in between, or find them set back
            if plan is not None:
                return _descend(plan, request, request.draw(), limit)
            plan, draw = _find(request, wanted)
            return _descend(_followable(plan, request), request, draw, limit, looked=True)
    except OutputsChangedError:
        caches.PLANS.forget(request.captured.key)
        request.plan = None
        return run(request, wanted, limit)
    except JacfuncError:
        raise
    except Exception as error:
        note(error, wanted.name, request.function, request.args)
        raise


def _descend(plan: Plan, request: Request, draw: Draw | None, limit: int | None, looked: bool = False) -> Outcome:
    """Run the plan's attempts until one succeeds; ``looked`` after a plain forward has."""
    while plan.attempts:
        try:
            outcome = _attempt(plan, request, draw, limit)
        except OutputsChangedError:
            if draw is not None:
                draw.restore()
            raise
        except RefusedOperationError as error:
            raise RefusedOperationError(f"{error}{place(error)}") from None
        except Exception as error:
            if isinstance(error, FATAL) and not isinstance(error, UnsupportedOperationError):
                raise
            draw = draw or request.draw()
            draw.restore()
            if not looked:  # an error of the function itself shows in a plain forward and surfaces as it is
                _look(request, draw)
                looked = True
            where = _parting(plan, request, draw, limit) if plan.route == "taylor" and treats_otherwise(error) else ""
            plan = plan.fell_back(error, where)
        else:
            if not plan.settled:
                _remember(request, outcome.plan)
            return outcome
    raise UnsupportedOperationError(no_route(plan))


def _parting(plan: Plan, request: Request, draw: Draw, limit: int | None) -> str:
    """Where f goes another way with jets than with tensors, if its lines tell."""
    where = parting(lambda: _look(request, draw), lambda: _attempt(plan, request, draw, limit))
    draw.restore()
    return where


def _remembered(request: Request, wanted: Wanted) -> Plan | None:
    """The plan for this function and signature, if there is one and the independence is settled as well."""
    plan: Plan | None = caches.PLANS.get(request.captured.key, _plan_signature(request, wanted))
    if plan is None or not plan.stands:
        return None
    request.expected, request.scripted = plan.outputs, plan.scripted
    return plan


def _find(request: Request, wanted: Wanted) -> tuple[Plan, Draw]:
    """A plan after a plain forward, whose random draw comes with it."""
    _refuse_inputs(request, wanted)
    draw = request.draw()
    values, random = _look(request, draw)
    plan: Plan | None = caches.PLANS.get(request.captured.key, _plan_signature(request, wanted))
    if plan is None or plan.outputs != request.outputs:
        plan = _planned(request, wanted, random, independence.UNCHECKED)
    if request.within is None:  # else what is around it was checked, and this with it
        plan = replace(plan, independence=independence.standing(request) or independence.check(request, values, draw))
    if plan.settled:  # only the independence was open
        _remember(request, plan)
    return plan, draw


def _refuse_inputs(request: Request, wanted: Wanted) -> None:
    """What needs no evaluation to be refused."""
    if wanted.refuse_inputs is not None:
        wanted.refuse_inputs(request)


def _look(request: Request, draw: Draw) -> tuple[tuple[torch.Tensor, ...], bool]:
    """The outputs of a plain forward, and whether it drew random numbers; refuses what is no batch of samples."""
    request.expected = None
    try:
        with plainly() as called:
            values = request.first_values(draw)
        request.scripted = request.scripted or called()
        return values, not draw.is_now()
    except RuntimeError as error:
        if inside_transform() and not isinstance(error, JacfuncError):
            raise UnsupportedOperationError(
                f"f cannot run inside the surrounding torch.func transform ({first_line(error)}); take its derivative "
                "outside of it, or replace that operation"
            ) from error
        raise
    finally:
        draw.restore()


def _planned(request: Request, wanted: Wanted, random: bool, independent: str) -> Plan:
    assert request.outputs is not None
    if wanted.refuse is not None:
        wanted.refuse(request, request.outputs)
    return make_plan(request, wanted, request.outputs, random, independent)


def _plan_signature(request: Request, wanted: Wanted) -> tuple[object, ...]:
    inside = inside_transform()
    surroundings = (torch.is_grad_enabled() or inside, inside and inside_vmap())
    inner = request.within is not None
    several = independence.several(request)
    return (wanted.identity, request.options.planned, several, request.signature, surroundings, inner)


def _remember(request: Request, plan: Plan) -> None:
    if request.captured.rememberable:
        caches.PLANS.put(request.captured.key, request.captured.parts, _plan_signature(request, plan.wanted), plan)


def _run_traced(request: Request, wanted: Wanted) -> Outcome:
    """Under ``torch.compile``: nothing remembered, nothing retried; the forward for the shapes is dead code."""
    _refuse_inputs(request, wanted)
    exported = exporting()
    if exported and request.options.method not in ("auto", "taylor"):
        raise UnsupportedOperationError(
            f"method={request.options.method!r} is made of torch.func, which torch.export cannot save; use 'auto'"
        )
    request.scripted = not compiling()
    # Exported, an inner no_grad of f would end in the mode that it found, and be recorded so.
    with nullcontext() if exported else torch.no_grad():
        request.evaluate(*(leaf.detach() for leaf in request.leaves))
    plan = _planned(request, wanted, False, independence.TRACED)
    return _exported(plan, request) if exported else _attempt(_followable(plan, request), request, None, None)


def _exported(plan: Plan, request: Request) -> Outcome:
    """By the Taylor route, the only one that is made of torch's own operations, with all rows where few may not do."""
    if not compiling():
        independence.refuse_layers(request)
    few, every = [attempt for attempt in plan.attempts if attempt.route == "taylor"]
    # A second attempt would leave the exporter in the middle of the first.
    sure = plan.wanted.order == 1 or getattr(request.function, "of_plain_layers", False)
    plan = replace(plan, attempts=(few if sure else every,))
    if compiling():  # which tells what stopped it by itself
        return _attempt(plan, request, None, None)
    try:
        return _attempt(plan, request, None, None)
    except (CannotFollowError, OutputsChangedError) as error:
        why = reason(error) if isinstance(error, CannotFollowError) else "f returned other shapes for jets"
        raise UnsupportedOperationError(
            f"{plan.wanted.name} cannot be exported: the Taylor route, the only one that torch.export can save, cannot "
            f"go through this function ({why}{place(error)}); replace that operation"
        ) from error


def _followable(plan: Plan, request: Request) -> Plan:
    """Without Taylor where it cannot be verified (under ``torch.compile`` and ``vmap``), but for plain layers.

    First derivatives that are traced in chunks of rows are also without it, which would evaluate f for each.  Inside a
    function that jets go through there is nothing else, where it is not slower than what that falls back to.
    """
    if request.within is not None:
        if request.options.method == "auto" and not plan.few_rows:
            raise CannotFollowError(f"{plan.wanted.name} of many inputs and few outputs inside of f")
        return replace(plan, attempts=tuple(attempt for attempt in plan.attempts if attempt.route == "taylor"))
    if request.options.method != "auto":
        return plan
    traced, chunk_size = request.traced, request.options.chunk_size
    verified = plan.settled or not (traced or inside_vmap()) or getattr(request.function, "of_plain_layers", False)
    again = traced and plan.wanted.order == 1 and len(plan.inputs.chunks(chunk_size)) > 1
    if verified and not again:
        return plan
    return replace(plan, attempts=tuple(attempt for attempt in plan.attempts if attempt.route != "taylor"))


def _attempt(plan: Plan, request: Request, draw: Draw | None, limit: int | None) -> Outcome:
    attempt = plan.attempts[0]
    if attempt.route == "autograd" and inside_transform():
        raise UnsupportedOperationError("torch.autograd.grad cannot run inside another torch.func transform")
    if attempt.route == "autograd" and any(map(is_dual, request.leaves)):
        raise UnsupportedOperationError("torch.autograd.grad forgets the tangents of forward mode")
    inputs, outputs, leaves = plan.inputs, plan.output_rows, request.leaves
    if limit is not None and plan.indices is None:
        inputs, outputs = Rows(inputs.shapes, limit), Rows(outputs.shapes, limit)
    make = plan.wanted.entries
    entries = (
        {}
        if make is None
        else {(m, k): make(Pair(request.batch, outputs.shapes[m], inputs.shapes[k], leaves[k])) for m, k in plan.pairs}
    )
    task = Task(
        request.evaluate,
        leaves,
        request.batch,
        inputs,
        outputs,
        entries,
        request.options.chunk_size,
        attempt.vectorised,
        draw,
        not plan.settled and not request.traced and not inside_vmap(),
        differentiated_again(),
        request.options.return_value,
        plan.wanted.order,
        request.traced,
        not request.traced and not getattr(request.function, "alone", False),
        None if plan.indices is None else plan.carried(attempt.route),
        within=request.within,
        given=() if request.within is None else request.given_leaves(),
    )
    route = ROUTES[attempt.route]
    results: dict[Any, torch.Tensor]
    if plan.indices is not None:
        evaluation, results = route.partials(task), task.derivatives
    else:
        evaluation = route.first_order(task) if plan.wanted.order == 1 else route.second_order(task)
        results = {} if limit is not None else {pair: entry.result() for pair, entry in entries.items()}
    undifferentiable = attempt.route == "autograd" and (plan.undifferentiable or evaluation.undifferentiable)
    if undifferentiable:
        results = {pair: value_only(result, evaluation.outputs) for pair, result in results.items()}
    if not plan.settled and not request.traced:
        plan = replace(
            plan,
            settled=True,
            undifferentiable=undifferentiable,
            scripted=request.scripted,
            notes=evaluation.notes,
        )
    return Outcome(plan, results, evaluation)
