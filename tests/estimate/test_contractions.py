"""``jacfunc/estimate/contractions.py``: an operator as derivatives along single directions, exactly."""

from __future__ import annotations

import math

import pytest
import torch

from jacfunc import ArgumentError, NotationError, partials
from jacfunc import directional as along
from jacfunc.estimate.contractions import Contraction, factor, read


def f(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x[:, 0] * x[:, 1]) * torch.exp(x[:, 2] / 2) + x[:, 0] ** 3 * x[:, 1] ** 2


@pytest.mark.parametrize(
    "operator",
    ["u_x", "u_xx", "u_xy", "u_xyz", "u_xxy", "u_xxyy", "u_xyzz", "u_xx+u_yy+u_zz", "0.5*u_xy-3*u_x+u_xxxx", "u_xyxyx"],
)
def test_all_directions_together_are_the_operator(operator):
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(4, dtype=torch.float64)
    for part in read(operator, "x y z", "u"):
        for direction, weight in zip(part.directions, part.weights, strict=True):
            total = total + weight * along(f, part.order)(x, torch.tensor(direction, dtype=torch.float64))
    torch.testing.assert_close(total, partials(f, operator, inputs="x y z", outputs="u")(x)[operator])


def test_opposite_directions_are_one():
    (part,) = read("u_xy", "x y", "u")
    assert part == Contraction(2, None, ((1, 1), (1, -1)), (0.25, -0.25))
    (pure,) = read("u_xxx", "x y", "u")
    assert pure == Contraction(3, None, ((1, 0),), (1.0,))
    (odd,) = read("u_xyy", "x y", "u")
    assert all(next(number for number in direction if number) > 0 for direction in odd.directions)


def test_orders_and_outputs_are_apart():
    found = read("u_x + 2*u_y + v_xx", "x y", "u v")
    assert [(part.order, part.output, part.weights) for part in found] == [(1, 0, (1.0, 2.0)), (2, 1, (1.0,))]


def test_directions_are_drawn_as_often_as_their_weights_say():
    part = Contraction(2, None, ((1, 0), (0, 1)), (3.0, -1.0))
    generator = torch.Generator().manual_seed(0)
    directions, factors = part.drawn((1,), 40_000, torch.zeros(1, dtype=torch.float64), generator)
    assert directions.shape == (1, 40_000, 2) and factors.shape == (1, 40_000)
    first = directions[0, :, 0] == 1
    assert abs(float(first.double().mean()) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 40_000)
    assert (factors[0][first] == 4).all() and (factors[0][~first] == -4).all()
    none, _ = part.drawn((0,), 3, torch.zeros(0), None)
    assert none.shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("u_x u_y", "names 2 derivatives"),
        ("u + u_x", "an output itself"),
        ("w_x", "names no output"),
        ("", "asks for nothing"),
    ],
)
def test_what_is_no_operator(operator, words):
    with pytest.raises(NotationError, match=words):
        read(operator, "x y", "u")


def test_moments():
    """Along points of the sphere and normal vectors, four times: what makes the biharmonic operator of it."""
    generator = torch.Generator().manual_seed(0)
    for probe, size in (("gaussian", 3), ("sphere", 3), ("sphere", 7)):
        normal = torch.randn(400_000, size, dtype=torch.float64, generator=generator)
        v = normal if probe == "gaussian" else normal * (math.sqrt(size) / normal.norm(dim=1, keepdim=True))
        assert abs(float((v[:, 0] ** 4).mean()) * factor("biharmonic", probe, size) - 1) < 0.03
        assert abs(float((v[:, 0] ** 2 * v[:, 1] ** 2).mean()) * factor("biharmonic", probe, size) - 1 / 3) < 0.02
    with pytest.raises(ArgumentError, match="choose 'gaussian' or 'sphere'"):
        factor("biharmonic", "rademacher", 3)
