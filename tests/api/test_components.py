"""Outputs of many components under one name, in ``partials`` and ``residual``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import NotationError, ShapeError, batch_jac, explain, hess_diag, partials, residual
from jacfunc.options import METHODS

TX = torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(outputs: int) -> nn.Module:
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, outputs)).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("outputs", ["u[4] p", "u[:] p", "p u[:]"])
def test_components_are_the_last_axis(outputs: str, method: Any) -> None:
    net = network(5)
    d = partials(net, "u u_t p_x u_xx p", inputs="t x", outputs=outputs, method=method)(TX)
    first, second = batch_jac(net)(TX), hess_diag(net)(TX)
    own, p = (slice(1, 5), 0) if outputs.startswith("p") else (slice(0, 4), 4)
    torch.testing.assert_close(d.u, net(TX)[:, own])
    torch.testing.assert_close(d.u_t, first[:, own, 0])
    torch.testing.assert_close(d.u_xx, second[:, own, 1])
    torch.testing.assert_close(d.p_x, first[:, p, 1])
    torch.testing.assert_close(d.p, net(TX)[:, p])


RETURNED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a tuple": ("u[:] p", lambda net: lambda tx: (net(tx)[:, :3], net(tx)[:, 3:])),
    "a dict": ("p u[3]", lambda net: lambda tx: {"u": net(tx)[:, :3], "p": net(tx)[:, 3]}),
    "a matrix": ("u[:] p", lambda net: lambda tx: (net(tx)[:, :3].reshape(-1, 3, 1), net(tx)[:, 3])),
}


@pytest.mark.parametrize("name", RETURNED)
def test_trees_of_outputs(name: str) -> None:
    outputs, of = RETURNED[name]
    net = network(4)
    f = of(net)
    d = partials(f, "u_tx p_xx", inputs="t x", outputs=outputs)(TX)
    whole = partials(net, "u_tx", inputs="t x", outputs="u[:]")(TX).u_tx
    torch.testing.assert_close(d.u_tx.flatten(1), whole[:, :3])
    torch.testing.assert_close(d.p_xx, hess_diag(net)(TX)[:, 3, 1])


def test_one_component_keeps_its_axis_and_a_whole_output_any_shape() -> None:
    assert partials(network(1), "u u_x", inputs="t x", outputs="u[1]")(TX).u_x.shape == (6, 1)
    assert partials(network(1), "u u_x", inputs="t x", outputs="u[:]")(TX).u_x.shape == (6, 1)
    matrix = lambda tx: network(6)(tx).reshape(-1, 2, 3)
    d = partials(matrix, "u_x", inputs="t x", outputs="u[:]")(TX)
    torch.testing.assert_close(d.u_x, batch_jac(matrix)(TX)[..., 1])
    at_once = lambda tx: torch.stack([network(4)(tx), 2 * network(4)(tx)])
    d = partials(at_once, "u_x v", inputs="t x", outputs="u[3] v", out_dims=1)(TX)
    torch.testing.assert_close(d.u_x[1], 2 * batch_jac(network(4))(TX)[:, :3, 1])
    assert d.v.shape == (2, 6)


@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_sums_are_of_outputs_alike(method: Any) -> None:
    net = network(7)
    d = partials(net, "u_t-0.5*v_xx", inputs="t x", outputs="u[3] v[3] p", method=method)(TX)
    by_hand = batch_jac(net)(TX)[:, :3, 0] - 0.5 * hess_diag(net)(TX)[:, 3:6, 1]
    torch.testing.assert_close(d["u_t-0.5*v_xx"], by_hand)
    with pytest.raises(ShapeError, match=r"the sum 'u_t\+p_x' adds outputs of \(3,\) and of no components"):
        partials(net, "u_t+p_x", inputs="t x", outputs="u[3] v[3] p")(TX)
    with pytest.raises(ShapeError, match=r"the sum 'u_t\+v_x' adds outputs of \(2,\) and of \(4,\) components"):
        partials(net, "u_t+v_x", inputs="t x", outputs="u[2] v[:] p")(TX)


def test_an_equation_of_each_component_or_of_them_all() -> None:
    net = network(4)
    heat = residual(net, lambda d: (d.u_t - d.u_xx, d.p_x + d.u.sum(1)), inputs="t x", outputs="u[3] p")
    found, other = heat(TX)
    torch.testing.assert_close(found, batch_jac(net)(TX)[:, :3, 0] - hess_diag(net)(TX)[:, :3, 1])
    assert found.shape == (6, 3) and other.shape == (6,) and "outputs='u[3] p'" in repr(heat)
    total = residual(net, lambda d: d.u_t.sum(1), inputs="t x", outputs="u[:]")(TX)
    torch.testing.assert_close(total, batch_jac(net)(TX)[..., 0].sum(1))
    with pytest.raises(ShapeError, match=r"the residual has shape \(6, 1\), but one number for each sample was"):
        residual(net, lambda d: d.u_t[:, :1], inputs="t x", outputs="u[:]")(TX)


def test_plans_of_other_components_are_others() -> None:
    net = network(4)
    one = partials(net, "u_x", inputs="t x", outputs="u[1] v[3]")
    other = partials(net, "u_x", inputs="t x", outputs="u[3] v[1]")
    assert one(TX).u_x.shape == (6, 1) and other(TX).u_x.shape == (6, 3) and one(TX).u_x.shape == (6, 1)
    assert "outputs='u[3] v[1]'" in str(explain(other)(TX))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("u[0]", r"'u\[0\]' in outputs='u\[0\]' is no name with components in brackets, as in 'u\[3\]', or"),
        ("u[-1]", "is no name with components in brackets"),
        ("u[3", "is no name with components in brackets"),
        ("[3]", "is no name with components in brackets"),
        ("u[5]p", "is no name with components in brackets"),
        ("u[2] u[3]", "'u' in outputs='u u' is there twice"),
    ],
)
def test_brackets_that_mean_nothing_are_refused(outputs: str, message: str) -> None:
    with pytest.raises(NotationError, match=message):
        partials(network(4), "u_x", inputs="t x", outputs=outputs)
    with pytest.raises(NotationError, match="is no name that Python takes"):
        partials(network(4), "u_x", inputs="t[-2]", outputs="u")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            "u",
            r"outputs='u' names 1, but f returned 4 \(shape \(N, 4\)\); give each .*, or one name to several, as in 'u\[:\]'",
        ),
        ("u[3]", r"outputs='u\[3\]' has other components than there are, for f returned 4"),
        ("u[3] v[2]", "has other components than there are"),
        ("u[:] v[:]", "has several names of all components that there are; give all but one their numbers"),
        ("u[4] v[:] w", "has other components than there are"),
    ],
)
def test_other_components_than_there_are(outputs: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        partials(network(4), "u", inputs="t x", outputs=outputs)(TX)


def test_an_output_of_its_own_that_has_others() -> None:
    pair = lambda tx: (network(3)(tx), network(1)(tx))
    with pytest.raises(ShapeError, match=r"'u' has shape \(N, 3\); .* or name its components, as in 'u\[:\]'"):
        partials(pair, "u", inputs="t x", outputs="u p")(TX)
    with pytest.raises(ShapeError, match=r"'u' has shape \(N, 3\); in a tuple or dict .* of shape \(N, 2\)$"):
        partials(pair, "u", inputs="t x", outputs="u[2] p")(TX)
    with pytest.raises(ShapeError, match=r"'p' has shape \(N,\)"):
        partials(lambda tx: (network(3)(tx), tx[:, 0]), "u", inputs="t x", outputs="u[:] p[:]")(TX)
