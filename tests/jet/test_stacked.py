"""Small networks as one node: derivatives and gradients of a transform are those of the dense Jacobian."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from jacfunc import batch_jac, hess_diag, laplacian, make_functional, partials
from jacfunc.jet.network import Network


def mlp(sizes, activation=nn.Tanh, end=False):
    torch.manual_seed(1)
    layers = []
    for inner, outer in itertools.pairwise(sizes):
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
        lambda f: (
            lambda *args: torch.stack(
                list(partials(f, "u u_x u_xy-2*u_xx v_yy", inputs="x y", outputs="u v w")(*args)), 1
            )
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
    through = Network.of
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
