"""``jacfunc/api/grids.py``: named derivatives on product grids, beside the same at all points of the grid one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    ShapeError,
    explain,
    laplacian,
    make_functional,
    partials,
    residual,
)
from jacfunc.options import METHODS

T = torch.linspace(0.1, 1.0, 4, dtype=torch.float64)
X = torch.linspace(-1.0, 2.0, 5, dtype=torch.float64)
Y = torch.linspace(0.3, 0.9, 3, dtype=torch.float64)
ALL = torch.cartesian_prod(T, X, Y)


def branch(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, outputs))


class Separable(nn.Module):
    """A sum of products of functions of one coordinate each (SPINN), of so many outputs."""

    def __init__(self, rank: int = 6, outputs: int = 1, coordinates: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList([branch(rank * outputs) for _ in range(coordinates)])
        self.outputs = outputs
        self.double()

    def parts(self, points: tuple[torch.Tensor, ...]) -> list[Any]:
        of = zip(self.branches, points, strict=True)
        return [own(x.reshape(-1, 1)).reshape(x.shape[0], -1, self.outputs) for own, x in of]

    def forward(self, *points: torch.Tensor) -> Any:
        t, x, y = self.parts(points)
        found = torch.einsum("irm,jrm,krm->ijkm", t, x, y)
        return found if self.outputs > 1 else found[..., 0]

    def one_by_one(self, points: torch.Tensor) -> Any:
        """The same at points ``(N, 3)``."""
        t, x, y = self.parts(tuple(points.unbind(1)))
        return (t * x * y).sum(1)


NAMES = "u u_t u_xx u_yy u_tx u_xyy"


@pytest.mark.parametrize("method", ["auto", "taylor", "forward"])
@pytest.mark.parametrize("columns", [False, True])
def test_on_a_grid_they_are_those_at_each_of_its_points(columns: bool, method: Any) -> None:
    net = Separable()
    points = [p[:, None] if columns else p for p in (T, X, Y)]
    found = partials(net, NAMES, inputs="t x y", outputs="u", grid=True, method=method)(*points)
    wanted = partials(net.one_by_one, NAMES, inputs="t x y", outputs="u")(ALL)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == (4, 5, 3)
        torch.testing.assert_close(one.flatten(), other)
    assert [found.t.shape, found.x.shape, found.y.shape] == [(4, 1, 1), (1, 5, 1), (1, 1, 3)]
    torch.testing.assert_close((found.u + found.x * found.u_t).flatten(), wanted.u + wanted.x * wanted.u_t)


@pytest.mark.parametrize("method", METHODS)
def test_first_derivatives_by_every_route(method: Any) -> None:  # by reverse mode a row for each point of the grid
    net = Separable()
    found = partials(net, "u_t u_x", inputs="t x y", outputs="u", grid=True, method=method)(T[:2], X[:2], Y[:2])
    wanted = partials(net.one_by_one, "u_t u_x", inputs="t x y", outputs="u")(torch.cartesian_prod(T[:2], X[:2], Y[:2]))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.flatten(), other)


def test_gradients_of_an_equation_by_the_parameters() -> None:
    net = Separable()
    burgers = lambda d: d.u_t + d.u * d.u_x - 0.1 * (d.u_xx + d.u_yy) + d.x
    on_grid = residual(net, burgers, inputs="t x y", outputs="u", grid=True)
    at_points = residual(net.one_by_one, burgers, inputs="t x y", outputs="u")
    one, other = on_grid(T, X, Y), at_points(ALL)
    assert one.shape == (4, 5, 3)
    torch.testing.assert_close(one.flatten(), other)
    weights = list(net.parameters())
    for found, wanted in zip(*(torch.autograd.grad(r.square().mean(), weights) for r in (one, other)), strict=True):
        torch.testing.assert_close(found, wanted)


def test_several_outputs_values_aux_and_functional() -> None:
    net = Separable(outputs=3)
    f, params = make_functional(net)
    with_aux = lambda params, *points: (f(params, *points), points[0].sum())
    on_grid = partials(
        with_aux, "u_x v_yy", inputs="t x y", outputs="u[2] v", grid=True, has_aux=True, return_value=True
    )
    d, value, aux = on_grid(params, T, X, Y)
    wanted = partials(net.one_by_one, "u_x v_yy", inputs="t x y", outputs="u[2] v")(ALL)
    torch.testing.assert_close(d.u_x.reshape(-1, 2), wanted.u_x)
    torch.testing.assert_close(d.v_yy.flatten(), wanted.v_yy)
    torch.testing.assert_close(value, f(params, T, X, Y))
    assert aux == T.sum() and d.v_yy.shape == (4, 5, 3)


def test_other_arguments_and_chunks() -> None:
    net = Separable()
    f = lambda x, scale, t, y: scale * net(t, x, y)
    given = {"inputs": "t x y", "outputs": "u", "grid": True, "argnums": (2, 0, 3)}
    found = partials(f, "u_txx", chunk_size=2, **given)(X, torch.tensor(2.0).double(), T, Y).u_txx
    wanted = partials(net.one_by_one, "u_txx", inputs="t x y", outputs="u")(ALL).u_txx
    torch.testing.assert_close(found.flatten(), 2 * wanted)


def test_inside_of_another_transform_and_of_functions() -> None:
    net = Separable()
    heat = lambda t: partials(net, "u_xx", inputs="t x y", outputs="u", grid=True)(t, X, Y).u_xx
    twice = laplacian(heat)(T)
    torch.testing.assert_close(
        twice.flatten(), partials(net.one_by_one, "u_ttxx", inputs="t x y", outputs="u")(ALL).u_ttxx
    )
    slope = torch.func.grad(lambda s: heat(s * T).sum())(torch.tensor(1.0).double())
    by_hand = partials(net.one_by_one, "u_txx t", inputs="t x y", outputs="u")(ALL) if False else None
    d = partials(net.one_by_one, "u_txx", inputs="t x y", outputs="u")(ALL)
    assert by_hand is None
    torch.testing.assert_close(slope, (d.u_txx * d.t).sum())


COUPLED: dict[str, Callable[[Any, Any], Any]] = {
    "the first": lambda t, x: torch.outer(t - t.mean(), x),
    "the second": lambda t, x: torch.outer(t, x.softmax(0)),
    "both": lambda t, x: torch.outer(t, x) / torch.outer(t, x).norm(),
    "rolled": lambda t, x: torch.outer(t, x).roll(1, 1),
}


@pytest.mark.parametrize("name", COUPLED)
def test_points_that_influence_others_are_refused(name: str) -> None:
    with pytest.raises(CoupledSamplesError):
        partials(COUPLED[name], "u_t", inputs="t x", outputs="u", grid=True)(T, X)
    partials(COUPLED[name], "u_t", inputs="t x", outputs="u", grid=True, check=False)(T, X)


def test_what_is_no_grid_is_told() -> None:
    on_grid = partials(Separable(), "u_t", inputs="t x y", outputs="u", grid=True)
    pair = lambda t, x: torch.stack([torch.outer(t, x), torch.outer(t, x)], 2)
    with pytest.raises(ArgumentError, match=r"inputs='t x y' on a grid are 3 positional arguments, but 2 came"):
        on_grid(T, X)
    with pytest.raises(ArgumentTypeError, match=r"args\[1\], the points of 'x', is a float; on a grid each"):
        on_grid(T, 1.0, Y)
    with pytest.raises(ArgumentTypeError, match=r"args\[1\], the points of 'x', has torch.int64; on a grid"):
        on_grid(T, torch.arange(3), Y)
    with pytest.raises(ShapeError, match=r"args\[0\], the points of 't', has shape \(60, 3\); on a grid each"):
        on_grid(ALL, X, Y)
    with pytest.raises(
        ShapeError, match=r"output has shape \(4,\), whose first axes are not those of the grid, \(4, 4\)"
    ):
        partials(lambda t, x: t * x, "u_t", inputs="t x", outputs="u", grid=True)(T, T)
    with pytest.raises(ShapeError, match=r"outputs='u' names 1, but f returned 2 \(shape \(4, 5, 2\)\)"):
        partials(pair, "u_t", inputs="t x", outputs="u", grid=True)(T, X)
    with pytest.raises(
        ArgumentError, match=r"grid=True with sample_chunk_size=2: on a grid each coordinate has an axis"
    ):
        partials(Separable(), "u_t", inputs="t x y", outputs="u", grid=True, sample_chunk_size=2)
    with pytest.raises(ArgumentTypeError, match="grid=1 is not a bool"):
        partials(Separable(), "u_t", inputs="t x y", outputs="u", grid=1)
    assert "grid=True" in repr(on_grid) and "taylor" in str(explain(on_grid)(T, X, Y))


@pytest.mark.slow
def test_compiled() -> None:
    net = Separable()
    options = {"inputs": "t x y", "outputs": "u", "grid": True}
    found = partials(net, NAMES, compile=True, **options)(T, X, Y)
    for one, other in zip(found, partials(net, NAMES, **options)(T, X, Y), strict=True):
        torch.testing.assert_close(one, other)
