"""A small network as one node: values, gradients and gradients of gradients as by operations that autograd records."""

from __future__ import annotations

import itertools

import pytest
import torch
from partial_truth import all_indices

from jacfunc.core import caches
from jacfunc.jet import layout as layouts
from jacfunc.jet.layout import closed, diagonal, first_order, summed
from jacfunc.jet.multiindices import MultiIndices
from jacfunc.jet.network import ONE_HOT, Network, Pick

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
    "dense": closed(tuple(all_indices(2, 5)[1:])),
    "weighted": MultiIndices.around([], [(((2, 0), 1.0), ((0, 2), -4.0))]).layout,
}
FUNCTIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "sin": torch.sin, "exp": torch.exp}
PICKS = (Pick(0, 1, 1), Pick(1, None, 2.0), Pick(2, 0, 1.0), Pick(2, 0, -3.0))


def given(functions, last, seed=0):
    """An input and the weights and biases of its layers, one of them without a bias."""
    torch.manual_seed(seed)
    sizes = [2, 5, 4, 5, 3][: len(functions) + 1 + last]
    tensors = []
    for number, (inner, outer) in enumerate(itertools.pairwise(sizes)):
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
@pytest.mark.parametrize("unrolled", [48, 3])
def test_one_node_is_its_operations(kind, names, start, end, unrolled, monkeypatch):
    monkeypatch.setattr(layouts, "UNROLLED", unrolled)
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


def test_every_kind_of_table_is_in_a_layout_here():
    tables = [table for layout in LAYOUTS.values() for _, table in layout.tables]
    assert any(table.each for table in tables)
    assert any(table.summed for table in tables)
    assert any(table.aligned for table in tables)
    assert any(table.weights for table in tables)
    assert any(len(table.into) > 3 for table in tables if not table.aligned)
    assert len({(table.each, table.summed, table.aligned) for table in tables}) > 3
