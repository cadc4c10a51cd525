"""``jacfunc/jet/gemm.py``: whichever kernel multiplies, the product and its gradients are the same."""

import pytest
import torch
from torch.nn import functional as F

from jacfunc.core.levels import LEVELS_TRACED
from jacfunc.jet import gemm, kernels

SIZES = [
    ((1000, 64), 128),
    ((7, 300, 64), 96),
    ((3, 4, 128, 64), 64),
    ((9000, 1), 64),
    ((40000, 3), 16),
    ((2003, 64), 64),  # as many as nothing divides
    ((700, 64), 160),  # wide
]


@pytest.fixture
def convolving(monkeypatch):
    """As on a processor where convolutions are faster, with two threads; what was convolved."""
    seen, conv2d, threads = [], F.conv2d, torch.get_num_threads()
    monkeypatch.setitem(kernels.HERE, torch.float32, kernels.MEASURED["AuthenticAMD", "AVX512", torch.float32])
    monkeypatch.setattr(F, "conv2d", lambda image, *rest: (seen.append(image.shape), conv2d(image, *rest))[1])
    torch.set_num_threads(2)
    yield seen
    torch.set_num_threads(threads)
    torch.backends.mkldnn.conv.fp32_precision = "none"


def _operands(shape, m, dtype=torch.float32):
    rows, weight, bias = torch.randn(shape), torch.randn(m, shape[-1]) / shape[-1] ** 0.5, torch.randn(m)
    return tuple(operand.to(dtype).requires_grad_() for operand in (rows, weight, bias))


def _true(operands):
    """Product, gradients and one second derivative of each, in double precision."""
    return _derivatives(F.linear, [operand.detach().double().requires_grad_() for operand in operands])


def _derivatives(product, operands):
    y = product(*operands)
    first = torch.autograd.grad(y.sin().sum(), operands, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), operands)
    return [y, *first, *second]


def _close(found, true):
    for one, other in zip(found, true, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 2e-5 * other.abs().max()


@pytest.mark.parametrize(("shape", "m"), SIZES)
def test_large_products_are_convolutions_with_the_same_derivatives(convolving, shape, m):
    operands = _operands(shape, m)
    found = _derivatives(gemm.linear, operands)
    assert convolving
    assert found[0].is_contiguous()
    _close(found, _true(operands))


def test_rows_need_not_be_contiguous(convolving):
    rows, weight, _ = _operands((64, 9000), 64)
    rows = rows.detach()[:, ::2].t()
    weight = weight.detach()[:, :64]
    _close([gemm.linear(rows, weight)], [rows.double() @ weight.double().t()])
    assert convolving


@pytest.mark.parametrize("of", ["small", "double", "unmeasured", "narrow", "one thread", "off", "coarse", "vmap"])
def test_other_products_are_left_to_torch(convolving, monkeypatch, of):
    rows, weight, bias = _operands((20 if of == "small" else 9000, 64), 8 if of == "narrow" else 64)
    if of == "double":
        rows, weight, bias = (operand.detach().double() for operand in (rows, weight, bias))
    if of == "unmeasured":
        monkeypatch.delitem(kernels.HERE, torch.float32)
    if of == "one thread":
        torch.set_num_threads(1)
    if of == "coarse":
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
    product = torch.vmap(gemm.linear, (0, None, None)) if of == "vmap" else gemm.linear
    # Setting the flag by itself is an error once torch's own tests were imported, as the sweep does.
    with torch.backends.mkldnn.flags(enabled=of != "off", allow_tf32=None, fp32_precision=None):
        assert torch.equal(product(rows[None], weight, bias)[0], F.linear(rows, weight, bias))
    assert not convolving


traced = pytest.mark.skipif(not LEVELS_TRACED, reason="Dynamo of torch < 2.13 cannot tell whether a vmap is around")


@traced
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_products_are_chosen_at_each_call(convolving, dynamic):
    torch.compiler.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    step = torch.compile(lambda *operands: gemm.linear(*operands), fullgraph=True, backend=backend, dynamic=dynamic)
    for n in (9000, 90, 20000):
        operands = _operands((n, 64), 64)
        if dynamic is None:
            torch._dynamo.mark_dynamic(operands[0], 0)
        y = step(*operands)
        _close([y, *torch.autograd.grad(y.sin().sum(), operands)], _true(operands)[:4])
    assert len(graphs) == 1
    counts = [shape[0] * shape[3] for shape in convolving]
    assert counts == [9000, 9000, 20000, 20000]  # forward and gradient by the rows
    assert "product" in graphs[0].code


@traced
@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_only_where_that_pays_too(convolving, monkeypatch, compiled):
    row = kernels.Kernels(kernels.Large(0, 0), compiled=compiled)
    monkeypatch.setitem(kernels.HERE, torch.float32, row)
    rows, weight, bias = _operands((90, 64), 64)
    step = torch.compile(gemm.linear, fullgraph=True, backend="eager")
    _close([step(rows, weight, bias)], _true((rows, weight, bias))[:1])
    assert bool(convolving) is compiled


@traced
def test_compiled_small_layers_and_nested_levels_stay_linear(convolving):
    torch.compiler.reset()

    def codes(function, *args):
        seen = []
        torch.compile(function, backend=lambda graph, _: (seen.append(graph.code), graph)[1], fullgraph=True)(*args)
        return "".join(seen)

    rows, weight, _ = (operand.detach() for operand in _operands((9000, 64), 64))
    assert "jacfunc" in codes(lambda x, w: gemm.linear(x, w), rows, weight)
    assert "jacfunc" not in codes(lambda x, w: gemm.linear(x, w), rows[:, :20], weight[:, :20])
    assert "jacfunc" not in codes(lambda x, w: torch.vmap(lambda row: gemm.linear(row[None], w))(x), rows, weight)


def test_the_operators_keep_what_torch_asks_of_operators(convolving):
    rows, weight, _ = _operands((90, 64), 64)
    torch.library.opcheck(gemm.product, (rows, weight))
    torch.library.opcheck(gemm.outer_product, (rows.detach(), rows.detach(), weight.detach()))
