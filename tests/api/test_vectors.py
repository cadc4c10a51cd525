"""``jacfunc/api/vectors.py``: a vector among the inputs of ``partials``, all of its coordinates or a few."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    NotationError,
    ShapeError,
    diag_jac,
    explain,
    hess_diag,
    make_functional,
    partials,
)

PLACES = torch.tensor([6, 0, 3])


def network(outputs: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, outputs)).double()


def points() -> torch.Tensor:
    return torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_sums_over_the_vector(method):
    """The vector lies between two coordinates with names of their own."""
    x, f = points(), network()
    first, second = diag_jac(f)(x), hess_diag(f)(x)[:, 0]
    d = partials(f, "u u_t u_xx u_t-0.5*u_xx u_ss", inputs="t x[8] s", outputs="u", method=method)(x)
    torch.testing.assert_close(d.u, f(x)[:, 0])
    torch.testing.assert_close(d.u_t, first[:, 0])
    torch.testing.assert_close(d.u_xx, second[:, 1:9].sum(1))
    torch.testing.assert_close(d["u_t-0.5*u_xx"], first[:, 0] - 0.5 * second[:, 1:9].sum(1))
    torch.testing.assert_close(d.u_ss, second[:, 9])
    assert torch.equal(d.t, x[:, 0]) and torch.equal(d.x, x[:, 1:9]) and torch.equal(d.s, x[:, 9])
    few = partials(f, "u u_t u_xx", inputs="t x[8] s", outputs="u", method=method, coordinates=PLACES)(x)
    torch.testing.assert_close(few.u_xx, second[:, 1 + PLACES].sum(1) * 8 / 3)
    torch.testing.assert_close(few.u_t, first[:, 0])


def test_mixed_with_others_and_several_outputs():
    x, f = points(), network(2)
    d = partials(f, "u_txx v_xx-u_t", inputs="t x[9]", outputs="u v")(x)
    names = " ".join(["t", *(f"x{place}" for place in range(9))])
    each = partials(f, " ".join(f"u_tx{i}x{i}" for i in range(9)), inputs=names, outputs="u v")(x)
    torch.testing.assert_close(d.u_txx, sum(each))
    torch.testing.assert_close(
        d["v_xx-u_t"], hess_diag(f)(x)[:, 1, 1:].sum(1) - partials(f, "u_t", inputs=names, outputs="u v")(x).u_t
    )


def test_parameters_value_and_aux():
    f, params = make_functional(network())
    x = points()
    d, value = partials(f, "u_xx", inputs="x[10]", outputs="u", coordinates=PLACES, return_value=True)(params, x)
    assert torch.allclose(value, f(params, x))
    d.u_xx.sum().backward()
    assert all(each.grad is not None for name, each in params.items() if name != "2.bias")
    with_aux = lambda x: (network()(x), x.sum())
    d, aux = partials(with_aux, "u_xx", inputs="x[10]", outputs="u", has_aux=True)(x)
    assert aux == x.sum()


def test_drawn_ones_are_right_on_average_and_by_the_generator():
    x, own = points(), torch.Generator().manual_seed(2)
    made = partials(network(), "u_xx", inputs="x[10]", outputs="u", coordinates=4, generator=own)
    draws = torch.stack([made(x).u_xx.detach() for _ in range(400)])
    exact = hess_diag(network())(x)[:, 0].sum(1)
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / 20).all()
    own.manual_seed(2)
    assert torch.equal(made(x).u_xx, draws[0])


def test_random_numbers_are_drawn_where_coordinates_are_and_kept_by_errors():
    x, state = points(), torch.get_rng_state()
    partials(network(), "u_xx", inputs="x[10]", outputs="u")(x)
    drawn = partials(network(), "u_xx", inputs="x[10]", outputs="u", coordinates=2)
    explain(drawn)(x)
    with pytest.raises(ShapeError):
        partials(network(3), "u_xx", inputs="x[10]", outputs="u", coordinates=2)(x)
    assert torch.equal(state, torch.get_rng_state())
    drawn(x)
    assert not torch.equal(state, torch.get_rng_state())


def test_compiled_and_explained():
    x = points()
    made = partials(network(), "u_t u_xx", inputs="t x[9]", outputs="u", coordinates=PLACES, compile=True)
    eager = partials(network(), "u_t u_xx", inputs="t x[9]", outputs="u", coordinates=PLACES)
    for _ in range(2):
        torch.testing.assert_close(made(x).u_xx, eager(x).u_xx)
    told = dict(explain(eager)(x).items())
    assert told["passes (rows)"] == "5 in 1 chunk"  # four of the first order, and the sum
    assert told["transform"].endswith("'u_t u_xx', inputs='t x[9]', coordinates=<3 of them>)")


@pytest.mark.parametrize(
    ("wanted", "keywords", "error", "words"),
    [
        ("u_x", {"inputs": "t x[9]"}, NotationError, "is the sum of second derivatives, as in u_xx; take diag_jac"),
        ("u_xxxx", {"inputs": "t x[9]"}, NotationError, "is 4 times by 'x'"),
        (
            "u_xx",
            {"inputs": "t x[8]"},
            ShapeError,
            "inputs names 9 coordinates, but a sample of the input has shape (10,)",
        ),
        ("u_xx", {"inputs": "t[5] x[5]"}, NotationError, "join them to one"),
        ("u_xx", {"inputs": "t x[9]", "coordinates": 10}, ArgumentError, "but x has 9"),
        ("u_xx", {"inputs": "t x[9]", "coordinates": torch.tensor([9])}, ArgumentError, "from 0 to 8"),
        ("u_xx", {"inputs": "t x[9]", "coordinates": 0.5}, ArgumentTypeError, "coordinates=0.5 is neither"),
        ("u_xx", {"inputs": "t x[9]", "generator": torch.Generator()}, ArgumentError, "nothing to draw"),
        ("u_xx", {"inputs": "t x[9]", "grid": True}, ArgumentError, "grid=True with a vector"),
        ("u_xx", {"inputs": "t x[9]", "out_dims": 1}, ArgumentError, "out_dims=1"),
        ("u_xx", {"inputs": "t x[9]", "argnums": (0, 1)}, ArgumentError, "selects several"),
        ("u_tt", {"inputs": "t x", "coordinates": 2}, ArgumentError, "write it as in inputs='t x[1000]'"),
    ],
)
def test_refused(wanted, keywords, error, words):
    with pytest.raises(error, match=re.escape(words)):
        partials(network(), wanted, outputs="u", **keywords)(points())


def test_separate_tensors_are_refused():
    with pytest.raises(ShapeError, match="all of them along its last axis"):
        partials(network(), "u_xx", inputs="t x[9]", outputs="u")(points()[:, :1], points()[:, 1:])
    with pytest.raises(ArgumentTypeError, match="but argument -1 is a dict"):
        partials(network(), "u_xx", inputs="t x[9]", outputs="u")({"x": points()})
