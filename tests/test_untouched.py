"""What is the caller's stays the caller's: results are nobody else's memory, and modules keep nothing of a transform."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jacfunc import batch_jac, diag_jac, hess_diag, laplacian, make_functional
from jacfunc.core import caches

METHODS = ["auto", "taylor", "forward", "reverse"]
weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
LINEAR = {
    "layer": lambda x: nn.functional.linear(x, weight[:2]),
    "part of a layer": lambda x: nn.functional.linear(x, weight)[..., :2],
    "identity": lambda x: x,
    "multiple": lambda x: x * 2.0,
    "matmul": lambda x: x @ weight[:2],
    "part": lambda x: x[..., :1],
    "sum": lambda x: x.sum(-1, keepdim=True).expand_as(x),
    "flip": lambda x: x.flip(-1),
    "two layers": lambda x: nn.functional.linear(nn.functional.linear(x, weight), weight.t()),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("shape", [(4, 2), (1, 2), (2,)])
@pytest.mark.parametrize("transform", [diag_jac, batch_jac, hess_diag, laplacian])
@pytest.mark.parametrize("f", LINEAR)
def test_a_result_may_be_written_to(f, transform, shape, grad):
    x, before = torch.randn(shape), weight.clone()
    with torch.set_grad_enabled(grad):
        result = transform(LINEAR[f], method="taylor", batch_dims=len(shape) - 1)(x).detach()
    again = result.clone()
    result[:1] += 7.0
    torch.testing.assert_close(result[1:], again[1:])
    result.fill_(7.0)
    assert torch.equal(weight, before)
    for (size, dtype, _), rows in caches.IDENTITIES.items():
        assert torch.equal(rows[:, 0], torch.eye(size, dtype=dtype))


class Noting(nn.Module):
    """Keeps an activation, alone and in a tree."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        self.hidden = self.inner(x).tanh()
        self.tree = {"hidden": [self.hidden]}
        return self.outer(self.hidden)


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_a_module_keeps_is_none_of_a_transform(method):
    net, x = Noting(), torch.randn(4, 2)
    f, params = make_functional(net)
    calls = [
        lambda: diag_jac(net, method=method)(x),
        lambda: diag_jac(f, method=method)(params, x),
        lambda: diag_jac(lambda x: net(x) * 2, method=method)(x),
    ]
    for call in (*calls, *calls):
        call()
        for value in (getattr(net, "hidden", x), getattr(net, "tree", {"hidden": [x]})["hidden"][0]):
            assert type(value) is torch.Tensor
            assert not torch._C._functorch.is_functorch_wrapped_tensor(value)
        copy.deepcopy([vars(net)["_modules"]])
        torch.save(net.state_dict(), io.BytesIO())
    net(x)
    kept = net.hidden
    diag_jac(net, method=method)(x)
    assert net.hidden is kept


class Counting(nn.Module):
    """Counts its calls in a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(())

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_attribute_is_read_and_not_written_to(method):
    module, x = Counting(), torch.ones(4, 2)
    f, params = make_functional(module)
    for _ in range(2):
        for derivative in (
            diag_jac(module, method=method)(x),
            diag_jac(f, method=method)(params, x),
            diag_jac(lambda x: module(x), method=method)(x),
        ):
            assert torch.equal(derivative, x)
            assert module.calls == 0


PLACES = torch.tensor([[0, 1], [1, 2]])
IN_PLACE = {
    "detach": lambda x: x * x.clone().detach().mul_(2),
    "data": lambda x: x * x.clone().data.mul_(2),
    "detached result": lambda x: x * (x * 1).detach().mul_(2),
    "view": lambda x: x * x.contiguous().detach()[:, :1].mul_(3),
    "no_grad": lambda x: x * _doubled(x),
    "embedding": lambda x: torch.stack([F.embedding(PLACES, w.clone()[:, None], max_norm=0.5) for w in x]),
    "bag": lambda x: torch.stack([F.embedding_bag(PLACES, w.clone()[:, None], max_norm=0.5) for w in x]),
}


def _doubled(x):
    with torch.no_grad():
        y = x.clone().view(-1)
        y.mul_(2)
    return y.view(x.shape)


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_what_shares_memory_with_a_copy_is_written_to(name, method):
    x = torch.arange(1.0, 13, dtype=torch.float64).reshape(4, 3)
    before = x.clone()
    found = batch_jac(IN_PLACE[name], method=method, check=False)(x)
    assert torch.equal(x, before)
    one = x.clone().requires_grad_()
    output = IN_PLACE[name](one)
    (expected,) = torch.autograd.grad(output.sum(), one, retain_graph=True)
    torch.testing.assert_close(found.flatten(1, -2).sum(1), expected)
