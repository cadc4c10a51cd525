"""Kernels of distances that are zero, against mpmath: closed forms, networks of kernels, collocation, posteriors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import mpmath
import pytest
import torch
from quick import mostly_slow
from torch.nn import functional as F

from jacfunc import UnsupportedOperationError, biharmonic, hess_diag, hessian, laplacian, partials

Function = Callable[..., Any]
Index = tuple[int, int]
DOUBLE = torch.float64
ROOT3, ROOT5 = math.sqrt(3), math.sqrt(5)
MP = mpmath.mp.clone()
MP.dps = 40
ALWAYS = 99


def tensor(numbers: Any) -> torch.Tensor:
    return torch.tensor(numbers, dtype=DOUBLE)


def close(found: torch.Tensor, true: torch.Tensor, tolerance: float = 1e-9, name: str = "") -> None:
    message = lambda m: f"{name}: {m}"
    torch.testing.assert_close(found, true, rtol=tolerance, atol=tolerance, equal_nan=True, msg=message)


# ------------------------------------------------------------ kernels and norms, in torch and in mpmath


class Kernel(NamedTuple):
    of_tensor: Function
    of_number: Function
    order: int
    """Up to which there are derivatives at zero."""


def matern(r: Any) -> Any:
    return (1 + ROOT5 * r + 5 / 3 * r**2) * torch.exp(-ROOT5 * r)


KERNELS = {
    "a Gaussian": Kernel(lambda r: torch.exp(-(r**2)), lambda r: MP.exp(-(r**2)), ALWAYS),
    "cosh": Kernel(torch.cosh, MP.cosh, ALWAYS),
    "sinc": Kernel(torch.sinc, MP.sincpi, ALWAYS),
    "a multiquadric": Kernel(lambda r: (1 + r**2).sqrt(), lambda r: MP.sqrt(1 + r * r), ALWAYS),
    "Matern 3/2": Kernel(
        lambda r: (1 + ROOT3 * r) * torch.exp(-ROOT3 * r), lambda r: (1 + MP.sqrt(3) * r) * MP.exp(-MP.sqrt(3) * r), 2
    ),
    "Matern 5/2": Kernel(matern, lambda r: (1 + MP.sqrt(5) * r + 5 * r**2 / 3) * MP.exp(-MP.sqrt(5) * r), 4),
    "a cube": Kernel(lambda r: r**3, lambda r: r**3, 2),
    "a fifth power": Kernel(lambda r: r**5, lambda r: r**5, 4),
    "a thin plate": Kernel(lambda r: torch.xlogy(r**2, r), lambda r: r**2 * MP.log(r) if r else MP.zero, 1),
}
NORMS: dict[str, Function] = {
    "vector_norm": lambda x, c: torch.linalg.vector_norm(x - c, dim=1, keepdim=True),
    "cdist": lambda x, c: torch.cdist(x, c[None]),
    "cdist by products": lambda x, c: torch.cdist(x, c[None], compute_mode="use_mm_for_euclid_dist"),
    "cdist by differences": lambda x, c: torch.cdist(x, c[None], compute_mode="donot_use_mm_for_euclid_dist"),
    "pairwise_distance": lambda x, c: F.pairwise_distance(x, c, eps=0.0)[:, None],
    "hypot": lambda x, c: torch.hypot(x[:, :1] - c[0], x[:, 1:] - c[1]),
    "a Frobenius norm": lambda x, c: torch.linalg.matrix_norm((x - c)[:, :, None])[:, None],
    "a complex number": lambda x, c: torch.complex(x[:, :1] - c[0], x[:, 1:] - c[1]).abs(),
    "a deviation": lambda x, c: (x - c).std(1, keepdim=True),
}
CASES = list(itertools.product(KERNELS, NORMS))
FEW = [case for case in CASES if case[1] == "cdist" or case[0] == "Matern 5/2"]
CENTRE, LENGTH = tensor([0.25, -0.5]), 0.75
AT = CENTRE + tensor([[0.0, 0.0], [0.3125, -0.75], [0.4375, 0.4375]])
"""Where every norm is zero, none, and the deviation alone; binary fractions, so differences are exact."""


@lru_cache(None)
def closed_form(kernel: str, deviation: bool, shift: tuple[float, float], index: Index, by_length: int) -> float:
    """A derivative of ``k(r / l)`` by both coordinates and ``by_length``, in many digits; NaN where there is none."""
    if (shift[0] == shift[1] if deviation else not any(shift)) and sum(index) > KERNELS[kernel].order:
        return math.nan

    def of(x: Any, y: Any, length: Any) -> Any:
        r = abs(x - y) / MP.sqrt(2) if deviation else MP.sqrt(x * x + y * y)
        return KERNELS[kernel].of_number(r / length)

    return float(MP.diff(of, (*map(MP.mpf, shift), MP.mpf(LENGTH)), (*index, by_length)))


def true(case: tuple[str, str], *indices: Index, by_length: int = 0, x: Any = AT, c: Any = CENTRE) -> torch.Tensor:
    """The sum of derivatives of the kernel of each point and a centre."""
    kernel, norm = case
    shifts = [tuple(shift) for shift in (x - c).tolist()]
    return tensor(
        [sum(closed_form(kernel, norm == "a deviation", s, index, by_length) for index in indices) for s in shifts]
    )


@pytest.mark.parametrize("name", KERNELS)
def test_up_to_which_order_there_are_derivatives(name: str) -> None:
    """From both sides mpmath finds the same, and beyond the order not."""
    _, of_number, limit = KERNELS[name]
    for order in range(1, min(limit, 4) + 2):
        right, left = (MP.diff(lambda t: of_number(abs(t)), 0, order, direction=side) for side in (1, -1))
        if order <= limit:
            assert abs(right - left) < 1e-12
        else:  # or without bound, as a logarithm
            assert abs(right - left) > 1 or min(abs(right), abs(left)) > 50


# ------------------------------------------------------------ transforms, routes, dtypes, compiled

EVERY = {"u_" + "x" * i + "y" * j: (i, j) for i in range(5) for j in range(5) if 0 < i + j <= 4}
LAPLACIAN, BIHARMONIC = ((2, 0), (0, 2)), ((4, 0), (2, 2), (2, 2), (0, 4))


def function_of(case: tuple[str, str], x: Any, dtype: torch.dtype = DOUBLE) -> Any:
    return KERNELS[case[0]].of_tensor(NORMS[case[1]](x, CENTRE.to(dtype)) / LENGTH)


def true_hessian(case: tuple[str, str]) -> torch.Tensor:
    xx, xy, yy = (true(case, index) for index in ((2, 0), (1, 1), (0, 2)))
    return torch.stack([xx, xy, xy, yy], 1).reshape(-1, 1, 2, 2)


TRANSFORMS: dict[str, tuple[Function, Function]] = {
    "laplacian": (laplacian, lambda case: true(case, *LAPLACIAN)[:, None]),
    "biharmonic": (biharmonic, lambda case: true(case, *BIHARMONIC)[:, None]),
    "hess_diag": (hess_diag, lambda case: true_hessian(case).diagonal(dim1=2, dim2=3)),
    "hessian": (hessian, true_hessian),
    "partials": (
        lambda f, method: lambda x: partials(f, "u_xxyy", inputs="x y", outputs="u", method=method)(x).u_xxyy,
        lambda case: true(case, (2, 2)),
    ),
}


@pytest.mark.parametrize("case", mostly_slow(CASES, FEW), ids=" of ".join)
def test_derivatives_up_to_the_fourth(case: tuple[str, str]) -> None:
    found = partials(lambda x: function_of(case, x), " ".join(EVERY), inputs="x y", outputs="u")(AT)
    for key, index in EVERY.items():
        close(found[key], true(case, index), name=key)


@pytest.mark.parametrize("transform", mostly_slow(TRANSFORMS, ["laplacian", "biharmonic"]))
@pytest.mark.parametrize("case", FEW, ids=" of ".join)
def test_every_route_is_right_or_refuses(case: tuple[str, str], transform: str) -> None:
    f = lambda x: function_of(case, x)
    derivative, truth = TRANSFORMS[transform]
    right = truth(case)
    for method in ("auto", "taylor"):
        close(derivative(f, method=method)(AT), right)
    for method in ("forward", "reverse"):
        close(derivative(f, method=method)(AT[1:2]), right[1:2])
        with suppress(UnsupportedOperationError):
            close(derivative(f, method=method)(AT), right)


@pytest.mark.parametrize("kernel", mostly_slow(KERNELS, ["Matern 5/2"]))
def test_dist_of_one_sample(kernel: str) -> None:
    f = lambda x: KERNELS[kernel].of_tensor(torch.dist(x, CENTRE) / LENGTH)
    right = true((kernel, "dist"), *LAPLACIAN)
    close(torch.stack([laplacian(f, batch_dims=0)(at) for at in AT]), right)
    mapped = laplacian(lambda x: torch.vmap(f)(x)[:, None])
    close(mapped(AT[1:])[:, 0], right[1:])
    with suppress(UnsupportedOperationError):
        close(mapped(AT)[:, 0], right)


@pytest.mark.parametrize("norm", mostly_slow(NORMS, ["cdist", "a deviation"]))
def test_single_precision(norm: str) -> None:
    for kernel in ("a Gaussian", "Matern 3/2", "Matern 5/2", "a fifth power"):
        for transform, tolerance in (("hessian", 1e-5), ("biharmonic", 1e-4)):
            derivative, truth = TRANSFORMS[transform]
            found = derivative(lambda x, k=kernel: function_of((k, norm), x, x.dtype))(AT.float())
            close(found, truth((kernel, norm)).float(), tolerance, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["a Gaussian", "Matern 3/2", "Matern 5/2"])
def test_compiled(kernel: str) -> None:
    found = laplacian(lambda x: function_of((kernel, "cdist"), x), compile=True)(AT)
    close(found[:, 0], true((kernel, "cdist"), *LAPLACIAN))


# ------------------------------------------------------------ gradients by weights, lengths and centres

CENTRES = CENTRE + tensor([[0.0, 0.0], [0.3125, -0.75], [-0.875, 0.625]])
POINTS = torch.cat([CENTRES[:2], CENTRE + tensor([[0.5, 0.125]])])
WEIGHTS = tensor([0.75, -1.25, 0.5])
OPERATORS: dict[str, tuple[int, list[Index]]] = {
    "u_xx + u_yy": (2, [(2, 0), (0, 2)]), "u_xy": (3, [(1, 1)]), "u_xxyy": (4, [(2, 2)])
}  # fmt: skip
"""And the order of the kernels of which gradients are compared."""
NETWORKS = [(kernel, "cdist") for kernel in KERNELS] + [("a Gaussian", norm) for norm in NORMS if norm != "cdist"]
GRADIENTS = [(op, *case) for op in OPERATORS for case in NETWORKS if KERNELS[case[0]].order >= OPERATORS[op][0]]
SOME = [case for case in GRADIENTS if case[0] == "u_xx + u_yy" or case[1:] == ("Matern 5/2", "cdist")]


@pytest.mark.parametrize("case", mostly_slow(GRADIENTS, SOME), ids=", ".join)
def test_gradients_of_a_network_of_kernels(case: tuple[str, str, str]) -> None:
    operator, kernel, norm = case
    weights, centres = WEIGHTS.clone().requires_grad_(), CENTRES.clone().requires_grad_()
    length = tensor(LENGTH).requires_grad_()

    def u(x: Any) -> Any:
        return KERNELS[kernel].of_tensor(torch.cat([NORMS[norm](x, c) for c in centres], 1) / length) @ weights

    def pairs(by_length: int = 0, along: Index = (0, 0)) -> torch.Tensor:
        indices = [(i + along[0], j + along[1]) for i, j in OPERATORS[operator][1]]
        return torch.stack([true((kernel, norm), *indices, by_length=by_length, x=POINTS, c=c) for c in CENTRES], 1)

    own, once, again = (pairs(order) for order in (0, 1, 2))
    right = own @ WEIGHTS
    moved = torch.stack([-2 * WEIGHTS * (right @ pairs(along=along)) for along in ((1, 0), (0, 1))], 1)
    for method in ("auto", "taylor"):
        found = partials(u, operator, inputs="x y", outputs="u", method=method)(POINTS)[operator]
        first = torch.autograd.grad(found.square().sum(), [weights, length, centres], create_graph=True)
        close(found, right)
        close(first[0], 2 * right @ own, name="weights")
        close(first[1], 2 * right @ (once @ WEIGHTS), name="length")
        close(first[2], moved, name="centres")
        second = 2 * ((once @ WEIGHTS).square().sum() + right @ (again @ WEIGHTS))
        close(torch.autograd.grad(first[1], length)[0], second, name="length twice")


@pytest.mark.parametrize("norm", mostly_slow(NORMS, ["cdist", "vector_norm"]))
def test_gradients_by_a_length_within_the_norm(norm: str) -> None:
    for kernel in ("a Gaussian", "a multiquadric", "Matern 5/2", "Matern 3/2", "a cube"):
        length = tensor(LENGTH).requires_grad_()
        u = lambda x, k=kernel, s=length: KERNELS[k].of_tensor(NORMS[norm](x / s, CENTRE / s))
        slopes = [torch.autograd.grad(one, length, retain_graph=True)[0] for one in laplacian(u)(AT)]
        close(torch.stack(slopes), true((kernel, norm), *LAPLACIAN, by_length=1), name=kernel)


# ------------------------------------------------------------ collocation, where every centre is a point


class Radial(NamedTuple):
    kernel: Function
    by_hand: Function
    """Its Laplacian in the plane, ``k'' + k' / r``."""
    length: float


COLLOCATION = {
    "a Gaussian": Radial(lambda r: torch.exp(-(r**2)), lambda r: (4 * r**2 - 4) * torch.exp(-(r**2)), 0.2),
    "a multiquadric": Radial(lambda r: (1 + r**2).sqrt(), lambda r: (2 + r**2) / (1 + r**2) ** 1.5, 0.3),
    "Matern 5/2": Radial(matern, lambda r: -5 / 3 * (2 + 2 * ROOT5 * r - 5 * r**2) * torch.exp(-ROOT5 * r), 0.5),
    "a cube": Radial(lambda r: r**3, lambda r: 9 * r, 1.0),
    "a fifth power": Radial(lambda r: r**5, lambda r: 25 * r**3, 1.0),
}


def distances(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return (x[:, None] - c).square().sum(-1).sqrt()


def exact(x: torch.Tensor) -> torch.Tensor:
    return (math.pi * x).sin().prod(1)


@pytest.mark.parametrize("name", COLLOCATION)
def test_poissons_equation_by_collocation(name: str) -> None:
    """Kansa's method: one call has the Laplacians of all kernels at all centres, and u is zero on the boundary."""
    kernel, by_hand, length = COLLOCATION[name]
    for r in (0.0, 0.25, 1.75):
        plane = lambda x, y: KERNELS[name].of_number(MP.sqrt(x * x + y * y))
        close(by_hand(tensor(r)), tensor(float(sum(MP.diff(plane, (r, 0), index) for index in LAPLACIAN))), 1e-12)
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 9, dtype=DOUBLE)] * 2)
    on = ((grid == 0) | (grid == 1)).any(1)
    anywhere = torch.rand(500, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    scattered = torch.where(on[:, None], grid, grid + 0.05 * (anywhere[: len(grid)] - 0.5))
    right = torch.where(on, 0.0, 2 * math.pi**2 * exact(grid)), torch.where(on, 0.0, 2 * math.pi**2 * exact(scattered))
    for x, f, mode in (
        (grid, right[0], "use_mm_for_euclid_dist_if_necessary"),
        (scattered, right[1], "donot_use_mm_for_euclid_dist"),
    ):
        basis = lambda y, x=x, mode=mode: kernel(torch.cdist(y, x, compute_mode=mode) / length)
        r = distances(x, x) / length
        both = [(kernel(r), by_hand(r) / length**2)]
        for method in ("auto", "taylor"):
            found, values = laplacian(basis, method=method, return_value=True)(x)
            torch.testing.assert_close(found, both[0][1], rtol=1e-10, atol=1e-12)
            both.append((values, found))
        systems = [torch.where(on[:, None], values, -laplacians) for values, laplacians in both]
        errors = [
            (kernel(distances(anywhere, x) / length) @ torch.linalg.solve(a, f) - exact(anywhere)) for a in systems
        ]
        by_hand_error, *others = [error.abs().max() for error in errors]
        assert by_hand_error < 0.06
        for error in others:
            torch.testing.assert_close(error, by_hand_error, rtol=1e-6, atol=0)


# ------------------------------------------------------------ the posterior of a Gaussian process at training points

TRAINING = torch.rand(7, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
TARGETS = torch.sin(3 * TRAINING[:, 0]) + TRAINING[:, 1] ** 2
ROWS = torch.cat([TRAINING, tensor([[0.4, 0.3]])])
"""Where Hessians are taken: at the training points, and beside them."""
NOISE, SCALE = 0.01, 0.5


def inverse(length: Any) -> torch.Tensor:
    return torch.linalg.inv(matern(distances(TRAINING, TRAINING) / length) + NOISE * torch.eye(7, dtype=DOUBLE))


def posterior(x: torch.Tensor, length: Any = SCALE) -> torch.Tensor:
    """Mean and variance, ``(N, 2)``."""
    across = matern(torch.cdist(x, TRAINING) / length)
    solved = across @ inverse(length)
    return torch.stack([solved @ TARGETS, 1 - (solved * across).sum(1)], 1)


def posterior_by_hand(length: Any = SCALE) -> torch.Tensor:
    """Hessians of mean and variance, ``(N, 2, 2, 2)``, from those of the kernel."""
    d, r = ROWS[:, None] - TRAINING, ROOT5 * distances(ROWS, TRAINING) / length
    scale = (5 / 3 * torch.exp(-r) / length**2)[..., None]
    slopes, outer = scale * (1 + r)[..., None], d[..., :, None] * d[..., None, :]
    hessians = 5 / length**2 * scale[..., None] * outer - slopes[..., None] * torch.eye(2, dtype=DOUBLE)
    mean = torch.einsum("nkij,k->nij", hessians, inverse(length) @ TARGETS)
    products = torch.einsum("nki,kl,nlj->nij", slopes * d, inverse(length), slopes * d)
    weighted = torch.einsum("nk,nkij->nij", matern(r / ROOT5) @ inverse(length), hessians)
    return torch.stack([mean, -2 * (products + weighted)], 1)


def test_a_posterior_by_hand() -> None:
    """By finite differences in many digits."""
    points, k = [tuple(map(MP.mpf, p)) for p in TRAINING.tolist()], KERNELS["Matern 5/2"].of_number
    between = lambda p, q: k(MP.hypot(p[0] - q[0], p[1] - q[1]) / SCALE)
    inverted = MP.matrix([[between(p, q) + NOISE * (p is q) for q in points] for p in points]) ** -1
    means = inverted * MP.matrix(TARGETS.tolist())

    def mean(x: Any, y: Any) -> Any:
        return MP.fdot(means, [between((x, y), q) for q in points])

    def variance(x: Any, y: Any) -> Any:
        across = MP.matrix([between((x, y), q) for q in points])
        return 1 - (across.T * inverted * across)[0]

    for n, point in enumerate(ROWS.tolist()):
        of = [[MP.diff(f, point, index) for index in ((2, 0), (1, 1), (1, 1), (0, 2))] for f in (mean, variance)]
        close(posterior_by_hand()[n].flatten(1), tensor([[float(h) for h in row] for row in of]))


@pytest.mark.parametrize("method", ["auto", "taylor"])
def test_a_posterior_at_training_points(method: str) -> None:
    length = tensor(SCALE).requires_grad_()
    found, right = hessian(lambda x: posterior(x, length), method=method)(ROWS), posterior_by_hand(length)
    close(found, right)
    slopes = [torch.autograd.grad(curvature.square().sum(), length)[0] for curvature in (found, right)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_posterior_of_gpytorch() -> None:
    """Its kernels ask what class their inputs are of, so no jets go through it: at training points it is refused."""
    gpytorch = pytest.importorskip("gpytorch", reason="the posterior of gpytorch, where that is installed")

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(TRAINING, TARGETS, gpytorch.likelihoods.GaussianLikelihood())
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), gpytorch.kernels.MaternKernel(nu=2.5)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    model = Model().double()
    model.likelihood.noise, model.covar_module.lengthscale = NOISE, SCALE
    model.eval()
    f = lambda x: torch.stack([model(x).mean, model(x).variance], 1)
    right = posterior_by_hand()
    close(f(ROWS), posterior(ROWS))
    weights = model.prediction_strategy.mean_cache.detach()
    mean = lambda x: matern(torch.cdist(x, TRAINING) / model.covar_module.lengthscale) @ weights
    for method in ("auto", "taylor"):
        close(hessian(f, method=method)(ROWS[-1:]), right[-1:], 1e-8)
        with suppress(UnsupportedOperationError):
            close(hessian(f, method=method)(ROWS), right, 1e-8)
        close(hessian(mean, method=method)(ROWS), right[:, 0], 1e-8)
