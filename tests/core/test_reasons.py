"""``jacfunc/core/reasons.py``: what stopped a route, in one sentence."""

from __future__ import annotations

import json
import linecache
from collections.abc import Callable
from typing import Any

import optree
import pytest
import torch
from torch import nn

import jacfunc
from jacfunc.core import reasons
from jacfunc.core.reasons import (
    OTHERWISE,
    a_type,
    first_line,
    line_of,
    name_of,
    note,
    operation,
    otherwise,
    ours,
    place,
    reason,
    together,
)

OPERATIONS = [
    (["torch cannot transform the operator cond (x)"], "the operator cond"),
    (["Trying to backward through mine::op.default but no autograd formula was registered"], "the operator mine::op"),
    (["the operator mine::op.default is applied to what varies"], "the operator mine::op"),
    (["the derivative for 'aten::_cdist_backward' is not implemented"], "_cdist_backward"),
    (["derivative for linalg_thing is not implemented"], "linalg_thing"),
    (["no formula of _scaled_dot_product_flash_attention_for_cpu"], "_scaled_dot_product_flash_attention_for_cpu"),
    (["In order to use an autograd.Function with functorch"], "an autograd.Function"),
    (["unique has no rule"], "unique"),
    (["exp of complex numbers"], "exp"),
    (["something else"], "an operation"),
    ([], "an operation"),
]


@pytest.mark.parametrize(("whys", "named"), OPERATIONS)
def test_the_operation_is_named_as_far_as_reasons_name_one(whys: list[str], named: str) -> None:
    assert operation(whys) == named


def test_the_surest_name_wins_whichever_route_said_it() -> None:
    whys = ["unique has no rule", "an autograd.Function", "torch cannot transform the operator cond (x)"]
    assert operation(whys) == operation(whys[::-1]) == "the operator cond"


def test_routes_that_failed_for_one_reason_are_told_together_and_once() -> None:
    told = together([("taylor", "a"), ("reverse", "b"), ("taylor", "a"), ("forward", "a"), ("dual", "b")])
    assert told == "taylor and forward: a; reverse and dual: b"
    assert together([]) == ""


def test_a_function_is_called_by_its_name_or_as_it_shows_itself() -> None:
    class Callable_:
        def __call__(self) -> None: ...

        def __repr__(self) -> str:
            return "<mine>"

    assert name_of(torch.nn.functional.softplus) == "softplus" and name_of(Callable_()) == "<mine>"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one line", "one line"),
        ("one line.", "one line"),
        ("one line\nand another", "one line"),
        ("a sentence. And another.", "a sentence"),
        ("version 2.11 has no derivative. Use another.", "version 2.11 has no derivative"),
        ("of `f(x)`. More", "of `f(x)`. More"),
        ("of f(x). More", "of f(x)"),
        ('of "f". More', 'of "f"'),
        ("  \n", "ValueError"),
        ("", "ValueError"),
    ],
)
def test_the_first_sentence_or_the_class(text: str, first: str) -> None:
    assert first_line(ValueError(text)) == first


def caught(call: Callable[[], Any]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no derivative")


def test_the_place_is_the_innermost_module_by_its_path() -> None:
    inner = nn.Sequential(nn.Tanh(), Fails())
    net = nn.Sequential(nn.Tanh(), inner)
    x = torch.zeros(2)
    assert place(caught(lambda: net(x))) == " (in the Fails '1.1')"
    assert place(caught(lambda: inner(x))) == " (in the Fails '1')"
    assert place(caught(lambda: inner[1](x))) == " (in the Fails)"
    assert place(caught(lambda: Fails().forward(x))) == ""
    assert place(ValueError("never raised")) == ""


def test_the_place_of_a_module_that_no_path_leads_to() -> None:
    hidden = Fails()

    class Around(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return hidden(x)

    assert place(caught(lambda: Around()(torch.zeros(2)))) == " (in the Fails)"


def test_a_higher_order_operator_is_named_where_the_error_arose_in_one() -> None:
    plain = caught(lambda: Fails()(torch.zeros(2)))
    assert reason(plain) == "no derivative"
    inside = compile(
        "def raising():\n    raise RuntimeError('not here. Ever')", "/torch/_higher_order_ops/scan.py", "exec"
    )
    scope: dict[str, Any] = {}
    exec(inside, scope)
    assert reason(caught(scope["raising"])) == "torch cannot transform the operator scan (not here)"


def test_files_of_the_libraries_are_ours_and_the_users_are_not() -> None:
    for module in (torch, optree, jacfunc, json, linecache, reasons):
        assert ours(module.__file__)
    assert not ours(__file__) and not ours(pytest.__file__) and not ours("<string>")


def test_what_went_otherwise_with_jets_is_told_with_its_line() -> None:
    def looks(x: Any) -> Any:
        return len(x.unknown)

    error = caught(lambda: looks(3))
    line = looks.__code__.co_firstlineno + 1
    assert otherwise(error) == (
        f"{OTHERWISE} (AttributeError: 'int' object has no attribute 'unknown', in looks, line {line} of "
        "test_reasons.py)"
    )
    assert otherwise(ValueError("nowhere. At all")) == "nowhere"


def test_the_last_line_of_the_users_counts_not_that_of_a_library() -> None:
    def calls(x: Any) -> Any:
        return torch.nn.functional.softplus(json.loads(x))

    told = otherwise(caught(lambda: calls("{")))
    assert f"in calls, line {calls.__code__.co_firstlineno + 1} of test_reasons.py" in told


DYNAMO = """Unsupported: builtin
from user code:
   File "{mine}", line 12, in f
    return g(x)
  File "{mine}", line 7, in g
    return h(x)
  File "{torchs}", line 99, in tensor
"""


def test_where_dynamo_stopped_is_the_last_line_of_the_users() -> None:
    error = RuntimeError(DYNAMO.format(mine=__file__, torchs=torch.__file__))
    assert line_of(error) == " (in g, line 7 of test_reasons.py)"
    assert line_of(RuntimeError(f'File "{__file__}", line 12, in f')) == ""


def function(x: Any) -> Any:
    return x


def test_a_note_says_which_call_and_on_what_and_once() -> None:
    error = ValueError("x")
    args = (torch.zeros(2, 3), "s" * 100, 1.5, None, {"a": 1})
    note(error, "diag_jac", function, args)
    note(error, "diag_jac", function, args)
    assert error.__notes__ == [
        "jacfunc: raised inside f while diag_jac(function) evaluated it on a tensor of shape (2, 3), "
        f"'{'s' * 63}, 1.5, None, a dict"
    ]
    note(error, "laplacian", function, args)
    assert len(error.__notes__) == 2


def test_an_error_that_takes_no_note_is_left_as_it_is() -> None:
    class Closed(Exception):
        def add_note(self, _: str) -> None:
            raise TypeError("closed")

    error = Closed()
    note(error, "diag_jac", function, ())
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "int": "an int",
        "float": "a float",
        "ndarray": "an ndarray",
        "Identity": "an Identity",
        "Unflatten": "an Unflatten",
        "LSTM": "an LSTM",
        "MLP": "an MLP",
        "UNet": "a UNet",
        "uint8": "a uint8",
        "unicorn": "a unicorn",
        "Linear": "a Linear",
        "NoneType": "a NoneType",
        "H": "an H",
    }.items(),
)
def test_a_type_has_the_article_that_it_is_read_with(name: str, told: str) -> None:
    assert a_type(type(name, (), {})()) == told
