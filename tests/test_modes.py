"""dtypes, autocast, deterministic mode, constants, in-place operations and views: one answer on every route."""

from __future__ import annotations

import math

import dense
import pytest
import torch
from quick import mostly_slow
from torch import nn

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, hess_diag, laplacian, make_functional


def nested(f, **options):
    return diag_jac(diag_jac(f, **options), **options)


METHODS = ["auto", "taylor", "forward", "reverse"]
TRANSFORMS = [diag_jac, batch_jac, hess_diag, laplacian, nested]
each = pytest.mark.parametrize("transform", TRANSFORMS)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
by_every_method = pytest.mark.parametrize("method", METHODS)


def batch():
    return torch.linspace(-1.3, 1.7, 12, dtype=torch.float64).reshape(4, 3)


@by_every_method
@each
@pytest.mark.parametrize("dtype", mostly_slow(DTYPES, [torch.float16, torch.float32, torch.float64]))
def test_a_derivative_has_the_dtype_of_its_input(dtype, transform, method):
    x = torch.linspace(0.1, 1, 4, dtype=dtype)
    double = torch.tensor(2.0, dtype=torch.float64)
    for f in (
        lambda t: (t + 1.0).sin() * 2,
        lambda t: (t * double).sin(),
        lambda t: (t.double() + 1).sin().to(t.dtype),
    ):
        found = transform(f, method=method)(x)
        assert found.dtype == dtype
        assert found.shape == x.shape
    if dtype == torch.float32:
        with_double_output = transform(lambda t: t.double().sin(), method=method)(x)
        truth = {diag_jac: x.cos(), batch_jac: x.cos()}.get(transform, -x.sin())
        torch.testing.assert_close(with_double_output, truth)


def unrecorded(x):
    with torch.no_grad():
        c = x.exp()
    return c * x


CONSTANT_PARTS = {
    "no_grad": (unrecorded, torch.exp),
    "detach": (lambda x: x.detach().exp() * x, torch.exp),
    "data": (lambda x: x.data.exp() * x, torch.exp),
    "round": (lambda x: x.round() * x, torch.round),
    "floor": (lambda x: x.floor() * x, torch.floor),
    "sign": (lambda x: x.sign() * x, torch.sign),
    "comparison": (lambda x: (x > 0.5) * x, lambda x: (x > 0.5).to(x.dtype)),
    "item": (lambda x: math.exp(float(x.detach()[0, 0])) * x, lambda x: torch.exp(x[0, 0]).expand(x.shape)),
}


@by_every_method
@pytest.mark.parametrize("name", CONSTANT_PARTS)
def test_constant_parts_are_constant_at_every_order(name, method):
    f, factor = CONSTANT_PARTS[name]
    x = batch()
    torch.testing.assert_close(diag_jac(f, method=method, check=False)(x), factor(x))
    for transform in (nested, laplacian):
        assert not transform(f, method=method, check=False)(x).any()


def test_what_leaves_for_numpy_is_constant_or_refused():
    f = lambda x: torch.from_numpy(torch.exp(x.detach()).numpy()) * x
    x = batch()
    for method in ("auto", "reverse"):
        torch.testing.assert_close(diag_jac(f, method=method)(x), x.exp())
    with pytest.raises(UnsupportedOperationError, match="Cannot access data pointer"):
        diag_jac(f, method="forward")(x)


@by_every_method
@each
def test_autocast_gives_one_answer_and_keeps_the_inputs_dtype(transform, method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))
    f, params = make_functional(net)
    x = batch().float()
    exact = transform(f, method=method)(params, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = transform(f, method=method)(params, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.03 * exact.abs().max().item())
    assert not torch.equal(found, exact)
    (gradient,) = torch.autograd.grad(found.square().sum(), params["0.weight"])
    (truth,) = torch.autograd.grad(exact.square().sum(), params["0.weight"])
    torch.testing.assert_close(gradient, truth, rtol=0.1, atol=0.05 * truth.abs().max().item())


@by_every_method
@each
def test_deterministic_mode_gives_the_same_answer(transform, method):
    index = torch.tensor([2, 0, 1])
    f = lambda x: torch.zeros_like(x).index_add(1, index, x.sin()) * x.cumsum(1)
    found = transform(f, method=method)(batch())
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(transform(f, method=method)(batch()), found)
    finally:
        torch.use_deterministic_algorithms(False)


def filled(x):
    out = torch.zeros_like(x)
    out[:, 0] = x[:, 1].sin()
    out[:, 1:] = x[:, :2] * x[:, 1:]
    return out


def accumulated(x):
    out = torch.ones_like(x)
    for k in range(3):
        out.mul_(x)
        out[:, k].add_(x[:, 2 - k])
    return out


INPLACE = {
    "of the input": lambda x: x.mul_(x.clone()).add_(1).sin_(),
    "of a view of the input": lambda x: (x[:, :2].exp_(), x * 2)[1],
    "into zeros": filled,
    "in a loop": accumulated,
    "through a transposed view": lambda x: (x.T[1].mul_(3), x.sin())[1],
    "copy_": lambda x: torch.empty_like(x).copy_(x.sin() * x),
    "index_put_": lambda x: torch.zeros_like(x).index_put_((torch.arange(len(x)),), x.tanh()),
    "masked_fill_": lambda x: x.square().masked_fill_(x > 1, 0.5),
    "where and views": lambda x: torch.where(x > 0, x.square(), x.view(-1, 3).sin()),
    "as_strided": lambda x: x.contiguous().as_strided((len(x), 3), (3, 1)).square(),
    "expanded": lambda x: x[:, :1].expand(-1, 3) * x,
    "chunks": lambda x: torch.cat([part * part for part in x.chunk(2, dim=1)], 1),
}


@by_every_method
@pytest.mark.parametrize("name", INPLACE)
def test_in_place_operations_and_views_of_the_input(name, method):
    f, x = INPLACE[name], batch()
    kept = x.clone()
    torch.testing.assert_close(batch_jac(f, method=method)(x), dense.jacobian(lambda x: f(x.clone()), x))
    torch.testing.assert_close(hess_diag(f, method=method)(x), dense.hessian_diagonal(lambda x: f(x.clone()), x))
    assert torch.equal(x, kept)


@by_every_method
@each
def test_buffers_that_a_training_forward_updates(transform, method):
    net = nn.Sequential(nn.Linear(3, 4), nn.InstanceNorm1d(2, affine=True, track_running_stats=True)).double()
    head = nn.Linear(4, 3).double()
    f = lambda x: head(net[1](net[0](x).reshape(-1, 2, 2)).flatten(1).tanh())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = transform(f, method=method)(batch())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    plain = nn.InstanceNorm1d(2, affine=True).double()
    g = lambda x: head(plain(net[0](x).reshape(-1, 2, 2)).flatten(1).tanh())
    torch.testing.assert_close(found, transform(g, method=method)(batch()))


@by_every_method
@each
def test_tied_weights_are_one_parameter(transform, method):
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    net[2].weight = net[0].weight
    f, params = make_functional(net)
    untied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    untied.load_state_dict(net.state_dict())
    g, free = make_functional(untied)
    (found,) = torch.autograd.grad(transform(f, method=method)(params, batch()).square().sum(), params["0.weight"])
    parts = torch.autograd.grad(
        transform(g, method=method)(free, batch()).square().sum(), [free["0.weight"], free["2.weight"]]
    )
    torch.testing.assert_close(found, sum(parts))
