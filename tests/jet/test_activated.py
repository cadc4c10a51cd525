"""``jacfunc/jet/activated.py``: an activation and the layer after it as one node of a compiled graph change no number."""

from __future__ import annotations

import pytest
import torch
from test_fused import FUNCTIONS, LAYOUTS, tensors_for
from torch import nn
from torch._dynamo.backends.registry import lookup_backend
from torch.nn import functional as F

from jacfunc import batch_jac, hess_diag, laplacian, make_functional, partials
from jacfunc.core.levels import LEVELS_TRACED
from jacfunc.jet import Frame, Jet, Propagation, activated, build, gemm, kernels
from jacfunc.jet.jet import _at_once
from jacfunc.jet.layout import closed, diagonal, first_order, summed

traced = pytest.mark.skipif(not LEVELS_TRACED, reason="Dynamo of torch < 2.13 cannot tell whether a vmap is around")
KINDS = {
    **LAYOUTS,
    "first": first_order(2),
    "many directions": first_order(9),
    "many summed": summed((9,)),
    "many diagonal": diagonal(9),
}
SMOOTH = [name for name in FUNCTIONS if name not in ("log", "sqrt")]  # whose argument is another function's result


def _jet(function, layout, tensors):
    value, *rows = tensors
    return function(Jet(value, tuple(rows), Frame(Propagation((3,), traced=True), layout)))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shared", "missing"), [(False, False), (True, True)])
def test_one_node_is_the_function_and_the_product(monkeypatch, name, kind, shared, missing):
    monkeypatch.setattr(build, "compiling", lambda: True)
    layout = KINDS[kind]
    tensors = tensors_for(layout, shared, missing)
    weight = torch.randn(4, 2, dtype=torch.double, requires_grad=True)
    given = [weight, *[tensor for tensor in tensors if tensor is not None]]
    jet = _jet(FUNCTIONS[name], layout, tensors)
    if None in jet.coefficients:  # as of squares, of what has no higher rows
        assert _at_once(jet, weight) is None  # multiplied apart
        return
    node = jet.activated.multiplied(weight)
    if kind.startswith("dense"):  # beyond the size up to which products are taken one by one
        assert node is None
        return
    value, rows = node
    by_node = [value, *rows]
    apart = [jet.value @ weight.t(), *[c @ weight.t() for c in jet.coefficients]]
    cotangents = [torch.randn_like(part) for part in apart]
    found = torch.autograd.grad(by_node, given, cotangents)
    true = torch.autograd.grad(apart, given, cotangents)
    for one, other in zip([*by_node, *found], [*apart, *true], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_of_a_quadratic_only_the_result_is_kept(monkeypatch):
    monkeypatch.setattr(build, "compiling", lambda: True)
    kept = {}
    for name in ("tanh", "sin"):
        tensors = tensors_for(LAYOUTS["burgers"])
        weight = torch.randn(4, 2, dtype=torch.double)
        value, _ = _jet(FUNCTIONS[name], LAYOUTS["burgers"], tensors).activated.multiplied(weight)
        node = value.grad_fn
        while not hasattr(node, "saved_tensors"):
            node = node.next_functions[0][0]
        kept[name] = {t.data_ptr() for t in node.saved_tensors} & {t.data_ptr() for t in tensors}
    assert not kept["tanh"]
    assert len(kept["sin"]) == 3


def test_only_what_dominates_is_put_together():
    def parts(*sizes):
        return [torch.arange(size * 2.0).reshape(size, 2) for size in sizes]

    for sizes, count in [((1, 10, 1), 1), ((1, 100), 1), ((1, 2, 1), 3), ((1, 9, 9), 3), ((1,), 1)]:
        together = gemm.put_together(parts(*sizes))
        assert len(together) == count
        for one, other in zip(gemm.taken_apart(together, sizes[1:]), parts(*sizes), strict=True):
            assert torch.equal(one, other)


# -------------------------------------------------------------------- compiled


class Residual(nn.Module):
    """Activations that are used beside the next layer, changed in place before it, or by two layers."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third = nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.last = nn.Linear(32, 1)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        z = self.second(h)
        if self.kind == "skipped":
            return self.last(torch.tanh(z) + h)
        if self.kind == "in place":
            k = torch.sigmoid(z)
            k *= h
            return self.last(torch.tanh(self.third(k)))
        if self.kind == "argument in place":
            k = torch.sin(z)
            z.mul_(2.0)
            k = torch.tanh(self.third(k) + z)
            return self.last(k)
        if self.kind == "twice":
            k = torch.sin(z)
            return self.last(torch.tanh(self.third(k)) * torch.tanh(self.second(k)))
        k = torch.tanh(z)
        with torch.no_grad():
            k = k + torch.tanh(self.third(k)) * 0.5
        return self.last(k + torch.tanh(self.third(h)))


class Beside(nn.ModuleList):
    """Several networks of one input."""

    def __init__(self, *parts):
        super().__init__(parts)

    def forward(self, x):
        return torch.cat([part(x) for part in self], 1)


def _plain(activation, outputs=1):
    return nn.Sequential(nn.Linear(3, 32), activation, nn.Linear(32, 48), activation, nn.Linear(48, outputs))


def _mixed(f, method="taylor"):
    wanted = partials(f, "u_xxyy u_xyz u_zz v_xy", inputs="x y z", outputs="u v", method=method)
    return lambda params, x: torch.stack(list(wanted(params, x)), 1)


def _gradients(transform, net, x, backend=None):
    f, params = make_functional(net)
    derivative = transform(f, method="taylor")

    def loss(params, x):
        return derivative(params, x).sin().mean()

    call = torch.compile(loss, backend=backend, fullgraph=True) if backend else loss
    value = call(params, x)
    by = [tensor for tensor in (*params.values(), x) if tensor.requires_grad]
    return [value, *torch.autograd.grad(value, by, allow_unused=True, materialize_grads=True)]


def _agree(transform, net, x, backend):
    """Compiled in single precision, and not compiled in double."""
    found = _gradients(transform, net, x, backend)
    true = _gradients(transform, net.double(), x.detach().double().requires_grad_(x.requires_grad))
    for one, other in zip(found, true, strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(other.abs().max(), 0.01)


class Backend:
    """AOTAutograd, and how many nodes of ours there are in each graph."""

    def __init__(self):
        self.nodes = []

    def __call__(self, graph, inputs):
        self.nodes.append(sum("outer_product" in child.code for child in graph.children()))
        return lookup_backend("aot_eager")(graph, inputs)


@pytest.fixture
def backend(monkeypatch):
    """As on a processor where convolutions are faster."""
    torch.compiler.reset()
    monkeypatch.setitem(kernels.HERE, torch.float32, kernels.MEASURED["AuthenticAMD", "AVX512", torch.float32])
    return Backend()


ACTIVATIONS = [nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU()]
WITH_EACH = [laplacian, hess_diag, batch_jac, _mixed]
PAIRS = [
    pytest.param(transform, activation, marks=[] if place + other == 3 and place < 3 else pytest.mark.slow)
    for place, transform in enumerate(WITH_EACH)
    for other, activation in enumerate(ACTIVATIONS)
]


@traced
@pytest.mark.parametrize(("transform", "activation"), PAIRS)
def test_compiled_gradients(backend, transform, activation):
    net = _plain(activation, 2)
    _agree(transform, net, torch.randn(7, 3, requires_grad=type(activation) is nn.SiLU), backend)
    assert backend.nodes == [1]


NODES = {"skipped": 1, "in place": 1, "argument in place": 2, "twice": 3, "constant": 2}
TOGETHER = [kind for kind in NODES if kind != "constant"]


@pytest.mark.slow
@traced
def test_activations_that_are_used_otherwise_too(backend):
    """In one graph, as most of a compilation is what they share."""
    _agree(laplacian, Beside(*map(Residual, TOGETHER)), torch.randn(7, 3, requires_grad=True), backend)
    assert backend.nodes == [sum(map(NODES.get, TOGETHER))]


@traced
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in TOGETHER)) for kind in NODES])
def test_each_activation_that_is_used_otherwise_too(backend, kind):
    _agree(laplacian, Residual(kind), torch.randn(7, 3, requires_grad=True), backend)
    assert backend.nodes == [NODES[kind]]


@traced
def test_frozen_and_tied_layers(backend):
    net = nn.Sequential(*list(_plain(nn.Tanh()))[:-1], nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 1))
    net[2].requires_grad_(False)
    net[0].bias.requires_grad_(False)
    _agree(laplacian, net, torch.randn(7, 3), backend)
    net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), layer := nn.Linear(32, 32), nn.Tanh(), layer, nn.Tanh())
    _agree(laplacian, net.append(nn.Linear(32, 1)), torch.randn(7, 3), backend)
    assert backend.nodes == [2, 2]


@traced
@pytest.mark.parametrize("activation", [nn.Tanh(), pytest.param(nn.GELU(), marks=pytest.mark.slow)])
def test_one_graph_for_several_batch_sizes_and_no_node_without_gradients(backend, activation):
    f, params = make_functional(_plain(activation))
    derivative = laplacian(f)
    call = torch.compile(lambda params, x: derivative(params, x), fullgraph=True, backend=backend, dynamic=True)
    for n in (5, 700):
        x = torch.randn(n, 3)
        pair = [by(params, x) for by in (call, derivative)]
        pair += [torch.autograd.grad(y.square().mean(), params["2.weight"])[0] for y in pair]
        torch.testing.assert_close(pair[0], pair[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pair[2], pair[3], rtol=1e-4, atol=1e-6)
    assert backend.nodes == [1]
    with torch.no_grad():
        call(params, x)
    assert backend.nodes == [1, 0]


@pytest.mark.parametrize("kind", ["diagonal", "summed", "burgers", "mixed", "first order"])
@pytest.mark.parametrize("function", [torch.sin, torch.cos, F.silu, F.gelu, F.softplus, torch.tanh, torch.square])
@pytest.mark.parametrize("missing", [False, True])
def test_few_rows_one_by_one_are_the_stacks(monkeypatch, kind, function, missing):
    """With gradients, as one loop of a compiled graph has them."""
    layouts = {
        "diagonal": diagonal(2),
        "summed": summed((3,)),
        "burgers": closed(((1, 0), (0, 1), (0, 2))),
        "mixed": closed(((1, 0), (0, 1), (1, 1), (0, 2))),
        "first order": closed(((1, 0), (0, 1))),
    }
    layout = layouts[kind]
    monkeypatch.setattr("jacfunc.jet.build.compiling", lambda: True)
    rows = [torch.randn(size, 4, 3, dtype=torch.double, requires_grad=True) for size in layout.sizes]
    given = [torch.randn(4, 3, dtype=torch.double, requires_grad=True), *rows]
    kept = [rows[0], *([None] if missing else [rows[1]])] if layout.order > 1 else rows
    z = function(Jet(given[0], tuple(kept), Frame(Propagation((4,), traced=True), layout)))
    found = z.activated.row_by_row()
    assert found is not None
    weights = [torch.randn_like(one) for one in z.coefficients]
    pair = []
    for coefficients in (found, z.coefficients):
        loss = sum((one * weight).sum() for one, weight in zip(coefficients, weights, strict=True))
        pair.append([*coefficients, *torch.autograd.grad(loss, given, retain_graph=True, materialize_grads=True)])
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_many_rows_and_those_of_higher_orders_stay_stacks(monkeypatch):
    monkeypatch.setattr("jacfunc.jet.build.compiling", lambda: True)
    for layout in (summed((activated.FEW + 1,)), closed(((1, 0), (0, 1), (0, 2), (0, 3)))):
        rows = tuple([torch.randn(size, 4, 3) for size in layout.sizes])
        z = torch.sin(Jet(torch.randn(4, 3), rows, Frame(Propagation((4,), traced=True), layout)))
        assert z.activated.row_by_row() is None
