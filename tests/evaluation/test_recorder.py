"""``jacfunc/evaluation/recorder.py``: what a function does, told from what else it may do, and found again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jacfunc import laplacian
from jacfunc.evaluation.corrections import corrected
from jacfunc.evaluation.program import CONTENT, KINDS, ORIGINS, Flag, Kind, Program, ProgramChangedError
from jacfunc.evaluation.recorder import Recorder

Function = Callable[[torch.Tensor], Any]
EACH = slice(None)


def batch(samples: int = 4, width: int = 3) -> torch.Tensor:
    return torch.randn(samples, width, dtype=torch.double)


X = batch()


def recorded(f: Function, x: torch.Tensor = X, known: list[Program] | None = None, others: Any = ()) -> Program:
    """The program of one evaluation."""
    recorder = Recorder(len(x), known)
    with torch.no_grad(), corrected(recorder):
        recorder.begin([x], [], others)
        y = f(x)
    recorder.end([y])
    assert recorder.program is not None
    return recorder.program


def found(f: Function, known: list[Program], x: torch.Tensor = X) -> bool:
    """Whether what a function does is one of these programs."""
    try:
        return recorded(f, x, known) in known
    except ProgramChangedError:
        return False


W = torch.randn(3, 3, dtype=torch.double)
ROWS = torch.tensor([1, 0, 2, 3])
OTHERS: dict[str, tuple[Function, Function]] = {
    "operation": (torch.sin, torch.cos),
    "name of an operation": (torch.sin, lambda x: x.sin_()),
    "axis": (lambda x: x.softmax(1), lambda x: x.softmax(0)),
    "keyword": (lambda x: x.sum(dim=1), lambda x: x.sum(dim=0)),
    "True for 1": (lambda x: x.sum(1, keepdim=True), lambda x: x.sum(1, keepdim=False)),
    "int for float": (lambda x: x * 2, lambda x: x * 2.0),
    "zero": (lambda x: x * 0.5, lambda x: x * 0.0),
    "one": (lambda x: x**1.5, lambda x: x**1.0),
    "NaN": (lambda x: x * 0.5, lambda x: x * float("nan")),
    "infinity": (lambda x: x * float("-inf"), lambda x: x * float("inf")),
    "bound": (lambda x: torch.where(x > 0.5, x, 0.0), lambda x: torch.where(x > 0.25, x, 0.0)),
    "probability": (lambda x: F.dropout(x, 0.25), lambda x: F.dropout(x, 0.5)),
    "string": (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh")),
    "dtype": (lambda x: x.to(torch.float32), lambda x: x.to(torch.float64)),
    "operand": (lambda x: x.sin() - x, lambda x: x - x.sin()),
    "which of several": (lambda x: x.unbind(1)[0], lambda x: x.unbind(1)[1]),
    "slice": (lambda x: x[:, 1:], lambda x: x[:, :2]),
    "slice of samples": (lambda x: x[EACH, None], lambda x: x[None, EACH]),
    "list as index": (lambda x: x[:, [0, 1]], lambda x: x[:, [1, 0]]),
    "array as index": (lambda x: x[np.array([0, 1, 2, 3])], lambda x: x[np.array([1, 0, 2, 3])]),
    "number of numpy": (lambda x: x * np.float64(0.5), lambda x: x * np.float64(0.25)),
    "shape": (lambda x: x.reshape(-1, 3), lambda x: x.reshape(3, -1)),
    "order of writing": (
        lambda x: (y := x * 1, x.mul_(2), y + x)[-1],
        lambda x: (x.mul_(2), y := x * 1, y + x)[-1],
    ),
    "more": (torch.sin, lambda x: x.sin().sin()),
    "less": (lambda x: x.sin().sin(), torch.sin),
    "output": (lambda x: (x.sin(), x.cos())[0], lambda x: (x.sin(), x.cos())[1]),
    "held shape": (lambda x: x @ W, lambda x: x @ W[:, :2]),
    "held rows": (lambda x: x[ROWS], lambda x: x[ROWS.flip(0)]),
    "mode": (torch.sin, lambda x: torch.no_grad()(torch.sin)(x)),
    "einsum": (lambda x: torch.einsum("nd,dk->nk", x, W), lambda x: torch.einsum("nd,kd->nk", x, W)),
}
SAME: dict[str, tuple[Function, Function]] = {
    "itself, made anew": (lambda x: x.sin() * 2, lambda x: x.sin() * 2),
    "any other number": (lambda x: x * 0.5, lambda x: x * -3.25),
    "equal rows": (lambda x: x[torch.tensor([1, 0, 2, 3])], lambda x: x[torch.tensor([1, 0, 2, 3])]),
    "equal numbers, NaN among them": (
        lambda x: x * torch.tensor([1.0, float("nan"), 2.0]),
        lambda x: x * torch.tensor([1.0, float("nan"), 2.0]),
    ),
    "generator": (
        lambda x: x + torch.rand(3, generator=torch.Generator().manual_seed(1)),
        lambda x: x + torch.rand(3, generator=torch.Generator().manual_seed(1)),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_program_is_told_from_the_known_one(name: str) -> None:
    one, other = OTHERS[name]
    known = [recorded(one, X.clone())]
    assert found(one, known, X.clone()) and not found(other, known, X.clone())


@pytest.mark.parametrize("name", SAME)
def test_the_same_program_is_found_again(name: str) -> None:
    one, other = SAME[name]
    assert found(other, [recorded(one)])


def test_what_is_another_program_does_not_run() -> None:
    known, steps = [recorded(lambda x: x.sin().cos())], torch.zeros(())
    recorder = Recorder(4, known)
    with corrected(recorder):
        recorder.begin([X], [], [])
        X.sin()
        with pytest.raises(ProgramChangedError):
            steps.add_(1)
    assert steps == 0


def test_who_catches_the_error_is_told_again() -> None:
    def catching(x: torch.Tensor) -> torch.Tensor:
        try:
            return x.cos()
        except ProgramChangedError:
            return x.sin()

    assert not found(catching, [recorded(torch.sin)])


def test_one_of_several_is_followed_from_where_they_part() -> None:
    ways = [lambda x, k=k: x.sin() * 2 if k == 0 else x.sin().cos() if k == 1 else x.sin() * 2 + 1 for k in range(3)]
    known = [recorded(way) for way in ways]
    for way, program in zip(ways, known, strict=True):
        assert recorded(way, known=known) is program
    assert not found(lambda x: x.sin() + 1, known)


# -------------------------------------------------------------------- other numbers of samples


def sizes(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.zeros(len(x), 2, dtype=x.dtype)], 1).reshape(len(x) * 5)


@pytest.mark.parametrize("samples", [9, 10, 11, 17])
def test_sizes_are_multiples_of_the_samples(samples: int) -> None:
    assert found(sizes, [recorded(sizes, batch(11))], batch(samples))


def test_few_samples_tell_of_just_as_many_unless_they_are_proved_to_be_independent() -> None:
    known = recorded(sizes, batch(4))
    assert found(sizes, [known], batch(4)) and not found(sizes, [known], batch(5))
    assert not found(sizes, [recorded(sizes, batch(11))], batch(4)) and found(sizes, [known.sure()], batch(5))


def test_a_width_that_equals_the_batch_is_the_same_for_that_batch_only() -> None:
    def wide(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 8)

    assert found(wide, [recorded(wide, batch(8))], batch(8)) and not found(wide, [recorded(wide, batch(8))], batch(9))
    assert found(wide, [recorded(wide, batch(9))], batch(11))


def test_a_fixed_size_is_no_batch() -> None:
    known = [recorded(lambda x: x.new_zeros(9, 2), batch(9))]
    assert not found(lambda x: x.new_zeros(9, 2), known, batch(10))


# -------------------------------------------------------------------- what is held outside


def mixed_by(matrix: Any) -> Function:
    return lambda x: matrix @ x


def test_what_is_edited_in_place_or_replaced_is_another_program() -> None:
    held = torch.eye(4, dtype=torch.double)
    known = [recorded(mixed_by(held))]
    assert found(mixed_by(held), known) and found(mixed_by(held.clone()), known)
    held[0, 1] = 1.0
    assert not found(mixed_by(held), known) and found(mixed_by(torch.eye(4, dtype=torch.double)), known)


def test_what_is_large_is_known_by_its_identity_and_version() -> None:
    large = torch.zeros(CONTENT // 8 + 1, 4, dtype=torch.double)
    known = [recorded(mixed_by(large))]
    assert found(mixed_by(large), known) and not found(mixed_by(large.clone()), known)
    large += 0
    assert not found(mixed_by(large), known)


def test_parameters_change_at_every_step() -> None:
    weight = torch.nn.Parameter(torch.eye(4, dtype=torch.double))
    known = [recorded(mixed_by(weight))]
    with torch.no_grad():
        weight += 1
    assert found(mixed_by(weight), known) and found(mixed_by(weight * 2), [recorded(mixed_by(weight * 2))])


def test_other_arguments_are_compared_as_well() -> None:
    one, other = torch.eye(4, dtype=torch.double), torch.ones(4, 4, dtype=torch.double)
    known = [recorded(mixed_by(one), others=[one])]
    assert recorded(mixed_by(one), known=known, others=[one]) in known
    with pytest.raises(ProgramChangedError):
        recorded(mixed_by(other), known=known, others=[other])


def test_numbers_do_not_matter_to_what_is_proved() -> None:
    held = torch.eye(4, dtype=torch.double)
    known = [recorded(mixed_by(held)).sure()]
    held += 1
    assert found(mixed_by(held), known) and not known[0].held and not known[0].depends


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(2 * x.numpy())


def test_what_was_made_out_of_sight_is_not_held() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = Doubled.apply(x)
        return made.sin()

    program = recorded(f)
    assert program.passing()
    program = program.constants(recorded(f, X.flip(0)))
    assert found(f, [program], batch()) and not found(lambda x: f(x) + 1, [program])


def test_a_constant_that_is_made_out_of_sight_is_held() -> None:
    held = np.eye(4)

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(held.copy()) @ x

    program = recorded(f).constants(recorded(f, X.flip(0)))
    assert found(f, [program], batch())
    held[0, 1] = 1.0
    assert not found(f, [program], batch())


def test_what_comes_to_be_at_the_address_of_another_tensor_is_not_taken_for_it() -> None:
    recorder = Recorder(4)
    recorder.begin([X], [], [])
    first, second = X.clone(), X.clone()
    recorder.before(torch.clone, (X,), {})
    recorder.busy = False
    recorder.after(first)
    recorder.numbers[id(second)] = recorder.numbers[id(first)]
    recorder.living[id(second)] = recorder.living[id(first)]
    recorder.before(torch.sin, (second,), {})
    recorder.busy = False
    recorder.before(torch.sin, (first,), {})
    assert recorder.steps[1] != recorder.steps[2]


# -------------------------------------------------------------------- what is known by its address


def addresses_again(x: torch.Tensor) -> torch.Tensor:
    """Tensors that jets do not see are made where others have died that were seen, sometimes."""
    out = torch.zeros(len(x), dtype=x.dtype)
    for k in range(4):
        rows = (x[:, 0] <= 10.0 + k).nonzero().flatten()
        where = PAIRS * 1
        y = torch.sin(x[:, k % 3] * (k + 1.0))
        out = out.index_add(0, where[0], y.index_select(0, rows[:]))
    return out


PAIRS = torch.arange(32).reshape(2, 16) % 16


@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_identical_calls_are_of_one_program_whatever_dies_on_the_way(method: str, monkeypatch) -> None:
    turns = []
    turn = Recorder._turn
    monkeypatch.setattr(Recorder, "_turn", lambda self, step: turns.append(step) or turn(self, step))
    x = torch.rand(16, 3, dtype=torch.float64)
    second = laplacian(addresses_again, method=method, check=False)
    for _ in range(60):
        second(x)
    assert not turns


class Stand:
    """In place of a jet."""


@pytest.fixture
def on_stands(monkeypatch) -> Recorder:
    """Who notes what runs on jets that are given, a stand and a tensor."""
    monkeypatch.setitem(KINDS, Stand, Kind.JET)
    recorder = Recorder(4)
    recorder.begin([Stand()], [], [X.clone()], on_jets=True)
    return recorder


def noted(recorder: Recorder, function: Any, result: Any, *args: Any) -> list[object]:
    recorder.step(function, args, {}, lambda: result)
    return recorder.steps[-1][1:]


def moved_to(recorder: Recorder, old: Any, new: Any) -> None:
    """As if the new one were made at the address of the old one, which is gone."""
    for known in (recorder.numbers, recorder.jets, recorder.living):
        if id(old) in known:
            known[id(new)] = known.pop(id(old))  # type: ignore[index]


def test_tensors_on_jets_are_known_while_they_live(on_stands: Recorder) -> None:
    (jet, given), mask, other = on_stands.given, X > 0, X > 1
    assert noted(on_stands, torch.gt, mask, jet, given) == [ORIGINS[0], ORIGINS[1]]
    assert noted(on_stands, torch.where, Stand(), mask, jet, [mask]) == [ORIGINS[2], ORIGINS[0], 1, ORIGINS[2]]
    moved_to(on_stands, mask, other)
    for told in (noted(on_stands, torch.where, Stand(), other, jet), noted(on_stands, torch.cat, Stand(), [other])):
        assert ORIGINS[2] not in told and Flag.OUTSIDE in told
    assert not on_stands.knows(other) and on_stands.knows(given)


def test_a_tensor_at_the_address_of_a_jet_is_none(on_stands: Recorder) -> None:
    made, tensor = Stand(), X.clone()
    noted(on_stands, torch.sin, made, on_stands.given[0])
    moved_to(on_stands, made, tensor)
    assert noted(on_stands, torch.cos, Stand(), tensor)[0] is Flag.OUTSIDE


def test_a_jet_at_the_address_of_a_tensor_or_of_another_jet_is_itself(on_stands: Recorder) -> None:
    jet, mask, second, third = on_stands.given[0], X > 0, Stand(), Stand()
    noted(on_stands, torch.gt, mask, jet)
    moved_to(on_stands, mask, second)
    noted(on_stands, torch.sin, second, jet)
    assert noted(on_stands, torch.cos, Stand(), second) == [ORIGINS[3]]
    moved_to(on_stands, second, third)
    noted(on_stands, torch.sin, third, jet)
    assert noted(on_stands, torch.cos, Stand(), third) == [ORIGINS[5]]


def test_what_was_given_stays_where_it_is() -> None:
    recorder = Recorder(4)
    recorder.begin([X], [], [held := X.clone()])
    gone = weakref.ref(held)
    del held
    assert gone() is recorder.given[1]
