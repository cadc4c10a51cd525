"""From a request to a plan: which route, with how many passes and rows, in which chunks, and why.

The plan that ``explain`` shows is the object that runs.  How it is found, runs, and falls back to the next route is in
``run.py``; the routes themselves decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ..core.levels import inside_transform
from ..core.reasons import OTHERWISE, operation, otherwise, place, reason, together
from ..errors import JacfuncError
from ..evaluation.basis import Rows
from ..jet.frame import AllRowsError, CannotFollowError
from ..jet.jet import LengthError
from ..jet.layout import Terms
from ..jet.multiindices import MultiIndices, Sum
from ..routes.collect import Pair
from ..routes.task import Evaluation, times
from ..routes.verify import NoTransposeError, OtherwiseError
from . import independence
from .request import Outputs, Request, Shape


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
    def stands(self) -> bool:
        """Whether a later call may take it as it is: whether samples are independent was decided."""
        return self.independence is not independence.BLIND

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The sample shape of each differentiated leaf."""
        return self.inputs.shapes

    @property
    def rows(self) -> int:
        """How many rows it pushes or pulls through."""
        if self.indices is not None:
            return self.carried(self.route).rows
        inputs, outputs = self.inputs.total, self.output_rows.total
        if self.route in ("taylor", "forward", "dual"):
            return inputs
        return outputs if self.wanted.order == 1 else outputs * inputs

    def carried(self, route: str) -> MultiIndices:
        """The derivatives that a route computes: sums of some are for Taylor alone."""
        assert self.indices is not None
        return self.indices if route == "taylor" else self.indices.separate

    @property
    def cost(self) -> float:
        """Arithmetic in plain forwards: a pass forward or back counts one, a pass through a pass two."""
        if self.indices is not None:
            return _cost_of(self.indices, self.route, self.output_rows.total)
        return _cost(self.route, self.wanted.order, self.inputs.total, self.output_rows.total)

    @property
    def few_rows(self) -> bool:
        """Whether jets within jets cost less than the other routes do there: each of their rows has rows of its own."""
        inputs, outputs = self.inputs.total, self.output_rows.total
        if self.indices is not None:
            carried = 1 + self.indices.rows
            others = [_cost_of(self.indices, route, outputs) for route in ("forward", "reverse")]
        else:
            carried = self.wanted.order + inputs
            others = [_cost(route, self.wanted.order, inputs, outputs) for route in ("forward", "reverse")]
        return carried <= FEW * min(others)

    def fell_back(self, error: Exception, where: str = "") -> Plan:
        """The plan without its first attempt, and why; ``where`` jets went another way than tensors."""
        failed, *rest = self.attempts
        if isinstance(error, CannotFollowError) and not isinstance(error, AllRowsError):
            rest = [attempt for attempt in rest if attempt.route != failed.route]
        told = f"{reason(error)}{place(error)}"
        if failed.route == "taylor" and treats_otherwise(error):
            told = f"{OTHERWISE}{where}" if where or isinstance(error, OtherwiseError) else otherwise(error)
        return replace(
            self,
            attempts=tuple(rest),
            settled=False,
            refused=(*self.refused, (failed, told)),
            undifferentiable=self.undifferentiable or isinstance(error, NoTransposeError),
        )


def treats_otherwise(error: Exception) -> bool:
    """Whether the Taylor route failed though no operation was refused, so that f did another thing with jets."""
    return isinstance(error, OtherwiseError | LengthError) or not isinstance(error, CannotFollowError | JacfuncError)


FEW = 1.5
"""Measured: the gradient of a network of two inputs costs less on jets, and that of three by reverse mode."""


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
        return 1 + indices.rows
    indices = indices.separate
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
    if indices is not None and any(leaf.dtype == torch.float16 for leaf in request.leaves):
        indices = indices.separate  # what is large in a sum may be too large for it
    if indices is None:
        costs = {route: _cost(route, wanted.order, inputs.total, output_rows.total) for route in routes}
    else:
        costs = {route: _cost_of(indices, route, output_rows.total) for route in routes}
    method = request.options.method
    why = f"method={method!r} was asked for"
    if method == "auto":
        taylor, forward, reverse = costs["taylor"], costs["forward"], costs["reverse"]
        why = f"taylor would cost {taylor:g} plain forwards, forward {forward:g}, reverse {reverse:g}"
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
    plan = Plan(wanted, outputs, inputs, output_rows, pairs, tuple(attempts), why, random, independence=independent)
    return plan if indices is None else replace(plan, indices=indices)


def no_route(plan: Plan) -> str:
    """The sentence for a plan that has no attempt left."""
    whys = [why for _, why in plan.refused]
    told = together([(attempt.route, why) for attempt, why in plan.refused])
    trouble = operation(whys)
    where = next((found[0] for why in whys if (found := re.search(r" \(in the [^()]*\)", why))), "")
    told = f"{_way_out(plan, trouble)} (no route: {told})"
    return f"{plan.wanted.name} cannot differentiate {trouble} inside f{where}; {told}"


def _way_out(plan: Plan, trouble: str) -> str:
    if "scaled_dot_product" in trouble:
        return "run it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), whose attention has all derivatives"
    if inside_transform():
        return "take this derivative outside of the surrounding transform, or replace that operation"
    if plan.reason.startswith("method="):
        return "use method='auto', or replace that operation by one that can be differentiated this way"
    if "autograd.Function" in trouble:
        return (
            "write its backward with differentiable operations and its context in setup_context, or replace that "
            "operation by one that can be differentiated"
        )
    if trouble.startswith("the operator "):
        return "register its formula with torch.library.register_autograd, or replace it"
    return "replace that operation by one that can be differentiated"


class Outcome(NamedTuple):
    """Entries filled, by pair of leaves (derivatives by output leaf and multi-index), and the value they came with."""

    plan: Plan
    results: dict[Any, torch.Tensor]
    evaluation: Evaluation

    def combined(self, leaf: int, terms: Terms) -> torch.Tensor:
        """A linear combination of derivatives of an output leaf."""
        assert self.plan.indices is not None
        total = None
        for key, coefficient in self.plan.indices.made_of(terms):
            within = key.terms if isinstance(key, Sum) and (leaf, key) not in self.results else ((key, 1.0),)
            for each, weight in within:
                value = not isinstance(each, Sum) and not any(each)
                found = self.evaluation.outputs[leaf] if value else self.results[leaf, each]
                part = times(found, coefficient * weight)
                total = part if total is None else total + part
        assert total is not None
        return total
