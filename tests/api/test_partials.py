"""``partials``: against nested reverse mode, and what it takes, gives back and refuses."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import optree
import pytest
import torch
from backends import by_backend, compiling_by
from functions import Cubic
from partial_truth import ACTIVATIONS, all_indices, close, network, truth
from torch import nn
from torch.utils import _pytree

import jacfunc
from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    Derivatives,
    PrecisionWarning,
    ShapeError,
    directional,
    explain,
    make_functional,
    partials,
)
from jacfunc.call.precision import expected_error
from jacfunc.jet.multiindices import MultiIndices

COORDINATES = "txy"


def written(index, output="u"):
    subscript = "".join(name * count for name, count in zip(COORDINATES, index, strict=False))
    return f"{output}_{subscript}" if subscript else output


def made(net, dims, order, outputs="u", method="auto"):
    indices = all_indices(dims, order)
    names = [written(index, output) for output in outputs.split() for index in indices]
    inputs = " ".join(COORDINATES[:dims])
    f, params = make_functional(net)
    return partials(f, " ".join(names), inputs=inputs, outputs=outputs, method=method), params, indices


def compare(net, dims, order, method="auto", room=1e-9):
    """Values, and the gradient by parameters of one weighted sum of them all."""
    compute, params, indices = made(net, dims, order, method=method)
    x = torch.randn(4, dims, dtype=torch.double)
    by_hand = x.clone().requires_grad_()
    wanted = truth(net(by_hand)[:, 0], by_hand, indices)
    found = compute(params, x)
    weights = torch.randn(len(indices), 4, dtype=torch.double)
    for got, index in zip(found, indices, strict=True):
        close(got, wanted[index], room)
    pair = []
    for tensors in (list(found), [wanted[index] for index in indices]):
        # Each in its own unit, so that no order drowns another.
        loss = sum(
            (w * t / wanted[i].detach().abs().max()).sum()
            for w, t, i in zip(weights, tensors, indices, strict=True)
            if wanted[i].abs().max() > 0
        )
        pair.append(torch.autograd.grad(loss, list(params.values()), materialize_grads=True))
    for got, want in zip(*pair, strict=True):
        close(got, want, room)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_partial_up_to_order_four(activation, dims):
    compare(network(activation, dims, 1), dims, 4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("seed", range(1, 6))
def test_every_partial_of_more_networks(activation, dims, seed):
    torch.manual_seed(seed)
    compare(network(activation, dims, 1), dims, 4)


@pytest.mark.parametrize("activation", ["tanh", "sin", "silu", "rational"])
def test_order_six_in_one_dimension(activation):
    compare(network(activation, 1, 1), 1, 6, room=1e-7)


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_route(method, order):
    compare(network("tanh", 2, 1), 2, order, method=method)


class OldCubic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**2


@pytest.mark.parametrize(
    ("function", "route"),
    [(Cubic.apply, ("forward", "reverse")), (OldCubic.apply, ("autograd",)), (lambda x: x**3, ("taylor",))],
)
def test_what_no_jet_goes_through_takes_another_route(function, route):
    x = torch.randn(5, 2, dtype=torch.double)
    f = lambda x: function(x[:, :1] * x[:, 1:])
    compute = partials(f, "u_t u_xx u_txx u_ttt", inputs="t x", outputs="u")
    t, y = x.unbind(1)
    expected = [3 * t**2 * y**3, 6 * t**3 * y, 18 * t**2 * y, 6 * y**3]
    for got, want in zip(compute(x), expected, strict=True):
        close(got, want)
    assert explain(compute)(x).plan.route in route
    with torch.no_grad():
        assert not any(got.requires_grad for got in compute(x))


def test_an_operation_without_a_rule_is_right_at_order_three():
    x = torch.rand(4, 2, dtype=torch.double) + 0.5
    f = lambda x: torch.polygamma(0, x.prod(1))
    by_hand = x.clone().requires_grad_()
    wanted = truth(f(by_hand), by_hand, all_indices(2, 3))
    for method in ("auto", "forward", "reverse"):
        found = partials(f, "u_ttt u_txx", inputs="t x", outputs="u", method=method)(x)
        close(found.u_ttt, wanted[3, 0])
        close(found.u_txx, wanted[1, 2])


def test_a_function_that_treats_jets_otherwise_is_found_out():
    def f(x):
        return x.prod(1) if isinstance(x, torch.Tensor) else x.prod(1) + 1e-2 * (x**3).sum(1)

    compute = partials(f, "u_ttt", inputs="t x", outputs="u")
    x = torch.randn(5, 2, dtype=torch.double)
    close(compute(x).u_ttt, torch.zeros(5, dtype=torch.double))
    assert explain(compute)(x).plan.route != "taylor"


class ByHand(nn.Module):
    """Layer normalisation of primitives: a third derivative of torch's own is wrong."""

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def test_through_a_layer_whose_own_third_derivative_is_wrong():
    first, last = nn.Linear(2, 6).double(), nn.Linear(6, 1).double()
    x = torch.randn(4, 2, dtype=torch.double)
    nets = [nn.Sequential(first, norm, nn.Tanh(), last) for norm in (nn.LayerNorm(6).double(), ByHand())]
    by_hand = x.clone().requires_grad_()
    wanted = truth(nets[1](by_hand)[:, 0], by_hand, all_indices(2, 3))
    plain = truth(nets[0](by_hand)[:, 0], by_hand, all_indices(2, 3))
    assert (plain[1, 2] - wanted[1, 2]).abs().max() > 1e-3
    for method in ("taylor", "forward", "reverse"):
        d = partials(nets[0], "u_txx u_xxx", inputs="t x", outputs="u", method=method)(x)
        close(d.u_txx, wanted[1, 2])
        close(d.u_xxx, wanted[0, 3])


@pytest.mark.parametrize("norm", [nn.Softmax(1), nn.LogSoftmax(1), nn.RMSNorm(6)])
def test_layers_that_are_not_elementwise(norm):
    compare(nn.Sequential(nn.Linear(2, 6), norm, nn.Tanh(), nn.Linear(6, 1)).double(), 2, 3)


def test_a_narrow_layer_is_no_laplacian():
    # Rows (u_t, u_x) and one of second order, behind a layer that is narrower than half of them.
    compare(nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1)).double(), 2, 1)
    net = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    x = torch.randn(4, 2, dtype=torch.double, requires_grad=True)
    wanted = truth(net(x)[:, 0], x, all_indices(2, 2))
    for name, index in (("u_xx", (0, 2)), ("u_tx", (1, 1))):
        (found,) = partials(net, name, inputs="t x", outputs="u")(x.detach())
        close(found, wanted[index])


def test_gradients_of_gradients_by_parameters():
    net = network("tanh", 2, 1)
    compute, params, indices = made(net, 2, 3)
    x = torch.randn(4, 2, dtype=torch.double)
    by_hand = x.clone().requires_grad_()
    wanted = truth(net(by_hand)[:, 0], by_hand, indices)
    weights = list(params.values())
    second = []
    for tensors in (list(compute(params, x)), [wanted[index] for index in indices]):
        loss = sum(tensor.square().sum() for tensor in tensors)
        first = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        second.append(torch.autograd.grad(sum(g.sin().sum() for g in first), weights, materialize_grads=True))
    for got, want in zip(*second, strict=True):
        close(got, want, 1e-8)


def test_gradients_by_the_input():
    net = network("silu", 2, 1)
    compute, params, _ = made(net, 2, 2)
    x = torch.randn(4, 2, dtype=torch.double, requires_grad=True)
    wanted = truth(net(x)[:, 0], x, all_indices(2, 3))
    (by_x,) = torch.autograd.grad(compute(params, x).u_tx.sum(), x)
    close(by_x[:, 1], wanted[1, 2])


# -------------------------------------------------------------------- what goes in


def field(t, x):
    return torch.stack([t**2 * x, torch.sin(t + 2 * x), x**3], -1)


def test_several_outputs():
    tx = torch.randn(5, 2, dtype=torch.double)
    d = partials(lambda tx: field(*tx.unbind(1)), "v_tx u_tt p_xxx p u_x", inputs="t x", outputs="u v p")(tx)
    t, x = tx.unbind(1)
    close(d.v_tx, -2 * torch.sin(t + 2 * x))
    close(d.u_tt, 2 * x)
    close(d.p_xxx, torch.full_like(x, 6.0))
    close(d.p, x**3)
    close(d.u_x, t**2)


@pytest.mark.parametrize("as_", [tuple, list, lambda uvp: dict(zip("puv", (uvp[2], uvp[0], uvp[1]), strict=True))])
@pytest.mark.parametrize("column", [False, True])
def test_outputs_as_a_tuple_or_by_name(as_, column):
    def f(tx):
        return as_([part[:, None] if column else part for part in field(*tx.unbind(1)).unbind(-1)])

    tx = torch.randn(5, 2, dtype=torch.double)
    d = partials(f, "u_tt p_xxx v", inputs="t x", outputs="u v p")(tx)
    close(d.u_tt, 2 * tx[:, 1])
    close(d.p_xxx, torch.full((5,), 6.0, dtype=torch.double))
    assert d.v.shape == (5,)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("argnums", [-1, (-2, -1), (1, 2)])
def test_separate_inputs(shape, argnums):
    t, x = torch.randn(*shape, dtype=torch.double), torch.randn(*shape, dtype=torch.double)
    f = lambda scale, t, x: scale * t**2 * x**3
    d = partials(f, "u u_t u_xx u_tx", inputs="t x", outputs="u", argnums=argnums)(2.0, t, x)
    t, x = t.reshape(5), x.reshape(5)
    close(d.u_xx, 12 * t**2 * x)
    close(d.u_tx, 12 * t * x**2)
    assert torch.equal(d.t, t)
    assert torch.equal(d.x, x)


def test_separate_inputs_of_a_network():
    net = network("tanh", 2, 1)
    tx = torch.randn(5, 2, dtype=torch.double)
    f = lambda t, x: net(torch.cat([t, x], 1))
    one = partials(net, "u_tt u_txx", inputs="t x", outputs="u")(tx)
    for got, want in zip(partials(f, "u_tt u_txx", inputs="t x", outputs="u")(tx[:, :1], tx[:, 1:]), one, strict=True):
        close(got, want)


def test_one_sample_and_two_sample_axes():
    tx = torch.randn(3, 4, 2, dtype=torch.double)
    f = lambda tx: tx[..., 0] * tx[..., 1] ** 2
    d = partials(f, "u u_xx", inputs="t x", outputs="u", batch_dims=2)(tx)
    close(d.u_xx, 2 * tx[..., 0])
    assert d.x.shape == (3, 4)
    d = partials(f, "u u_xx", inputs="t x", outputs="u", batch_dims=0)(tx[0, 0])
    close(d.u_xx, 2 * tx[0, 0, 0])


def test_what_does_not_depend_on_an_input_is_zero():
    tx = torch.randn(4, 2)
    d = partials(lambda tx: tx[:, 1] ** 2, "u_t u_tx u_xx u_xxx", inputs="t x", outputs="u")(tx)
    assert torch.equal(d.u_t, torch.zeros(4))
    assert torch.equal(d.u_tx, torch.zeros(4))
    assert torch.equal(d.u_xxx, torch.zeros(4))
    d = partials(lambda tx: torch.ones(4), "u u_t u_xx", inputs="t x", outputs="u")(tx)
    assert torch.equal(d.u, torch.ones(4))
    assert torch.equal(d.u_xx, torch.zeros(4))


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_no_samples(method):
    d = partials(network("tanh", 2, 1), "u u_xxt", inputs="t x", outputs="u", method=method)
    assert d(torch.empty(0, 2, dtype=torch.double)).u_xxt.shape == (0,)


def test_values_alone():
    net, tx = network("tanh", 2, 1), torch.randn(4, 2, dtype=torch.double)
    (u,) = partials(net, "u", inputs="t x", outputs="u")(tx)
    assert torch.equal(u, net(tx)[:, 0])


def test_values_and_aux_come_last():
    net, tx = network("tanh", 2, 1), torch.randn(4, 2, dtype=torch.double)
    f = lambda tx: (net(tx), {"seen": tx.sum(1)})
    d, value, aux = partials(f, "u_x", inputs="t x", outputs="u", has_aux=True, return_value=True)(tx)
    assert torch.equal(value, net(tx))
    assert torch.equal(aux["seen"], tx.sum(1))
    assert d.u_x.shape == (4,)


@pytest.mark.parametrize("keywords", [{"chunk_size": 2}, {"sample_chunk_size": 2}, {"sample_chunk_size": "auto"}])
def test_chunks_change_nothing(keywords):
    net, tx = network("tanh", 2, 1), torch.randn(5, 2, dtype=torch.double)
    names = "u u_t u_xx u_xxxx u_ttxx"
    whole = partials(net, names, inputs="t x", outputs="u")(tx)
    cut = partials(net, names, inputs="t x", outputs="u", **keywords)(tx)
    for got, want in zip(cut, whole, strict=True):
        close(got, want)


def test_dropout_has_one_mask_for_all_chunks():
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1)).double()
    tx = torch.randn(5, 2, dtype=torch.double)
    found = []
    for chunk_size in (None, 1):
        torch.manual_seed(3)
        found.append(partials(net, "u u_t u_xx u_xxx", inputs="t x", outputs="u", chunk_size=chunk_size)(tx))
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_buffers_and_parameters_stay_as_they_are():
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double().eval()
    before = copy.deepcopy(net.state_dict())
    compute = partials(net, "u_xxx", inputs="t x", outputs="u")
    compute(torch.randn(5, 2, dtype=torch.double))
    net.train()
    with pytest.raises(CoupledSamplesError):
        compute(torch.randn(5, 2, dtype=torch.double))
    with pytest.raises(ShapeError):
        compute(torch.randn(5, 3, dtype=torch.double))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.is_grad_enabled()


# -------------------------------------------------------------------- operator learning


class DeepONet(nn.Module):
    """Functions by 6 sensors, points of two coordinates that all functions share."""

    def __init__(self, outputs=2):
        super().__init__()
        self.branch, self.trunk = network("tanh", 6, 4 * outputs), network("tanh", 2, 4 * outputs)
        self.outputs = outputs

    def forward(self, branch, trunk):
        b = self.branch(branch).reshape(len(branch), self.outputs, 4)
        t = self.trunk(trunk).reshape(len(trunk), self.outputs, 4)
        return torch.einsum("fmk,pmk->fpm", b, t)


@pytest.mark.parametrize("method", ["auto", "forward", "reverse"])
def test_points_that_all_functions_share(method):
    f, params = make_functional(DeepONet())
    branch, trunk = torch.randn(3, 6, dtype=torch.double), torch.randn(5, 2, dtype=torch.double)
    compute = partials(
        f, "u v u_t v_xx u_txx", inputs="t x", outputs="u v", out_dims=1, method=method, return_value=True
    )
    d, value = compute(params, branch, trunk)
    assert torch.equal(value, f(params, branch, trunk))
    assert d.t.shape == (5,)
    assert torch.equal(d.u, value[..., 0])
    for function in range(3):
        alone = partials(
            lambda x, n=function: f(params, branch[n : n + 1], x)[0], "u_t v_xx u_txx", inputs="t x", outputs="u v"
        )
        for name, want in zip(("u_t", "v_xx", "u_txx"), alone(trunk), strict=True):
            assert getattr(d, name).shape == (3, 5)
            close(getattr(d, name)[function], want)


def test_shared_points_in_blocks_and_one_output_without_an_axis():
    f, params = make_functional(DeepONet(1))
    g = lambda params, branch, trunk: f(params, branch, trunk)[..., 0]
    branch, trunk = torch.randn(3, 6, dtype=torch.double), torch.randn(5, 2, dtype=torch.double)
    whole = partials(f, "u u_xx", inputs="t x", outputs="u", out_dims=1)(params, branch, trunk)
    flat = partials(g, "u u_xx", inputs="t x", outputs="u", out_dims=1)(params, branch, trunk)
    cut = partials(f, "u u_xx", inputs="t x", outputs="u", out_dims=1, sample_chunk_size=2, in_dims=(None, None, 0))
    for one, two, three in zip(whole, flat, cut(params, branch, trunk), strict=True):
        assert one.shape == (3, 5)
        close(two, one)
        close(three, one)


def test_points_that_influence_each_other_are_refused():
    f, params = make_functional(DeepONet(1))
    coupled = lambda params, branch, trunk: f(params, branch, trunk - trunk.mean(0))
    with pytest.raises(CoupledSamplesError):
        partials(coupled, "u_x", inputs="t x", outputs="u", out_dims=1)(
            params, torch.randn(3, 6, dtype=torch.double), torch.randn(5, 2, dtype=torch.double)
        )
    # Functions may: the points are the samples.
    mixed = lambda params, branch, trunk: f(params, branch - branch.mean(0), trunk)
    d = partials(mixed, "u_x", inputs="t x", outputs="u", out_dims=1)(
        params, torch.randn(3, 6, dtype=torch.double), torch.randn(5, 2, dtype=torch.double)
    )
    assert d.u_x.shape == (3, 5)


# -------------------------------------------------------------------- what comes back


def test_the_result_unpacks_and_has_names():
    tx = torch.randn(4, 2)
    d = partials(lambda tx: tx[:, 0] * tx[:, 1], "u u_t", inputs="t x", outputs="u")(tx)
    u, u_t = d
    assert u is d.u
    assert u_t is d.u_t
    assert len(d) == 2
    assert d["u_t"] is d.u_t
    assert torch.equal(d["x"], tx[:, 1])
    with pytest.raises(AttributeError, match="'u_x' was not asked for"):
        _ = d["u_x"]
    for wrong in (0, "_names", slice(2)):
        with pytest.raises(TypeError, match=r"derivatives are found by name, as in d\['u'\], not by"):
            _ = d[wrong]
    assert torch.equal(d.t, tx[:, 0])
    assert torch.equal(d.x, tx[:, 1])
    with pytest.raises(AttributeError, match="'u_x' was not asked for; there are u, u_t and the inputs t, x"):
        _ = d.u_x
    assert repr(d) == "Derivatives(u=(4,), u_t=(4,); t, x)"
    again = pickle.loads(pickle.dumps(copy.deepcopy(d)))
    assert torch.equal(again.u_t, d.u_t)


def test_functions_of_names_are_pickled():
    net, x = network("tanh", 2, 1), torch.rand(4, 2, dtype=torch.double)
    for transform in (partials(net, "u u_xx", inputs="t x", outputs="u"), directional(net, 2)):
        args = (x,) if hasattr(transform, "asked") else (x, torch.ones(2, dtype=torch.double))
        again = pickle.loads(pickle.dumps(transform))
        close(torch.stack(list(again(*args))), torch.stack(list(transform(*args))))


def test_any_name_is_good():
    d = partials(lambda x: x[:, :1] * x[:, 1:], "count count_index", inputs="index items", outputs="count")(
        torch.ones(3, 2)
    )
    assert torch.equal(d.count, torch.ones(3))
    assert torch.equal(d.count_index, torch.ones(3))
    assert torch.equal(d.index, torch.ones(3))


def test_the_result_is_a_tree():
    d = partials(lambda tx: tx[:, 0] * tx[:, 1], "u u_t", inputs="t x", outputs="u")(torch.randn(4, 2))
    for twice in (
        _pytree.tree_map(lambda leaf: 2 * leaf, d),
        optree.tree_map(lambda leaf: 2 * leaf, d, namespace="jacfunc"),
    ):
        assert type(twice) is Derivatives
        assert torch.equal(twice.u_t, 2 * d.u_t)
        assert torch.equal(twice.x, 2 * d.x)
        assert [name for name, _ in zip(("u", "u_t"), twice, strict=True)] == ["u", "u_t"]


def test_transforms_over_it():
    net, tx = network("tanh", 2, 1), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net, snapshot=True)
    compute = partials(f, "u u_xx u_xxx", inputs="t x", outputs="u")
    loss = lambda params: sum(tensor.square().sum() for tensor in compute(params, tx))
    by_func = torch.func.grad(loss)(params)
    live = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    by_autograd = torch.autograd.grad(loss(live), list(live.values()), materialize_grads=True)
    for got, want in zip(by_func.values(), by_autograd, strict=True):
        close(got, want)
    ensemble = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in params.items()}
    d = torch.func.vmap(compute, in_dims=(0, None))(ensemble, tx)
    assert type(d) is Derivatives
    close(d.u_xxx[0], compute(params, tx).u_xxx)
    close(d.u_xxx[1], compute({name: 2 * tensor for name, tensor in params.items()}, tx).u_xxx)


@by_backend("eager")
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_compiled(activation, backend):
    net, tx = network(activation, 2, 1), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net)
    compute = partials(f, "u u_t u_xx u_txx", inputs="t x", outputs="u")
    eager = compute(params, tx)
    with compiling_by(backend):
        compiled = torch.compile(lambda params, tx: compute(params, tx), fullgraph=True)(params, tx)
    assert type(compiled) is Derivatives
    assert torch.equal(compiled.x, eager.x)
    for got, want in zip(compiled, eager, strict=True):
        close(got, want)


def test_made_inside_of_what_is_compiled():
    def u_t(tx):
        return partials(lambda tx: tx.prod(1), "u_t", inputs="t x", outputs="u")(tx).u_t

    def transport(tx):
        return jacfunc.residual(lambda tx: tx.prod(1), lambda d: d.u_t - d.u_x, inputs="t x", outputs="u")(tx)

    for made_inside in (u_t, transport):
        with pytest.raises(torch._dynamo.exc.Unsupported, match="partials or residual once before"):
            torch.compile(made_inside, fullgraph=True, backend="eager")(torch.randn(4, 2))


@by_backend("eager")
def test_compile_keyword(backend):
    net, tx = network("tanh", 2, 1), torch.randn(4, 2, dtype=torch.double)
    eager = partials(net, "u u_t u_xx", inputs="t x", outputs="u")(tx)
    compute = partials(net, "u u_t u_xx", inputs="t x", outputs="u", compile=True)
    other = partials(net, "u u_t u_xxx", inputs="t x", outputs="u", compile=True)
    with compiling_by(backend):
        found, third = compute(tx), other(tx).u_xxx
    for got, want in zip(found, eager, strict=True):
        close(got, want)
    close(third, partials(net, "u_xxx", inputs="t x", outputs="u")(tx).u_xxx)


def test_explained():
    net, tx = network("tanh", 2, 1), torch.randn(4, 2, dtype=torch.double)
    text = str(explain(partials(net, "u u_t u_x u_xx", inputs="t x", outputs="u"))(tx))
    assert "partials(Sequential, 'u u_t u_x u_xx', inputs='t x', outputs='u')" in text
    assert "3 in 1 chunk" in text
    assert "about 4 plain forwards" in text


def test_a_gradient_of_many_coordinates_goes_backward():
    net = network("tanh", 30, 1)
    names = [f"x{place}" for place in range(30)]
    compute = partials(net, " ".join(f"u_{name}" for name in names), inputs=" ".join(names), outputs="u")
    x = torch.randn(4, 30, dtype=torch.double)
    close(torch.stack(list(compute(x)), 1), jacfunc.diag_jac(net)(x))
    assert explain(compute)(x).plan.route == "reverse"


# -------------------------------------------------------------------- what is refused, and warned of


def tx_net(outputs=1):
    return network("tanh", 2, outputs), torch.randn(4, 2, dtype=torch.double)


def test_wrong_numbers_are_refused():
    net, tx = tx_net()
    with pytest.raises(ShapeError, match=r"inputs='t x y' names 3, but args\[0\] has 2 coordinates; pass one tensor"):
        partials(net, "u_t", inputs="t x y", outputs="u")(tx)
    with pytest.raises(ShapeError, match=r"outputs='u v' names 2, but f returned 1 \(shape \(N, 1\)\)"):
        partials(net, "u_t", inputs="t x", outputs="u v")(tx)
    with pytest.raises(ShapeError, match="outputs='u v' names 2, but f returned 3 tensors"):
        partials(lambda tx: (tx[:, 0],) * 3, "u_t", inputs="t x", outputs="u v")(tx)
    with pytest.raises(ShapeError, match="f returned a dict of 'p', but outputs='u' names others"):
        partials(lambda tx: {"p": tx[:, 0]}, "u_t", inputs="t x", outputs="u")(tx)
    with pytest.raises(ShapeError, match=r"returned a tensor of shape \(N, 1, 1\); one of shape \(N, 1\) or \(N,\)"):
        partials(lambda tx: tx[:, :1, None], "u_t", inputs="t x", outputs="u")(tx)
    with pytest.raises(ShapeError, match=r"the output 'v' has shape \(N, 2\); in a tuple or dict"):
        partials(lambda tx: (tx[:, 0], tx), "u_t", inputs="t x", outputs="u v")(tx)
    with pytest.raises(ShapeError, match="are not told apart"):
        partials(lambda tx: (tx[:, 0], (tx[:, 1],)), "u_t", inputs="t x", outputs="u v")(tx)
    with pytest.raises(ShapeError, match=r"args\[0\] has sample shape \(1, 2\); inputs are coordinates"):
        partials(lambda x: x.sum((1, 2)), "u_t", inputs="t x", outputs="u")(tx[:, None])
    with pytest.raises(ArgumentTypeError, match=r"args\[0\] is a dict, whose order may not be that of inputs='t x'"):
        partials(lambda x: x["t"] * x["x"], "u_t", inputs="t x", outputs="u")({"t": tx[:, 0], "x": tx[:, 1]})


def test_out_dims_are_checked():
    f, params = make_functional(DeepONet(1))
    branch, trunk = torch.randn(3, 6, dtype=torch.double), torch.randn(5, 2, dtype=torch.double)
    with pytest.raises(
        ShapeError, match=r"output has shape \(3, 5, 1\), but out_dims=2 says that its axis 2 has the 5"
    ):
        partials(f, "u", inputs="t x", outputs="u", out_dims=2)(params, branch, trunk)
    with pytest.raises(
        ShapeError, match=r"or x\[None\] or batch_dims=0 for one sample, or out_dims=1 for samples that lie on a later"
    ):
        partials(f, "u", inputs="t x", outputs="u")(params, branch, trunk)
    with pytest.raises(ArgumentError, match="out_dims=-1 is not the axis"):
        partials(f, "u", inputs="t x", outputs="u", out_dims=-1)
    with pytest.raises(ArgumentError, match="out_dims=1 with batch_dims=2"):
        partials(f, "u", inputs="t x", outputs="u", out_dims=1, batch_dims=2)
    with pytest.raises(ShapeError, match=r"one of shape \(F, N, 2\) was expected"):
        partials(lambda p, b, x: f(p, b, x)[..., 0], "u", inputs="t x", outputs="u v", out_dims=1)(
            params, branch, trunk
        )


def test_coupled_samples_are_refused():
    net, tx = tx_net()
    with pytest.raises(CoupledSamplesError):
        partials(lambda tx: net(tx - tx.mean(0)), "u_t u_xx", inputs="t x", outputs="u")(tx)


def test_keywords_are_those_of_the_transforms():
    with pytest.raises(ArgumentTypeError, match="partials has no keyword 'chunks'"):
        partials(tx_net()[0], "u", inputs="t x", outputs="u", chunks=3)
    with pytest.raises(ArgumentTypeError, match="f is an int"):
        partials(3, "u", inputs="t x", outputs="u")


def test_an_order_that_the_dtype_hardly_carries_is_warned_of_once():
    net = network("tanh", 1, 1).to(torch.bfloat16)
    x = torch.randn(4, 1).to(torch.bfloat16)
    compute = partials(net, "u_xx", inputs="x", outputs="u")
    expected = f"order 2 in torch.bfloat16 has a relative error of about {expected_error(2, torch.bfloat16):.0%}"
    with pytest.warns(PrecisionWarning, match=expected):
        compute(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute(x)
        partials(network("tanh", 1, 1).float(), "u_xxxx", inputs="x", outputs="u")(x.float())


def test_the_expected_error_is_about_the_true_one():
    x = torch.linspace(-1, 1, 200, dtype=torch.double)[:, None]
    names = "u_x u_xx u_xxx u_xxxx u_xxxxx u_xxxxxx"
    factors = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).double()
        exact = partials(net, names, inputs="x", outputs="u")(x)
        rough = partials(copy.deepcopy(net).float(), names, inputs="x", outputs="u")(x.float())
        for order, (one, other) in enumerate(zip(exact, rough, strict=True), start=1):
            error = float((one - other).detach().abs().max() / one.detach().abs().max())
            factors.append(error / expected_error(order, torch.float32))
    assert max(factors) < 3
    assert max(factors) > 0.03


# -------------------------------------------------------------------- sets of multi-indices


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9, 100])
def test_parts_have_all_that_is_wanted(rows):
    wanted = [(0, 0), (1, 0), (0, 2), (2, 2), (4, 0), (0, 3)]
    whole = MultiIndices.around(wanted)
    parts = whole.parts(rows)
    assert set().union(*(part.wanted for part in parts)) == set(wanted)
    for part in parts:
        assert len(part.indices) <= rows or sum(map(any, part.wanted)) >= 1
        below = {index for top in part.wanted for index in itertools.product(*(range(count + 1) for count in top))}
        assert set(part.indices) >= below - {(0, 0)}
    if rows == 100:
        assert parts == (whole,)


def test_a_set_is_no_larger_than_it_has_to_be():
    assert MultiIndices.around([(1, 0), (0, 4)]).indices == ((1, 0), (0, 1), (0, 2), (0, 3), (0, 4))
    assert MultiIndices.around([(0, 2)]).directions == (1,)
    assert MultiIndices.around([(0, 0)]).indices == ((1, 0),)
