"""``jacfunc/call/parting.py``: the last line that two evaluations of a function have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from jacfunc.call import parting as room
from jacfunc.call.parting import parting
from jacfunc.core import trees


def line(function: Any, offset: int) -> str:
    code = function.__code__
    return f" (in {code.co_name}, line {code.co_firstlineno + offset} of test_parting.py)"


def branching(x: Any) -> Any:
    y = 2 * x
    if isinstance(y, float):
        return y
    return -y


def early(x: Any) -> Any:
    if isinstance(x, int):
        return x
    y = x + x
    return y * 2


def around(x: Any) -> Any:
    y = torch.zeros(2)
    return branching(x) + y


def looping(x: Any) -> Any:
    total = 0
    for item in x:
        total += item
        if total > 3:
            break
    return total


def raising(x: Any) -> Any:
    y = x + 1
    z = len(y)
    return z + 1


@pytest.mark.parametrize(
    ("f", "one", "other", "expected"),
    [
        (branching, 1, 1.5, (branching, 2)),
        (early, 1, 1.5, (early, 1)),
        (around, 1, 1.5, (branching, 2)),
        (looping, [1, 1, 1], [1, 4, 1], (looping, 4)),
    ],
)
def test_where_two_evaluations_part(f: Callable[[Any], Any], one: Any, other: Any, expected: Any) -> None:
    assert parting(partial(f, one), partial(f, other)) == line(*expected)
    assert parting(partial(f, other), partial(f, one)) == line(*expected)


@pytest.mark.parametrize(("f", "one", "other"), [(branching, 1, 2), (looping, [1, 1], [2, 0]), (around, 1.5, 2.5)])
def test_nothing_is_said_of_evaluations_along_the_same_lines(f: Callable[[Any], Any], one: Any, other: Any) -> None:
    assert parting(partial(f, one), partial(f, other)) == ""


def test_one_that_only_ends_earlier_does_not_part() -> None:
    """Where it was stopped is in its error."""
    assert parting(partial(raising, torch.ones(2)), partial(raising, 1)) == ""


def test_errors_of_both_are_left_to_others() -> None:
    assert parting(partial(raising, 1), partial(raising, 2)) == ""


def test_lines_of_libraries_and_of_this_package_are_none_of_the_users() -> None:
    def f(x: Any) -> Any:
        return trees.tensors(x)

    assert parting(partial(f, (torch.ones(1), 1)), partial(f, torch.ones(1))) == ""


def test_another_trace_goes_on_afterwards_and_sees_nothing_of_this() -> None:
    def tracer(*_: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        parting(partial(branching, 1), lambda: raising(1))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_so_many_lines_are_noted_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST", 6)
    assert parting(partial(looping, [0] * 50 + [1]), partial(looping, [0] * 50 + [9, 1])) == ""
    assert parting(partial(looping, [0, 4]), partial(looping, [4])) == line(looping, 4)
