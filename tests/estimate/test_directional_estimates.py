"""``jacfunc/estimate/directional.py``: operators in the notation, their shapes, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    NotationError,
    ShapeError,
    biharmonic,
    estimate,
    explain,
    laplacian,
)


def f(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x[:, 0] * x[:, 1]) + x[:, 0] ** 4 * x[:, 1]


def points() -> torch.Tensor:
    return torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_single_direction_is_exact():
    x = points()
    found = estimate.directional(f, "3*u_xxx", inputs="x y", probes=2)(x)
    expected = 3 * (-(x[:, 1] ** 3) * torch.cos(x[:, 0] * x[:, 1]) + 24 * x[:, 0] * x[:, 1])
    torch.testing.assert_close(found.estimate, expected)
    assert (found.standard_error == 0).all() and found.probes == 2


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
def test_by_every_route(method):
    x, seed = points(), torch.Generator()
    found = estimate.directional(f, "u_xy", inputs="x y", probes=3, generator=seed.manual_seed(1), method=method)(x)
    expected = estimate.directional(f, "u_xy", inputs="x y", probes=3, generator=seed.manual_seed(1))(x)
    torch.testing.assert_close(found.estimate, expected.estimate)


@pytest.mark.parametrize(("operator", "exact"), [("laplacian", laplacian), ("biharmonic", biharmonic)])
def test_over_all_coordinates(operator, exact):
    x = points()
    found = estimate.directional(f, operator, probes=2000, generator=torch.Generator().manual_seed(2))(x)
    assert ((found.estimate - exact(f)(x)).abs() < 5 * found.standard_error).all()


def test_several_outputs():
    x = points()
    both = lambda x: torch.stack([f(x), x[:, 1] ** 2], -1)
    found = estimate.directional(both, "u_xx + v_yy", inputs="x y", outputs="u v", probes=2)(x)
    expected = -(x[:, 1] ** 2) * torch.sin(x[:, 0] * x[:, 1]) + 12 * x[:, 0] ** 2 * x[:, 1] + 2
    torch.testing.assert_close(found.estimate, expected)
    every = estimate.directional(both, "laplacian", probes=2)(x)
    assert every.estimate.shape == (5, 2)


def test_explain_and_repr():
    made = estimate.directional(f, "biharmonic", probes=3)
    told = dict(explain(made)(points()).items())
    assert told["transform"] == "estimate.directional(f, 'biharmonic', probes=3, probe='sphere')"
    assert told["passes (rows)"].startswith("12 ")
    assert "exact" in dict(explain(estimate.directional(f, "laplacian", probes=3))(points()).items())
    assert "exact" not in dict(explain(estimate.directional(f, "u_xy", inputs="x y", probes=3))(points()).items())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: estimate.directional(f, "u_xx", probes=2),
            ArgumentError,
            "none over all coordinates ('laplacian', 'biha",
        ),
        (lambda: estimate.directional(f, 2, probes=2), ArgumentTypeError, "operator is an int"),
        (
            lambda: estimate.directional(f, "u_xx", inputs="x", probes=2)(points()),
            ShapeError,
            "inputs names 1 coordinates",
        ),
        (lambda: estimate.directional(f, "biharmonic", probes=2, probe="rademacher"), ArgumentError, "or 'sphere'"),
        (
            lambda: estimate.directional(f, "u_xx", inputs="x y", probes=2, probe="sphere"),
            ArgumentError,
            "leave it out",
        ),
        (lambda: estimate.directional(f, "u_xx u_y", inputs="x y", probes=2), NotationError, "names 2 derivatives"),
        (
            lambda: estimate.directional(f, "u_xx + v_y", inputs="x y", outputs="u v", probes=2)(points()),
            ShapeError,
            "put them along the last axis",
        ),
        (lambda: estimate.directional(f, "laplacian", probes=2, estimator="xtrace"), ArgumentError, "'hutchinson'"),
        (
            lambda: estimate.directional(lambda x: (f(x), f(x)), "u_xy", inputs="x y", probes=2)(points()),
            ShapeError,
            "one output tensor, but f returned 2",
        ),
    ],
)
def test_refused(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
