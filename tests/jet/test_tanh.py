"""``jacfunc/jet/tanh.py``: whichever kernel computes it, the hyperbolic tangent and its derivatives are the same."""

import pytest
import torch
from torch.autograd import forward_ad

import jacfunc
from jacfunc.core.levels import LEVELS_TRACED
from jacfunc.jet import kernels
from jacfunc.jet import tanh as room

SPECIAL = [
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-45,
    -1e-38,
    1e-30,
    9.1,
    -88.8,
    3e38,
    0.625,
    -0.6249999,
]
UNITS = {"onednn": 1.5, "formula": 2.5}
"""Of ``eps / 2``, by which they may be off; torch's own 1.0."""


@pytest.fixture
def onednn(monkeypatch):
    """As on a processor where oneDNN is faster, for tensors of any size; the shapes it was given."""
    seen, by = [], room._by_onednn
    monkeypatch.setitem(kernels.HERE, torch.float32, kernels.Kernels(tanh=1))
    monkeypatch.setattr(room, "_by_onednn", lambda x: (seen.append(x.shape), by(x))[1])
    return seen


def _range():
    sizes = torch.logspace(-9, 1.5, 2**18)
    return torch.cat([sizes, -sizes, torch.linspace(-10, 10, 2**18), torch.tensor(SPECIAL)])


def _derivatives(function, x):
    y = function(x)
    (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    return y, first, second, third


def _close(found, true):
    for one, other in zip(found, true, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", ["onednn", "formula"])
def test_values_over_the_whole_range(by):
    x = _range()
    found, true = getattr(room, f"_by_{by}" if by == "onednn" else "_formula")(x), torch.tanh(x.double())
    assert found.dtype == torch.float32
    assert torch.equal(found.isnan(), x.isnan())
    ordinary = ~x.isnan() & (x.abs() > 1e-37)
    off = (found.double() - true)[ordinary] / true[ordinary]
    assert off.abs().max() <= UNITS[by] * 2**-24
    tiny = ~x.isnan() & (x.abs() <= 1e-37)
    assert (found - x)[tiny].abs().max() <= 1e-37
    assert torch.equal(found.signbit()[~x.isnan()], x.signbit()[~x.isnan()])
    assert found[~x.isnan()].abs().max() == 1


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (2, 3, 1, 2, 1, 2, 5), (0, 3)])
def test_any_shape_and_derivatives_of_three_orders(onednn, shape):
    x = torch.randn(shape)
    _close(_derivatives(room.tanh, x.clone().requires_grad_()), _derivatives(torch.tanh, x.double().requires_grad_()))
    assert bool(onednn) == bool(x.numel())


def test_entries_need_not_be_contiguous_and_nothing_is_shared(onednn):
    x = torch.randn(40, 30).t()[::2]
    before = x.clone()
    y = room.tanh(x)
    torch.testing.assert_close(y, torch.tanh(x))
    y.zero_()
    assert torch.equal(x, before)
    assert onednn


@pytest.mark.parametrize("of", ["few", "double", "half", "off", "vmap", "jvp", "grad", "dual", "subclass", "fake"])
def test_all_else_is_left_to_torch(onednn, monkeypatch, of):
    x, t = torch.randn(6, 5), torch.randn(6, 5)
    if of == "few":
        monkeypatch.setitem(kernels.HERE, torch.float32, kernels.Kernels(tanh=31))
    if of in ("double", "half"):
        x = x.to({"double": torch.float64, "half": torch.bfloat16}[of])
    if of == "subclass":
        x = torch.nn.Parameter(x)
    with torch.backends.mkldnn.flags(enabled=of != "off", allow_tf32=None, fp32_precision=None):
        if of == "vmap":
            assert torch.equal(torch.vmap(room.tanh)(x), torch.tanh(x))
        elif of == "jvp":
            assert torch.equal(torch.func.jvp(room.tanh, (x,), (t,))[1], torch.func.jvp(torch.tanh, (x,), (t,))[1])
        elif of == "grad":
            found, true = (torch.func.grad(lambda x, by=by: by(x).sum())(x) for by in (room.tanh, torch.tanh))
            assert torch.equal(found, true)
        elif of == "dual":
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(x, t)
                found, true = (forward_ad.unpack_dual(by(dual)).tangent for by in (room.tanh, torch.tanh))
            assert torch.equal(found, true)
        elif of == "fake":
            with torch._subclasses.FakeTensorMode() as mode:
                assert room.tanh(mode.from_tensor(x)).shape == x.shape
        else:
            assert torch.equal(room.tanh(x), torch.tanh(x))
    assert not onednn


traced = pytest.mark.skipif(not LEVELS_TRACED, reason="Dynamo of torch < 2.13 cannot tell whether a vmap is around")


@traced
@pytest.mark.parametrize("gradient", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_it_is_the_formula_and_its_gradient(gradient):
    torch.compiler.reset()
    step = torch.compile(room.tanh, fullgraph=True)
    for n in (3000, 50):
        x = torch.randn(n, 3)
        if not gradient:
            torch.testing.assert_close(step(x).double(), torch.tanh(x.double()), rtol=4e-7, atol=0)
            continue
        x.requires_grad_()
        (found,) = torch.autograd.grad(step(x).sin().sum(), x)
        (true,) = torch.autograd.grad(torch.tanh(x).sin().sum(), x)
        torch.testing.assert_close(found, true)


@traced
@pytest.mark.parametrize("of", ["double", "vmap", "jvp"])
def test_compiled_all_else_is_left_to_torch(of):
    torch.compiler.reset()
    x, t = torch.randn(6, 5), torch.randn(6, 5)
    if of == "double":
        x = x.double()
    by = {
        "double": room.tanh,
        "vmap": torch.vmap(room.tanh),
        "jvp": lambda x: torch.func.jvp(room.tanh, (x,), (t,))[1],
    }[of]
    codes = []
    found = torch.compile(by, backend=lambda graph, _: (codes.append(graph.code), graph)[1], fullgraph=True)(x)
    true = torch.func.jvp(torch.tanh, (x,), (t,))[1] if of == "jvp" else torch.tanh(x)
    torch.testing.assert_close(found, true)
    assert "tanh" in codes[0]
    assert "copysign" not in codes[0]


@pytest.mark.parametrize("compiled", [False, True])
def test_laplacian_and_its_parameter_gradient_by_it(onednn, compiled):
    torch.manual_seed(0)
    torch.compiler.reset()
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    f, params = jacfunc.make_functional(net)
    params = {name: value.detach().requires_grad_() for name, value in params.items()}
    x = torch.randn(200, 2)
    doubles = {name: value.detach().double().requires_grad_() for name, value in params.items()}
    step = jacfunc.laplacian(f, method="taylor", compile=compiled)
    found, true = step(params, x), jacfunc.laplacian(f, method="reverse")(doubles, x.double())
    torch.testing.assert_close(found.double(), true, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(found.square().mean(), list(params.values())[:3])  # it knows no last bias
    truths = torch.autograd.grad(true.square().mean(), list(doubles.values())[:3])
    for one, other in zip(gradients, truths, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    assert onednn or compiled
