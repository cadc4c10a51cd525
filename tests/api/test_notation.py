"""The subscript notation: what a name means, and errors that point at it."""

from __future__ import annotations

import re

import pytest

from jacfunc import ArgumentTypeError, NotationError
from jacfunc.api.notation import Variables


def read(inputs, outputs, wanted):
    return [(name.output, name.index) for name in Variables.of(inputs, outputs).names(wanted)]


def test_names():
    assert read("t x", "u", "u u_t u_x u_xx") == [(0, (0, 0)), (0, (1, 0)), (0, (0, 1)), (0, (0, 2))]
    assert read("t x y", "u v p", "v_txxy,p, u_yyyy") == [(1, (1, 2, 1)), (2, (0, 0, 0)), (0, (0, 0, 4))]
    assert read("t x", "u", "u_tx u_xt") == [(0, (1, 1))] * 2


def test_names_of_several_letters():
    assert read("x1 x2", "u", "u_x1x1 u_x1x2 u_x1_x2 u_x2x1x2") == [(0, (2, 0)), (0, (1, 1)), (0, (1, 1)), (0, (1, 2))]
    assert read("x x1", "u", "u_xx1x") == [(0, (2, 1))]
    assert read("time x", "speed_x speed", "speed_time speed_xtime") == [(1, (1, 0)), (1, (1, 1))]


def refused(message, *args):
    with pytest.raises(NotationError, match=re.escape(message)) as caught:
        read(*args)
    return str(caught.value)


def test_ambiguous_names_list_their_readings():
    text = refused(
        "'u_ab' can be read in 2 ways: 'u' once by 'ab'; or 'u' once by 'a' and once by 'b'; rename an input",
        "a b ab",
        "u",
        "u u_ab",
    )
    assert "(in 'u u_ab')" in text
    refused("'u_x' can be read in 2 ways: 'u' once by 'x'; or 'u_x' itself", "x", "u u_x", "u_x")


def test_an_underscore_tells_readings_apart():
    assert read("a b ab", "u", "u_a_b") == [(0, (1, 1, 0))]


@pytest.mark.parametrize(
    ("wanted", "token", "message"),
    [
        ("u u_t u_z", "u_z", "'u_z' has the subscript 'z', which is not made of inputs ('t', 'x')"),
        ("u w_t", "w_t", "'w_t' names no output; it begins with one of 'u', as in u_t"),
        ("u x", "x", "'x' is an input, which every result has as an attribute; ask for outputs ('u')"),
        ("u u_", "u_", "'u_' has the subscript ''"),
        ("u_x_", "u_x_", "'u_x_' has the subscript 'x_'"),
        ("u__x", "u__x", "'u__x' has the subscript '_x'"),
        ("u u_t u", "u", "'u' is asked for twice"),
        ("u_" + "x" * 70, "u_" + "x" * 70, "has a subscript of 70 characters; at most 63 are read"),
    ],
)
def test_errors_point_at_the_token(wanted, token, message):
    text = refused(message, "t x", "u", wanted)
    line, pointer = text.splitlines()[-2:]
    assert line.strip() == wanted
    start, stop = pointer.index("^"), pointer.rindex("^") + 1
    assert line[start:stop] == token
    assert stop - 4 == (
        len(wanted) if "twice" in message or wanted.endswith(token) else wanted.index(token) + len(token)
    )


def test_letters_are_compared_as_python_does():
    assert read("\N{MATHEMATICAL ITALIC SMALL X}", "\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}_xx") == [(0, (2,))]


@pytest.mark.parametrize("wanted", [["u", "u_x"], None, 3])
def test_names_are_one_string(wanted):
    with pytest.raises(ArgumentTypeError, match="wanted is an? .*; pass one string with names apart by spaces, as in"):
        read("x", "u", wanted)


def test_names_of_variables():
    refused("'x' is both an input (inputs='t x') and an output (outputs='u x')", "t x", "u x", "u")
    refused("'x' in inputs='x x' is there twice", "x x", "u", "u")
    text = refused("'x' is both an input", "t x", "xx x", "xx")
    assert text.splitlines()[-2:] == ["    xx x", "       ^"]
    text = refused("'u_t' is an input (inputs='t u_t') and can be read as 'u' once by 't' as well", "t u_t", "u", "u_t")
    assert text.splitlines()[-2:] == ["    t u_t", "      ^^^"]
    refused("'1x' in inputs='t 1x' is no name that Python takes for an attribute", "t 1x", "u", "u")
    refused("'lambda' in outputs='lambda' is no name", "t", "lambda", "u")
    refused("'_u' in outputs='_u' begins or ends with an underscore", "t", "_u", "u")
    refused("inputs='' names nothing", "", "u", "u")
    refused("wanted=' ' asks for nothing", "t", "u", " ")
    with pytest.raises(ArgumentTypeError, match="inputs is a list; pass one string"):
        Variables.of(["t"], "u")
    with pytest.raises(ArgumentTypeError, match="wanted is a tuple; pass one string"):
        Variables.of("t", "u").names(("u",))


def test_long_ambiguous_subscripts_take_no_time():
    assert read("a aa", "u", "u_a") == [(0, (1, 0))]
    text = refused("ways", "a aa", "u", "u_" + "a" * 60)
    assert "can be read in 31 ways" in text
