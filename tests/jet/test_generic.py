"""``jet/generic.py``: gradients that there are not though no row shows it, and those that there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from jacfunc import batch_jac, biharmonic, hess_diag, hessian, laplacian, partials
from jacfunc.jet import layout
from jacfunc.jet.generic import Generic, direction, tells_all

Function = Callable[..., Any]
DOUBLE = torch.float64
POINTS = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.4, 0.2], [0.5, 0.1, -0.6]], dtype=DOUBLE)
NORMS: dict[str, Function] = {
    "vector_norm": lambda d: torch.linalg.vector_norm(d, dim=1, keepdim=True),
    "cdist": lambda d: torch.cdist(d, torch.zeros(1, d.shape[1], dtype=d.dtype)),
    "pairwise_distance": lambda d: torch.pairwise_distance(d, torch.zeros_like(d), eps=0, keepdim=True),
}


def named(name: str) -> Function:
    return lambda f: lambda x: partials(f, name, inputs="x y z", outputs="u")(x)[name]


QUANTITIES: dict[str, tuple[int, Function]] = {
    "u_y": (1, named("u_y")),
    "u_xy": (2, named("u_xy")),
    "u_xx": (2, named("u_xx")),
    "u_xyz": (3, named("u_xyz")),
    "a Jacobian by rows of one": (1, lambda f: batch_jac(f, method="taylor", chunk_size=1)),
    "a Laplacian": (2, laplacian),
    "a Hessian's diagonal": (2, hess_diag),
    "a Hessian": (2, hessian),
    "a Hessian in patches": (2, lambda f: hessian(f, chunk_size=2)),
    "a biharmonic": (4, biharmonic),
}
MONOMIALS = [powers for powers in itertools.product(range(3), repeat=3) if sum(powers) <= 3]


def powered(norm: str, power: int, monomial: tuple[int, ...]) -> Function:
    """``w r^power x^a y^b z^c`` around a centre: smooth but at the centre, and as often there as its degree less one."""

    def f(x: Any, centre: Any, weight: Any) -> Any:
        d = x - centre
        factor = math.prod(d[:, i : i + 1] ** k for i, k in enumerate(monomial) if k)
        return weight * NORMS[norm](d) ** power * factor

    return f


def gradients(transform: Function, f: Function, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centre = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    found = transform(lambda x: f(x, centre, weight))(points)
    assert found.isfinite().all()
    by_centre, by_weight = torch.autograd.grad(found.square().sum() + found.sum(), (centre, weight))
    return by_centre, by_weight


@pytest.mark.parametrize("norm", [pytest.param(n, marks=pytest.mark.slow) if n != "cdist" else n for n in NORMS])
@pytest.mark.parametrize("name", QUANTITIES)
def test_a_gradient_is_there_or_not_as_by_the_degree(name: str, norm: str) -> None:
    """What is homogeneous of degree one has no gradient at zero, and of degree two that of zero."""
    order, transform = QUANTITIES[name]
    told = set()
    for power, monomial in itertools.product((1, 3), MONOMIALS):
        degree = power + sum(monomial) - order
        if degree not in (1, 2, 3) or (order == 1 and power == 1 and not sum(monomial)):
            continue
        f = powered(norm, power, monomial)
        centre, weight = gradients(transform, f, POINTS)
        elsewhere = gradients(transform, f, POINTS[1:])
        identically_zero = not bool(elsewhere[0].any())
        if degree == 1 and not identically_zero:
            assert centre.isnan().any(), (power, monomial)
        elif degree > 1:
            torch.testing.assert_close(centre, elsewhere[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(weight, elsewhere[1], rtol=1e-9, atol=1e-12)
        told.add(degree)
    assert told == {1, 2, 3} or order == 4


def test_what_matern_kernels_have() -> None:
    def kernel(x: Any, centre: Any, weight: Any) -> Any:
        r = math.sqrt(5) * torch.cdist(x, centre[None])
        return weight * (1 + r + r * r / 3) * torch.exp(-r)

    for name in ("u_xy", "a Laplacian", "u_xyz"):
        centre, weight = gradients(QUANTITIES[name][1], kernel, POINTS)
        assert weight.isfinite()
        assert centre.isfinite().all()  # five derivatives but for kinks: four, and a gradient is the fourth
    centre, _ = gradients(biharmonic, kernel, POINTS)
    assert centre.isnan().all()


def test_nested() -> None:
    f = powered("cdist", 3, (1, 0, 0))
    centre = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    one = torch.ones((), dtype=DOUBLE)
    inner = lambda x: partials(lambda x: f(x, centre, one), "u_y", inputs="x y z", outputs="u")(x).u_y
    for name, lost in (("u_z", False), ("u_yz", True)):
        found = partials(inner, name, inputs="x y z", outputs="u")(POINTS)[name]
        assert found.isfinite().all()
        (slopes,) = torch.autograd.grad(found.sum(), centre)
        assert bool(slopes.isnan().any()) == lost


@pytest.mark.slow
def test_compiled() -> None:
    for power, lost in ((1, True), (2, False)):
        centre = torch.zeros(3, dtype=DOUBLE, requires_grad=True)

        def f(x: Any, centre: Any = centre, power: int = power) -> Any:
            d = x - centre
            return torch.linalg.vector_norm(d, dim=1, keepdim=True) * d[:, :1] * d[:, 1:2] ** power

        eager, compiled = (laplacian(f, compile=way)(POINTS) for way in (False, True))
        torch.testing.assert_close(compiled, eager)
        slopes = [torch.autograd.grad(found.sum(), centre)[0] for found in (eager, compiled)]
        assert bool(slopes[0].isnan().all()) == lost
        torch.testing.assert_close(slopes[1], slopes[0], equal_nan=True)


def test_without_a_graph_nothing_runs_again() -> None:
    calls = []

    def f(x: Any) -> Any:
        calls.append(1)
        return torch.cdist(x, torch.zeros(1, 3, dtype=DOUBLE)) ** 3

    transform = partials(f, "u_xy", inputs="x y z", outputs="u")
    transform(POINTS)
    calls.clear()
    transform(POINTS)
    assert len(calls) == 1


# -------------------------------------------------------------------- its parts


def test_which_layouts_tell_all() -> None:
    assert tells_all(layout.first_order(3), 3)
    assert not tells_all(layout.first_order(2), 3)
    assert tells_all(layout.pairs(2, ((0, 0), (0, 1), (1, 1))), 2)
    assert not tells_all(layout.diagonal(2), 2)
    assert tells_all(layout.diagonal(1), 1)
    assert not tells_all(layout.summed((2,)), 2)
    assert tells_all(layout.closed([(1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]), 2)
    assert not tells_all(layout.closed([(1, 0), (0, 1), (1, 1)]), 2)
    # as many rows as there are derivatives, one of which is a sum
    assert not tells_all(layout.closed([(1, 0), (0, 1), (2, 0), (0, 2)], [(((2, 0), 1.0), ((0, 2), 1.0))]), 2)


def test_a_direction_has_no_symmetries() -> None:
    first, second = direction([torch.zeros(5, 3), torch.zeros(5, 2, 2)], 1)
    assert (first.shape, second.shape) == ((1, 1, 3), (1, 1, 2, 2))
    sizes = torch.cat([first.flatten(), second.flatten()]).abs()
    assert sizes.min() > 0.4
    assert len(set(sizes.tolist())) == 7


def test_what_was_seen_is_told_place_by_place() -> None:
    yes, no, moves = torch.tensor([True]), torch.tensor([False]), torch.ones(1)
    looking = Generic()
    assert looking.with_own([no, yes], moves) == [no, yes]
    told = looking.again()
    assert told.with_own([no, None], moves)[1] is yes
    assert told.with_own([no], moves)[0].all()  # beyond all that was seen nothing is known


def test_whether_more_was_seen() -> None:
    yes, no, moves = torch.tensor([True]), torch.tensor([False]), torch.ones(1)
    seen = []
    for parts in ([no, no, None], [no, yes, None], [no, no, yes], [yes, no, no]):
        generic = Generic()
        generic.with_own(parts, moves)
        seen.append(generic)
    nothing, first, second, value = seen
    assert first.more_than(nothing)
    assert first.more_than(second)  # of a lower order
    assert not second.more_than(first)
    assert not second.more_than(value)
    assert not nothing.more_than(nothing)
    assert nothing.more_than(Generic())
