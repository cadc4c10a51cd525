"""Traps of norms that are zero: smooth functions of distances have all derivatives there, and torch says zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from quick import mostly_slow
from torch.nn import functional as F

from jacfunc import UnsupportedOperationError, batch_jac, biharmonic, diag_jac, hess_diag, hessian, laplacian, partials

Function = Callable[[Any], Any]
DOUBLE = torch.float64
ROOT3, ROOT5 = math.sqrt(3), math.sqrt(5)
POINTS = torch.tensor([[0.0, 0.0], [0.3, -0.7], [0.0, 0.0], [1.1, 0.2]], dtype=DOUBLE)
CENTRES = torch.tensor([[0.0, 0.0], [0.3, -0.7], [-0.4, 0.9]], dtype=DOUBLE)


def squared(x: Any) -> Any:
    return x.square().sum(1, keepdim=True)


def size(x: Any) -> Any:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


SMOOTH: dict[str, tuple[Function, Function]] = {
    "a Gaussian": (lambda x: torch.exp(-(size(x) ** 2)), lambda x: torch.exp(-squared(x))),
    "of a product": (lambda x: torch.exp(-size(x) * size(x)), lambda x: torch.exp(-squared(x))),
    "of a square": (lambda x: torch.exp(-0.5 * torch.square(size(x) / 0.7)), lambda x: torch.exp(-squared(x) / 0.98)),
    "cosh": (lambda x: torch.cosh(size(x)), lambda x: 1 + squared(x) / 2 + squared(x) ** 2 / 24 + squared(x) ** 3 / 720),
    "cos": (lambda x: (2 * size(x)).cos(), lambda x: 1 - 2 * squared(x) + 2 / 3 * squared(x) ** 2 - 4 / 45 * squared(x) ** 3),
    "sinc": (lambda x: torch.sinc(size(x) / math.pi), lambda x: 1 - squared(x) / 6 + squared(x) ** 2 / 120 - squared(x) ** 3 / 5040),
    "a multiquadric": (lambda x: (1 + size(x) ** 2).sqrt(), lambda x: (1 + squared(x)).sqrt()),
    "an inverse quadric": (lambda x: 1 / (1 + size(x) ** 2), lambda x: 1 / (1 + squared(x))),
    "a fourth power": (lambda x: size(x) ** 4, lambda x: squared(x) ** 2),
    "times the input": (lambda x: x[:, :1] * torch.exp(-(size(x) ** 2)), lambda x: x[:, :1] * torch.exp(-squared(x))),
    "norm": (lambda x: torch.exp(-(x.norm(dim=1, keepdim=True) ** 2)), lambda x: torch.exp(-squared(x))),
    "F.pairwise_distance": (
        lambda x: F.pairwise_distance(x, torch.zeros_like(x), eps=0.0)[:, None] ** 2, squared,
    ),
    "cdist": (
        lambda x: torch.exp(-(torch.cdist(x, CENTRES.to(x.dtype)) ** 2)),
        lambda x: torch.exp(-(x[:, None] - CENTRES.to(x.dtype)).square().sum(-1)),
    ),
    "hypot": (lambda x: torch.hypot(x[:, :1], x[:, 1:]) ** 2, squared),
    "a Frobenius norm": (lambda x: torch.linalg.matrix_norm(x[:, :, None])[:, None] ** 2, squared),
    "complex": (lambda x: torch.complex(x[:, :1], x[:, 1:]).abs() ** 2, squared),
    "a deviation": (lambda x: x.std(1, keepdim=True) ** 2, lambda x: x.var(1, keepdim=True)),
    "of what is in the middle": (lambda x: size(x.sin()) ** 2 * x.cos(), lambda x: squared(x.sin()) * x.cos()),
    "a sum of kernels": (
        lambda x: torch.exp(-(torch.cdist(x, CENTRES.to(x.dtype)) ** 2)) @ torch.ones(3, 2, dtype=x.dtype),
        lambda x: torch.exp(-(x[:, None] - CENTRES.to(x.dtype)).square().sum(-1)) @ torch.ones(3, 2, dtype=x.dtype),
    ),
    "two norms": (
        lambda x: torch.exp(-(size(x) ** 2)) * torch.cosh(size(x.tanh())),
        lambda x: torch.exp(-squared(x)) * (1 + squared(x.tanh()) / 2 + squared(x.tanh()) ** 2 / 24 + squared(x.tanh()) ** 3 / 720),
    ),
    "of one coordinate": (lambda x: size(x[:, :1]) ** 2 * x, lambda x: squared(x[:, :1]) * x),
}  # fmt: skip
"""With a norm, and without: near zero, up to the sixth order, they are the same."""
AT_ZERO = POINTS[::2]


def truth(transform: Function, f: Function, x: torch.Tensor) -> torch.Tensor:
    return transform(f, method="reverse")(x)


SERIES = ("cosh", "cos", "sinc", "two norms")
"""Whose smooth form is only right near zero."""


@pytest.mark.parametrize("transform", [batch_jac, hess_diag, laplacian, hessian], ids=lambda t: t.__name__)
@pytest.mark.parametrize("method", ["auto", "taylor"])
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_of_a_norm(name: str, method: str, transform: Function) -> None:
    f, smooth = SMOOTH[name]
    x = AT_ZERO if name in SERIES else POINTS
    torch.testing.assert_close(transform(f, method=method)(x), truth(transform, smooth, x))


EVERY = "u u_x u_y u_xx u_xy u_yy u_xxx u_xxy u_xyy u_yyy u_xxxx u_xxxy u_xxyy u_xyyy u_yyyy"


@pytest.mark.parametrize("name", SMOOTH)
def test_up_to_the_fourth_order(name: str) -> None:
    f, smooth = ((lambda x, g=g: g(x)[:, :1]) for g in SMOOTH[name])
    x = AT_ZERO if name in SERIES else POINTS
    found, true = (
        partials(g, EVERY, inputs="x y", outputs="u", method=method)(x)
        for g, method in ((f, "auto"), (smooth, "reverse"))
    )
    for key in EVERY.split():
        torch.testing.assert_close(found[key], true[key], atol=1e-9, rtol=1e-7, msg=lambda m, key=key: f"{key}: {m}")


BIHARMONIC = "u_xxxx + 2*u_xxyy + u_yyyy"


def test_the_biharmonic() -> None:
    for name in ("a Gaussian", "an inverse quadric"):
        f, smooth = SMOOTH[name]
        found, true = (partials(g, BIHARMONIC, inputs="x y", outputs="u")(POINTS)[BIHARMONIC] for g in (f, smooth))
        torch.testing.assert_close(found, true)


# ------------------------------------------------------------ kernels that are smooth up to an order


def matern3(r: Any) -> Any:
    return (1 + ROOT3 * r) * torch.exp(-ROOT3 * r)


def matern5(r: Any) -> Any:
    return (1 + ROOT5 * r + 5 / 3 * r**2) * torch.exp(-ROOT5 * r)


LIMITED: dict[str, tuple[Function, Function, int]] = {
    "a norm": (lambda x: size(x), lambda x: 0 * squared(x), 1),
    "exponential": (lambda x: torch.exp(-size(x)), lambda x: 1 + 0 * squared(x), 1),
    "Matern 3/2": (lambda x: matern3(size(x)), lambda x: 1 - 1.5 * squared(x), 2),
    "Matern 3/2 of scaled inputs": (lambda x: matern3(size(x / 0.3)), lambda x: 1 - 1.5 * squared(x / 0.3), 2),
    "Matern 5/2": (
        lambda x: matern5(size(x)), lambda x: 1 - 5 / 6 * squared(x) + 25 / 24 * squared(x) ** 2, 4
    ),
    "a cube": (lambda x: size(x) ** 3, lambda x: 0 * squared(x), 2),
    "a fifth power": (lambda x: size(x) ** 5, lambda x: 0 * squared(x), 4),
    "a norm times a coordinate": (lambda x: size(x) * x.sum(1, keepdim=True), lambda x: 0 * squared(x), 1),
    "a sum of two": (lambda x: size(x) + size(2 * x), lambda x: 0 * squared(x), 1),
    "a difference of two": (lambda x: size(x) - size(x @ TURNED), lambda x: 0 * squared(x), 1),
    "a product of two": (lambda x: size(x) * size(x @ TURNED), lambda x: 0 * squared(x), 1),
    "the square of a sum of two": (lambda x: (size(x) + size(x @ TURNED)) ** 2, lambda x: 0 * squared(x), 1),
    "a quotient of two": (lambda x: (1 + size(x)) / (1 + size(x @ TURNED)), lambda x: 1 + 0 * squared(x), 1),
    "a sum of a norm": (lambda x: torch.stack([size(x), size(2 * x)]).sum(0), lambda x: 0 * squared(x), 1),
    "a matrix of a norm": (lambda x: torch.cdist(x, CENTRES) @ torch.ones(3, 1, dtype=DOUBLE), None, 1),
}  # fmt: skip
TURNED = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=DOUBLE)


@pytest.mark.parametrize("name", LIMITED)
def test_up_to_their_order_and_nan_beyond(name: str) -> None:
    f, smooth, order = LIMITED[name]
    found = partials(f, EVERY, inputs="x y", outputs="u")(AT_ZERO)
    true = None if smooth is None else partials(smooth, EVERY, inputs="x y", outputs="u", method="reverse")(AT_ZERO)
    for key in EVERY.split():
        if len(key) - 2 > order:
            assert found[key].isnan().all(), key
        elif true is not None:
            torch.testing.assert_close(found[key], true[key], msg=lambda m, key=key: f"{key}: {m}")
    assert laplacian(f)(AT_ZERO).isnan().all() == (order == 1)


def test_along_directions_in_which_the_norm_does_not_move() -> None:
    """A distance from an axis: by the coordinate along it there is every derivative."""
    f = lambda x: torch.sin(x[:, :1]) * size(x[:, 1:])
    at = torch.tensor([[0.4, 0.0, 0.0]], dtype=DOUBLE)
    found = partials(f, "u_t u_tt u_ttt u_xx u_tx", inputs="t x y", outputs="u")(at)
    for key in ("u_t", "u_tt", "u_ttt"):
        assert found[key] == 0
    assert found.u_xx.isnan() and found.u_tx.isnan()
    torch.testing.assert_close(laplacian(lambda x: f(x) ** 2)(at), 4 * torch.sin(at[:, :1]) ** 2)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_what_has_no_first_derivatives(chunk_size: int | None) -> None:
    """Second ones may cancel in a sum, or all be zero, as behind a dead ReLU."""
    saddle = lambda x: torch.linalg.vector_norm(x[:, :1] ** 2 - x[:, 1:] ** 2 + 0 * x, dim=1, keepdim=True)
    dead = lambda x: torch.linalg.vector_norm(torch.relu(x - 1), dim=1, keepdim=True) + x.square()
    for make in (lambda f: laplacian(f, chunk_size=chunk_size), lambda f: laplacian(lambda x: f(x @ TURNED))):
        assert make(saddle)(AT_ZERO).isnan().all()
        torch.testing.assert_close(make(lambda x: saddle(x) ** 2)(AT_ZERO), torch.zeros(2, 1, dtype=DOUBLE))
        true = make(lambda x: x.square())(AT_ZERO)
        torch.testing.assert_close(make(dead)(AT_ZERO), true)
    equation = partials(lambda x: saddle(x), "u_xx + u_yy", inputs="x y", outputs="u")
    assert equation(AT_ZERO)["u_xx + u_yy"].isnan().all()


def test_what_is_masked_stays_finite() -> None:
    """The diagonal of all distances, as of potentials: masked before or after, and never NaN."""
    x = torch.tensor([[[0.0, 0.1], [1.0, -0.3], [0.4, 0.9]]], dtype=DOUBLE)
    off = 1 - torch.eye(3, dtype=DOUBLE)
    on = torch.eye(3, dtype=torch.bool)
    distances = lambda x: torch.cdist(x, x)
    direct = lambda x: ((x[:, :, None] - x[:, None]).square().sum(-1) + on).sqrt()
    for masked, right in (
        (lambda x: distances(x) * off, lambda x: direct(x) * off),
        (lambda x: distances(x).masked_fill(on, 0.0), lambda x: direct(x) * off),
        (lambda x: torch.where(on, 0.0, distances(x) ** 3), lambda x: direct(x) ** 3 * off),
        (lambda x: 1 / distances(x).masked_fill(on, math.inf), lambda x: off / direct(x)),
        (lambda x: distances(x)[:, ~on], lambda x: direct(x)[:, ~on]),
        (lambda x: torch.exp(-(distances(x) ** 2)) * off, lambda x: torch.exp(-(direct(x) ** 2)) * off),
    ):
        energy, true = (lambda x, g=g: g(x).flatten(1).sum(1, keepdim=True) for g in (masked, right))
        torch.testing.assert_close(laplacian(energy)(x), laplacian(true, method="reverse")(x))


# ------------------------------------------------------------ parameters, dtypes, compiled, nested, other routes


@pytest.mark.parametrize("name", ["a Gaussian", "cdist", "an inverse quadric", "times the input"])
def test_gradients_by_parameters(name: str) -> None:
    w = torch.tensor([[1.3, 0.2], [-0.4, 0.8]], dtype=DOUBLE, requires_grad=True)
    found, true = (
        torch.autograd.grad(laplacian(lambda x, g=g: g(x @ w), method=method)(POINTS).square().sum(), w)[0]
        for g, method in zip(SMOOTH[name], ("auto", "reverse"), strict=True)
    )
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("name", ["a Gaussian", "cdist", "cosh", "hypot", "a deviation"])
def test_single_precision(name: str) -> None:
    f, smooth = SMOOTH[name]
    found = laplacian(f)(AT_ZERO.float())
    torch.testing.assert_close(found, truth(laplacian, smooth, AT_ZERO).float())


def test_many_points_in_single_precision() -> None:
    """Of many points torch multiplies matrices for distances, and has a small number for zero."""
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    f = lambda y: torch.exp(-(torch.cdist(y, x) ** 2)).sum(1, keepdim=True)
    smooth = lambda y: torch.exp(-(y[:, None] - x.double()).square().sum(-1)).sum(1, keepdim=True)
    torch.testing.assert_close(laplacian(f)(x).double(), truth(laplacian, smooth, x.double()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", mostly_slow(["a Gaussian", "cdist", "times the input", "two norms"], ["a Gaussian"]))
def test_compiled(name: str) -> None:
    f, smooth = SMOOTH[name]
    derivative = laplacian(f, compile=True)
    x = AT_ZERO if name in SERIES else POINTS
    derivative(x + 1)  # where no norm is zero
    torch.testing.assert_close(derivative(x), truth(laplacian, smooth, x))


@pytest.mark.parametrize("name", ["a Gaussian", "cdist", "an inverse quadric"])
def test_nested(name: str) -> None:
    f, smooth = ((lambda x, g=g: g(x)[:, :1]) for g in SMOOTH[name])
    nested = diag_jac(diag_jac(f))(POINTS)
    torch.testing.assert_close(nested, truth(hess_diag, smooth, POINTS)[:, 0])
    twice, true = (
        laplacian(laplacian(f))(POINTS),
        laplacian(laplacian(smooth, method="reverse"), method="reverse")(POINTS),
    )
    torch.testing.assert_close(twice, true)


AWAY = torch.tensor([[2.0, 1.5], [0.7, -1.7]], dtype=DOUBLE)


@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("name", SMOOTH)
def test_other_routes_refuse_from_the_second_order_on(name: str, method: str) -> None:
    f, smooth = SMOOTH[name]
    for transform in (hess_diag, laplacian):
        derivative = transform(f, method=method)
        with pytest.raises(UnsupportedOperationError, match="is zero here, where only jets"):
            derivative(AT_ZERO)
        if name not in SERIES:
            torch.testing.assert_close(derivative(AWAY), truth(transform, smooth, AWAY))
            with pytest.raises(UnsupportedOperationError, match="is zero here, where only jets"):
                derivative(AT_ZERO)
    if name != "hypot":  # whose first derivative is NaN in torch
        torch.testing.assert_close(batch_jac(f, method=method)(AT_ZERO), truth(batch_jac, smooth, AT_ZERO))


def test_a_norm_of_what_is_not_differentiated_is_no_reason() -> None:
    w = torch.zeros(2, dtype=DOUBLE)
    f = lambda x: squared(x) * torch.linalg.vector_norm(w) + x[:, :1] ** 3
    torch.testing.assert_close(laplacian(f, method="reverse")(POINTS), 6 * POINTS[:, :1])


# ------------------------------------------------------------ gradients by what moves the zero, and theirs


def gaussian(x: Any) -> Any:
    return torch.exp(-(size(x) ** 2))


def smooth_gaussian(x: Any) -> Any:
    return torch.exp(-squared(x))


SHIFTED: dict[str, tuple[Function, Function]] = {
    "a Gaussian": (lambda x, q: gaussian(x - q), lambda x, q: smooth_gaussian(x - q)),
    "distances": (
        lambda x, q: torch.exp(-(torch.cdist(x, q[None]) ** 2)), lambda x, q: smooth_gaussian(x - q),
    ),
    "times the input": (lambda x, q: x[:, :1] * gaussian(x - q), lambda x, q: x[:, :1] * smooth_gaussian(x - q)),
    "a deviation": (
        lambda x, q: torch.exp((x - q).std(1, keepdim=True) ** 2), lambda x, q: torch.exp((x - q).var(1, keepdim=True))
    ),
    "an inverse quadric": (
        lambda x, q: 1 / (1 + size(x - q) ** 2) * (x + 1), lambda x, q: 1 / (1 + squared(x - q)) * (x + 1)
    ),
}  # fmt: skip


def twice(transform: Function, f: Function, method: str) -> list[torch.Tensor]:
    """A derivative, its gradient by what the norm is of, and the gradient of that."""
    q = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    found = transform(lambda x: f(x, q), method=method)(AT_ZERO)
    weights = torch.linspace(0.5, 1.5, found.numel(), dtype=DOUBLE).reshape(found.shape)
    (gradient,) = torch.autograd.grad((found * weights).sum(), q, create_graph=True)
    (second,) = torch.autograd.grad((gradient * torch.tensor([0.3, 0.9], dtype=DOUBLE)).sum(), q)
    return [found, gradient, second]


@pytest.mark.parametrize("transform", [batch_jac, laplacian, hess_diag, hessian], ids=lambda t: t.__name__)
@pytest.mark.parametrize("name", SHIFTED)
def test_gradients_by_a_centre(name: str, transform: Function) -> None:
    f, smooth = SHIFTED[name]
    for found, true in zip(twice(transform, f, "taylor"), twice(transform, smooth, "reverse"), strict=True):
        torch.testing.assert_close(found, true)


@pytest.mark.parametrize("transform", [batch_jac, laplacian], ids=lambda t: t.__name__)
def test_gradients_by_a_centre_inside_of_torch_func(transform: Function) -> None:
    q = torch.zeros(2, dtype=DOUBLE)
    loss, true = (
        lambda q, f=f, method=method: transform(lambda x: f(x - q), method=method)(AT_ZERO + 0.1 * q).square().sum()
        for f, method in ((gaussian, "taylor"), (smooth_gaussian, "reverse"))
    )
    for outer in (torch.func.grad, torch.func.jacfwd):
        torch.testing.assert_close(outer(loss)(q), outer(true)(q))


def test_a_gradient_that_does_not_exist_is_nan() -> None:
    q = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    found = batch_jac(lambda x: size(x - q), method="taylor")(AT_ZERO[:1])
    assert not found.any()
    assert torch.autograd.grad(found.sum(), q)[0].isnan().all()
    masked = batch_jac(lambda x: size(x - q) * torch.zeros(1, dtype=DOUBLE), method="taylor")(AT_ZERO[:1])
    assert not torch.autograd.grad(masked.sum(), q)[0].any()


@pytest.mark.parametrize("transform", [batch_jac, laplacian], ids=lambda t: t.__name__)
def test_values_beside_derivatives_have_gradients(transform: Function) -> None:
    q = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    _, value = transform(lambda x: gaussian(x - q), return_value=True, method="taylor")(AT_ZERO[:1])
    (gradient,) = torch.autograd.grad(value.sum(), q, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(gradient.sum(), q)[0], torch.tensor([-2.0, -2.0], dtype=DOUBLE))


# ------------------------------------------------------------ what surrounds a norm


def wendland(r: Any, positive: Function) -> Any:
    return positive(1 - r) ** 4 * (4 * r + 1)


@pytest.mark.parametrize(
    "positive", [torch.relu, F.relu, lambda y: y.clamp(min=0), lambda y: torch.clamp(y, 0, 5), torch.abs]
)
def test_kinks_elsewhere(positive: Function) -> None:
    found = laplacian(lambda x: wendland(size(x), positive))(AT_ZERO)
    torch.testing.assert_close(found, torch.full((2, 1), -40.0, dtype=DOUBLE))


GATES: dict[str, Function] = {
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "clamp": lambda r: r.clamp(min=0),
    "abs": torch.abs,
    "threshold": lambda r: F.threshold(r, 0.0, 0.0),
    "hardshrink": lambda r: F.hardshrink(r, 0.0),
    "elu": F.elu,
}


@pytest.mark.parametrize("name", GATES)
def test_kinks_there_are_taken_on_the_side_of_the_norm(name: str) -> None:
    centre = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    for wanted in ("u_xxx", "u_xxy", "u_xx+u_yy", "u_x"):
        rows, slopes = [], []
        for gate in (GATES[name], lambda r: r):
            f = lambda x, gate=gate: gate(size(x - centre)) ** 4
            row = partials(f, wanted, inputs="x y", outputs="u")(AT_ZERO)[wanted]
            rows.append(row.detach())
            slopes.append(torch.autograd.grad(row.sum(), centre)[0])
        torch.testing.assert_close(rows[0], rows[1])
        torch.testing.assert_close(slopes[0], slopes[1])
    assert torch.equal(laplacian(lambda x: GATES[name](size(x)) ** 2)(AT_ZERO), torch.full((2, 1), 4.0, dtype=DOUBLE))


def test_kinks_that_nobody_knows_the_side_of() -> None:
    assert laplacian(lambda x: size(x).abs())(AT_ZERO).isnan().all()
    for f, wanted in (
        (lambda x: torch.relu(x[:, :1] + size(x)) ** 2, "u_xx"),
        (lambda x: torch.relu(size(x) * x[:, :1]) * size(x), "u_xxx"),
    ):
        try:
            found = partials(f, wanted, inputs="x y", outputs="u")(AT_ZERO)[wanted]
        except UnsupportedOperationError:  # by what was verified
            continue
        assert found.isnan().all()


def test_lone_mixed_derivatives_know_what_they_have_no_row_of() -> None:
    at = torch.zeros(1, 3, dtype=DOUBLE)
    both = torch.tensor([1.0, 2.0, 1.0], dtype=DOUBLE)
    for f, wanted, nan in (
        (lambda x: size(x) ** 3, "u_xyz", True),
        (lambda x: size(x) ** 3, "u_xy", False),
        (lambda x: size(x) ** 5, "u_xyz", False),
        (lambda x: torch.tanh(x.sum(1, keepdim=True) + matern3(size(x))), "u_xyz", True),
        (lambda x: size(x) * size(x * both), "u_xy", True),
        (lambda x: size(x) ** 2 * size(x * both), "u_zyx", True),
    ):
        alone = partials(f, wanted, inputs="x y z", outputs="u")
        beside = partials(f, f"{wanted} u_xx u_yy u_zz", inputs="x y z", outputs="u")
        assert bool(alone(at)[wanted].isnan().all()) == nan
        torch.testing.assert_close(alone(at)[wanted], beside(at)[wanted], equal_nan=True)


def test_a_sum_beside_what_another_route_gives_in_parts() -> None:
    f = lambda x: torch.exp(-(size(x) ** 2))
    assert biharmonic(f)(torch.zeros(1, 2, dtype=DOUBLE)) == 32
    biharmonic(f)(torch.full((1, 2), 1e-100, dtype=DOUBLE))  # of which nothing is left but rounding


@pytest.mark.parametrize("mask", [torch.tensor([False]), torch.tensor([0]), torch.tensor([0.0])])
def test_masks_of_any_kind(mask: torch.Tensor) -> None:
    assert torch.equal(laplacian(lambda x: size(x) * mask)(AT_ZERO), torch.zeros(2, 1, dtype=DOUBLE))


def test_powers_that_are_no_integers() -> None:
    assert torch.equal(laplacian(lambda x: size(x) ** 2.5)(AT_ZERO), torch.zeros(2, 1, dtype=DOUBLE))


def test_transforms_of_torch_inside_and_around() -> None:
    at = AT_ZERO[:1]
    inside: dict[str, Function] = {
        "grad": lambda x: torch.func.grad(lambda a: gaussian(a).sum())(x),
        "vjp": lambda x: torch.func.vjp(gaussian, x)[1](torch.ones(len(x), 1, dtype=DOUBLE))[0],
    }
    for f in inside.values():
        torch.testing.assert_close(batch_jac(f)(at + 1), batch_jac(batch_jac(smooth_gaussian))(at + 1)[:, 0])
        with pytest.raises(UnsupportedOperationError, match="where it is zero"):
            batch_jac(f)(at)
    for f in (gaussian, SMOOTH["cdist"][0], SMOOTH["a deviation"][0]):
        around = torch.vmap(laplacian(f))
        torch.testing.assert_close(around(AWAY[None])[0], laplacian(f)(AWAY))
        with pytest.raises(UnsupportedOperationError, match="where it is zero"):
            around(at[None])
    torch.testing.assert_close(torch.vmap(laplacian(gaussian, method="taylor"))(at[None])[0], laplacian(gaussian)(at))
    mapped = laplacian(lambda x: torch.vmap(lambda a: torch.exp(-(torch.linalg.vector_norm(a) ** 2)))(x)[:, None])
    torch.testing.assert_close(mapped(at + 1), laplacian(smooth_gaussian)(at + 1))
    with suppress(UnsupportedOperationError):
        assert mapped(at).isnan().all()
