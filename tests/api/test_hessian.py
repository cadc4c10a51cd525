"""``hessian``, and ``laplacian`` with its gradient, against closed forms, nested reverse mode and finite differences."""

from __future__ import annotations

import functools
import inspect

import pytest
import torch
from differences import OUTER, stencil
from functions import OldStyle, OnlyOnce
from partial_truth import close, network
from torch import nn
from torch._dynamo.testing import CompileCounter

import jacfunc
from jacfunc import (
    ArgumentTypeError,
    CoupledSamplesError,
    batch_jac,
    explain,
    hessian,
    laplacian,
    make_functional,
)
from jacfunc.call import compiled, run
from jacfunc.call.quantity import WantedEntries
from jacfunc.routes import ROUTES
from jacfunc.routes.hessians import patches

METHODS = ["auto", "taylor", "forward", "reverse"]


def reverse_twice(y, x):
    """``(*O, *I, *I)`` and ``(*O, *I)`` of one sample by ``torch.autograd.grad``, entry by entry, with their graph."""
    firsts, seconds = [], []
    for entry in y.reshape(-1):
        (gradient,) = torch.autograd.grad(entry, x, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:
            gradient = gradient + 0 * x
        firsts.append(gradient)
        for first in gradient.reshape(-1):
            seconds.append(torch.autograd.grad(first, x, create_graph=True, materialize_grads=True)[0])
    shape = (*y.shape, *x.shape)
    return torch.stack(seconds).reshape(*shape, *x.shape), torch.stack(firsts).reshape(shape)


def truth(f, x):
    """Hessian and gradient of each sample of ``x (N, *I)`` by themselves."""
    found = [reverse_twice(f(sample[None])[0], sample) for sample in x.detach().requires_grad_().unbind()]
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def symmetric(found):
    """Of samples that are vectors: exactly."""
    return torch.equal(found, found.mT)


# -------------------------------------------------------------------- values and gradients on every route


@pytest.mark.parametrize("method", METHODS)
def test_closed_forms(method):
    x = torch.randn(5, 2, dtype=torch.double)
    a, b = x.unbind(1)
    f = lambda x: torch.stack([x[:, 0] ** 2 * x[:, 1], x[:, 0] * x[:, 1].sin()], 1)
    found, gradient, value = hessian(f, method=method, return_gradient=True, return_value=True)(x)
    rows = [[2 * b, 2 * a], [2 * a, 0 * a]], [[0 * a, b.cos()], [b.cos(), -a * b.sin()]]
    close(found, torch.stack([torch.stack([torch.stack(row, -1) for row in own], -2) for own in rows], 1))
    close(gradient, torch.stack([torch.stack([2 * a * b, a**2], -1), torch.stack([b.sin(), a * b.cos()], -1)], 1))
    close(value, f(x))
    assert symmetric(found)


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_values_and_parameter_gradients_are_those_of_nested_reverse_mode(method, chunk_size):
    f, params = make_functional(network("tanh", 3, 2))
    x = torch.randn(4, 3, dtype=torch.double)
    found = hessian(f, method=method, chunk_size=chunk_size, return_gradient=True)(params, x)
    known = truth(lambda x: f(params, x), x)
    weights = [torch.randn_like(part) for part in known]
    for own, true in zip(found, known, strict=True):
        close(own, true)
    assert symmetric(found[0])
    assert torch.equal(hessian(f, method=method, chunk_size=chunk_size)(params, x), found[0])
    leaves = list(params.values())
    by_params = [
        torch.autograd.grad(sum((w * part).sum() for w, part in zip(weights, parts, strict=True)), leaves, **UNUSED)
        for parts in (found, known)
    ]
    for own, true in zip(*by_params, strict=True):
        close(own, true, 1e-8)


UNUSED = {"allow_unused": True, "materialize_grads": True}


@pytest.mark.parametrize("method", METHODS)
def test_a_laplacian_comes_with_its_gradient(method):
    f, params = make_functional(network("gelu", 3, 2))
    x = torch.randn(4, 3, dtype=torch.double)
    for chunk_size in (None, 2):
        keywords = {"method": method, "chunk_size": chunk_size}
        found, gradient, value = laplacian(f, return_gradient=True, return_value=True, **keywords)(params, x)
        known, firsts = truth(lambda x: f(params, x), x)
        known = known.diagonal(dim1=-2, dim2=-1).sum(-1)
        close(found, known)
        close(gradient, firsts)
        close(value, f(params, x))
        weights = torch.randn_like(known), torch.randn_like(firsts)
        leaves = list(params.values())
        own, true = (
            torch.autograd.grad((weights[0] * one).sum() + (weights[1] * other).sum(), leaves, **UNUSED)
            for one, other in ((found, gradient), (known, firsts))
        )
        for mine, theirs in zip(own, true, strict=True):
            close(mine, theirs, 1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_layer_norm_is_right_where_torch_func_is_silently_wrong(method):
    net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)).double()
    f, params = make_functional(net)
    x = torch.randn(3, 2, dtype=torch.double)
    jacobian = lambda params, x: truth_of_first(lambda x: f(params, x), x)
    steps = torch.eye(2, dtype=torch.double)

    def differences(params):
        return torch.stack([stencil(lambda h, v=v: jacobian(params, x + h * v), 1e-3) for v in steps], -1)

    found, gradient = hessian(f, method=method, return_gradient=True)(params, x)
    close(found, differences(params), 1e-8)
    close(gradient, jacobian(params, x))
    direction = {name: torch.randn_like(p) for name, p in params.items()}
    weights = torch.randn_like(found)
    moved = lambda h: {name: (p + h * direction[name]).detach() for name, p in params.items()}
    true = stencil(lambda h: (weights * differences(moved(h))).sum(), OUTER)
    own = torch.autograd.grad((weights * found).sum(), list(params.values()), **UNUSED)
    own = sum((g * v).sum() for g, v in zip(own, direction.values(), strict=True))
    assert (own - true).abs() <= 1e-5 * true.abs()


def truth_of_first(f, x):
    """``(N, *O, *I)`` by reverse mode, without a graph."""
    x = x.detach().requires_grad_()
    y = f(x)
    rows = [torch.autograd.grad(y[:, place].sum(), x, retain_graph=True)[0] for place in range(y.shape[1])]
    return torch.stack(rows, 1).detach()


@pytest.mark.parametrize(("route", "method"), [("autograd", "reverse"), ("dual", "forward")])
def test_the_last_resorts_have_hessians_too(route, method, monkeypatch):
    others = [own for own in ROUTES.values() if own.name != method]
    monkeypatch.setattr(run, "make_plan", functools.partial(run.make_plan, routes={own.name: own for own in others}))
    f, params = make_functional(network("tanh", 2, 2))
    x = torch.randn(3, 2, dtype=torch.double)
    known, firsts = truth(lambda x: f(params, x), x)
    for chunk_size in (None, 1):
        keywords = {"method": method, "chunk_size": chunk_size, "return_gradient": True}
        found, gradient = hessian(f, **keywords)(params, x)
        close(found, known)
        close(gradient, firsts)
        assert symmetric(found)
        close(laplacian(f, **keywords)(params, x)[0], known.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(
        torch.autograd.grad(found.sum(), params["0.weight"])[0], torch.autograd.grad(known.sum(), params["0.weight"])[0]
    )
    assert explain(hessian(f, method=method))(params, x).plan.route == route


def test_a_function_in_the_old_style_goes_row_by_row():
    x = torch.randn(3, 2, dtype=torch.double)
    f = lambda x: OldStyle.apply(torch.stack([x[:, 0] * x[:, 1], x[:, 1]], 1)).sum(1)
    transform = hessian(f, return_gradient=True)
    for own, true in zip(transform(x), truth(f, x), strict=True):
        close(own, true)
    assert explain(transform)(x).plan.route == "autograd"


def test_a_backward_without_a_derivative_is_refused():
    with pytest.raises(jacfunc.UnsupportedOperationError):
        hessian(lambda x: OnlyOnce.apply(x.exp()))(torch.randn(3, 2, dtype=torch.double))


# -------------------------------------------------------------------- shapes and trees


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_and_two_sample_axes(method):
    f = lambda x: torch.stack([x.prod(-1), x.sin().sum(-1)], -1)
    x = torch.randn(2, 3, 2, dtype=torch.double)
    known, firsts = truth(f, x.flatten(0, 1))
    found = hessian(f, method=method, batch_dims=2, return_gradient=True)(x)
    close(found[0], known.reshape(2, 3, 2, 2, 2))
    close(found[1], firsts.reshape(2, 3, 2, 2))
    one = hessian(f, method=method, batch_dims=0, return_gradient=True)(x[0, 0])
    close(one[0], known[0])
    close(one[1], firsts[0])
    delta, gradient = laplacian(f, method=method, batch_dims=0, return_gradient=True)(x[0, 0])
    close(delta, known[0].diagonal(dim1=-2, dim2=-1).sum(-1))
    close(gradient, firsts[0])


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("method", METHODS)
def test_trees_and_several_arguments_give_a_block_for_each_pair_of_leaves(method, chunk_size):
    x = {"a": torch.randn(3, 2, 2, dtype=torch.double), "b": torch.randn(3, dtype=torch.double)}
    z = torch.randn(3, 1, dtype=torch.double)

    def f(x, z):
        a, b = x["a"].flatten(1), x["b"]
        return {"u": (a.prod(1) * b + z[:, 0] ** 3 * b), "v": (torch.stack([a.sum(1) * z[:, 0], b**2], 1),)}

    def flat(s):
        y = f({"a": s[:, :4].reshape(-1, 2, 2), "b": s[:, 4]}, s[:, 5:])
        return torch.cat([y["u"][:, None], y["v"][0]], 1)

    keywords = {"argnums": (0, 1), "method": method, "chunk_size": chunk_size}
    found, gradient = hessian(f, return_gradient=True, **keywords)(x, z)
    known, _ = truth(flat, torch.cat([x["a"].flatten(1), x["b"][:, None], z], 1))
    parts = {(0, "a"): (slice(0, 4), (2, 2)), (0, "b"): (slice(4, 5), ()), (1, None): (slice(5, 6), (1,))}
    jacobian = batch_jac(f, argnums=(0, 1))(x, z)
    outputs = ((found["u"], gradient["u"], jacobian["u"], 0), (found["v"][0], gradient["v"][0], jacobian["v"][0], None))
    for blocks, own, first, place in outputs:
        take = (slice(None), 0) if place == 0 else (slice(None), slice(1, 3))
        for row, (rows, shape) in parts.items():
            close(at(own, row), at(first, row))
            for column, (columns, other) in parts.items():
                block = at(at(blocks, row), column)
                true = known[take][..., rows, columns]
                close(block, true.reshape(*true.shape[:-2], *shape, *other))
    delta, gradient = laplacian(f, return_gradient=True, **keywords)(x, z)
    plain = laplacian(f, **keywords)(x, z)
    for own, true in zip([*delta["u"], *delta["v"][0]], [*plain["u"], *plain["v"][0]], strict=True):
        close(own, true)
    close(gradient["v"][0][0]["a"], jacobian["v"][0][0]["a"])


def at(found, leaf):
    number, name = leaf
    return found[number] if name is None else found[number][name]


@pytest.mark.parametrize("method", METHODS)
def test_shapes_at_the_edges(method):
    keywords = {"method": method, "return_gradient": True}
    scalars = torch.randn(4, dtype=torch.double)
    for f, input, output in [
        (torch.sin, scalars, ()),
        (torch.sin, scalars[:, None], (1,)),
        (lambda x: x.sin().sum(1), scalars.reshape(2, 2), ()),
        (lambda x: x.sum(1, keepdim=True).expand(-1, 0) * 2, scalars.reshape(2, 2), (0,)),
        (lambda x: x.sin(), scalars[:0, None].expand(0, 3), (3,)),
        (lambda x: x.new_ones(x.shape[0], 2) * x.sum(1, keepdim=True), scalars[:, None][:, :0], (2,)),
        (lambda x: torch.ones(4, 2).double(), scalars[:, None].expand(4, 3), (2,)),
    ]:
        count, *shape = input.shape
        found, gradient = hessian(f, **keywords)(input)
        assert found.shape == (count, *output, *shape, *shape)
        assert gradient.shape == (count, *output, *shape)
        assert found.dtype == gradient.dtype == torch.double
        close(gradient, batch_jac(f)(input)) if gradient.numel() else None
        delta, gradient = laplacian(f, **keywords)(input)
        assert delta.shape == (count, *output)
        assert gradient.shape == (count, *output, *shape)
        close(delta, laplacian(f)(input)) if delta.numel() else None
    assert not found.any()


@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_does_not_depend_on_x_has_zeros_beside_one_that_does(method):
    x = torch.randn(3, 2, dtype=torch.double)
    f = lambda x: (x.prod(1), torch.ones(3, 2, dtype=torch.double))
    (first, none), (_, zero) = hessian(f, method=method, return_gradient=True)(x)
    close(first, torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double().expand(3, 2, 2))
    assert none.shape == (3, 2, 2, 2) and zero.shape == (3, 2, 2) and not none.any() and not zero.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_coarser_dtypes(dtype, method):
    net = network("tanh", 2, 2)
    x = torch.randn(3, 2, dtype=torch.double).to(dtype)
    known, firsts = hessian(net, return_gradient=True)(x.double())
    net.to(dtype)
    room = 8 * torch.finfo(dtype).eps
    found, gradient = hessian(net, method=method, return_gradient=True)(x)
    delta, other = laplacian(net, method=method, return_gradient=True)(x)
    assert {t.dtype for t in (found, gradient, delta, other)} == {dtype}
    close(found.double(), known, room)
    close(gradient.double(), firsts, room)
    close(other.double(), firsts, room)
    close(delta.double(), known.diagonal(dim1=-2, dim2=-1).sum(-1), room)


@pytest.mark.parametrize("method", METHODS)
def test_a_block_of_leaves_of_two_dtypes_has_the_wider(method):
    x = (torch.randn(3, 2), torch.randn(3, dtype=torch.double))
    f = lambda x: x[0].prod(1).double() * x[1] ** 2
    ((narrow, one), (other, wide)), gradient = hessian(f, method=method, return_gradient=True)(x)
    dtypes = [narrow.dtype, one.dtype, other.dtype, wide.dtype, gradient[0].dtype, gradient[1].dtype]
    assert dtypes == [torch.float, torch.double, torch.double, torch.double, torch.float, torch.double]
    assert torch.equal(one, other)
    close(wide, 2 * x[0].prod(1).double(), 1e-6)
    close(one, 2 * x[1][:, None] * x[0].flip(1), 1e-6)


# -------------------------------------------------------------------- keywords


@pytest.mark.parametrize("transform", [hessian, laplacian])
def test_the_order_of_what_comes_back(transform):
    x = torch.randn(6, 2, dtype=torch.double)
    f = lambda x: (x.prod(1), {"mean": x.mean(1)})
    alone = transform(f, has_aux=True)(x)
    assert len(alone) == 2
    found, gradient, value, aux = transform(f, has_aux=True, return_value=True, return_gradient=True)(x)
    close(found, alone[0])
    close(gradient, x.flip(1))
    close(value, x.prod(1))
    close(aux["mean"], x.mean(1))
    in_blocks = transform(f, has_aux=True, return_value=True, return_gradient=True, sample_chunk_size=4)(x)
    for own, true in zip(in_blocks[:3], (found, gradient, value), strict=True):
        close(own, true)
    close(in_blocks[3]["mean"], aux["mean"])
    scaled = transform(lambda s, x: s * f(x)[0], in_dims=(0, 0), sample_chunk_size=4, return_gradient=True)
    close(scaled(x[:, 0], x)[1], x[:, :1] * x.flip(1))


def test_refusals():
    with pytest.raises(ArgumentTypeError, match=r"return_gradient=3 is not a bool"):
        hessian(torch.sin, return_gradient=3)
    with pytest.raises(ArgumentTypeError, match=r"return_gradient=None is not a bool"):
        laplacian(torch.sin, return_gradient=None)
    with pytest.raises(ArgumentTypeError, match=r"hessian has no keyword 'order'; it takes"):
        hessian(torch.sin, order=3)
    with pytest.raises(ArgumentTypeError, match=r"batch_jac has no keyword 'return_gradient'"):
        batch_jac(torch.sin, return_gradient=True)
    with pytest.raises(ArgumentTypeError, match=r"args\[0\]"):
        hessian(torch.sin)(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(CoupledSamplesError):
        hessian(lambda x: x - x.mean(0))(torch.randn(4, 2))
    with pytest.raises(CoupledSamplesError):
        laplacian(lambda x: x - x.mean(0), return_gradient=True)(torch.randn(4, 2))


@pytest.mark.parametrize("transform", [hessian, laplacian])
def test_help_shows_the_keywords(transform):
    shown = inspect.signature(transform).parameters
    own = [name for name in shown if name not in ("sparsity", "coordinates", "generator")]
    assert own[:4] == ["f", "return_gradient", "segments", "argnums"] and "compile" in shown
    assert shown["return_gradient"].default is False
    assert "return_gradient: also return the first derivatives" in transform.__doc__
    assert repr(transform(torch.sin, return_gradient=True)) == f"{transform.__name__}(sin, return_gradient=True)"


def test_explain_tells_rows_and_route():
    x = torch.randn(3, 4)
    plan = explain(hessian(nn.Linear(4, 5)))(x).plan
    assert (plan.route, plan.rows) == ("taylor", 4 + 10)
    plan = explain(hessian(nn.Linear(4, 1)))(x).plan
    assert (plan.route, plan.rows) == ("reverse", 4)
    for method in METHODS:  # on a trial of a few rows
        assert explain(hessian(lambda x: x.prod(1), method=method, return_gradient=True))(x).samples == 3
    explanation = explain(laplacian(nn.Linear(4, 1), return_gradient=True))(x)
    assert (explanation.plan.route, explanation.plan.rows) == ("taylor", 5)
    assert "laplacian(Linear, return_gradient=True)" in str(explanation)


def test_a_laplacian_alone_takes_the_way_that_it_took():
    plan = explain(laplacian(nn.Linear(3, 1)))(torch.randn(2, 3)).plan
    assert isinstance(plan.wanted, WantedEntries)
    assert (plan.route, plan.rows, plan.cost) == ("taylor", 3, 5.0)


def test_the_value_and_all_derivatives_are_of_one_draw():
    drop = nn.Dropout(0.5)
    f = lambda x: drop(x**3)
    for transform in (hessian, laplacian):
        for method in METHODS:
            found, gradient, value = transform(f, method=method, return_gradient=True, return_value=True)(DRAWN)
            kept = value / DRAWN**3
            close(gradient.diagonal(dim1=-2, dim2=-1), 3 * kept * DRAWN**2)
            seconds = found if transform is laplacian else torch.einsum("niii->ni", found)
            close(seconds, 6 * kept * DRAWN)


DRAWN = torch.linspace(1, 2, 12, dtype=torch.double).reshape(4, 3)


# -------------------------------------------------------------------- inside of others


@pytest.mark.parametrize("method", METHODS)
def test_nested_in_other_transforms(method):
    x = torch.randn(3, 2, dtype=torch.double)
    f = lambda x: x[:, 0] ** 3 * x[:, 1] ** 2
    a, b = x.unbind(1)
    inner = hessian(f, method=method, return_gradient=True)
    thirds, gradients = batch_jac(inner)(x)
    known = torch.stack([6 * b**2, 12 * a * b, 12 * a * b, 6 * a**2, 12 * a * b, 6 * a**2, 6 * a**2, 0 * a], 1)
    close(thirds, known.reshape(3, 2, 2, 2))
    close(gradients, inner(x)[0])
    delta, first = batch_jac(laplacian(f, method=method, return_gradient=True))(x)
    close(delta, thirds.diagonal(dim1=1, dim2=2).sum(-1))
    close(first, inner(x)[0])
    each = torch.func.vmap(lambda x: hessian(f, method=method, check=False)(x[None])[0])(x)
    close(each, inner(x)[0])
    by_x = torch.func.grad(lambda x: inner(x)[0].sum() + inner(x)[1].sum())(x)
    close(by_x, thirds.sum((1, 2)) + inner(x)[0].sum(1))


def test_a_hessian_of_a_laplacian():
    net = network("tanh", 2, 1)
    x = torch.randn(3, 2, dtype=torch.double)
    close(hessian(laplacian(net))(x), laplacian(hessian(net))(x))
    with torch.no_grad():
        close(hessian(net)(x), truth_without_graph(net, x))


def truth_without_graph(f, x):
    with torch.enable_grad():
        return truth(f, x)[0].detach()


@pytest.mark.parametrize("total", [1, 4, 7])
def test_patches_cover_the_triangle_once(total):
    for chunk_size in (None, 1, 3, 8, 9, 14, 1000):
        parts = patches(total, chunk_size)
        chosen = [pair for part in parts for pair in part.chosen]
        assert sorted(chosen) == [(i, j) for i in range(total) for j in range(i, total)]
        for part in parts:
            assert part.layout.sizes == (len(part.coordinates), len(part.chosen))
            assert len(part.indices(total)) == sum(part.layout.sizes)
            assert sum(part.layout.sizes) <= max(chunk_size or 10**9, 3)


# -------------------------------------------------------------------- compiled


def compare(transform, **keywords):
    f, params = make_functional(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double())
    x = torch.randn(4, 2, dtype=torch.double)
    fast = transform(f, return_gradient=True, compile=True, **keywords)
    for own, true in zip(fast(params, x), transform(f, return_gradient=True, **keywords)(params, x), strict=True):
        torch.testing.assert_close(own, true)


@pytest.mark.parametrize("transform", [hessian, pytest.param(laplacian, marks=pytest.mark.slow)])
def test_one_graph_on_jets(transform, monkeypatch):
    counting = CompileCounter()  # a backend in place of one that takes seconds
    monkeypatch.setattr(compiled.torch, "compile", functools.partial(torch.compile, backend=counting))
    torch._dynamo.reset()
    compare(transform, method="taylor")
    assert counting.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", [hessian, laplacian])
def test_every_method_compiled(transform, method):
    compare(transform, method=method)
