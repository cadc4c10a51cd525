"""Rows of an elementwise function as one node: values, gradients and gradients of gradients as by the formula."""

from __future__ import annotations

import pytest
import torch
from partial_truth import all_indices
from torch.nn import functional as F

from jacfunc import hess_diag, laplacian
from jacfunc.jet import Frame, Jet, Propagation, fused
from jacfunc.jet.layout import closed, diagonal, summed
from jacfunc.jet.multiindices import MultiIndices

FUNCTIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "cos": torch.cos,
    "softplus": F.softplus,
    "exp": torch.exp,
    "silu": F.silu,
    "gelu": F.gelu,
    "log": lambda x: (x * x + 1).log(),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "square": torch.square,
}
LAYOUTS = {
    "diagonal": diagonal(2),
    "summed": summed((2,)),
    "two groups": summed((2, 1)),
    "burgers": closed(((1, 0), (0, 1), (0, 2))),
    "kuramoto": closed(((1, 0), (0, 1), (0, 2), (0, 3), (0, 4))),
    "plate": MultiIndices.around([(4, 0), (2, 2), (0, 4)]).layout,
    "all": MultiIndices.around([(2, 1, 0), (1, 1, 1), (0, 0, 3)]).layout,
    "many": MultiIndices.around([(1, 1, 1, 1, 0), (2, 0, 0, 1, 1), (0, 2, 2, 0, 0)]).layout,
    "wave": MultiIndices.around([], [(((2, 0), 1.0), ((0, 2), -4.0))]).layout,
    "biharmonic": MultiIndices.around([], [(((4, 0), 1.0), ((2, 2), 2.0), ((0, 4), 1.0))]).layout,
    "two sums": MultiIndices.around(
        [(1, 0, 0)], [(((0, 0, 3), 1.0), ((0, 3, 0), 0.5), ((0, 1, 0), 2.0)), (((2, 0, 0), 1.0), ((0, 2, 0), 3.0))]
    ).layout,
    # Beyond the size up to which products are taken one by one.
    "dense": closed(tuple(all_indices(4, 4)[1:])),
    "dense sum": MultiIndices.around(
        all_indices(4, 3),
        [tuple((index, 1.0 + place) for place, index in enumerate(all_indices(4, 4)) if sum(index) > 3)],
    ).layout,
}


def carried(function, layout, tensors, apart):
    """The value and rows of a function on a jet of these tensors, as one node, or operation by operation."""
    value, *rows = tensors
    jet = Jet(value, tuple(rows), Frame(Propagation((len(value),), traced=apart), layout))
    result = function(jet)
    return [result.value, *(c for c in result.coefficients if c is not None)]


def tensors_for(layout, shared=False, missing=False):
    rows = [torch.randn(size, 1 if shared else 3, 2, dtype=torch.double) for size in layout.sizes]
    if missing:
        rows[1:] = [None] * (len(rows) - 1)
    return [
        tensor if tensor is None else tensor.requires_grad_()
        for tensor in [torch.randn(3, 2, dtype=torch.double), *rows]
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize(("shared", "missing"), [(False, False), (True, True)])
def test_one_node_is_the_formula(name, kind, shared, missing):
    tensors = tensors_for(LAYOUTS[kind], shared, missing)
    given = [tensor for tensor in tensors if tensor is not None]
    results = []
    for apart in (False, True):
        outputs = carried(FUNCTIONS[name], LAYOUTS[kind], tensors, apart)
        assert (type(outputs[1].grad_fn).__name__ == "_FusedBackward") is not apart
        weights = [
            torch.randn(o.shape, dtype=o.dtype, generator=torch.Generator().manual_seed(k))
            for k, o in enumerate(outputs)
        ]
        gradients = torch.autograd.grad(outputs, given, weights, retain_graph=True)
        again = torch.autograd.grad(outputs, given, weights, create_graph=True)
        seconds = torch.autograd.grad(sum(g.sin().sum() for g in again), given, allow_unused=True)
        results.append([*outputs, *gradients, *again, *seconds])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["kuramoto", "plate"])
@pytest.mark.parametrize("used", [0, 1, -1])
def test_rows_that_nobody_uses(kind, used):
    tensors = tensors_for(LAYOUTS[kind])
    pair = [
        torch.autograd.grad(
            carried(torch.tanh, LAYOUTS[kind], tensors, apart)[used].sum(), tensors, materialize_grads=True
        )
        for apart in (False, True)
    ]
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other)


def test_batched_gradients():
    tensors = tensors_for(LAYOUTS["plate"])
    pair = []
    for apart in (False, True):
        output = carried(torch.tanh, LAYOUTS["plate"], tensors, apart)[-1]
        directions = torch.randn(4, *output.shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        pair.append(torch.autograd.grad(output, tensors, directions, is_grads_batched=True, materialize_grads=True))
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("function", "place"), [(torch.tanh, 1), (F.silu, 0)])
def test_a_change_in_place_is_noticed(function, place):
    moved = [tensor * 1 for tensor in tensors_for(LAYOUTS["burgers"])]
    outputs = carried(function, LAYOUTS["burgers"], moved, False)
    # Of a function with a quadratic slope the results are kept, of others the arguments.
    with torch.no_grad():
        (outputs if place else moved)[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs[2].sum().backward()


def test_a_result_that_is_kept_once_needs_no_arguments():
    tensors = tensors_for(LAYOUTS["burgers"])
    outputs = carried(torch.tanh, LAYOUTS["burgers"], tensors, False)  # which are what is saved
    node = outputs[0].grad_fn
    kept = {tensor.data_ptr() for tensor in node.saved_tensors if tensor is not None}
    assert not kept & {tensor.data_ptr() for tensor in tensors}


@pytest.mark.parametrize(("function", "others"), [(F.silu, 1), (F.softplus, 1), (torch.sin, 2), (F.gelu, 2)])
def test_the_rows_of_the_slope_are_not_kept(function, others):
    """The argument and its rows, the result, and what all derivatives share: a sine's cosine, erf."""
    tensors = tensors_for(LAYOUTS["burgers"])
    outputs = carried(function, LAYOUTS["burgers"], tensors, False)  # one of which is saved too
    node = outputs[0].grad_fn
    assert sum(tensor is not None for tensor in node.saved_tensors) == len(tensors) + others


def test_where_it_does_not_fit():
    value = torch.randn(3, 2, requires_grad=True)
    rows = (torch.randn(2, 3, 2), torch.randn(1, 3, 2))

    def jet(**keywords):
        return Jet(value, rows, Frame(Propagation((3,)), LAYOUTS["burgers"], **keywords))

    assert fused.fits(jet())
    assert not fused.fits(jet(metric=torch.eye(2)))
    assert not fused.fits(Jet(value.detach(), rows, Frame(Propagation((3,)), LAYOUTS["burgers"])))
    with torch.no_grad():
        assert not fused.fits(jet())
    inside = []
    torch.func.grad(lambda x: (inside.append(fused.fits(jet())), x.sum())[1])(value.detach())
    assert inside == [False]


@pytest.mark.parametrize("transform", [laplacian, hess_diag])
def test_gradient_penalties_through_second_derivatives(transform):
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4), torch.nn.GELU(), torch.nn.Linear(4, 1)
    )
    net = net.double()
    x = torch.randn(3, 2, dtype=torch.double, requires_grad=True)
    pair = []
    for method in ("taylor", "reverse"):
        (penalty,) = torch.autograd.grad(transform(net, method=method)(x).square().sum(), x, create_graph=True)
        pair.append(torch.autograd.grad(penalty.square().sum(), list(net.parameters()), materialize_grads=True))
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("outer", [torch.sin, torch.tanh, F.silu])
def test_rows_that_are_computed_of_the_value_are_counted_once(outer):
    x = torch.rand(4, 2, dtype=torch.double) + 0.5
    weight = torch.tensor([1.2, 0.7], dtype=torch.double, requires_grad=True)

    def f(weight, x):
        return outer(torch.softmax(x * weight, -1))

    dense = torch.stack([torch.func.hessian(f, argnums=1)(weight, each) for each in x])
    results = []
    for found in (laplacian(f)(weight, x), dense.diagonal(dim1=-1, dim2=-2).sum(-1)):
        (first,) = torch.autograd.grad(found.square().sum(), weight, create_graph=True)
        results.append((first, *torch.autograd.grad(first.square().sum(), weight)))
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right)
