"""``jacfunc/api/places.py``: trajectories and other outputs whose samples lie on a later axis, in every transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jacfunc import (
    ArgumentError,
    CoupledSamplesError,
    ShapeError,
    batch_jac,
    biharmonic,
    check_independent,
    curl,
    diag_jac,
    directional,
    divergence,
    explain,
    hess_diag,
    hessian,
    laplacian,
    partials,
)
from jacfunc.options import METHODS

Function = Callable[[Any], Any]
ROUTES = METHODS[1:]
X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
V = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TIMES = (0.3, 1.0, 1.7, 2.2)


def at(time: float) -> Function:
    """Where a flow has carried the points at a time: a map of each point to a point."""
    return lambda x: x * torch.cos(time * x.roll(1, 1)) + time * x.sin()


def level(time: float) -> Function:
    return lambda x: at(time)(x).square().sum(1)


def column(time: float) -> Function:
    return lambda x: level(time)(x)[:, None]


def row(time: float) -> Function:
    return lambda x: at(time)(x)[:, None]


def all_times(of: Callable[[float], Function]) -> Function:
    return lambda x: torch.stack([of(time)(x) for time in TIMES])


def one_by_one(derivative: Callable[..., Any], of: Callable[[float], Function], *args: Any) -> torch.Tensor:
    return torch.stack([derivative(of(time))(*args) for time in TIMES])


MAPS = {"points": at, "numbers": level, "columns": column, "rows": row}
TRANSFORMS: dict[str, Callable[..., Any]] = {
    "diag_jac": diag_jac,
    "batch_jac": batch_jac,
    "hess_diag": hess_diag,
    "laplacian": laplacian,
    "hessian": hessian,
}


@pytest.mark.parametrize("method", ["auto", *ROUTES])
@pytest.mark.parametrize("outputs", MAPS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_time_of_a_trajectory_is_as_by_itself(name: str, outputs: str, method: Any) -> None:
    transform, of = TRANSFORMS[name], MAPS[outputs]
    if name == "diag_jac" and outputs == "rows":
        with pytest.raises(ShapeError, match=r"has sample shape \(1, 3\) and args\[0\] \(3,\), without"):
            diag_jac(all_times(of), out_dims=1, method=method)(X)
        return
    found = transform(all_times(of), out_dims=1, method=method)(X)
    assert found.is_contiguous()
    torch.testing.assert_close(found, one_by_one(transform, of, X))


@pytest.mark.parametrize("method", ["auto", *ROUTES])
def test_transforms_of_points(method: Any) -> None:
    torch.testing.assert_close(divergence(all_times(at), out_dims=1, method=method)(X), one_by_one(divergence, at, X))
    torch.testing.assert_close(curl(all_times(at), out_dims=1, method=method)(X), one_by_one(curl, at, X))
    along = directional(all_times(at), order=2, out_dims=1, method=method)(X, V)
    torch.testing.assert_close(along, one_by_one(lambda f: directional(f, order=2), at, X, V))
    torch.testing.assert_close(biharmonic(all_times(level), out_dims=1)(X), one_by_one(biharmonic, level, X))


def test_two_axes_lie_before_the_samples() -> None:
    pairs = lambda x: torch.stack([all_times(at)(x), 2 * all_times(at)(x)])
    for transform in (diag_jac, batch_jac, divergence, laplacian):
        found = transform(pairs, out_dims=2)(X)
        alone = one_by_one(transform, at, X)
        torch.testing.assert_close(found, torch.stack([alone, 2 * alone]))


@pytest.mark.parametrize("sizes", [{}, {"chunk_size": 2}, {"sample_chunk_size": 2}])
def test_values_gradients_and_aux_lie_where_they_should(sizes: dict[str, int]) -> None:
    f = all_times(level)
    with_aux = lambda x: (f(x), x.sum(1))
    found, gradient, value, aux = laplacian(
        with_aux, out_dims=1, return_gradient=True, return_value=True, has_aux=True, **sizes
    )(X)
    torch.testing.assert_close(found, one_by_one(laplacian, level, X))
    torch.testing.assert_close(gradient, one_by_one(batch_jac, level, X))
    torch.testing.assert_close(value, f(X))
    torch.testing.assert_close(aux, X.sum(1))


def test_trees_and_several_arguments() -> None:
    f = lambda x, y: {"both": all_times(at)(x + y), "own": all_times(level)(y)}
    found = batch_jac(f, argnums=(0, 1), out_dims=1)(X, V)
    torch.testing.assert_close(found["both"][0], one_by_one(batch_jac, at, X + V))
    torch.testing.assert_close(found["both"][0], found["both"][1])
    torch.testing.assert_close(found["own"][1], one_by_one(batch_jac, level, V))
    pair = lambda x: (all_times(at)(x["a"]), all_times(at)(x["b"]))
    given = {"a": X, "b": V}
    total = divergence(lambda x: dict(zip("ab", pair(x), strict=True)), out_dims=1)(given)
    torch.testing.assert_close(total, one_by_one(divergence, at, X) + one_by_one(divergence, at, V))


def test_inside_of_jets_and_of_autograd() -> None:
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    energy = lambda x: diag_jac(all_times(lambda time: level(time * scale)), out_dims=1)(x)
    twice = divergence(energy, out_dims=1)(X)
    torch.testing.assert_close(twice, one_by_one(laplacian, lambda time: level(time * scale), X))
    (found,) = torch.autograd.grad(twice.sum(), scale)
    by_itself = sum(laplacian(level(time * scale))(X).sum() for time in TIMES)
    torch.testing.assert_close(found, torch.autograd.grad(by_itself, scale)[0])


def test_names_of_a_trajectory() -> None:
    d = partials(all_times(level), "u u_xy", inputs="x y z", outputs="u", out_dims=1)(X)
    torch.testing.assert_close(d.u, all_times(level)(X))
    torch.testing.assert_close(d.u_xy, one_by_one(hessian, level, X)[..., 0, 1])


def test_what_couples_samples_is_refused_on_any_axis() -> None:
    assert check_independent(all_times(at), out_dims=1)(X)
    coupled = lambda x: all_times(at)(x - x.mean(0))
    with pytest.raises(CoupledSamplesError):
        diag_jac(coupled, out_dims=1)(X)
    with pytest.raises(CoupledSamplesError):
        check_independent(coupled, out_dims=1)(X)


def test_a_wrong_axis_is_told() -> None:
    with pytest.raises(
        ShapeError, match=r"output has shape \(4, 5, 3\), but out_dims=2 says that its axis 2 has the 5"
    ):
        diag_jac(all_times(at), out_dims=2)(X)
    with pytest.raises(ShapeError, match="or out_dims=1 for samples that lie on a later axis"):
        diag_jac(all_times(at))(X)
    with pytest.raises(ArgumentError, match="out_dims=1 with batch_dims=2; samples lie on one axis"):
        diag_jac(all_times(at), out_dims=1, batch_dims=2)
    with pytest.raises(ShapeError, match="the divergence needs equal ones"):
        divergence(lambda x: {"a": all_times(at)(x["a"]), "b": at(1.0)(x["b"])[None]}, out_dims=1)({"a": X, "b": V})
    assert "out_dims=1" in str(explain(diag_jac(all_times(at), out_dims=1))(X))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled(name: str) -> None:
    transform = TRANSFORMS[name]
    for of in (at, level):
        found = transform(all_times(of), out_dims=1, compile=True)(X)
        torch.testing.assert_close(found, one_by_one(transform, of, X))
