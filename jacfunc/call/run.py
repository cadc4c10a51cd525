"""A plan found, run and remembered, and the next route where an operation inside the function forbids the first.

What a plan is, and which route comes first, is in ``plan.py``; what a route does is in ``routes/``.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from ..core import caches
from ..core.levels import compiling, differentiated_again, exporting, inside_transform, inside_vmap
from ..core.reasons import place, reason
from ..errors import JacfuncError, RefusedOperationError, UnsupportedOperationError
from ..evaluation.basis import Rows
from ..evaluation.corrections.zero_norms import Differentiated
from ..evaluation.program import ProgramChangedError
from ..evaluation.rng import RandomState
from ..jet.frame import CannotFollowError
from ..modules.swapping import locked
from ..routes.points import waves
from ..routes.route import Route
from ..routes.task import Evaluation, Mode, Task
from ..routes.verify import value_only
from ..routes.verify_followed import OtherwiseError
from ..routes.verify_tape import verify_tape
from . import among_ranks, hints, independence, notes
from .dead_branches import completes, has_nan, has_values_around
from .evaluator import Evaluator, ModulesFoundError, OutputsChangedError
from .independence import Independence
from .known import recorder_of, unless_due, which_ran, with_program
from .parting import parting
from .plan import Findings, Plan, make_plan, no_route, treats_otherwise
from .quantity import Outcome, Quantity, Results, result_of
from .reproduced import reproduces, reproduces_at, tells_nothing
from .request import Request

FATAL = (JacfuncError, torch.OutOfMemoryError)
"""What is no reason to try another route; what is the function's own fault shows in a plain forward."""
CHANGES = 3
"""How often outputs may be others than a plain forward before them gave."""
Tensors = tuple[torch.Tensor, ...]
Ran = tuple[Outcome, Plan]
"""What came out, and the plan that it came by, with what was found on the way."""


def run(request: Request, quantity: Quantity, known: Plan | None = None, limit: int | None = None) -> Ran:
    """Find the plan unless it is known, run it, and remember what worked; ``limit`` bounds the rows for a trial.

    Inside a function whose program is noted it is one step of that, and its own function has a program of its own.
    """
    outer = None if request.traced else caches.AROUND.recorder
    if outer is None or outer.busy:
        return _run(request, quantity, known, limit)
    outer.before((quantity.identity, request.options.planned), request.args, request.kwargs)
    try:
        outcome, plan = _run(request, quantity, known, limit)
    finally:
        outer.leave()
    outer.after([*outcome.results.values(), *outcome.evaluation.aux])
    if request.options.return_value:  # else it depends on what is known
        outer.after(outcome.evaluation.outputs)
    return outcome, plan


def _run(request: Request, quantity: Quantity, known: Plan | None, limit: int | None, changes: int = 0) -> Ran:
    if request.traced:
        return _attempt(known, _expecting(known, request)) if known else _run_traced(request, quantity)
    plan = unless_due(known or _remembered(request, quantity), request)
    try:
        if plan is not None:
            try:
                return _by_known(plan, request, limit)
            except ProgramChangedError:  # what is known is of another program
                plan = plan.unsettled()
        with locked():  # the generators belong to all threads: no other one may draw in between, or find them set back
            evaluator = Evaluator(request)
            plan, state, values = _find(evaluator, quantity, plan)
            try:
                ran = _descend(_followable(plan, request), _expecting(plan, request, evaluator), state, limit, values)
            except ProgramChangedError:  # of one that only its independence was open of
                state.restore()
                plan = plan.unsettled()
                ran = _descend(_followable(plan, request), _expecting(plan, request, evaluator), state, limit, values)
            among_ranks.judge(request, ran[0].results)
            hints.about_zeros(request, quantity, ran[0])
            return ran
    except OutputsChangedError:
        caches.forget_plans(request.fingerprint.key)
        if changes == CHANGES:
            raise UnsupportedOperationError(
                "f returned outputs of another structure or shape at each call with the same arguments; return the "
                "same ones, and define the class of a named tuple outside of f"
            ) from None
        return _run(request, quantity, None, limit, changes + 1)
    except JacfuncError:
        raise
    except Exception as error:
        notes.note(error, quantity.name, request)
        raise


def _by_known(plan: Plan, request: Request, limit: int | None) -> Ran:
    """By a plan that was found before; what another program drew until it was told from the known ones is put back."""
    if plan.findings.random or (not request.alone and request.fingerprint.may_draw):
        with locked():
            state = request.random_state()
            try:
                return _descend(plan, _expecting(plan, request), state, limit)
            except ProgramChangedError:
                state.restore()
                raise
    return _descend(plan, _expecting(plan, request), None, limit)


def _expecting(plan: Plan, request: Request, looked: Evaluator | None = None) -> Evaluator:
    """The function of a request whose outputs shall be those of the plan; it was ``looked`` at before."""
    if looked is None:
        return Evaluator(request, plan.outputs, plan.findings.scripted)
    return Evaluator(request, plan.outputs, plan.findings.scripted or looked.scripted, looked.looked_at)


def _descend(
    plan: Plan, evaluator: Evaluator, state: RandomState | None, limit: int | None, values: Tensors | None = None
) -> Ran:
    """Run the plan's strategies until one succeeds; ``values`` are those of a plain forward, where there was one."""
    request = evaluator.request
    while plan.strategies:
        try:
            outcome, found = _attempt(plan, evaluator, state, limit, values)
        except (ModulesFoundError, ProgramChangedError):
            raise
        except OutputsChangedError:
            state = state or request.random_state()
            state.restore()
            evaluator, values = _seen(plan, evaluator, state)
            where = "for jets" if plan.strategy.route.on_jets else "inside of torch.func"
            plan = plan.fell_back(OtherwiseError(f"f returned outputs of other shapes {where}"))
        except RefusedOperationError as error:
            raise RefusedOperationError(f"{error}{place(error)}") from None
        except Exception as error:
            if isinstance(error, FATAL) and not isinstance(error, UnsupportedOperationError):
                raise
            state = state or request.random_state()
            state.restore()
            if values is None:  # an error of the function itself shows in a plain forward and surfaces as it is
                evaluator, values = _seen(plan, evaluator, state)
            otherwise = plan.strategy.route.on_jets and treats_otherwise(error)
            where = _parting(plan, evaluator, state, limit) if otherwise else ""
            plan = plan.fell_back(error, where)
        else:
            if found is not plan and found.findings.settled:
                _remember(request, found)
            asked = request.options.method == "auto" and not request.alone  # plain layers have no branches
            if asked and has_nan(outcome, settled=found is plan):
                outcome = _without_nan(outcome, plan, request, state, limit)
            return outcome, found
    raise UnsupportedOperationError(no_route(plan))


def _seen(plan: Plan, evaluator: Evaluator, state: RandomState) -> tuple[Evaluator, Tensors]:
    """After a plain forward, which raises where the function itself does, or gives others than the plan's outputs."""
    values, _ = evaluator.look(state)
    if evaluator.outputs != plan.outputs:
        raise OutputsChangedError
    return _expecting(plan, evaluator.request, evaluator), values


def _without_nan(
    outcome: Outcome, plan: Plan, request: Request, state: RandomState | None, limit: int | None
) -> Outcome:
    """What another route gives where that has no NaN, as in a branch that ``torch.where`` does not take; else this.

    At the edge of where f has values torch may have a number that is no derivative, as of ``x ** (x + 1)`` at zero.
    """
    state = state or request.random_state()
    after = request.random_state()
    others = plan.strategies[1:] if has_values_around(_expecting(plan, request), state) else ()
    for strategy in others:
        if strategy.route is plan.strategy.route:
            continue
        state.restore()
        alone = replace(plan, strategies=(strategy,), findings=replace(plan.findings, settled=False))
        try:
            other, _ = _attempt(alone, _expecting(plan, request), state, limit)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            continue
        if all(completes(result_of(other.results, place), result) for place, result in outcome.results.items()):
            return other
    after.restore()
    return outcome


def _parting(plan: Plan, evaluator: Evaluator, state: RandomState, limit: int | None) -> str:
    """Where f goes another way with jets than with tensors, if its lines tell."""
    where = parting(lambda: evaluator.look(state), lambda: _attempt(plan, evaluator, state, limit))
    state.restore()
    return where


# -------------------------------------------------------------------- finding a plan, and remembering it


def _remembered(request: Request, quantity: Quantity) -> Plan | None:
    """The plan for this function and signature, if there is one and the independence is settled as well."""
    plan: Plan | None = caches.PLANS.get(request.fingerprint.key, _plan_signature(request, quantity))
    return plan if plan is not None and plan.lasting else None


def _find(evaluator: Evaluator, quantity: Quantity, changed: Plan | None = None) -> tuple[Plan, RandomState, Tensors]:
    """A plan after a plain forward, whose random draw and values come with it; ``changed`` is of other programs."""
    request = evaluator.request
    if quantity.refuse_inputs is not None:
        quantity.refuse_inputs(request)
    hints.before(request, quantity)
    state = request.random_state()
    values, random = evaluator.look(state)
    plan = changed or caches.PLANS.get(request.fingerprint.key, _plan_signature(request, quantity))
    if plan is None or plan.outputs != evaluator.outputs:
        plan = _planned(evaluator, quantity, Findings(Independence.UNCHECKED, random))
    if request.within is None:  # else what is around it was checked, and this with it
        found, proved = independence.decided(evaluator, values, state)
        random = random or plan.findings.random
        plan = replace(plan, findings=replace(plan.findings, independence=found, proved=proved, random=random))
    if plan.findings.settled:  # only the independence was open
        _remember(request, plan)
    return plan, state, values


def _planned(evaluator: Evaluator, quantity: Quantity, findings: Findings) -> Plan:
    request, outputs = evaluator.request, evaluator.outputs
    assert outputs is not None
    if quantity.refuse is not None:
        quantity.refuse(request, outputs)
    wanted = quantity.wanted(request, outputs)
    return make_plan(quantity, wanted, outputs, Rows(request.input_shapes), request.options.method, findings)


def _plan_signature(request: Request, quantity: Quantity) -> tuple[object, ...]:
    inside = inside_transform()
    surroundings = (torch.is_grad_enabled() or inside, inside and inside_vmap())
    inner, several = request.within is not None, independence.several(request)
    rules = caches.RULES_ENTERED.number  # a rule that was entered since has to be verified, and explain to know of it
    return (quantity.identity, request.options.planned, several, request.signature, surroundings, inner, rules)


def _remember(request: Request, plan: Plan) -> None:
    signature, fingerprint = _plan_signature(request, plan.quantity), request.fingerprint
    if caches.PLANS.get(fingerprint.key, signature) is not None:
        caches.FAST_CALLS.forget(fingerprint.key)  # which have the plan that it was before
    caches.PLANS.put(fingerprint.key, fingerprint.parts, signature, plan)


def _followable(plan: Plan, request: Request) -> Plan:
    """Without jets where they cannot be verified (under ``torch.compile`` and ``vmap``), but for plain layers.

    First derivatives that are traced in chunks of rows are also without them, which would evaluate f for each.  Inside
    a function that jets go through there is nothing else, where that is not slower than what it falls back to.
    """
    if request.within is not None:
        if request.options.method == "auto" and not plan.few_rows:
            raise CannotFollowError(f"{plan.quantity.name} of many inputs and few outputs inside of f")
        return plan.only(on_jets=True)
    if request.options.method != "auto":
        return plan
    traced, settled = request.traced, plan.findings.settled
    verified = settled or not (traced or inside_vmap()) or request.of_plain_layers
    again = traced and plan.quantity.order == 1 and len(plan.inputs.chunks(request.options.chunk_size)) > 1
    return plan if verified and not again else plan.only(on_jets=False)


# -------------------------------------------------------------------- recorded by torch


def _run_traced(request: Request, quantity: Quantity) -> Ran:
    """Under ``torch.compile``: nothing remembered, nothing retried; the forward for the shapes is dead code."""
    if quantity.refuse_inputs is not None:
        quantity.refuse_inputs(request)
    exported = exporting()
    if exported and request.options.method not in ("auto", "taylor"):
        raise UnsupportedOperationError(
            f"method={request.options.method!r} is made of torch.func, which torch.export cannot save; use 'auto'"
        )
    evaluator = Evaluator(request, scripted=not compiling())
    with nullcontext() if exported else torch.no_grad():  # exported, f's own no_grad would end in the mode it found
        evaluator.evaluate(*(leaf.detach() for leaf in request.leaves))
    plan = _planned(evaluator, quantity, Findings(Independence.TRACED))
    return _exported(plan, evaluator) if exported else _attempt(_followable(plan, request), evaluator)


def _exported(plan: Plan, evaluator: Evaluator) -> Ran:
    """By jets, the only way that is made of torch's own operations, with all rows where few may not do."""
    request = evaluator.request
    if not compiling():
        independence.refuse_layers(request)
    few, every = plan.only(on_jets=True).strategies  # a second attempt would leave the exporter amid the first
    sure = plan.quantity.order == 1 or request.of_plain_layers
    plan = replace(plan, strategies=(few if sure else every,))
    try:
        return _attempt(plan, evaluator)
    except (CannotFollowError, OutputsChangedError) as error:
        if compiling():  # which tells what stopped it by itself
            raise
        why = reason(error) if isinstance(error, CannotFollowError) else "f returned other shapes for jets"
        raise UnsupportedOperationError(
            f"{plan.quantity.name} cannot be exported: the Taylor route, the only one that torch.export can save, "
            f"cannot go through this function ({why}{place(error)}); replace that operation"
        ) from error


# -------------------------------------------------------------------- one strategy


def _on_tensors(plan: Plan, route: Route, task: Task) -> tuple[Evaluation, Results]:
    """What a route computes, while it is known how often tensors that go through f are differentiated."""
    with Differentiated(plan.quantity.order, by_tensors=not route.on_jets):
        return plan.wanted.compute(route, task)


def _attempt(
    plan: Plan,
    evaluator: Evaluator,
    state: RandomState | None = None,
    limit: int | None = None,
    values: Tensors | None = None,
) -> Ran:
    """What the first strategy computes, and the plan, settled if it was not; ``values`` are a plain forward's."""
    request, strategy, findings = evaluator.request, plan.strategies[0], plan.findings
    hindrance = strategy.route.hindrance(request.leaves)
    if hindrance is not None:
        raise UnsupportedOperationError(hindrance)
    verified = not (findings.settled or request.traced or inside_vmap())
    mode = Mode(
        vectorised=strategy.vectorised,
        verified=verified,
        differentiated_again=differentiated_again(),
        undifferentiable=findings.undifferentiable,
        wants_value=request.options.return_value or verified,
        traced=request.traced,
        recomputes=not (request.traced or request.alone),
    )
    rows = (plan.inputs, plan.output_rows)
    inputs, outputs = rows if limit is None else [plan.wanted.limited(each, limit) for each in rows]
    task = Task(
        order=plan.quantity.order,
        evaluate=evaluator.evaluate,
        propagate=evaluator.propagate,
        leaves=request.leaves,
        batch=request.batch,
        inputs=inputs,
        outputs=outputs,
        chunk_size=request.options.chunk_size,
        random_state=state,
        mode=mode,
        within=request.within,
        given=() if request.within is None else request.given_leaves(),
        aside=evaluator.aside,
    )
    if not (findings.settled or request.traced) and inside_vmap():
        verify_tape(task)  # which needs no numbers of this vmap
    recorder = recorder_of(findings, request)
    evaluator.note(recorder)
    try:
        jets_alone = strategy.route.on_jets and not verified
        compute = plan.wanted.compute if jets_alone else partial(_on_tensors, plan)
        evaluation, results = compute(strategy.route, task)
    finally:
        evaluator.note(None)
    if findings.settled and recorder is not None and recorder.program is not None and not recorder.program.proved:
        independence.look_again(request, recorder.program)
    if verified and values is not None and not reproduces(evaluation.outputs, values, evaluator, state):
        raise OtherwiseError("f returned other values than a plain forward")
    if verified and values is not None and tells_nothing(values):
        usual = replace(task, leaves=waves(task.leaves), mode=mode._replace(verified=False))
        if not reproduces_at(usual.leaves, lambda: _on_tensors(plan, strategy.route, usual)[0], evaluator, state):
            raise OtherwiseError("f returned other values than a plain forward")
    undifferentiable = evaluation.undifferentiable or findings.undifferentiable or bool(task.lacking)
    if undifferentiable:
        results = {key: value_only(result, evaluation.outputs) for key, result in results.items()}
    if not findings.settled and not request.traced:
        plan = replace(
            plan,
            findings=replace(
                findings,
                settled=not task.open,
                undifferentiable=undifferentiable,
                scripted=evaluator.scripted,
                notes=evaluation.notes,
                opaque=bool(task.opaque),
                programs=with_program(findings, recorder, evaluator.looked_at, strategy.route.on_jets),
            ),
        )
    assert evaluator.outputs is not None
    ran = which_ran(recorder, plan.findings)
    return Outcome(plan.wanted, results, evaluation, evaluator.outputs, evaluator.aux, ran), plan
