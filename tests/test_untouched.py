"""What is the caller's stays the caller's: results are nobody else's memory, and modules keep nothing of a transform."""

from __future__ import annotations

import copy
import io
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jacfunc import batch_jac, diag_jac, hess_diag, laplacian, make_functional
from jacfunc.core import caches
from jacfunc.errors import RefusedOperationError, UnsupportedOperationError

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


# ------------------------------------------------------------ parameters are not written to


class Holder(nn.Module):
    """Does something to itself, and scales by what it holds."""

    def __init__(self, do):
        super().__init__()
        self.do, self.w = do, nn.Parameter(torch.tensor([2.0, 5.0], dtype=torch.float64))
        self.register_buffer("b", torch.tensor([2.0, 5.0], dtype=torch.float64))
        self.plain = torch.tensor([2.0, 5.0], dtype=torch.float64)

    def forward(self, x):
        return x.sin() * self.do(self, x)


def without_grad(write):
    def written(net, x):
        with torch.no_grad():
            write(net.w, x)
        return net.w

    return written


def with_grad(write):
    def written(net, x):
        write(net.w)
        return net.w

    return written


def by_inference_mode(net, x):
    with torch.inference_mode():
        net.w.view(-1)[0] = 1.0
    return net.w


def by_an_optimiser(net, x):
    net.w.grad = torch.ones_like(net.w)
    torch.optim.SGD([net.w], lr=0.1).step()
    return net.w


def by_a_list(net, x):
    with torch.no_grad():
        torch._foreach_add_([net.w.detach().view(-1)], 1.0)
    return net.w


def by_an_embedding(net, x):
    F.embedding(PLACES[0], net.w[:, None], max_norm=0.5)
    return net.w


class InAFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, x):
        w.clamp_(-3, 3)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient


WRITES = {
    "clamp_": without_grad(lambda w, x: w.clamp_(-3, 3)),
    "copy_": without_grad(lambda w, x: w.copy_(w.clamp(-3, 3))),
    "copy_ of the input": without_grad(lambda w, x: w.copy_(x.reshape(-1)[:2])),
    "setitem": without_grad(lambda w, x: w.__setitem__(0, 1.0)),
    "setitem with a mask": without_grad(lambda w, x: w.__setitem__(w > 3, 1.0)),
    "an operator": without_grad(lambda w, x: w.__imul__(0.5)),
    "a view": without_grad(lambda w, x: w.view(2, 1)[:1].fill_(3.0)),
    "a detached view": without_grad(lambda w, x: w[None].detach()[0, 1:].zero_()),
    "detach": with_grad(lambda w: w.detach().mul_(0.5)),
    "data in place": with_grad(lambda w: w.data.clamp_(-3, 3)),
    "a part of data": with_grad(lambda w: w.data.__setitem__(0, 1.0)),
    "out=": without_grad(lambda w, x: torch.add(w, 1.0, out=w)),
    "out= of two": without_grad(lambda w, x: torch.max(w[None], 0, out=(w, torch.zeros(2, dtype=torch.long)))),
    "aten": without_grad(lambda w, x: torch.ops.aten.mul_.Tensor(w, w)),
    "aten, any form": without_grad(lambda w, x: torch.ops.aten.mul_(w, 0.5)),
    "foreach": without_grad(lambda w, x: torch._foreach_mul_([w], 0.5)),
    "foreach of a detached view": by_a_list,
    "inplace=True": without_grad(lambda w, x: F.hardtanh(w, inplace=True)),
    "relu_": without_grad(lambda w, x: F.relu_(w.sub_(3))),
    "init": with_grad(nn.init.ones_),
    "init by an override": with_grad(lambda w: nn.init.constant_(w, 1.0)),
    "init at random": with_grad(nn.init.uniform_),
    "orthogonal": with_grad(lambda w: nn.init.orthogonal_(w[None])),
    "random numbers": without_grad(lambda w, x: w.normal_()),
    "inference mode": by_inference_mode,
    "an optimiser": by_an_optimiser,
    "a largest norm": by_an_embedding,
    "an autograd.Function": lambda net, x: net.w * InAFunction.apply(net.w, x),
    "another name": with_grad(lambda w: nn.Parameter(w.data).detach().zero_()),
    "data": with_grad(lambda w: setattr(w, "data", w.data.clamp(-3, 3))),
    "data that is constant": with_grad(lambda w: setattr(w, "data", torch.ones(2, dtype=torch.float64))),
    "data of another shape": with_grad(lambda w: setattr(w, "data", w.data[:1])),
    "from a vector": with_grad(lambda w: nn.utils.vector_to_parameters(2 * w.detach(), [w])),
    "half": lambda net, x: net.float().w,
}


def hidden(net):
    found = weakref.ref(net)
    return lambda x: found()(x)


def from_outside(net):
    w = net.w
    held = {"w": w}

    class Outer:
        @property
        def w(self):
            return held["w"]

    return lambda x: x.sin() * net.do(Outer(), x)


def of_parameters(net):
    f, params = make_functional(net)
    return lambda x, **options: diag_jac(f, **options)(params, x)


def of_a_snapshot(net):
    f, params = make_functional(net, snapshot=True)
    before = {name: tensor.clone() for name, tensor in params.items()}

    def call(x, **options):
        try:
            return diag_jac(f, **options)(params, x)
        finally:
            assert all(torch.equal(tensor, before[name]) for name, tensor in params.items())

    return call


HOLDERS = {
    "itself": lambda net: lambda x, **options: diag_jac(net, **options)(x),
    "a lambda": lambda net: lambda x, **options: diag_jac(lambda x: net(x), **options)(x),
    "hidden": lambda net: lambda x, **options: diag_jac(hidden(net), **options)(x),
    "functional": of_parameters,
    "snapshot": of_a_snapshot,
    "within": lambda net: lambda x, **options: diag_jac(nn.Sequential(nn.Tanh(), net), **options)(x),
    "parameters alone": lambda net: lambda x, **options: diag_jac(from_outside(net), **options)(x),
}
MOSTLY = [("itself", method) for method in METHODS] + [(holder, "auto") for holder in HOLDERS if holder != "itself"]
REST = [(holder, method) for holder in HOLDERS for method in METHODS if (holder, method) not in MOSTLY]


@pytest.mark.parametrize(
    ("holder", "method"), [*MOSTLY, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
@pytest.mark.parametrize("name", WRITES)
def test_a_parameter_is_not_written_to(name, holder, method):
    net, x = Holder(WRITES[name]), torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    if name == "half" and holder in ("snapshot", "parameters alone"):
        pytest.skip("no module, or no parameter of the module's")
    call, state = HOLDERS[holder](net), torch.get_rng_state()
    before, place = net.w.detach().clone(), net.w.data_ptr()
    for _ in range(2):
        with pytest.raises(
            RefusedOperationError, match=r"f (writes to a parameter|sets \.data of a tensor) \[.*outside"
        ):
            call(x, method=method)
        assert torch.equal(net.w.detach(), before)
        assert net.w.data_ptr() == place
        assert torch.equal(torch.get_rng_state(), state)


OUTSIDE = torch.tensor([2.0, 5.0], dtype=torch.float64)
MADE_OUTSIDE = OUTSIDE.clone().requires_grad_() * 1.0


def outside_data(net, x):
    OUTSIDE.data = OUTSIDE.clamp(-3, 3)
    return OUTSIDE


def outside_in_place(net, x):
    with torch.no_grad():
        MADE_OUTSIDE[:1].zero_()
    return MADE_OUTSIDE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("do", [outside_data, outside_in_place])
def test_a_tensor_from_outside_is_not_exchanged(do, method):
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    for f in (Holder(do), lambda x: x.sin() * do(None, x)):
        with pytest.raises(RefusedOperationError, match="outside of the function"):
            diag_jac(f, method=method)(x)
        assert OUTSIDE.tolist() == MADE_OUTSIDE.tolist() == [2.0, 5.0]


def of_a_layer(net, x):
    layer = nn.Linear(2, 2).double()
    nn.init.constant_(layer.weight, 3.0)
    with torch.no_grad():
        layer.weight[0] = net.w.clamp(-3, 3)
    return layer.weight[0]


def of_a_copy(net, x):
    other = copy.deepcopy(net)
    other.w.data.clamp_(-3, 3)
    return other.w


def of_steps(net, x):
    z = torch.zeros(2, dtype=torch.float64).requires_grad_()
    with torch.no_grad():
        z += net.w.clamp(-3, 3)
    return z.detach()


def of_a_buffer(net, x):
    net.b.data = net.b.data.clamp(-3, 3)
    net.plain.data = net.plain.data.clamp(-3, 3)
    return net.b * net.plain / net.plain.detach()


def of_a_clone(net, x):
    return net.w.clone().clamp_(-3, 3)


def of_the_input(net, x):
    y = x * 1.0
    y.mul_(0.0).add_(3.0)
    return torch.minimum(y, net.w)


def where_it_is(net, x):
    return net.to(x.device).double().w.clamp(-3, 3)


ALLOWED = {
    do.__name__: do for do in (of_a_layer, of_a_copy, of_steps, of_a_buffer, of_a_clone, of_the_input, where_it_is)
}
NO_FORWARD = ("of_a_layer", "of_a_copy", "of_steps", "of_a_buffer")
"""What torch refuses in its forward mode."""


@pytest.mark.parametrize("holder", ["itself", "a lambda", "hidden", "functional"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_made_inside_is_written_to(name, method, holder):
    net, x = Holder(ALLOWED[name]), torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    call, truth = HOLDERS[holder](net), x.cos() * torch.tensor([2.0, 3.0])
    for _ in range(2):
        if method == "forward" and name in NO_FORWARD:
            with pytest.raises(UnsupportedOperationError, match="no route: forward"):
                call(x, method=method)
        else:
            torch.testing.assert_close(call(x, method=method), truth)
        assert net.w.tolist() == net.b.tolist() == net.plain.tolist() == [2.0, 5.0]
