"""From a request to a route: which, with how many passes and rows, in which chunks, and why.

The plan that ``explain`` shows is the object that runs.  Running it, and falling back to the next route when an
operation inside the function forbids the first, is at the bottom; the routes themselves decide nothing.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from . import caches, independence
from .entries import Pair
from .errors import JacfuncError, RefusedOperationError, UnsupportedOperationError
from .jet.frame import AllRowsError, CannotFollowError
from .levels import compiling, differentiated_again, inside_transform, inside_vmap, is_dual
from .multiindices import MultiIndices
from .request import Outputs, OutputsChangedError, Request, Shape
from .rng import Draw
from .routes import ROUTES
from .routes.autograd import value_only
from .routes.task import Evaluation, Task
from .routes.verify import NoTransposeError
from .rows import Rows
from .scripted import plainly
from .slots import locked

FATAL = (JacfuncError, torch.OutOfMemoryError)
"""What is no reason to try another route; what is the function's own fault shows in a plain forward."""


@dataclass(frozen=True)
class Wanted:
    """What a transform wants: its order, the entries of each pair of leaves, which pairs, and their assembly.

    ``indices`` are mixed derivatives instead of entries; ``key`` tells apart what has the same name.
    ``refuse_inputs`` is asked before any evaluation, ``refuse`` when the shapes of the outputs are known.
    """

    name: str
    order: int
    entries: Callable[[Pair], Any] | None
    assemble: Callable[[Request, Outcome], Any]
    paired: bool = False
    refuse: Callable[[Request, Outputs], None] | None = None
    indices: MultiIndices | Callable[[Request], MultiIndices] | None = None
    key: Hashable = None
    refuse_inputs: Callable[[Request], None] | None = None

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What tells it from another."""
        return (self.name, self.key)

    def pairs(self, outputs: int, inputs: int) -> tuple[tuple[int, int], ...]:
        """The pairs of output leaf and input leaf that are wanted."""
        if self.entries is None:
            return ()
        if self.paired:
            return tuple([(leaf, leaf) for leaf in range(inputs)])
        return tuple([(output, leaf) for output in range(outputs) for leaf in range(inputs)])


@dataclass(frozen=True)
class Attempt:
    """A route, its rows under ``vmap`` or one after the other; for Taylor, as few rows as will do, or all."""

    route: str
    vectorised: bool

    def __str__(self) -> str:
        if self.vectorised or self.route == "autograd":
            return self.route
        return "taylor, all rows" if self.route == "taylor" else f"{self.route}, row by row"


@dataclass(frozen=True)
class Plan:
    """How one transform of one function is computed for one kind of arguments."""

    wanted: Wanted
    outputs: Outputs
    inputs: Rows
    output_rows: Rows
    pairs: tuple[tuple[int, int], ...]
    attempts: tuple[Attempt, ...]
    reason: str
    random: bool = False
    refused: tuple[tuple[Attempt, str], ...] = ()
    independence: str = independence.UNCHECKED
    settled: bool = False
    undifferentiable: bool = False
    notes: tuple[str, ...] = ()
    scripted: bool = False
    indices: MultiIndices | None = None

    @property
    def route(self) -> str:
        """The route that runs."""
        return self.attempts[0].route

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The sample shape of each differentiated leaf."""
        return self.inputs.shapes

    @property
    def rows(self) -> int:
        """How many rows it pushes or pulls through."""
        if self.indices is not None:
            return len(self.indices.indices)
        inputs, outputs = self.inputs.total, self.output_rows.total
        if self.route in ("taylor", "forward", "dual"):
            return inputs
        return outputs if self.wanted.order == 1 else outputs * inputs

    @property
    def cost(self) -> float:
        """Arithmetic in plain forwards: a pass forward or back counts one, a pass through a pass two."""
        if self.indices is not None:
            return _cost_of(self.indices, self.route, self.output_rows.total)
        return _cost(self.route, self.wanted.order, self.inputs.total, self.output_rows.total)

    def fell_back(self, error: Exception) -> Plan:
        """The plan without its first attempt, and why."""
        failed, *rest = self.attempts
        if isinstance(error, CannotFollowError) and not isinstance(error, AllRowsError):
            rest = [attempt for attempt in rest if attempt.route != failed.route]
        told = f"{_reason(error)}{_place(error)}"
        return replace(
            self,
            attempts=tuple(rest),
            settled=False,
            refused=(*self.refused, (failed, told)),
            undifferentiable=self.undifferentiable or isinstance(error, NoTransposeError),
        )


def _cost(route: str, order: int, inputs: int, outputs: int) -> float:
    """Of so many coordinates of the input and the output of a sample."""
    if order == 1:
        # Measured: a row through a layer is half of a plain forward, whose activations cost more than a product.
        return {"taylor": 1 + inputs / 2, "forward": 2 + inputs, "dual": 1 + 2 * inputs}.get(route, 1 + outputs)
    # Measured: a row of the forward route at second order costs about two and a half of the reverse one.
    costs = {"taylor": 2 + inputs, "forward": 3 + 2.5 * inputs, "dual": 1 + 3 * inputs}
    return costs.get(route, 1 + outputs * (1 + inputs))


def _cost_of(indices: MultiIndices, route: str, outputs: int) -> float:
    """Of mixed derivatives, for so many coordinates of the output; a nested pass costs twice the one inside of it."""
    if route == "taylor":
        return 1 + len(indices.indices)
    cost = 1 + (route == "forward")
    for order in range(1, indices.order + 1):
        parents = indices.parents(order)
        passes = len({place for place, _ in parents}) * outputs
        if route in ("forward", "dual"):
            passes = len({coordinate for _, coordinate in parents})
        cost += passes * 2 ** (order - 1)
    return cost


def make_plan(request: Request, wanted: Wanted, outputs: Outputs, random: bool, independent: str) -> Plan:
    """The cheapest route that the method allows first, then what can replace it."""
    routes = ("taylor", "forward", "reverse")
    inputs, output_rows = Rows(request.input_shapes), Rows(outputs.shapes)
    indices = wanted.indices(request) if callable(wanted.indices) else wanted.indices
    if indices is None:
        costs = {route: _cost(route, wanted.order, inputs.total, output_rows.total) for route in routes}
    else:
        costs = {route: _cost_of(indices, route, output_rows.total) for route in routes}
    method = request.options.method
    reason = f"method={method!r} was asked for"
    if method == "auto":
        taylor, forward, reverse = costs["taylor"], costs["forward"], costs["reverse"]
        reason = f"taylor would cost {taylor:g} plain forwards, forward {forward:g}, reverse {reverse:g}"
    cheapest = sorted(routes, key=costs.__getitem__)
    # Dual after autograd: it is the only one of the two that works inside another transform, and the worse outside.
    pullbacks, last_resorts = {
        "forward": (["forward"], ["dual"]),
        "reverse": (["reverse"], ["autograd"]),
        "taylor": (["taylor", *(route for route in cheapest if route != "taylor")], ["autograd", "dual"]),
        "auto": (cheapest, ["autograd", "dual"]),
    }[method]
    attempts = [
        *(Attempt(route, vectorised) for vectorised in (True, False) for route in pullbacks),
        *(Attempt(route, vectorised) for route in last_resorts for vectorised in (True, False)),
    ]
    # Its rows are never under vmap.
    attempts = [attempt for attempt in attempts if attempt != Attempt("autograd", True)]
    pairs = wanted.pairs(len(outputs.shapes), len(request.input_shapes))
    plan = Plan(wanted, outputs, inputs, output_rows, pairs, tuple(attempts), reason, random, independence=independent)
    return plan if indices is None else replace(plan, indices=indices)


# -------------------------------------------------------------------- finding and running


class Outcome(NamedTuple):
    """Entries filled, by pair of leaves (derivatives by output leaf and multi-index), and the value they came with."""

    plan: Plan
    results: dict[Any, torch.Tensor]
    evaluation: Evaluation


def run(request: Request, wanted: Wanted, limit: int | None = None) -> Outcome:
    """Find the plan, run it, and remember what worked; ``limit`` bounds the rows for a trial."""
    if request.traced:
        return _run_traced(request, wanted)
    plan = _remembered(request, wanted)
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
        return run(request, wanted, limit)


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
            raise RefusedOperationError(f"{error}{_place(error)}") from None
        except Exception as error:
            if isinstance(error, FATAL) and not isinstance(error, UnsupportedOperationError):
                raise
            draw = draw or request.draw()
            draw.restore()
            if not looked:  # an error of the function itself shows in a plain forward and surfaces as it is
                _look(request, draw)
                looked = True
            plan = plan.fell_back(error)
        else:
            if not plan.settled:
                _remember(request, outcome.plan)
            return outcome
    raise UnsupportedOperationError(_no_route(plan))


def _remembered(request: Request, wanted: Wanted) -> Plan | None:
    """The plan for this function and signature, if there is one and the independence is settled as well."""
    plan: Plan | None = caches.PLANS.get(request.captured.key, _plan_signature(request, wanted))
    if plan is None or plan.independence is independence.BLIND:
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
                f"f cannot run inside the surrounding torch.func transform ({_first_line(error)}); take its derivative "
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
    return (wanted.identity, request.options.planned, independence.several(request), request.signature, surroundings)


def _remember(request: Request, plan: Plan) -> None:
    if request.captured.rememberable:
        caches.PLANS.put(request.captured.key, request.captured.parts, _plan_signature(request, plan.wanted), plan)


def _run_traced(request: Request, wanted: Wanted) -> Outcome:
    """Under ``torch.compile``: nothing remembered, nothing retried; the forward for the shapes is dead code."""
    _refuse_inputs(request, wanted)
    request.scripted = not compiling()
    with torch.no_grad():
        request.evaluate(*(leaf.detach() for leaf in request.leaves))
    plan = _planned(request, wanted, False, independence.TRACED)
    return _attempt(_followable(plan, request), request, None, None)


def _followable(plan: Plan, request: Request) -> Plan:
    """Without Taylor where it cannot be verified (under ``torch.compile`` and ``vmap``), but for plain layers."""
    verified = plan.settled or not (request.traced or inside_vmap())
    if verified or request.options.method != "auto" or getattr(request.function, "of_plain_layers", False):
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
        plan.indices,
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


def _no_route(plan: Plan) -> str:
    reasons: dict[str, list[str]] = {}
    for attempt, reason in plan.refused:
        if attempt.route not in reasons.setdefault(reason, []):
            reasons[reason].append(attempt.route)
    told = "; ".join(f"{' and '.join(routes)}: {reason}" for reason, routes in reasons.items())
    return f"{plan.wanted.name} found no route through an operation inside f ({told}); {_way_out(plan, told)}"


def _way_out(plan: Plan, told: str) -> str:
    if "scaled_dot_product" in told:
        return "run it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), whose attention has all derivatives"
    if inside_transform():
        return "take this derivative outside of the surrounding transform, or replace that operation"
    if plan.reason.startswith("method="):
        return "use method='auto', or replace that operation by one that can be differentiated this way"
    return "replace that operation by one that can be differentiated"


def _place(error: BaseException) -> str:
    """In which module of the user's the error arose, if in one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "_call_impl"]
    modules = [module for module in found if isinstance(module, nn.Module)]
    if not modules:
        return ""
    path = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    return f" (in the {type(modules[-1]).__name__} {path!r})" if path else f" (in the {type(modules[-1]).__name__})"


def _reason(error: Exception) -> str:
    """What an error says, and the higher-order operator (``torch.cond``) that it arose in, if in one."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    operator = next((Path(file).stem for file in files if "_higher_order_ops" in file), None)
    said = _first_line(error)
    return said if operator is None else f"torch cannot transform the operator {operator} ({said})"


def _first_line(error: Exception) -> str:
    sentence = re.split(r"\n|(?<=[a-z)\"'])\. ", str(error).strip())[0].rstrip(".")
    return sentence or type(error).__name__
