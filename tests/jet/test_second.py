"""Rows of the second order without a graph: those of the formula, and gradients as those of what torch records."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from jacfunc import divergence, hess_diag, laplacian, make_functional, partials
from jacfunc.jet import Frame, Jet, Propagation, fused, second
from jacfunc.jet.layout import closed, diagonal, summed

ACTIVATIONS = {
    "sin": torch.sin,
    "cos": torch.cos,
    "silu": F.silu,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "square": torch.square,
    "exp": torch.exp,
}
LAYOUTS = {
    "diagonal": diagonal(2),
    "summed": summed((2,)),
    "more than are squared one by one": summed((second.FEW + 1,)),
    "two groups": summed((2, 1)),
    "burgers": closed(((1, 0), (0, 1), (0, 2))),
    "mixed": closed(((1, 0), (0, 1), (1, 1), (0, 2))),
}


def jet_of(layout, traced, missing=None):
    torch.manual_seed(0)
    rows = [torch.randn(size, 3, 2, dtype=torch.double) for size in layout.sizes]
    if missing is not None:
        rows[missing] = None
    return Jet(torch.randn(3, 2, dtype=torch.double), tuple(rows), Frame(Propagation((3,), traced=traced), layout))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("missing", [None, 0, 1])
def test_rows_without_a_graph_are_those_of_the_formula(name, kind, missing):
    with torch.no_grad():
        jet = jet_of(LAYOUTS[kind], False, missing)
        assert fused.unrecorded(jet)
        apart = jet_of(LAYOUTS[kind], True, missing)
        assert not fused.unrecorded(apart)
    # As a rule runs in a propagation that records nothing.
    apart.frame.propagation.inside = jet.frame.propagation.inside = True
    with torch.no_grad():
        found, expected = ACTIVATIONS[name](jet), ACTIVATIONS[name](apart)
    for one, other in zip(found.coefficients, expected.coefficients, strict=True):
        if one is None or other is None:
            assert one is other or (one if other is None else other).eq(0).all()
        else:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def dense_laplacian(f, x):
    return torch.stack([torch.func.hessian(lambda s: f(s[None])[0, 0])(row).trace() for row in x])


class Wave(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def network(function, inputs=3, outputs=1):
    torch.manual_seed(1)
    sizes = (inputs, 7, 6, outputs)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (torch.nn.Linear(a, b), Wave(function))]
    return torch.nn.Sequential(*layers[:-1]).double()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_gradients_are_those_of_the_dense_hessian(name):
    net = network(ACTIVATIONS[name])
    f, params = make_functional(net)
    x = torch.randn(5, 3, dtype=torch.double)
    expected = dense_laplacian(net, x)
    weights = torch.randn(5, dtype=torch.double)
    leaves = list(net.parameters())
    wanted = torch.autograd.grad((expected * weights).sum(), leaves, materialize_grads=True)
    found = laplacian(f)(params, x).squeeze(-1)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad((found * weights).sum(), leaves, materialize_grads=True)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(laplacian(f)(params, x).squeeze(-1), expected)
        torch.testing.assert_close(hess_diag(f)(params, x).sum((1, 2)), expected)


def test_mixed_derivatives_without_a_graph():
    net = network(torch.sin, 2)
    f, params = make_functional(net)
    x = torch.randn(4, 2, dtype=torch.double)
    hessians = torch.stack([torch.func.hessian(lambda s: net(s[None])[0, 0])(row) for row in x]).detach()
    with torch.no_grad():
        found = partials(f, "u_xy u_yy", inputs="x y", outputs="u")(params, x)
    torch.testing.assert_close(found.u_xy, hessians[:, 0, 1])
    torch.testing.assert_close(found.u_yy, hessians[:, 1, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_far_out(dtype):
    """Torch's own derivatives on either side of its threshold, at infinity, and for what is no number."""
    points = [-1e4, -90.0, -20.0, -1e-30, 0.0, 16.7, 19.999, 20.0, 20.001, 40.0, 1e30, float("inf"), float("-inf")]
    x = torch.tensor([*points, float("nan")], dtype=dtype)[:, None]
    slope = divergence(F.softplus)(x)
    curvature = laplacian(F.softplus)(x)[:, 0]
    given = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(F.softplus(given).sum(), given, create_graph=True)
    (other,) = torch.autograd.grad(first.sum(), given)
    torch.testing.assert_close(slope, first.detach()[:, 0], equal_nan=True, rtol=1e-6, atol=1e-12)
    finite = other.isfinite() | x.isnan()
    torch.testing.assert_close(curvature[finite[:, 0]], other[finite], equal_nan=True, rtol=1e-5, atol=1e-9)
    assert curvature[[7, 8, 9, 10]].eq(0).all()
