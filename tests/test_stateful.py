"""Right or refused, whatever was edited between two calls: functions are called and edited in random order.

Each number is held against dense derivatives in float64, by torch.autograd, of a fresh copy of the function with the
same settings; a refusal against what the same call says of such a copy, which no memory knows.  In CI about two thousand
steps.  The slow run has five parts of 10,000 eager steps and five of 100 compiled ones, each of which runs by itself and
is the same at every run (``JACFUNC_STATEFUL_SEED``, 0 by default, has it go other ways)::

    python -m pytest -m slow "tests/test_stateful.py::test_many_steps[3]"
    JACFUNC_STATEFUL_SEED=7 python -m pytest -m slow "tests/test_stateful.py::test_many_compiled_steps[0]"
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from stateful_functions import (
    CHANGES,
    DOUBLE,
    EVERYWHERE,
    LAYERS,
    PLACES,
    SCRIPT,
    USES,
    WIDTH,
    Built,
    Description,
    Everywhere,
    Piece,
)
from torch._dynamo.utils import counters

from jacfunc import batch_jac, clear_caches, diag_jac, divergence, hess_diag, hessian, laplacian, partials
from jacfunc.errors import CoupledSamplesError

Tensors = list[torch.Tensor]
NAMES = "v u_x w_y v_zz u_xy"

# The transform, and its result from the value, first and second derivatives of each sample: (N, O), (N, O, I), (N, O, I, I).
TRANSFORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "diag_jac": (diag_jac, lambda y, j, h: j.diagonal(dim1=1, dim2=2)),
    "batch_jac": (batch_jac, lambda y, j, h: j),
    "divergence": (divergence, lambda y, j, h: j.diagonal(dim1=1, dim2=2).sum(1)),
    "hess_diag": (hess_diag, lambda y, j, h: h.diagonal(dim1=2, dim2=3)),
    "laplacian": (laplacian, lambda y, j, h: h.diagonal(dim1=2, dim2=3).sum(2)),
    "hessian": (hessian, lambda y, j, h: h),
    "partials": (
        lambda f, **keywords: partials(f, NAMES, inputs="x y z", outputs="u v w", **keywords),
        lambda y, j, h: (y[:, 1], j[:, 0, 0], j[:, 2, 1], h[:, 1, 2, 2], h[:, 0, 0, 1]),
    ),
}

FIRST_ORDER = {"diag_jac", "batch_jac", "divergence"}


@dataclass(frozen=True)
class Asked:
    """A transform and its keywords."""

    transform: str
    method: str
    chunk_size: int | None
    return_value: bool
    compile: bool

    def __str__(self) -> str:
        told = [f"{name}={value!r}" for name, value in vars(self).items() if name != "transform" and value]
        return f"{self.transform}({', '.join(told)})"

    def of(self, f: Any) -> Any:
        keywords = {name: value for name, value in vars(self).items() if name != "transform"}
        return TRANSFORMS[self.transform][0](f, **keywords)

    def listed(self, result: Any) -> Tensors:
        derivatives, *value = result if self.return_value else [result]
        return [*(derivatives if self.transform == "partials" else [derivatives]), *value]


@dataclass
class Outcome:
    """What a call gives, or the error that it ends with; ``coupled`` if a sample depends on another one."""

    found: Tensors | None = None
    error: Exception | None = None
    coupled: bool = False

    @property
    def kind(self) -> type | None:
        return None if self.error is None else type(self.error)

    def __str__(self) -> str:
        if self.kind:
            return f"{self.kind.__name__}: {self.error}"
        return "samples that influence each other" if self.coupled else f"{self.found}"

    def differing(self, truth: Outcome) -> tuple[Outcome, Outcome] | None:
        """The first tensors that are not the same, of both."""
        assert self.found is not None and truth.found is not None
        for one, other in zip(self.found, truth.found, strict=True):
            if not torch.allclose(one, other, 1e-6, 1e-8):
                return Outcome([one]), Outcome([other])
        return None


def with_gradients(found: Tensors, parameters: list[Any]) -> Tensors:
    """The numbers, and the gradient by each parameter of a sum of them."""
    loss = sum(((1.3 + torch.arange(t.numel())).sin() * t.flatten()).sum() for t in found)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    if parameters and loss.requires_grad:  # type: ignore[union-attr]
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)  # type: ignore[assignment,arg-type]
    return [tensor.detach() for tensor in (*found, *gradients)]


def dense(asked: Asked, built: Built, x: torch.Tensor, how: str) -> Outcome:
    """The truth, from one evaluation."""
    x = x.clone().requires_grad_()
    try:
        y = built.call(x)
    except ValueError as error:  # BatchNorm of one sample
        return Outcome(error=error)

    def gradient(number: torch.Tensor) -> torch.Tensor:
        if not number.requires_grad:
            return torch.zeros_like(x)  # what is linear has no second derivative
        return torch.autograd.grad(number, x, create_graph=True, materialize_grads=True)[0]

    rows = [[gradient(number) for number in sample] for sample in y]
    jacobian = torch.stack([torch.stack(sample) for sample in rows])  # (N, O, N, I)
    own = torch.arange(len(x))
    first = jacobian[own, :, own]
    others = jacobian.detach().clone()
    others[own, :, own] = 0.0
    if others.abs().max() > 1e-10:
        return Outcome(coupled=True)
    second = None
    if asked.transform not in FIRST_ORDER:
        columns = [[gradient(column.sum()) for column in output.unbind(1)] for output in first.unbind(1)]
        second = torch.stack([torch.stack(output, 1) for output in columns], 1)
    result = TRANSFORMS[asked.transform][1](y, first, second)
    found = asked.listed((result, y) if asked.return_value else result)
    return Outcome(with_gradients(found, built.parameters() if how == "parameters" else []))


def outcome(transform: Any, asked: Asked, built: Built, x: torch.Tensor, how: str) -> Outcome:
    """What the library gives."""
    try:
        with torch.set_grad_enabled(how != "no grad"):
            found = asked.listed(transform(*built.arguments(x)))
        return Outcome(with_gradients(found, built.parameters() if how == "parameters" else []))
    except Exception as error:
        return Outcome(error=error)


def in_thread(part: Callable[[], None]) -> None:
    thread = threading.Thread(target=part)
    thread.start()
    thread.join()


def draw(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def generators() -> tuple[Any, ...]:
    _, words, *place = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), words.tobytes(), place, random.getstate()  # type: ignore[union-attr]


def batch(samples: int, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(samples, WIDTH, generator=generator, dtype=DOUBLE)


numbers = st.integers(0, 5)  # of a choice; what is beyond the last one is the first, which couples nothing
samples = st.sampled_from([4, 3, 1, 2])
ways = st.sampled_from(["in place", "in place", "replaced", "replaced", "anew", "function anew"])
then = st.sampled_from([True, True, False])  # whether the call before is made once more


def descriptions(uses: list[str], longest: int, paused: bool) -> st.SearchStrategy[Description]:
    anywhere = st.builds(Piece, st.sampled_from(uses), st.sampled_from(list(PLACES)))
    layer = st.builds(Piece, st.sampled_from([use for use in uses if use in LAYERS]), st.just("a Sequential"))
    some, layers = (st.lists(piece, min_size=1, max_size=longest).map(tuple) for piece in (anywhere, layer))
    depth, pauses = st.sampled_from([0, 0, 9]), st.booleans() if paused else st.just(False)
    of_layers = st.builds(Description, st.sampled_from(["module", "functional"]), layers)
    functions = st.builds(Description, st.just("function"), some, depth, pauses)
    return st.one_of(functions, functions, of_layers)


def asks(compiled: st.SearchStrategy[bool]) -> st.SearchStrategy[list[Asked]]:
    methods, sizes = st.sampled_from(["auto", "auto", "taylor", "forward", "reverse"]), st.sampled_from([None, None, 2])
    one = st.builds(Asked, st.sampled_from(list(TRANSFORMS)), methods, sizes, st.booleans(), compiled)
    return st.lists(one, min_size=1, max_size=3)


WRONG = "a wrong number"
REFUSED = "refused, or by another error than expected"


def wrong(found: Outcome, truth: Outcome) -> str | None:
    """What is wrong with what the library gives; it may be REFUSED if a fresh copy is as well."""
    if found.error is not None:
        expected = CoupledSamplesError if truth.coupled else truth.kind
        return None if found.kind is expected else REFUSED
    if truth.coupled:
        return "a number, where samples influence each other"
    if truth.error is not None:
        return "a number, where a plain forward raises"
    return None if found.differing(truth) is None else WRONG


class Edited(RuleBasedStateMachine):
    """A function that is called and edited; ``told`` is what was done since it was made."""

    asked: list[Asked]

    def __init__(self) -> None:
        super().__init__()
        clear_caches()  # an example is the same whatever ran before it
        self.everywhere = Everywhere()
        self.told: list[str] = []
        self.last: tuple[Any, ...] = (0, 4, 0, "grad", True)

    def teardown(self) -> None:
        self.everywhere.end()

    def begin(self, description: Description, asked: list[Asked]) -> None:
        self.description = self.initial = description
        self.asked = asked
        self.live = Built(description)
        self.transforms: dict[Asked, Any] = {}

    @initialize(description=descriptions(list(USES), 3, True), asked=asks(st.just(False)))
    def made(self, description: Description, asked: list[Asked]) -> None:
        self.begin(description, asked)

    # -------------------------------------------------------------------- edits

    @rule(at=st.integers(0, 2), which=st.integers(0, 8), number=numbers, way=ways, then=then)
    def edit(self, at: int, which: int, number: int, way: str, then: bool) -> None:
        at %= len(self.description.pieces)
        piece = self.description.pieces[at]
        fields = USES[piece.use].fields
        name = list(fields)[which % len(fields)]
        if number >= len(fields[name]) or number == piece.number(name):
            number = 0 if piece.number(name) else 1
        self.description = self.description.edited(at, name, number)
        self.told.append(f"{name} of piece {at} {way}: {piece} is {self.description.pieces[at]}")
        if way == "function anew":
            self.begin(self.description, self.asked)
        else:
            self.live.edit(self.description, at, name, "anew" if piece.place == "a thread's own" else way)
        if then:
            self.called(*self.last)

    @rule(name=st.sampled_from(EVERYWHERE), number=st.integers(0, len(CHANGES)), then=then)
    def edit_everywhere(self, name: str, number: int, then: bool) -> None:
        self.everywhere.edit(name, (None, *CHANGES)[number])
        self.told.append(f"{name}: {f'change {number - 1}' if number else 'none'}")
        if then:
            self.called(*self.last)

    # -------------------------------------------------------------------- calls

    @rule(
        which=st.integers(0, 2),
        count=samples,
        number=numbers,
        how=st.sampled_from(["grad", "parameters", "no grad", "thread"]),
        again=st.booleans(),
    )
    def call(self, which: int, count: int, number: int, how: str, again: bool) -> None:
        self.called(which, count, number, how, again)

    def called(self, which: int, count: int, number: int, how: str, again: bool) -> None:
        self.last = which, count, number, how, True
        asked = self.asked[which % len(self.asked)]
        x, transform = batch(count, number), self.transform(asked, again)
        with self.unchanged():
            draw(number)
            if how == "thread":
                outcomes: list[Outcome] = []
                in_thread(lambda: outcomes.append(outcome(transform, asked, self.live, x, how)))
                found = outcomes[0]
            else:
                found = outcome(transform, asked, self.live, x, how)
        self.judge(found, asked, x, how, number)

    @precondition(lambda self: self.description.paused and not self.description.draws)
    @rule(
        which=st.integers(0, 2),
        other=st.integers(0, 2),
        count=samples,
        others=samples,
        number=numbers,
        left=st.integers(1, 4),
    )
    def call_in_between(self, which: int, other: int, count: int, others: int, number: int, left: int) -> None:
        """Another thread's call while the function runs for this one's."""
        one, two = self.asked[which % len(self.asked)], self.asked[other % len(self.asked)]
        x, y, outcomes = batch(count, number), batch(others, number + 1), []
        transforms = self.transform(one, True), self.transform(two, True)
        SCRIPT.begin(left, lambda: outcomes.append(outcome(transforms[1], two, self.live, y, "thread")))
        with self.unchanged():
            draw(number)
            found = outcome(transforms[0], one, self.live, x, "grad")
            SCRIPT.end()
        self.judge(found, one, x, "grad", number)
        self.judge(outcomes[0], two, y, "thread", number)

    # -------------------------------------------------------------------- what is right

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What a call leaves as it was; where the generators are after it is looked at in ``judge``."""
        before = list(self.live.state())
        yield
        self.left = generators()
        for (name, thing, value), (_, now, _) in zip(before, self.live.state(), strict=True):
            same = now is thing and (torch.equal(now, value) if isinstance(now, torch.Tensor) else now == value)
            told = f"{value} is {now if now is thing else f'another one, {now}'}"
            assert same, self.report(f"the call changed the {name}: {told}")

    def judge(self, found: Outcome, asked: Asked, x: torch.Tensor, how: str, number: int) -> None:
        """Whether the outcome of a call is right, and the generators have been drawn from as by one plain forward."""
        description = self.seen_by_others() if how == "thread" else self.description
        copy = Built(description, fresh=True)
        draw(number)
        before = generators()
        truth = dense(asked, copy, x, how)
        drawn = [generators()] if found.error is None else [before, generators()]
        call = f"{asked} of {len(x)} samples ({how}, batch {number})"
        why = wrong(found, truth)
        if why == REFUSED:
            copy = Built(description, fresh=True)
            draw(number)
            told = outcome(asked.of(copy.transformed), asked, copy, x, how)
            why = f"{why}; a fresh copy gives {told}" if told.kind is not found.kind else None
        if why is None and self.left not in drawn:
            why = "other random numbers are left than after a plain forward"
        if why == WRONG:
            found, truth = found.differing(truth) or (found, truth)
        assert why is None, self.report(f"{call}: {why}\nfound:    {found}\nexpected: {truth}")
        self.told.append(f"{call}: {found.kind.__name__ if found.kind else 'right'}")

    def seen_by_others(self) -> Description:
        """What other threads find, which have their own of some things."""
        pairs = zip(self.description.pieces, self.initial.pieces, strict=True)
        pieces = [first if now.place == "a thread's own" else now for now, first in pairs]
        return replace(self.description, pieces=tuple(pieces))

    def report(self, what: str) -> str:
        return "\n  ".join([f"{what}\nfunction: {self.description}\nfirst:    {self.initial}\nsince then:", *self.told])

    def transform(self, asked: Asked, again: bool) -> Any:
        if not again or asked not in self.transforms:
            self.transforms[asked] = asked.of(self.live.transformed)
        return self.transforms[asked]


class Compiled(Edited):
    """The same with ``compile=True`` in most calls, as long as an example has not compiled ``most`` times.

    What draws is left out: compiled, it draws other numbers than eager code.
    """

    most = 4

    def __init__(self) -> None:
        super().__init__()
        torch.compiler.reset()
        self.compiled = counters["stats"]["unique_graphs"]

    @initialize(
        description=descriptions([name for name, use in USES.items() if not use.draws], 2, False),
        asked=asks(st.sampled_from([True, True, False])),
    )
    def made(self, description: Description, asked: list[Asked]) -> None:
        self.begin(description, asked)

    @rule(which=st.integers(0, 2), count=st.sampled_from([4, 4, 3]), number=numbers)
    def call(self, which: int, count: int, number: int) -> None:
        self.called(which, count, number, "grad", True)

    def called(self, *call: Any) -> None:
        if counters["stats"]["unique_graphs"] - self.compiled < self.most:
            super().called(*call)


ci = settings(
    max_examples=196,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.filterwarnings("ignore")


def run(machine: type[Edited], part: int, **steps: int) -> None:
    """A part of the slow run, which goes by a seed of its own."""
    number = 1000 * int(os.environ.get("JACFUNC_STATEFUL_SEED", "0")) + part
    seeded = seed(number)(type(machine.__name__, (machine,), {"most": 40}))
    run_state_machine_as_test(seeded, settings=settings(ci, derandomize=False, **steps))


def test_some_steps() -> None:
    run_state_machine_as_test(Edited, settings=ci)


def test_some_compiled_steps() -> None:
    run_state_machine_as_test(Compiled, settings=settings(ci, max_examples=3))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_many_steps(part: int) -> None:
    run(Edited, part, max_examples=500, stateful_step_count=20)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_many_compiled_steps(part: int) -> None:
    run(Compiled, part, max_examples=5, stateful_step_count=20)
