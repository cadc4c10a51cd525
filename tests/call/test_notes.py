"""``jacfunc/call/notes.py``: an error of f says what may be done where f is one of a sample, or a module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import batch_jac, diag_jac, directional, make_functional, partials, residual
from jacfunc.call.notes import noted
from jacfunc.call.request import Request
from jacfunc.errors import ShapeError
from jacfunc.options import Options

X, W = torch.rand(7, 3), torch.rand(4, 3)
NET = nn.Linear(2, 1)
F, PARAMS = make_functional(NET)
TIMES, PLACES = torch.rand(7), torch.rand(7)
NAMES: dict[str, Any] = {"inputs": "t x", "outputs": "u"}


def way_out(call: Any, kind: type[Exception]) -> str:
    """What the note of an error says after what f was evaluated on."""
    with pytest.raises(kind) as caught:
        call()
    (told,) = caught.value.__notes__
    return told.partition("; ")[2]


def of_one(params: dict[str, torch.Tensor], x: torch.Tensor, *others: Any) -> torch.Tensor:
    return torch.tanh(params["w"] @ x)


def test_a_function_of_one_sample_is_given_the_batch() -> None:
    mapped = "torch.vmap(f, in_dims=(None, 0))"
    told = f"f gets the whole batch, so pass {mapped} if it is a function of one sample"
    assert way_out(lambda: batch_jac(of_one)({"w": W}, X), RuntimeError) == told
    assert way_out(lambda: batch_jac(torch.vmap(of_one))({"w": W}, X), ValueError) == told
    assert way_out(lambda: directional(of_one)({"w": W}, X, X), RuntimeError) == told
    assert "in_dims=(None, 0, None, 0))" in way_out(
        lambda: batch_jac(of_one, argnums=1)({"w": W}, X, 2.0, X), RuntimeError
    )
    assert "pass torch.vmap(f) if" in way_out(lambda: batch_jac(lambda x: x.dot(x))(X), RuntimeError)
    found = batch_jac(torch.vmap(of_one, in_dims=(None, 0)))({"w": W}, X)
    torch.testing.assert_close(found, batch_jac(lambda p, x: torch.tanh(x @ p["w"].T))({"w": W}, X))


def test_of_other_errors_nothing_is_told() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the pump is off")

    assert way_out(lambda: batch_jac(fails)(X), RuntimeError) == ""
    assert way_out(lambda: batch_jac(lambda x: x.nothing())(X), AttributeError) == ""
    assert way_out(lambda: batch_jac(NET)(X), RuntimeError) == ""
    assert way_out(lambda: batch_jac(of_one, batch_dims=0)({"w": W}, X[0, :2]), RuntimeError) == ""


def test_a_module_takes_no_parameters() -> None:
    told = "a module takes no parameters: leave them out, or write f, params = make_functional(module) and pass f"
    assert way_out(lambda: diag_jac(NET)(PARAMS, X[:, :2]), TypeError) == told


@pytest.mark.parametrize(("form", "join"), [((7,), "torch.stack"), ((7, 1), "torch.cat")])
def test_coordinates_of_a_module_are_joined(form: tuple[int, ...], join: str) -> None:
    t, x = TIMES.reshape(form), PLACES.reshape(form)
    told = f"if it takes one tensor with all of them, (N, d), join them by {join}(.., dim=1)"
    assert way_out(lambda: partials(NET, "u_t", **NAMES)(t, x), TypeError) == told
    assert way_out(lambda: residual(F, lambda d: d.u_t, **NAMES)(PARAMS, t, x), TypeError) == told


def test_our_own_errors_get_no_note() -> None:
    with pytest.raises(ShapeError) as caught, noted("diag_jac", Request(torch.sin, Options(), (X,), {})):
        raise ShapeError("of ours")
    assert not hasattr(caught.value, "__notes__")
