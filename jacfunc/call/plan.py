"""From what is wanted to a plan: which route, with how many passes and rows, in which chunks, and why.

The plan that ``explain`` shows is the object that runs.  How it is found, runs, and falls back to the next route is in
``run.py``; the routes themselves decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..core.levels import inside_transform
from ..core.reasons import OTHERWISE, operation, otherwise, place, reason, together
from ..errors import JacfuncError
from ..evaluation.basis import Rows
from ..evaluation.program import Program
from ..jet.frame import AllRowsError, CannotFollowError
from ..jet.jet import LengthError
from ..routes import ROUTES
from ..routes.route import Route
from ..routes.verify import NoTransposeError
from ..routes.verify_followed import OtherwiseError, ZeroNormError
from .evaluator import Outputs
from .independence import Independence
from .quantity import Quantity, Wanted
from .request import Shape


class Strategy(NamedTuple):
    """A route, its rows under ``vmap`` and as few as will do, or in the slower way that it has beside this."""

    route: Route
    vectorised: bool

    def __str__(self) -> str:
        slower = None if self.vectorised else self.route.slower
        return self.route.name if slower is None else f"{self.route.name}, {slower}"


@dataclass(frozen=True)
class Findings:
    """What evaluations told of a function.

    Attributes:
        independence: whether samples influence each other.
        random: whether the function draws random numbers.
        scripted: whether it calls scripted code.
        refused: the strategies that failed, and why.
        undifferentiable: whether the result has no derivatives.
        notes: what ``explain`` tells of the evaluation.
        settled: whether the plan has run and was verified, so that the next call need not verify it.
        programs: what the function did then, one program for each way that it may go.
        proved: whether samples were found to be independent whatever the numbers, when it was last looked at.
        opaque: whether something was verified that may do another thing later, without another program.
    """

    independence: Independence
    random: bool = False
    scripted: bool = False
    refused: tuple[tuple[Strategy, str], ...] = ()
    undifferentiable: bool = False
    notes: tuple[str, ...] = ()
    settled: bool = False
    programs: tuple[Program, ...] = ()
    proved: bool = False
    opaque: bool = False


@dataclass(frozen=True)
class Plan:
    """How one transform of one function is computed for one kind of arguments.

    Attributes:
        quantity: what the transform computes.
        wanted: what that is for arguments of this kind.
        outputs: the outputs of the function.
        inputs: the rows of the input.
        output_rows: the rows of the output.
        strategies: what is tried, in this order.
        reason: why the first is the first.
        findings: what is known from evaluations.
    """

    quantity: Quantity
    wanted: Wanted
    outputs: Outputs
    inputs: Rows
    output_rows: Rows
    strategies: tuple[Strategy, ...]
    reason: str
    findings: Findings = field(default_factory=lambda: Findings(Independence.UNCHECKED))

    @property
    def strategy(self) -> Strategy:
        """The one that runs."""
        return self.strategies[0]

    @property
    def route(self) -> str:
        """The name of the route that runs."""
        return self.strategies[0].route.name

    @property
    def lasting(self) -> bool:
        """Whether a later call may take it as it is: it was verified, and whether samples are independent decided."""
        return self.findings.settled and self.findings.independence is not Independence.BLIND

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The sample shape of each differentiated leaf."""
        return self.inputs.shapes

    @property
    def rows(self) -> int:
        """How many rows it pushes or pulls through."""
        return self.wanted.rows(self.strategy.route, self.inputs.total, self.output_rows.total)

    @property
    def cost(self) -> float:
        """Arithmetic in plain forwards: a pass forward or back counts one, a pass through a pass two."""
        return self.wanted.cost(self.strategy.route, self.inputs.total, self.output_rows.total)

    @property
    def few_rows(self) -> bool:
        """Whether jets within jets cost less than the other routes do there: each of their rows has rows of its own."""
        inputs, outputs = self.inputs.total, self.output_rows.total
        others = [route for route in ROUTES.values() if not (route.on_jets or route.last_resort)]
        cheapest = min([self.wanted.cost(route, inputs, outputs) for route in others])
        return self.wanted.rows_of_jets(inputs) <= FEW * cheapest

    def unsettled(self) -> Plan:
        """The plan, to be verified once more: for another program than those that it was found of."""
        return replace(self, findings=replace(self.findings, settled=False))

    def only(self, on_jets: bool) -> Plan:
        """The plan with the strategies on jets alone, or without them."""
        kept = tuple([strategy for strategy in self.strategies if strategy.route.on_jets == on_jets])
        return replace(self, strategies=kept)

    def traced(self, route: str) -> Plan:
        """The plan by this route alone, for ``torch.compile`` to trace: nothing is found out, and nothing retried."""
        return replace(self, strategies=(_first_way(ROUTES[route]),), findings=Findings(Independence.TRACED))

    def fell_back(self, error: Exception, where: str = "") -> Plan:
        """The plan without its first strategy, and why; ``where`` jets went another way than tensors."""
        failed, *rest = self.strategies
        if isinstance(error, CannotFollowError) and not isinstance(error, AllRowsError):
            rest = [strategy for strategy in rest if strategy.route is not failed.route]
        told = f"{reason(error)}{place(error)}"
        if failed.route.on_jets and treats_otherwise(error):
            told = f"{OTHERWISE}{where}" if where or isinstance(error, OtherwiseError) else otherwise(error)
        findings = replace(
            self.findings,
            settled=False,
            refused=(*self.findings.refused, (failed, told)),
            undifferentiable=self.findings.undifferentiable or isinstance(error, NoTransposeError),
        )
        return replace(self, strategies=tuple(rest), findings=findings)


def treats_otherwise(error: Exception) -> bool:
    """Whether a route on jets failed though no operation was refused, so that f did another thing with jets."""
    if isinstance(error, ZeroNormError):  # near which numbers are compared, not what f does
        return False
    return isinstance(error, OtherwiseError | LengthError) or not isinstance(error, CannotFollowError | JacfuncError)


FEW = 1.5
"""Measured: the gradient of a network of two inputs costs less on jets, and that of three by reverse mode."""


def make_plan(
    quantity: Quantity,
    wanted: Wanted,
    outputs: Outputs,
    inputs: Rows,
    method: str,
    findings: Findings,
    routes: Mapping[str, Route] = ROUTES,
) -> Plan:
    """The cheapest route that the method allows first, then what can replace it."""
    output_rows = Rows(outputs.shapes)
    allowed = [route for route in routes.values() if method in route.methods]
    costs = {route.name: wanted.cost(route, inputs.total, output_rows.total) for route in routes.values()}
    chosen = [route for route in allowed if not route.last_resort]
    chosen = sorted(chosen, key=lambda route: (route.name != method, costs[route.name]))
    strategies = [*map(_first_way, chosen), *_slower_ways(chosen)]
    for route in allowed:
        if route.last_resort:
            strategies += [_first_way(route), *_slower_ways([route])]
    why = f"method={method!r} was asked for"
    if method == "auto":
        first, *others = [route.name for route in routes.values() if not route.last_resort]
        compared = "".join([f", {name} {costs[name]:g}" for name in others])
        why = f"{first} would cost {costs[first]:g} plain forwards{compared}"
    return Plan(quantity, wanted, outputs, inputs, output_rows, tuple(strategies), why, findings)


def _first_way(route: Route) -> Strategy:
    return Strategy(route, route.slower is not None)


def _slower_ways(routes: list[Route]) -> list[Strategy]:
    return [Strategy(route, False) for route in routes if route.slower is not None]


def no_route(plan: Plan) -> str:
    """The sentence for a plan that has no strategy left."""
    refused = plan.findings.refused
    whys = [why for _, why in refused]
    told = together([(strategy.route.name, why) for strategy, why in refused])
    trouble = operation(whys)
    where = next((found[0] for why in whys if (found := re.search(r" \(in the [^()]*\)", why))), "")
    told = f"{_way_out(plan, trouble)} (no route: {told})"
    return f"{plan.quantity.name} cannot differentiate {trouble} inside f{where}; {told}"


def _way_out(plan: Plan, trouble: str) -> str:
    if "scaled_dot_product" in trouble:
        return "run it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), whose attention has all derivatives"
    if inside_transform():
        return "take this derivative outside of the surrounding transform, or replace that operation"
    if plan.reason.startswith("method="):
        return "use method='auto', or replace that operation by one that can be differentiated this way"
    if "autograd.Function" in trouble:
        reentrant = any("use_reentrant=True" in why for _, why in plan.findings.refused)
        return (
            "pass use_reentrant=False to torch.utils.checkpoint"
            if reentrant
            else (
                "write its backward with differentiable operations and its context in setup_context, or replace that "
                "operation by one that can be differentiated"
            )
        )
    if trouble.startswith("the operator "):
        return "register its formula with torch.library.register_autograd, or replace it"
    return "replace that operation by one that can be differentiated"
