"""``jacfunc/options.py``: the keywords of a transform, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from jacfunc.errors import ArgumentError, ArgumentTypeError
from jacfunc.keywords import Keywords
from jacfunc.options import METHODS, Options


def test_the_keywords_are_the_fields() -> None:
    assert {option.name for option in fields(Options) if option.init} == set(Keywords.__annotations__)


@pytest.mark.parametrize(("argnums", "numbers"), [(-1, (-1,)), (2, (2,)), ((0, -2), (0, -2)), ((1,), (1,))])
def test_numbers_are_a_tuple_also_of_one(argnums: Any, numbers: tuple[int, ...]) -> None:
    options = Options(argnums=argnums)
    assert options.numbers == numbers and options.argnums == argnums


def test_numbers_of_another_kind_become_pythons() -> None:
    keywords: Any = {
        "argnums": (np.int64(1), 0),
        "batch_dims": np.int32(2),
        "chunk_size": np.int64(3),
        "check_tolerance": np.float32(0.5),
    }
    options = Options.of("diag_jac", keywords)
    assert options == Options(argnums=(1, 0), batch_dims=2, chunk_size=3, check_tolerance=0.5)
    assert [type(number) for number in (*options.numbers, options.batch_dims, options.chunk_size)] == [int] * 4


def test_an_unknown_keyword_is_told_with_those_that_there_are() -> None:
    wrong: Any = {"argnum": 1}
    with pytest.raises(
        ArgumentTypeError, match="^diag_jac has no keyword 'argnum'; did you mean 'argnums'\\? It takes argnums, ba"
    ):
        Options.of("diag_jac", wrong)


REFUSED = [
    ("argnums", (), ArgumentTypeError, r"argnums=\(\) is not an int or a non-empty tuple of ints"),
    ("argnums", 1.0, ArgumentTypeError, r"argnums=1.0 is not an int"),
    ("argnums", True, ArgumentTypeError, r"argnums=True is not an int"),
    ("argnums", (0, "x"), ArgumentTypeError, r"argnums=\(0, 'x'\) is not an int"),
    ("argnums", [0], ArgumentTypeError, r"argnums=\[0\] is not an int"),
    ("batch_dims", -1, ArgumentError, "batch_dims=-1 is not the number of leading sample axes"),
    ("batch_dims", True, ArgumentError, "batch_dims=True is not"),
    ("batch_dims", 1.5, ArgumentError, "batch_dims=1.5 is not"),
    ("method", "fwd", ArgumentError, "method='fwd' is unknown; choose one of 'auto', 'taylor', 'forward', 'reverse'"),
    ("method", None, ArgumentError, "method=None is unknown"),
    ("chunk_size", 0, ArgumentError, "chunk_size=0 is not a number of rows, 1 or more"),
    ("chunk_size", True, ArgumentError, "chunk_size=True is not"),
    ("chunk_size", "auto", ArgumentError, "chunk_size='auto' is not"),
    ("sample_chunk_size", 0, ArgumentError, "sample_chunk_size=0 is not a number of samples, 1 or more, 'auto'"),
    ("sample_chunk_size", 2.0, ArgumentError, "sample_chunk_size=2.0 is not"),
    ("in_dims", 1, ArgumentError, r"in_dims=1 is not 0 \(samples in front\)"),
    ("in_dims", (0, 1), ArgumentError, r"in_dims=\(0, 1\) is not 0"),
    ("in_dims", False, ArgumentError, "in_dims=False is not 0"),
    ("out_dims", -1, ArgumentError, "out_dims=-1 is not the axis of the outputs that the samples lie on, 0 or more"),
    ("out_dims", True, ArgumentError, "out_dims=True is not the axis"),
    ("out_dims", (1, 0), ArgumentError, r"out_dims=\(1, 0\) is not the axis"),
    ("has_aux", 1, ArgumentTypeError, "has_aux=1 is not a bool"),
    ("return_value", None, ArgumentTypeError, "return_value=None is not a bool"),
    ("check", "yes", ArgumentTypeError, "check='yes' is not a bool"),
    ("compile", 0, ArgumentTypeError, "compile=0 is not a bool"),
    (
        "check_tolerance",
        "auto",
        ArgumentError,
        "check_tolerance='auto' is not a part of the size of an output, from 0 to",
    ),
    ("check_tolerance", True, ArgumentError, "check_tolerance=True is not a part"),
    ("check_tolerance", -1e-4, ArgumentError, "check_tolerance=-0.0001 is not a part"),
    ("check_tolerance", math.nan, ArgumentError, "check_tolerance=nan is not a part"),
]


@pytest.mark.parametrize(("name", "value", "error", "match"), REFUSED)
def test_a_value_that_cannot_be_meant_is_refused(name: str, value: Any, error: type[Exception], match: str) -> None:
    keywords: Any = {name: value}
    with pytest.raises(error, match=f"^{match}"):
        Options.of("diag_jac", keywords)


ALLOWED = [
    ("batch_dims", 0),
    ("check_tolerance", 0),
    ("chunk_size", 1),
    ("sample_chunk_size", "auto"),
    ("sample_chunk_size", 1),
    ("in_dims", 0),
    ("in_dims", (None, 0)),
    ("in_dims", ()),
    *[("method", method) for method in METHODS],
]


@pytest.mark.parametrize(("name", "value"), ALLOWED)
def test_a_value_at_the_edge_is_allowed(name: str, value: Any) -> None:
    assert getattr(Options(**{name: value}), name) == value


CHANGED: dict[str, Any] = {
    "argnums": 0,
    "batch_dims": 2,
    "method": "reverse",
    "chunk_size": 3,
    "sample_chunk_size": 4,
    "in_dims": 0,
    "out_dims": 0,
    "has_aux": True,
    "return_value": True,
    "check": False,
    "check_tolerance": 0.5,
    "compile": True,
}


def test_what_was_changed_is_told_as_it_is_written() -> None:
    assert Options().changed() == []
    assert Options(**CHANGED).changed() == [f"{name}={value!r}" for name, value in CHANGED.items()]
    assert Options(method="auto", argnums=0).changed() == ["argnums=0"]


def test_a_plan_depends_on_some_of_them_only() -> None:
    depends = {name for name, value in CHANGED.items() if Options(**{name: value}).planned != Options().planned}
    assert depends == {
        "argnums",
        "batch_dims",
        "method",
        "chunk_size",
        "out_dims",
        "has_aux",
        "check",
        "check_tolerance",
    }


def test_options_without_one_thing_are_as_they_were_in_all_else() -> None:
    options = Options(**CHANGED)
    assert options.eager == Options(**{**CHANGED, "compile": False})
    assert options.whole == Options(**{**CHANGED, "sample_chunk_size": None, "in_dims": None})
    assert options == Options(**CHANGED)
    assert options.eager.numbers == (0,)


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Options().method = "reverse"  # type: ignore[misc]
    assert len({Options(), Options(argnums=-1), Options(argnums=(-1,))}) == 2
