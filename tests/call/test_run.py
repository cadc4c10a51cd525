"""``jacfunc/call/run.py``: a plan found once and remembered, the next strategy after an error, draws, and whose error it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from functions import OnlyOnce
from tasks import counted
from torch import nn

from jacfunc.call.evaluator import Outputs
from jacfunc.call.independence import Independence
from jacfunc.call.plan import Findings, Plan, Strategy
from jacfunc.call.quantity import EntriesOf, Quantity
from jacfunc.call.request import Request
from jacfunc.call.run import run
from jacfunc.core import caches, trees
from jacfunc.core.caches import clear_caches
from jacfunc.errors import (
    CoupledSamplesError,
    RefusedOperationError,
    ShapeError,
    UnsupportedOperationError,
)
from jacfunc.evaluation.basis import Rows
from jacfunc.evaluation.program import Program
from jacfunc.jet.jet import Jet
from jacfunc.options import Options
from jacfunc.routes import ROUTES
from jacfunc.routes.collect import Block, Entries
from jacfunc.routes.reverse import Reverse
from jacfunc.routes.task import Evaluation, Task

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], dtype=torch.double)
TRUTH = torch.diag_embed(X.cos())
BLOCKS = Quantity("blocks", 1, EntriesOf(1, Block), lambda request, outcome: None)


def request(f: Callable[..., Any], *args: Any, traced: bool = False, **options: Any) -> Request:
    return Request(f, Options(**options), args or (X,), {}, traced)


def sine(x: Any) -> Any:
    return x.sin()


class Failing(Reverse):
    """Raises what it is made with, where others compute; notes that it was asked."""

    name = "failing"

    def __init__(self, error: Callable[[], BaseException], hindrance: str | None = None) -> None:
        self.error, self.hinders, self.tasks = error, hindrance, []

    def hindrance(self, leaves: Any) -> str | None:
        return self.hinders

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        self.tasks.append(task)
        raise self.error()


def programs() -> tuple[Program, ...]:
    """What ``sine`` does on tensors."""
    _, found = run(request(sine, method="reverse"), BLOCKS)
    clear_caches()
    return found.findings.programs


def plan(*strategies: Any, f_outputs: tuple[int, ...] = (3,), **findings: Any) -> Plan:
    """A plan that tries these routes for a function of X with one output."""
    outputs = Outputs(trees.LEAF, (f_outputs,))
    given = request(sine)
    ways = tuple(Strategy(route, True) for route in strategies)
    wanted = BLOCKS.wanted(given, outputs)
    found = Findings(findings.pop("independence", Independence.CHECKED), proved=True, **findings)
    return Plan(BLOCKS, wanted, outputs, Rows(((3,),)), Rows((f_outputs,)), ways, "", found)


# -------------------------------------------------------------------- found and remembered


def test_a_plan_is_found_once_and_settled() -> None:
    f, calls = counted(sine)
    outcome, first = run(request(f, check=False, return_value=True), BLOCKS)
    torch.testing.assert_close(outcome.results[0, 0], TRUTH)
    torch.testing.assert_close(outcome.evaluation.outputs[0], X.sin())
    assert first.findings.settled and not first.findings.random and first.findings.refused == ()
    assert len(caches.PLANS) == 1
    before = len(calls)
    _, second = run(request(f, torch.ones(7, 3, dtype=torch.double), check=False), BLOCKS)
    assert second is first and len(calls) == before + 1  # no look, nothing verified


def test_calls_of_another_kind_have_a_plan_of_their_own() -> None:
    f, calls = counted(sine)
    run(request(f), BLOCKS)
    for other in (request(f, X.float()), request(f, X[:, :2]), request(f, chunk_size=1)):
        calls.clear()
        run(other, BLOCKS)
        assert len(calls) > 1
    calls.clear()
    run(request(f), replace(BLOCKS, key="another"))
    assert len(calls) > 1
    calls.clear()
    with torch.no_grad():
        run(request(f), BLOCKS)
    assert len(calls) > 1


def test_a_plan_is_made_anew_where_outputs_have_changed() -> None:
    width = {"now": 3}

    class F:
        def __call__(self, x: Any) -> Any:
            return x[:, : width["now"]].sin()

    f = F()
    _, first = run(request(f), BLOCKS)
    width["now"] = 2
    outcome, second = run(request(f), BLOCKS)
    torch.testing.assert_close(outcome.results[0, 0], TRUTH[:, :2])
    assert first.outputs.shapes == ((3,),) and second.outputs.shapes == ((2,),)
    _, third = run(request(f), BLOCKS)
    assert third is second


def test_a_plan_that_is_known_is_not_looked_up_nor_looked_for() -> None:
    f, calls = counted(sine)
    known = plan(ROUTES["reverse"], settled=True, programs=programs())
    outcome, found = run(request(f), BLOCKS, known)
    assert found is known and len(calls) == 1 and len(caches.PLANS) == 0
    torch.testing.assert_close(outcome.results[0, 0], TRUTH)


def test_what_independence_could_not_be_decided_of_is_looked_at_again() -> None:
    f, calls = counted(sine)
    nan = torch.full((2, 3), float("nan"), dtype=torch.double)
    _, blind = run(request(f, nan), BLOCKS)
    assert blind.findings.independence is Independence.BLIND and not blind.lasting
    calls.clear()
    _, found = run(request(f), BLOCKS)
    assert found.findings.independence is Independence.CHECKED and len(calls) > 1
    calls.clear()
    run(request(f), BLOCKS)
    assert len(calls) == 1


def test_coupled_samples_are_refused_and_nothing_is_remembered() -> None:
    f = lambda x: x - x.mean(0)
    for _ in range(2):
        with pytest.raises(CoupledSamplesError):
            run(request(f), BLOCKS)
    assert len(caches.PLANS) == 0
    assert run(request(f, check=False), BLOCKS)[1].findings.independence is Independence.UNCHECKED


def test_a_transform_refuses_inputs_before_any_evaluation_and_outputs_after_the_first() -> None:
    f, calls = counted(sine)

    def refusing(*_: Any) -> None:
        raise ShapeError("refused")

    with pytest.raises(ShapeError, match="refused"):
        run(request(f), replace(BLOCKS, refuse_inputs=refusing))
    assert not calls
    with pytest.raises(ShapeError, match="refused"):
        run(request(f), replace(BLOCKS, refuse=refusing))
    assert len(calls) == 1
    with pytest.raises(ShapeError, match="refused"):
        run(request(f, traced=True), replace(BLOCKS, refuse_inputs=refusing))
    assert len(calls) == 1


# -------------------------------------------------------------------- the next strategy


@pytest.mark.parametrize("error", [RuntimeError, UnsupportedOperationError, TypeError, IndexError])
def test_after_an_error_the_next_strategy_runs_and_is_remembered(error: type[Exception]) -> None:
    failing = Failing(lambda: error("not this way. Never"))
    f, calls = counted(sine)
    outcome, found = run(request(f), BLOCKS, plan(failing, ROUTES["reverse"]))
    torch.testing.assert_close(outcome.results[0, 0], TRUTH)
    assert found.route == "reverse" and found.findings.settled
    assert [(strategy.route.name, why) for strategy, why in found.findings.refused] == [("failing", "not this way")]
    assert len(failing.tasks) == 1
    calls.clear()
    assert run(request(f), BLOCKS)[1] is found and len(calls) == 1 and len(failing.tasks) == 1


def test_a_hindrance_passes_a_route_over() -> None:
    failing = Failing(RuntimeError, hindrance="not in here")
    _, found = run(request(sine), BLOCKS, plan(failing, ROUTES["reverse"]))
    assert failing.tasks == [] and found.findings.refused[0][1] == "not in here"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError, lambda: ShapeError("x"), KeyboardInterrupt, lambda: RefusedOperationError("wrong")],
)
def test_what_is_no_reason_to_try_another_route_is_raised(error: Callable[[], BaseException]) -> None:
    failing, second = Failing(error), Failing(RuntimeError)
    f, calls = counted(sine)
    with pytest.raises(type(error())):
        run(request(f), BLOCKS, plan(failing, second))
    assert len(failing.tasks) == 1 and second.tasks == [] and not calls and len(caches.PLANS) == 0


def test_a_refusal_says_in_which_module_it_arose() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RefusedOperationError("thing is wrong")

    net = nn.Sequential(nn.Tanh(), Inner())
    with pytest.raises(RefusedOperationError, match=r"^thing is wrong \(in the Inner '1'\)$"):
        run(request(lambda x: net(x)), BLOCKS, plan(ROUTES["reverse"]))


def test_without_any_route_the_reasons_are_told_together() -> None:
    failing = Failing(lambda: RuntimeError("first reason"))
    other = Failing(lambda: RuntimeError("second reason"))
    other.name = "other"
    with pytest.raises(UnsupportedOperationError, match=r"no route: failing: first reason; other: second reason"):
        run(request(sine), BLOCKS, plan(failing, other))
    assert len(caches.PLANS) == 0


def test_a_function_that_does_another_thing_with_jets_is_told_with_its_line() -> None:
    def f(x: Any) -> Any:
        if type(x) is Jet:
            x = x.numpy_of_mine
        return x.sin()

    outcome, found = run(request(f), BLOCKS, plan(ROUTES["taylor"], ROUTES["reverse"]))
    torch.testing.assert_close(outcome.results[0, 0], TRUTH)
    ((strategy, why),) = found.findings.refused
    assert strategy.route.name == "taylor"
    assert f"in f, line {f.__code__.co_firstlineno + 1} of test_run.py" in why


# -------------------------------------------------------------------- whose error it is


class Mine(Exception):
    """An error of the user's."""


@pytest.mark.parametrize("known", [False, True])
def test_an_error_of_the_function_itself_surfaces_as_it_is_with_a_note(known: bool) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        if bool((x.detach() > 100).any()):
            raise Mine("too large")
        return x.sin()

    if known:
        run(request(f), BLOCKS)
    with pytest.raises(Mine, match="^too large") as told:
        run(request(f, X + 1000), BLOCKS)
    assert told.value.__notes__ == ["jacfunc: raised inside f while blocks(f) evaluated it on a tensor of shape (2, 3)"]
    assert run(request(f), BLOCKS)[0].results


def test_what_fails_with_jets_only_is_no_error_of_the_function() -> None:
    f = lambda x: x.sin() if type(x) is not Jet else {}["missing"]
    _, found = run(request(f), BLOCKS, plan(ROUTES["taylor"], ROUTES["reverse"]))
    assert found.route == "reverse"


# -------------------------------------------------------------------- draws


def test_a_random_function_has_one_draw_for_the_value_and_every_derivative() -> None:
    def noisy(x: Any) -> Any:
        return x * torch.rand(3, dtype=torch.double)

    for _ in range(2):  # found, and remembered
        for chunk_size in (None, 1):
            given = request(noisy, check=False, chunk_size=chunk_size, return_value=True)
            state = given.random_state()
            outcome, found = run(given, BLOCKS)
            state.restore()
            factors = torch.rand(3, dtype=torch.double)
            assert found.findings.random
            torch.testing.assert_close(outcome.evaluation.outputs[0], X * factors)
            torch.testing.assert_close(outcome.results[0, 0], torch.diag(factors).expand(2, 3, 3))


def test_a_strategy_after_a_failed_one_sees_the_same_draw() -> None:
    def drawing() -> Exception:
        torch.rand(5)
        return RuntimeError("after a draw")

    given = request(lambda x: x * torch.rand(3, dtype=torch.double), check=False)
    state = given.random_state()
    outcome, _ = run(given, BLOCKS, plan(Failing(drawing), Failing(drawing), ROUTES["reverse"], random=True))
    state.restore()
    torch.testing.assert_close(outcome.evaluation.outputs[0], X * torch.rand(3, dtype=torch.double))


def test_two_calls_draw_anew() -> None:
    given = request(lambda x: x * torch.rand(3, dtype=torch.double), check=False)
    one, two = (run(given, BLOCKS)[0].results[0, 0] for _ in range(2))
    assert not torch.equal(one, two)


@pytest.fixture
def locks() -> tuple[Callable[[], None], list[bool]]:
    """A function that notes whether another thread could take the lock."""
    taken: list[bool] = []

    def other() -> None:
        taken.append(caches.LOCK.acquire(blocking=False))
        if taken[-1]:
            caches.LOCK.release()

    def ask() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    return ask, taken


def test_the_lock_is_held_while_a_plan_is_found_and_for_what_draws(locks: Any) -> None:
    ask, taken = locks

    def f(x: Any) -> Any:
        ask()
        return x.sin()

    def noisy(x: Any) -> Any:
        ask()
        return x * torch.rand(3, dtype=torch.double)

    for function, later in ((f, True), (noisy, False)):
        taken.clear()
        run(request(function, check=False), BLOCKS)
        assert taken and not any(taken)
        taken.clear()
        run(request(function, check=False), BLOCKS)
        assert taken and set(taken) == {later}
        taken.clear()
        ask()
        assert taken == [True]


# -------------------------------------------------------------------- what a route is told, and results


class Noting(Reverse):
    """Keeps its task."""

    name = "noting"

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        self.tasks.append(task)
        return super().first_order(task, entries)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_task_is_told_what_is_known(settled: bool, recorded: bool) -> None:
    route, given = Noting(), request(sine, chunk_size=2, return_value=True)
    with torch.set_grad_enabled(recorded):
        run(given, BLOCKS, plan(route, settled=settled, undifferentiable=True, programs=programs()))
    (task,) = route.tasks
    mode = task.mode
    assert (mode.vectorised, mode.verified, mode.differentiated_again) == (True, not settled, recorded)
    assert (mode.undifferentiable, mode.wants_value, mode.traced, mode.recomputes) == (True, True, False, True)
    assert task.leaves is given.leaves and task.batch == (2,) and task.chunk_size == 2 and task.random_state is None


@pytest.mark.parametrize(("limit", "rows"), [(None, 3), (2, 2), (1, 1)])
def test_a_trial_has_so_many_rows_and_no_results(limit: int | None, rows: int) -> None:
    route = Noting()
    outcome, _ = run(request(sine), BLOCKS, plan(route, settled=True), limit=limit)
    assert route.tasks[0].inputs.total == rows == route.tasks[0].outputs.total
    assert bool(outcome.results) is (limit is None)
    torch.testing.assert_close(outcome.evaluation.outputs[0], X.sin())


def test_a_result_without_derivatives_is_its_value_alone() -> None:
    f = lambda x: OnlyOnce.apply(x)
    outcome, found = run(request(f, X.clone().requires_grad_()), BLOCKS, plan(ROUTES["reverse"], ROUTES["autograd"]))
    assert found.route == "autograd" and found.findings.undifferentiable
    torch.testing.assert_close(outcome.results[0, 0], TRUTH)
    with pytest.raises(UnsupportedOperationError, match="this derivative has no gradient"):
        outcome.results[0, 0].sum().backward()


def test_aux_is_built_around_what_came_with_the_derivatives() -> None:
    outcome, _ = run(request(lambda x: (x.sin(), {"twice": 2 * x, "n": 1}), has_aux=True), BLOCKS)
    aux = outcome.build_aux(outcome.evaluation.aux)
    torch.testing.assert_close(aux["twice"], 2 * X)
    assert aux["n"] == 1 and outcome.outputs.shapes == ((3,),)


def test_of_a_traced_call_nothing_is_remembered_verified_or_retried() -> None:
    f, calls = counted(sine)
    for _ in range(2):
        calls.clear()
        outcome, found = run(request(f, traced=True), BLOCKS)
        torch.testing.assert_close(outcome.results[0, 0], TRUTH)
        assert len(calls) == 2 and found.findings.independence is Independence.TRACED  # one for the shapes
        assert not found.strategy.route.on_jets
    assert len(caches.PLANS) == 0
