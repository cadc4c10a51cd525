"""``jacfunc/call/plan.py``: which route comes first and what follows, from sizes alone; nothing is evaluated here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch

from jacfunc.call.evaluator import Outputs
from jacfunc.call.independence import Independence
from jacfunc.call.plan import FEW, Findings, Plan, Strategy, make_plan, no_route, treats_otherwise
from jacfunc.call.quantity import Quantity, Wanted, WantedEntries, WantedPartials
from jacfunc.core import trees
from jacfunc.core.reasons import OTHERWISE
from jacfunc.errors import ArgumentError, UnsupportedOperationError
from jacfunc.evaluation.basis import Rows
from jacfunc.jet.frame import AllRowsError, CannotFollowError
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.options import METHODS
from jacfunc.routes import ROUTES
from jacfunc.routes.collect import Block
from jacfunc.routes.forward import Forward
from jacfunc.routes.verify import NoTransposeError
from jacfunc.routes.verify_followed import OtherwiseError

FINDINGS = Findings(Independence.CHECKED)


def entries(order: int) -> WantedEntries:
    return WantedEntries(order, Block, ((0, 0),))


def partials(*indices: tuple[int, ...]) -> WantedPartials:
    return WantedPartials(MultiIndices.around(indices))


def planned(
    wanted: Wanted, inputs: int, outputs: int, method: str = "auto", routes: Any = ROUTES, name: str = "batch_jac"
) -> Plan:
    quantity = Quantity(name, 1, lambda request, outputs: wanted, lambda request, outcome: None)
    return make_plan(quantity, wanted, Outputs(trees.LEAF, ((outputs,),)), Rows(((inputs,),)), method, FINDINGS, routes)


def names(plan: Plan) -> list[str]:
    return [str(strategy) for strategy in plan.strategies]


# -------------------------------------------------------------------- the order in which routes are tried

LAST = ["autograd", "dual", "dual, row by row"]


def test_by_auto_the_cheapest_comes_first_then_all_row_by_row_then_the_last_resorts() -> None:
    plan = planned(entries(1), 4, 2)
    assert {name: ROUTES[name].cost(1, 4, 2) for name in ("taylor", "forward", "reverse")} == {
        "taylor": 3,
        "forward": 6,
        "reverse": 3,
    }
    together = ["taylor", "reverse", "forward"]  # of equal cost the first of the table
    alone = ["taylor, all rows", "reverse, row by row", "forward, row by row"]
    assert names(plan) == together + alone + LAST
    assert plan.reason == "taylor would cost 3 plain forwards, forward 6, reverse 3"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("forward", ["forward", "forward, row by row", "dual", "dual, row by row"]),
        ("reverse", ["reverse", "reverse, row by row", "autograd"]),
        (
            "taylor",
            ["taylor", "reverse", "forward", "taylor, all rows", "reverse, row by row", "forward, row by row", *LAST],
        ),
    ],
)
def test_a_method_that_was_asked_for_comes_first_whatever_it_costs(method: str, expected: list[str]) -> None:
    plan = planned(entries(2), 50, 1, method)
    assert names(plan) == expected
    assert plan.reason == f"method={method!r} was asked for"


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_every_strategy_of_every_allowed_route_is_there_once(method: str, order: int) -> None:
    plan = planned(entries(order), 3, 2, method)
    assert len(set(plan.strategies)) == len(plan.strategies)
    for route in ROUTES.values():
        ways = [strategy for strategy in plan.strategies if strategy.route is route]
        expected = (2 if route.slower else 1) if method in route.methods else 0
        assert len(ways) == expected, route.name


@pytest.mark.parametrize(
    ("wanted", "inputs", "outputs", "cheapest"),
    [
        (entries(1), 100, 1, "reverse"),
        (entries(1), 2, 100, "taylor"),
        (entries(1), 3, 1, "reverse"),  # 2 against 2.5
        (entries(1), 1, 1, "taylor"),
        (entries(2), 100, 1, "taylor"),  # at the same cost
        (entries(2), 1, 100, "taylor"),
        (partials((1, 1, 0)), 3, 1, "taylor"),
        (partials((0, 0, 0)), 3, 1, "taylor"),
        (partials((4, 0), (0, 4)), 2, 1, "taylor"),
    ],
)
def test_the_cheapest(wanted: Wanted, inputs: int, outputs: int, cheapest: str) -> None:
    assert planned(wanted, inputs, outputs).route == cheapest


# -------------------------------------------------------------------- rows and costs


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 2), (1, 1), (0, 2), (2, 0)])
def test_rows_are_of_the_input_or_of_the_output(name: str, order: int, inputs: int, outputs: int) -> None:
    expected = inputs
    if name in ("reverse", "autograd"):
        expected = outputs * inputs if order == 2 else outputs
    assert entries(order).rows(ROUTES[name], inputs, outputs) == expected


@pytest.mark.parametrize("name", ROUTES)
def test_costs_grow_with_the_rows(name: str) -> None:
    route = ROUTES[name]
    for order in (1, 2):
        costs = [route.cost(order, count, count) for count in range(6)]
        assert costs == sorted(costs) and costs[0] >= 1
        assert route.cost(order, 2, 3) <= route.cost(2, 2, 3)
    higher = [route.cost_of_partials(MultiIndices.around([(order, 0)]), 2) for order in range(1, 6)]
    assert higher == sorted(higher)


def test_costs_of_mixed_derivatives_by_hand() -> None:
    """``u_xy``: the set below it is x, y, xy; xy is a pass by one coordinate through that by x."""
    indices = MultiIndices.around([(1, 1)])
    costs = {name: route.cost_of_partials(indices, 3) for name, route in ROUTES.items()}
    first, second = {"by": 2, "of": 1}, {"by": 1, "of": 1}  # coordinates differentiated by; derivatives, a leaf each
    tangents = 1 + first["by"] + 2 * second["by"]
    gradients = 1 + 3 * (first["of"] + 2 * second["of"])
    assert costs == {
        "taylor": 1 + 3,
        "forward": 1 + tangents,
        "dual": tangents,
        "reverse": gradients,
        "autograd": gradients,
    }


def test_only_jets_carry_sums() -> None:
    heat = (((2, 0), 1.0), ((0, 2), 1.0))
    wanted = WantedPartials(MultiIndices.around([], [heat]))
    rows = {name: wanted.rows(route, 2, 1) for name, route in ROUTES.items()}
    assert rows == {"taylor": 3, "forward": 4, "reverse": 4, "autograd": 4, "dual": 4}


@pytest.mark.parametrize(("inputs", "outputs", "few"), [(2, 1, True), (3, 1, False), (3, 3, True), (40, 1, False)])
def test_jets_within_jets_pay_where_their_rows_are_few(inputs: int, outputs: int, few: bool) -> None:
    plan = planned(entries(1), inputs, outputs)
    assert plan.few_rows is few
    others = min(ROUTES["forward"].cost(1, inputs, outputs), ROUTES["reverse"].cost(1, inputs, outputs))
    assert few is ((1 + inputs) <= FEW * others)


# -------------------------------------------------------------------- what follows a failure


def failed(plan: Plan, *errors: Exception) -> Plan:
    for error in errors:
        plan = plan.fell_back(error)
    return plan


def test_what_a_jet_cannot_follow_it_cannot_follow_with_all_rows_either() -> None:
    plan = planned(entries(1), 2, 2)
    after = failed(plan, CannotFollowError("searchsorted"))
    assert not any(strategy.route.on_jets for strategy in after.strategies)
    assert [str(strategy) for strategy, _ in after.findings.refused] == ["taylor"]
    assert "searchsorted" in after.findings.refused[0][1]
    assert plan.findings.refused == ()  # the plan before is as it was


def test_what_needs_all_rows_gets_them() -> None:
    after = failed(planned(entries(1), 2, 2), AllRowsError("a norm"))
    assert "taylor, all rows" in names(after)


def test_a_function_that_does_another_thing_with_jets_is_told_so() -> None:
    plan = planned(entries(1), 2, 2)
    for error in (TypeError("unsupported"), OtherwiseError("others")):
        assert treats_otherwise(error)
        told = plan.fell_back(error, " (in f, line 3 of a.py)").findings.refused[-1][1]
        assert told == f"{OTHERWISE} (in f, line 3 of a.py)"
    assert not treats_otherwise(CannotFollowError("x")) and not treats_otherwise(ArgumentError("x"))


def test_that_a_backward_has_no_derivative_is_kept_for_the_routes_that_follow() -> None:
    plan = planned(entries(1), 2, 2, "reverse")
    assert not failed(plan, RuntimeError("no")).findings.undifferentiable
    after = failed(plan, NoTransposeError("no"), RuntimeError("no"))
    assert after.findings.undifferentiable and names(after) == ["autograd"]


def test_with_no_strategy_left_one_sentence_says_what_and_why() -> None:
    plan = planned(entries(1), 2, 2, "reverse")
    after = failed(plan, *[UnsupportedOperationError("an operation")] * 3)
    assert after.strategies == ()
    said = no_route(after)
    assert said.startswith("batch_jac cannot differentiate ") and "method='auto'" in said and "no route:" in said


@pytest.mark.parametrize("settled", [False, True])
def test_it_must_be_verified_and_independence_decided_for_a_plan_to_last(settled: bool) -> None:
    plan = planned(entries(1), 2, 2)
    for found in Independence:
        lasting = Plan(
            *[getattr(plan, name) for name in ("quantity", "wanted", "outputs", "inputs", "output_rows")],
            (),
            "",
            Findings(found, settled=settled),
        ).lasting
        assert lasting is (settled and found is not Independence.BLIND)


# -------------------------------------------------------------------- a new route


class Cheap(Forward):
    """A route that is told to cost nothing."""

    name: ClassVar[str] = "cheap"
    slower = None

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        return 0.5

    def hindrance(self, leaves: Sequence[torch.Tensor]) -> str | None:
        return "never here" if not leaves else None


def test_a_new_route_in_the_table_is_all_that_planning_needs() -> None:
    routes = {**ROUTES, "cheap": Cheap()}
    plan = planned(entries(1), 3, 3, routes=routes)
    assert plan.route == "cheap" and plan.cost == 0.5 and plan.rows == 3
    assert plan.reason.endswith("reverse 4, cheap 0.5")
    assert names(plan)[:2] == ["cheap", "taylor"] and names(plan).count("cheap") == 1
    assert names(planned(entries(1), 3, 3, "forward", routes))[:3] == ["forward", "cheap", "forward, row by row"]
    assert plan.strategy == Strategy(routes["cheap"], False)
    assert plan.strategy.route.hindrance(()) == "never here"
