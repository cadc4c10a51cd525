"""Traps of torch.func.functional_call and of parameters as dicts: each shown in torch, and right or refused here."""

from __future__ import annotations

import copy

import dense
import pytest
import torch
from judging import CURED, METHODS, fails, far
from torch import nn
from torch.func import functional_call, jacrev, stack_module_state, vmap

from jacfunc import ArgumentError, ParametersError, batch_jac, diag_jac, laplacian, make_functional

DOUBLE = torch.float64


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (4, 3)), dtype=DOUBLE)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


class Shared(nn.Module):
    """One submodule under two names."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3, dtype=DOUBLE)
        self.b = self.a

    def forward(self, x):
        return self.b(self.a(x).tanh())


class Tied(nn.Module):
    """Two submodules with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False, dtype=DOUBLE), nn.Linear(3, 3, bias=False, dtype=DOUBLE)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh())


def others(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(p) for name, p in net.named_parameters()}


def holding(net: nn.Module, params: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the module that holds these parameters."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(params[name])
    return net


def kept(net: nn.Module):
    """The module's tensors themselves, and their values."""
    tensors = [*net.parameters(), *net.buffers()]
    return tensors, [t.detach().clone() for t in tensors]


def assert_kept(net: nn.Module, before) -> None:
    now = [*net.parameters(), *net.buffers()]
    assert [id(t) for t in now] == [id(t) for t in before[0]]
    assert all(torch.equal(t.detach(), value) for t, value in zip(now, before[1], strict=True))


# ------------------------------------------------------------ shared submodules (164759) and tied parameters


def test_torch_leaves_foreign_values_in_a_shared_submodule():
    net = Shared()
    weight = net.a.weight
    functional_call(net, {name: torch.zeros_like(p) for name, p in net.named_parameters()}, (batch(),))
    assert net.a.weight is not weight, CURED
    assert not isinstance(net.a.weight, nn.Parameter)
    assert not net.a.weight.any()


def test_torch_uses_the_old_value_of_a_tied_parameter_without_tie_weights():
    net, x = Tied(), batch()
    found = functional_call(net, (params := others(net)), (x,), tie_weights=False)
    assert far(found, holding(net, params)(x)), CURED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [Shared, Tied])
def test_shared_and_tied_parameters_have_the_new_value_everywhere_and_the_module_its_own(kind, method):
    net, x = kind(), batch()
    f, _ = make_functional(net)
    params, before = others(net), kept(net)
    truth = holding(net, params)
    torch.testing.assert_close(f(params, x), truth(x))
    torch.testing.assert_close(batch_jac(f, method=method)(params, x), dense.jacobian(truth, x))
    assert_kept(net, before)
    # The gradient by the one parameter is that of all its uses.
    for transform in (diag_jac, laplacian):
        loss = lambda params, transform=transform: transform(f, method=method)(params, x).square().sum()
        gradients = torch.func.grad(loss)(params)
        transform(truth, method=method)(x).square().sum().backward()
        for name, p in truth.named_parameters():
            torch.testing.assert_close(gradients[name], torch.zeros_like(p) if p.grad is None else p.grad)
        truth.zero_grad()
    assert_kept(net, before)


# ------------------------------------------------------------ keys and shapes


WRONG = {
    "an unknown key": lambda p: {**p, "nonsense": torch.ones(1, dtype=DOUBLE)},
    "a missing key": lambda p: {name: t for name, t in p.items() if name != "0.bias"},
    "no key": lambda p: {},
    "a bias that broadcasts": lambda p: {**p, "0.bias": torch.ones(1, dtype=DOUBLE)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_torch_accepts_wrong_parameters_without_a_word(wrong):
    net = mlp()
    assert functional_call(net, WRONG[wrong](others(net)), (batch(),)).shape == (4, 3), CURED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_parameters_are_refused_by_name(wrong, method):
    net = mlp()
    f, _ = make_functional(net)
    params = WRONG[wrong](others(net))
    for call in (f, diag_jac(f, method=method)):
        with pytest.raises(ParametersError, match=r"'nonsense'|'0\.bias'|'0\.weight'"):
            call(params, batch())


# ------------------------------------------------------------ buffers


def test_torch_changes_the_buffers_of_the_module_or_those_that_are_passed():
    net = nn.BatchNorm1d(3).double()
    functional_call(net, dict(net.named_parameters()), (batch(),))
    assert net.num_batches_tracked == 1, CURED
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    functional_call(net, (dict(net.named_parameters()), buffers), (batch(),))
    assert buffers["num_batches_tracked"] == 2, CURED


class Counting(nn.Module):
    """Counts its calls in a buffer, and keeps samples apart."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, dtype=DOUBLE)
        self.register_buffer("calls", torch.zeros((), dtype=DOUBLE))

    def forward(self, x):
        self.calls += 1
        return self.linear(x).tanh() * self.calls


@pytest.mark.parametrize("method", METHODS)
def test_neither_the_buffers_of_the_module_nor_those_that_are_passed_change(method):
    net, x = Counting(), batch()
    before = kept(net)
    truth = dense.jacobian(lambda x: net.linear(x).tanh(), x)
    f, params = make_functional(net)
    for call in (batch_jac(f, method=method), lambda params, x: batch_jac(net, method=method)(x)):
        for _ in range(2):
            torch.testing.assert_close(call(params, x), truth)
            assert_kept(net, before)
    g, params, buffers = make_functional(net, with_buffers=True)
    found, new = batch_jac(g, method=method, has_aux=True)(params, buffers, x)
    torch.testing.assert_close(found, truth)
    assert new["calls"] == 1
    assert buffers["calls"] == 0
    assert_kept(net, before)


# ------------------------------------------------------------ live parameters and frozen ones


def test_torch_parameters_that_were_detached_follow_the_live_ones():
    net = mlp()
    for frozen in (dict(net.named_parameters()), {name: p.detach() for name, p in net.named_parameters()}):
        nn.init.constant_(net[0].weight, 7.0)
        assert (frozen["0.weight"] == 7).all(), CURED


@pytest.mark.parametrize("method", METHODS)
def test_a_snapshot_is_frozen_and_the_default_is_live(method):
    net, x = mlp(), batch()
    f, live = make_functional(net)
    _, frozen = make_functional(net, snapshot=True)
    assert live["0.weight"] is net[0].weight
    old = dense.jacobian(net, x)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    diag_jac(f, method=method)(live, x).square().sum().backward()
    optimiser.step()
    torch.testing.assert_close(batch_jac(f, method=method)(frozen, x), old)
    new = batch_jac(f, method=method)(live, x)
    torch.testing.assert_close(new, dense.jacobian(net, x))
    assert far(new, old)


# ------------------------------------------------------------ the last bias


@pytest.mark.parametrize("method", METHODS)
def test_the_last_bias_enters_no_derivative_which_every_way_of_training_takes_as_documented(method):
    net, x = mlp(), batch()
    f, params = make_functional(net)
    loss = lambda params: diag_jac(f, method=method)(params, x).square().sum()
    # Not ours to mend: so it is in torch.autograd, and docs/faq.md says what to do.
    words = "not have been used in the graph"
    assert fails(lambda: torch.autograd.grad(loss(params), list(params.values())), words), CURED
    by_torch = lambda p: (
        vmap(jacrev(lambda x: functional_call(net, p, (x,))))(x).diagonal(dim1=1, dim2=2).square().sum()
    )
    assert fails(lambda: torch.autograd.grad(by_torch(params), list(params.values())), words), CURED
    gradients = torch.autograd.grad(loss(params), list(params.values()), allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, False, False, True]
    gradients = torch.autograd.grad(loss(params), list(params.values()), materialize_grads=True)
    assert not gradients[-1].any()
    assert not torch.func.grad(loss)({name: p.detach() for name, p in params.items()})["2.bias"].any()
    loss(params).backward()
    assert net[2].bias.grad is None
    torch.optim.Adam(net.parameters()).step()


# ------------------------------------------------------------ plain tensors in attributes


class Shifting(nn.Module):
    """A plain tensor in an attribute: neither parameter nor buffer."""

    def __init__(self, shift: float):
        super().__init__()
        self.linear = nn.Linear(3, 3, dtype=DOUBLE)
        self.shift = torch.full((3,), shift, dtype=DOUBLE)

    def forward(self, x):
        return (self.linear(x) + self.shift).tanh()


def test_torch_does_not_exchange_a_plain_tensor():
    one, two, x = Shifting(0.0), Shifting(3.0), batch()
    found = functional_call(one, dict(two.named_parameters()), (x,))
    assert far(found, two(x)), CURED
    stacked, buffers = stack_module_state([one, two])
    found = vmap(lambda p: functional_call(one, p, (x,)))(stacked)
    assert not buffers
    assert far(found[1], two(x)), CURED


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_tensor_is_no_parameter_and_is_read_live(method):
    net, x = Shifting(0.0), batch()
    f, params = make_functional(net)
    assert "shift" not in params
    with pytest.raises(ParametersError, match="unknown key 'shift'"):
        batch_jac(f, method=method)({**params, "shift": net.shift}, x)
    for shift in (0.0, 3.0):  # also after a plan was made for the function
        net.shift = torch.full((3,), shift, dtype=DOUBLE)
        torch.testing.assert_close(batch_jac(f, method=method)(params, x), dense.jacobian(net, x))
    # To exchange it, it must be an argument.
    scaled = lambda shift, x: (net.linear(x) + shift).tanh()
    found = torch.func.grad(lambda shift: diag_jac(scaled, method=method)(shift, x).sum())(net.shift)
    assert found.any()


# ------------------------------------------------------------ keyword arguments


class Scaling(nn.Module):
    """Takes a scale for each sample."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, dtype=DOUBLE)

    def forward(self, x, scale):
        return self.linear(x).tanh() * scale


def test_torch_does_not_give_each_sample_its_own_keyword_argument():
    net, x, scale = Scaling(), batch(4, 3), batch(4, 3)
    assert vmap(net)(x, scale=scale).shape == (4, 4, 3), CURED  # every sample with every scale


@pytest.mark.parametrize("method", METHODS)
def test_each_sample_has_its_own_keyword_argument(method):
    net, x, scale = Scaling(), batch(4, 3), batch(4, 3)
    f, params = make_functional(net)
    truth = dense.jacobian(lambda x: net(x, scale), x)
    torch.testing.assert_close(batch_jac(f, method=method)(params, x, scale=scale), truth)
    torch.testing.assert_close(batch_jac(net, method=method, argnums=0)(x, scale=scale), truth)
    derivative = batch_jac(f, method=method, argnums=1)
    torch.testing.assert_close(derivative(params, x, scale), truth)
    z = x.clone().requires_grad_()
    derivative(params, z, scale=scale).sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda x: derivative(params, x, scale=scale).sum())(x), z.grad)


@pytest.mark.parametrize("method", METHODS)
def test_an_input_by_keyword_is_refused(method):
    net = mlp()
    f, params = make_functional(net)
    with pytest.raises(ArgumentError, match="argnums=-1 selects"):
        diag_jac(f, method=method)(params, input=batch())
    with pytest.raises(ArgumentError, match="by position"):
        diag_jac(net, method=method)(input=batch())
