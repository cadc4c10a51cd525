"""A small network as one node: values, gradients and gradients of gradients as by operations that autograd records."""

from __future__ import annotations

import pytest
import torch
from partial_truth import all_indices
from torch import nn

from jacfunc import batch_jac, diag_jac, hess_diag, laplacian, make_functional, partials
from jacfunc.core import caches
from jacfunc.jet import stacked
from jacfunc.jet.layout import UNROLLED, closed, diagonal, first_order, summed
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.jet.stacked import ONE_HOT, Network, Pick

LAYOUTS = {
    "first": first_order(2),
    "diagonal": diagonal(2),
    "summed": summed((2,)),
    "two groups": summed((1, 1)),
    "burgers": closed(((1, 0), (0, 1), (0, 2))),
    "kuramoto": closed(((1, 0), (0, 1), (0, 2), (0, 3), (0, 4))),
    "plate": MultiIndices.around([(4, 0), (2, 2), (0, 4)]).layout,
    "biharmonic": MultiIndices.around([], [(((4, 0), 1.0), ((2, 2), 2.0), ((0, 4), 1.0))]).layout,
    "third": MultiIndices.around([(2, 1), (0, 3)]).layout,
    # Beyond the size up to which products are taken one by one.
    "dense": closed(tuple(all_indices(2, 6)[1:])),
    "weighted": MultiIndices.around([], [(((2, 0), 1.0), ((0, 2), -4.0))]).layout,
}
FUNCTIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "sin": torch.sin, "exp": torch.exp}
PICKS = (Pick(0, 1, 1), Pick(1, None, 2.0), Pick(2, 0, 1.0), Pick(2, 0, -3.0))


def given(functions, last, seed=0):
    """An input and the weights and biases of its layers, one of them without a bias."""
    torch.manual_seed(seed)
    sizes = [2, 5, 4, 5, 3][: len(functions) + 1 + last]
    tensors = []
    for number, (inner, outer) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        tensors += [torch.randn(outer, inner) * 0.5, None if number == 1 else torch.randn(outer)]
    tensors = [torch.randn(6, 2), *tensors]
    return [None if tensor is None else tensor.double().requires_grad_() for tensor in tensors]


def rows_of(kind, layout):
    if kind == "one-hot":
        return (ONE_HOT, *[None] * (layout.order - 1))
    return tuple([torch.randn(size, 1, 2, dtype=torch.double) for size in layout.sizes])


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("names", [("tanh",), ("tanh", "sigmoid", "tanh"), ("sin", "tanh"), ("sigmoid", "exp")])
@pytest.mark.parametrize("start", ["one-hot", "any rows"])
@pytest.mark.parametrize("end", ["activation", "linear", "picked"])
def test_one_node_is_its_operations(kind, names, start, end):
    layout, functions = LAYOUTS[kind], [caches.RULES[FUNCTIONS[name]][0].whole for name in names]
    tensors = given(functions, end != "activation")
    picks = PICKS if end == "picked" else ()
    one = torch.ones(1, 1, 1, dtype=torch.double)
    network = Network(layout, rows_of(start, layout), tuple(functions), one, picks)
    by = [tensor for tensor in tensors if tensor is not None]
    results = []
    for run in (network.of, network._by_operations):
        outputs = run(tensors[0], tensors[1:])
        kept = [output for output in outputs if output is not None]
        weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(o.numel())).double() for o in kept]
        loss = sum((o.sin() * w).sum() for o, w in zip(kept, weights, strict=True))
        first = torch.autograd.grad(loss, by, retain_graph=True, allow_unused=True)
        again = torch.autograd.grad(loss, by, create_graph=True, allow_unused=True)
        second = torch.autograd.grad(sum((g * g.cos()).sum() for g in again if g is not None), by, allow_unused=True)
        for one_way, other in zip(first, again, strict=True):
            torch.testing.assert_close(one_way, other, rtol=1e-9, atol=1e-9)
        results.append([outputs, first, second])
    assert "_Node" in type(network.of(tensors[0], tensors[1:])[0].grad_fn).__name__
    for mine, other in zip(*results, strict=True):
        for left, right in zip(mine, other, strict=True):
            if left is None or right is None:
                found = left if right is None else right
                assert found is None or not found.any()
            else:
                torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("needed", range(7))
def test_only_what_is_asked_for_has_a_gradient(needed):
    functions = [caches.RULES[torch.tanh][0].whole] * 2
    tensors = [None if t is None else t.detach() for t in given(functions, True)]
    if tensors[needed] is None:
        return
    tensors[needed].requires_grad_()
    layout = LAYOUTS["burgers"]
    network = Network(layout, rows_of("one-hot", layout), tuple(functions), torch.ones(1, 1, 1).double())
    grads = []
    for run in (network.of, network._by_operations):
        loss = sum(o.square().sum() for o in run(tensors[0], tensors[1:]) if o is not None)
        grads.append(torch.autograd.grad(loss, tensors[needed])[0])
    torch.testing.assert_close(*grads)


def mlp(sizes, activation=nn.Tanh, end=False):
    torch.manual_seed(1)
    layers = []
    for inner, outer in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*(layers if end else layers[:-1])).double()


def dense(net, x, order):
    """The derivatives of every output of every sample by all coordinates, by nested reverse mode."""

    def single(x):
        return net(x[None])[0]

    for _ in range(order):
        single = torch.func.jacrev(single)
    return torch.stack([single(each) for each in x])


TRANSFORMS = {
    "laplacian": (laplacian, lambda net, x: dense(net, x, 2).diagonal(dim1=-1, dim2=-2).sum(-1)),
    "hess_diag": (hess_diag, lambda net, x: dense(net, x, 2).diagonal(dim1=-1, dim2=-2)),
    "batch_jac": (batch_jac, lambda net, x: dense(net, x, 1)),
    "partials": (
        lambda f: lambda *args: torch.stack(
            list(partials(f, "u u_x u_xy-2*u_xx v_yy", inputs="x y", outputs="u v w")(*args)), 1
        ),
        lambda net, x: torch.stack(
            [
                net(x)[:, 0],
                dense(net, x, 1)[:, 0, 0],
                dense(net, x, 2)[:, 0, 0, 1] - 2 * dense(net, x, 2)[:, 0, 0, 0],
                dense(net, x, 2)[:, 1, 1, 1],
            ],
            1,
        ),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.SiLU])
@pytest.mark.parametrize("end", [False, True])
def test_transforms_by_stacks_are_those_of_the_dense_jacobian(name, activation, end, monkeypatch):
    made, truth = TRANSFORMS[name]
    net, x = mlp([2, 6, 5, 3], activation, end), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net)
    ran = []
    through = stacked.Network.of
    monkeypatch.setattr(Network, "of", lambda self, *args: ran.append(self) or through(self, *args))
    transform = made(f)
    for _ in range(3):  # checked, known, and known again
        ran.clear()
        found, expected = transform(params, x), truth(net, x)
        torch.testing.assert_close(found, expected)
        for left, right in zip(gradients(found, params), gradients(expected, params), strict=True):
            torch.testing.assert_close(left, right)
    assert ran


def gradients(found, params):
    grads = torch.autograd.grad(found.square().sum() + found.sin().sum(), list(params.values()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), grads, strict=True)]


def test_gradients_by_the_input_and_of_the_second_order():
    net, x = mlp([2, 6, 5, 1]), torch.randn(4, 2, dtype=torch.double, requires_grad=True)
    f, params = make_functional(net)
    transform = laplacian(f)
    by = [x, *params.values()][:-1]
    for _ in range(3):
        results = []
        for found in (transform(params, x), dense(net, x, 2).diagonal(dim1=-1, dim2=-2).sum(-1)):
            first = torch.autograd.grad(found.sin().sum(), by, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), by)
            results.append([*first, *second])
        for left, right in zip(*results, strict=True):
            torch.testing.assert_close(left, right)


def test_a_parameter_computed_of_another_is_counted_once():
    net, x = mlp([2, 6, 6, 1]), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net, snapshot=True)
    transform, grads = laplacian(f), []
    weight = params["2.weight"].requires_grad_()
    for how in (transform, transform, lambda p, x: dense(lambda x: f(p, x), x, 2).diagonal(dim1=-1, dim2=-2).sum(-1)):
        given = {**params, "2.weight": weight, "0.bias": weight.sum(1), "2.bias": weight.sin().sum(0)}
        (first,) = torch.autograd.grad(how(given, x).sin().sum(), weight, create_graph=True)
        grads.append(torch.stack([first, *torch.autograd.grad(first.square().sum(), weight)]))
    torch.testing.assert_close(grads[0], grads[2])
    torch.testing.assert_close(grads[1], grads[2])


def test_batched_cotangents_go_by_operations():
    net, x = mlp([2, 6, 5, 1]), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net)
    transform = laplacian(f)
    for _ in range(3):
        found = transform(params, x)[:, 0]
        rows = torch.eye(4, dtype=torch.double)
        by = list(params.values())[:-1]
        batched = torch.autograd.grad(found, by, rows, is_grads_batched=True, retain_graph=True)
        for place, row in enumerate(rows):
            for many, one in zip(batched, torch.autograd.grad(found, by, row, retain_graph=True), strict=True):
                torch.testing.assert_close(many[place], one)


def test_weights_that_change_before_the_backward_are_refused():
    net, x = mlp([2, 6, 5, 1]), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net)
    for _ in range(3):
        found = laplacian(f)(params, x)
        with torch.no_grad():
            net[2].weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            found.sum().backward()


def test_results_may_be_changed_in_place():
    net, x = mlp([2, 6, 5, 1]), torch.randn(4, 2, dtype=torch.double)
    f, params = make_functional(net)
    call = partials(f, "u u_x u_xx", inputs="x y", outputs="u")
    for _ in range(3):
        u, u_x, u_xx = call(params, x)
        loss = (u_x * u_x).sum() + (u_xx * u).sum()
        expected = torch.autograd.grad(loss, params["0.weight"], retain_graph=True)[0]
        u_x.mul_(1)  # used before: its own numbers only are others now
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            torch.autograd.grad(loss, params["0.weight"])
        u, u_x, u_xx = call(params, x)
        u += 1
        u_x *= 2
        torch.testing.assert_close(
            torch.autograd.grad((u_x * u_x).sum() / 4 + (u_xx * (u - 1)).sum(), params["0.weight"])[0], expected
        )


def test_every_kind_of_table_is_in_a_layout_here():
    tables = [table for layout in LAYOUTS.values() for _, table in layout.tables]
    assert any(table.each for table in tables)
    assert any(table.summed for table in tables)
    assert any(table.aligned for table in tables)
    assert any(table.weights for table in tables)
    assert any(len(table.into) > UNROLLED for table in tables)
    assert len({(table.each, table.summed, table.aligned) for table in tables}) > 3
