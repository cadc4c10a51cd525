"""The derivatives that ``partials`` is asked for: what has to be computed, and which tensors the names are."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch

from jacfunc import UnsupportedOperationError, batch_jac, partials
from jacfunc.api.asked import Column
from jacfunc.errors import ArgumentTypeError, ShapeError

DOUBLE = torch.float64
TX = torch.rand(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) + 0.3
T, X = TX[:, :1], TX[:, 1:]
Fields = namedtuple("Fields", ["u", "v"])


def u_and_v(tx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (2 * tx[:, 0]).exp() * tx[:, 1].sin(), tx[:, 0] * tx[:, 1] ** 3


U, V = u_and_v(TX)
TRUTH = {
    "u": U,
    "v": V,
    "u_t": 2 * U,
    "u_xx": -U,
    "v_tx": 3 * TX[:, 1] ** 2,
    "v_xxx": 6 * TX[:, 0],
}
NAMES = " ".join(TRUTH)
OUTPUTS = {
    "one tensor": lambda tx: torch.stack(u_and_v(tx), 1),
    "a tuple": u_and_v,
    "a tuple of columns": lambda tx: tuple(part[:, None] for part in u_and_v(tx)),
    "a mixed list": lambda tx: [u_and_v(tx)[0], u_and_v(tx)[1][:, None]],
    "a dict in another order": lambda tx: dict(zip("vu", reversed(u_and_v(tx)), strict=True)),
    "a named tuple": lambda tx: Fields(*u_and_v(tx)),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_each_name_is_its_tensor(kind: str) -> None:
    d = partials(OUTPUTS[kind], NAMES, inputs="t x", outputs="u v")(TX)
    for name, truth in TRUTH.items():
        torch.testing.assert_close(d[name], truth, msg=name)


def test_a_sum_of_two_outputs() -> None:
    d = partials(u_and_v, "u_t-2*v_x u_xx+u", inputs="t x", outputs="u v")(TX)
    torch.testing.assert_close(d["u_t-2*v_x"], 2 * U - 6 * TX[:, 0] * TX[:, 1] ** 2)
    torch.testing.assert_close(d["u_xx+u"], torch.zeros_like(U), atol=1e-14, rtol=0)


@pytest.mark.parametrize("shape", [lambda c: c, lambda c: c[:, 0]])
def test_separate_coordinates(shape: Any) -> None:
    f = lambda t, x: u_and_v(torch.stack([t.reshape(-1), x.reshape(-1)], 1))
    d = partials(f, NAMES, inputs="t x", outputs="u v", argnums=(0, 1))(shape(T), shape(X))
    for name, truth in TRUTH.items():
        torch.testing.assert_close(d[name], truth, msg=name)


@pytest.mark.parametrize(
    ("f", "outputs", "words"),
    [
        (lambda tx: tx.sin(), "u v w", r"outputs='u v w' names 3, but f returned 2 \(shape \(N, 2\)\)"),
        (lambda tx: (tx[:, 0], tx[:, 1], tx[:, 0]), "u v", "outputs='u v' names 2, but f returned 3 tensors"),
        (lambda tx: tx[:, 0], "u v", r"shape \(N,\); one of shape \(N, 2\) was expected"),
        (lambda tx: tx[:, :, None], "u v", r"shape \(N, 2, 1\); one of shape \(N, 2\) was expected"),
        (lambda tx: (tx, tx[:, 0]), "u v", r"the output 'u' has shape \(N, 2\); in a tuple or dict each is one of its"),
        (lambda tx: {"u": tx[:, 0], "w": tx[:, 1]}, "u v", "a dict of 'u', 'w', but outputs='u v' names others"),
        (lambda tx: {"u": tx[:, 0]}, "u v", "a dict of 'u', but outputs='u v' names others"),
        (lambda tx: ((tx[:, 0], tx[:, 1]), tx[:, 0]), "u v", "in which the outputs 'u v' are not told apart"),
    ],
)
def test_outputs_that_are_not_those_of_the_names(f: Any, outputs: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        partials(f, "u_t", inputs="t x", outputs=outputs)(TX)


@pytest.mark.parametrize(
    ("args", "argnums", "words"),
    [
        ((TX[:, :1],), 0, r"inputs='t x' names 2, but .* has 1 coordinate; pass one tensor of shape \(N, 2\)"),
        ((torch.ones(3, 3),), 0, "has 3 coordinates"),
        ((torch.ones(3, 2, 1),), 0, r"has sample shape \(2, 1\); inputs are coordinates"),
        ((T, TX), (0, 1), "args.* and args.* have 3 coordinates"),
    ],
)
def test_inputs_that_have_no_coordinate_for_each_name(args: Any, argnums: Any, words: str) -> None:
    f = lambda *args: torch.cat([arg.reshape(3, -1) for arg in args], 1).sum(1, keepdim=True)
    with pytest.raises(ShapeError, match=words):
        partials(f, "u_t", inputs="t x", outputs="u", argnums=argnums)(*args)


@pytest.mark.parametrize("given", [{"x": X, "t": T}, Fields(T, X)])
def test_inputs_whose_order_is_not_that_of_the_names_are_refused(given: Any) -> None:
    f = lambda tx: sum(tx.values()) if isinstance(tx, dict) else sum(tx)
    with pytest.raises(ArgumentTypeError, match=r"args\[0\] is a .*, whose order may not be that of inputs='t x'"):
        partials(f, "u_t", inputs="t x", outputs="u")(given)


def test_what_is_asked_for_is_what_is_computed() -> None:
    """The names of both outputs together, each derivative once; a sum of two of one order has a row of its own."""
    asked = partials(u_and_v, "u_t v_t u_xx", inputs="t x", outputs="u v").asked
    wanted = asked.quantity()
    assert wanted.name == "partials"
    assert wanted.order == 2
    assert set(wanted.wanted.indices.wanted) == {(1, 0), (0, 2)}
    assert wanted.wanted.indices.rows == 3
    of_a_sum = partials(u_and_v, "u_tt+u_xx", inputs="t x", outputs="u v").asked.quantity()
    assert not of_a_sum.wanted.indices.wanted
    assert [key.lead for key in of_a_sum.wanted.indices.sums] == [(2, 0)]
    assert wanted.key != of_a_sum.key


def test_where_an_output_lies() -> None:
    assert Column(0, None) == (0, None)
    assert Column(leaf=1, place=2).place == 2


@pytest.mark.parametrize("transform", [batch_jac, lambda f: partials(f, "u_t v", inputs="t x", outputs="u v")])
def test_outputs_that_are_never_twice_the_same_are_refused(transform: Any) -> None:
    """Such as a named tuple of a class that is made in every call."""

    def of_a_new_class(tx: torch.Tensor) -> Any:
        return type("Named", (namedtuple("Named", ["u", "v"]),), {})(*u_and_v(tx))

    with pytest.raises(UnsupportedOperationError, match="outputs of another structure or shape at each call"):
        transform(of_a_new_class)(TX)


def test_outputs_that_change_once_are_followed() -> None:
    calls = []

    def f(tx: torch.Tensor) -> Any:
        calls.append(1)
        return tx.sin() if len(calls) > 1 else (tx.sin(),)

    torch.testing.assert_close(batch_jac(f)(TX), torch.diag_embed(TX.cos()))
