"""Results as tensors: contiguous, no more memory than their numbers, whatever transform and route they come from."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from jacfunc import (
    Derivatives,
    batch_jac,
    biharmonic,
    curl,
    diag_jac,
    directional,
    divergence,
    hess_diag,
    laplacian,
    make_functional,
    partials,
)
from jacfunc.call import run

double = torch.float64
X = torch.linspace(-1.0, 1.0, 18, dtype=double).reshape(6, 3)
NET = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def along(f, **keywords):
    return lambda x: directional(f, 2, **keywords)(x, torch.ones(3, dtype=double))


def named(f, **keywords):
    return partials(f, "u u_x v_y w_xz 2*u_x+v_y", inputs="x y z", outputs="u v w", **keywords)


TRANSFORMS = {
    "diag_jac": diag_jac,
    "batch_jac": batch_jac,
    "divergence": divergence,
    "curl": curl,
    "hess_diag": hess_diag,
    "laplacian": laplacian,
    "biharmonic": biharmonic,
    "directional": along,
    "partials": named,
}
FUNCTIONS = {
    "a network": NET,
    "elementwise and coupled": lambda x: x.sin() * x.sum(1, keepdim=True),
    "linear": lambda x: 3 * x,
    "a constant": torch.ones_like,
    "kinks": lambda x: x.abs(),
    "an expanded output": lambda x: x.prod(1, keepdim=True).expand(-1, 3),
    "a transposed output": lambda x: x.t().contiguous().exp().t(),
}


def tensors(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in (result.values() if isinstance(result, dict) else result) for tensor in tensors(part)]


def assert_apart(result):
    found = tensors(result)
    assert found
    for tensor in found:
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert not torch._is_zerotensor(tensor)
        numbers = torch.from_numpy(tensor.detach().numpy().copy())
        assert torch.equal(numbers, tensor.detach())


@pytest.fixture
def only(monkeypatch):
    """Plans with the strategies of one route alone."""

    def choose(route):
        make = run.make_plan

        def made(*args):
            plan = make(*args)
            return replace(plan, strategies=tuple(each for each in plan.strategies if each.route.name == route))

        monkeypatch.setattr(run, "make_plan", made)

    return choose


ROUTES = ["taylor", "forward", "reverse", "dual", "autograd"]
NESTED = [("biharmonic", route) for route in ROUTES[1:]]
"""Whose fourth derivatives take their time."""


@pytest.mark.parametrize(
    ("name", "route"),
    [
        pytest.param(name, route, marks=pytest.mark.slow if (name, route) in NESTED else ())
        for route in ROUTES
        for name in TRANSFORMS
    ],
)
def test_of_every_transform_on_every_route(name, route, only):
    only(route)
    for f in FUNCTIONS.values():
        assert_apart(TRANSFORMS[name](lambda x, f=f: f(x), return_value=True)(X))


@pytest.mark.parametrize("name", ["diag_jac", "batch_jac", "hess_diag", "laplacian", "partials"])
@pytest.mark.parametrize("keywords", [{"chunk_size": 1}, {"sample_chunk_size": 4}, {"has_aux": True}])
def test_in_chunks_in_blocks_and_with_aux(name, keywords):
    for method in ("taylor", "forward", "reverse"):
        f = (lambda x: (NET(x), x.sin())) if "has_aux" in keywords else (lambda x: NET(x))
        assert_apart(TRANSFORMS[name](f, method=method, return_value=True, **keywords)(X))


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
def test_of_trees_and_other_axes(method):
    def tree(x):
        return {"y": x["a"].sin() * x["b"], "z": (x["a"].sum(1), x["b"].square())}

    two = {"a": X, "b": X.cos()}
    for transform in (batch_jac, hess_diag, laplacian):
        assert_apart(transform(tree, method=method, return_value=True)(two))
    assert_apart(batch_jac(lambda x: x.sin(), batch_dims=2, method=method)(X.reshape(3, 2, 3).transpose(0, 1)))
    assert_apart(diag_jac(lambda x: x.sin(), batch_dims=0, method=method)(X[0]))
    assert_apart(batch_jac(lambda x: x.sin(), method=method)(X[:0]))
    functions = partials(
        lambda tx: torch.stack([tx.prod(1), tx.sin().sum(1)]), "u u_t", inputs="t x", outputs="u", out_dims=1,
        method=method, return_value=True,
    )  # fmt: skip
    result, value = functions(X[:, :2])
    assert_apart([result.u, result.u_t, value])


def test_a_diagonal_is_saved_as_large_as_it_is():
    wide = torch.randn(4, 50, dtype=double)
    for f in (lambda x: x.sin() * x.sum(1, keepdim=True), nn.Linear(50, 50).double(), lambda x: x.cumsum(1).sin()):
        for method in ("taylor", "forward", "reverse"):
            file = io.BytesIO()
            torch.save(diag_jac(f, method=method)(wide).detach(), file)
            assert file.getbuffer().nbytes < 2 * wide.numel() * 8


@pytest.mark.parametrize("inner", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("outer", ["taylor", "forward", "reverse"])
def test_derivatives_of_derivatives_that_are_zeros_have_numbers(inner, outer):
    for f in (lambda x: x.abs(), lambda x: torch.relu(x) + x.floor(), lambda x: 2 * x):
        found = diag_jac(diag_jac(f, method=inner), method=outer)(X)
        assert_apart(found)
        assert not found.any()
        assert_apart(laplacian(diag_jac(f, method=inner), method=outer, return_value=True)(X))


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("transform", [diag_jac, batch_jac, hess_diag])
def test_the_graph_is_kept(transform, method):
    f, params = make_functional(NET)
    own = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    weights = torch.randn(transform(f, method=method)(own, X).shape, dtype=double)

    def loss(which):
        return (transform(f, method=which)(own, X) * weights).sum()

    found = torch.autograd.grad(loss(method), own["0.weight"])[0]
    step = torch.zeros_like(found)
    step[1, 2] = 1e-6
    shifted = [({**own, "0.weight": own["0.weight"].detach() + sign * step}) for sign in (1, -1)]
    up, down = [(transform(f, method=method)(p, X) * weights).sum() for p in shifted]
    torch.testing.assert_close(found[1, 2], ((up - down) / 2e-6).detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
def test_inside_transforms_of_torch(method):
    many = torch.stack([X, X.cos()])
    for transform in (diag_jac, batch_jac, laplacian):
        found = torch.func.vmap(transform(FUNCTIONS["a network"], method=method))(many)
        assert_apart(found)
        torch.testing.assert_close(found[1], transform(NET, method=method)(many[1]))
        gradient = torch.func.grad(lambda x, transform=transform: transform(NET, method=method)(x).sum())(X)
        assert_apart(gradient)


def test_in_inference_mode_and_of_named_derivatives():
    with torch.inference_mode():
        assert_apart(batch_jac(NET)(X))
        result = named(NET)(X)
    assert isinstance(result, Derivatives)
    assert_apart(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diag_jac", "batch_jac", "hess_diag", "laplacian", "partials"])
@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
def test_compiled(name, method):
    f, params = make_functional(NET)
    plain = {key: value.detach() for key, value in params.items()}
    eager = TRANSFORMS[name](f, method=method, return_value=True)(plain, X)
    found = TRANSFORMS[name](f, method=method, return_value=True, compile=True)(plain, X)
    assert_apart(found)
    for one, other in zip(tensors(found), tensors(eager), strict=True):
        torch.testing.assert_close(one, other)
