"""Replayed calls of small networks: they give what the plan would, and notice all that a plan is looked up by."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jacfunc import diag_jac, explain, laplacian, make_functional, partials, residual
from jacfunc.call import replay
from jacfunc.core import caches
from jacfunc.errors import ParametersError
from jacfunc.jet.registry import add


@pytest.fixture
def replayed(monkeypatch):
    """How often a call was replayed."""
    count = []
    again = replay.Replay.again

    def counted(self, *args):
        results = again(self, *args)
        if results is not None:
            count.append(1)
        return results

    monkeypatch.setattr(replay.Replay, "again", counted)
    return count


def network(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)).double()


def truth(net, x):
    def single(x):
        return net(x[None])[0, 0]

    return torch.stack([torch.func.hessian(single)(each).trace() for each in x])[:, None]


POINTS = torch.randn(4, 2, dtype=torch.double)


def known(net, count=2):
    f, params = make_functional(net)
    call = laplacian(f)
    for _ in range(count):
        call(params, POINTS)
    return f, params, call


def test_a_known_call_is_replayed(replayed):
    net = network()
    _, params, call = known(net)
    assert len(replayed) == 1
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for _ in range(3):
                found = call(params, POINTS)
                torch.testing.assert_close(found, truth(net, POINTS))
                assert found.requires_grad is grad
    assert len(replayed) >= 5


def test_a_module_itself_is_replayed_and_its_changes_noticed(replayed, monkeypatch):
    net = network()
    call = laplacian(net)
    for _ in range(3):
        torch.testing.assert_close(call(POINTS), truth(net, POINTS))
    assert len(replayed) == 2
    for change in CHANGES[:-1]:
        change(net, None)
        for _ in range(3):
            torch.testing.assert_close(call(POINTS), truth(net, POINTS))
    net = network()
    call = laplacian(net)
    for _ in range(3):
        call(POINTS)
    replayed.clear()
    monkeypatch.setattr(torch, "tanh", torch.sin)
    call(POINTS)
    assert not replayed


@pytest.mark.parametrize("first", [False, True])
def test_what_is_returned_beside_is_asked_at_each_call(first):
    net = network()
    f, params = make_functional(net)
    for both in (first, first, not first, first, not first):
        found = laplacian(f, return_value=both)(params, POINTS)
        derivative, *values = found if both else (found,)
        torch.testing.assert_close(derivative, truth(net, POINTS))
        assert len(values) == both and all(torch.equal(value, net(POINTS)) for value in values)
        by_tuple = laplacian(f, argnums=(1,))(params, POINTS)
        torch.testing.assert_close(by_tuple[0], truth(net, POINTS))
        chunked = laplacian(f, chunk_size=1)(params, POINTS)
        torch.testing.assert_close(chunked, truth(net, POINTS))


def test_results_have_memory_of_their_own(replayed):
    f, params = make_functional(network())
    call = partials(f, "u u_x u_y u_xx", inputs="x y", outputs="u")
    for _ in range(3):
        fields = list(call(params, POINTS))
        assert len({field.untyped_storage().data_ptr() for field in fields}) == len(fields)
        assert all(field.is_contiguous() and field.untyped_storage().nbytes() == field.nbytes for field in fields)
    assert replayed


def test_several_outputs_and_few_coordinates(replayed):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2)).double()
    f, params = make_functional(net)
    x = torch.randn(5, 3, dtype=torch.double)
    call = partials(f, "v u_z 2*u_xz v_xx", inputs="x y z", outputs="u v")
    hessian = torch.stack([torch.func.hessian(lambda x: net(x[None])[0])(each) for each in x])
    jacobian = torch.stack([torch.func.jacrev(lambda x: net(x[None])[0])(each) for each in x])
    expected = [net(x)[:, 1], jacobian[:, 0, 2], 2 * hessian[:, 0, 0, 2], hessian[:, 1, 0, 0]]
    by = list(params.values())
    for _ in range(3):
        for found, right in zip(call(params, x), expected, strict=True):
            torch.testing.assert_close(found, right)
            grads = [torch.autograd.grad(each.sin().sum(), by, retain_graph=True, allow_unused=True)
                     for each in (found, right)]  # fmt: skip
            for one, other in zip(*grads, strict=True):
                zero = torch.zeros(())
                assert (one is None or other is None) or torch.allclose(one, other)
                assert (one is not None and other is not None) or not (zero if one is None else one).any()
    assert len(replayed) == 2


def test_all_outputs_by_time(replayed):
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 20)).double()
    f, params = make_functional(net)
    t = torch.linspace(0, 1, 5, dtype=torch.double)[:, None]
    expected = torch.stack([torch.func.jacrev(lambda t: net(t[None])[0])(each)[:, 0] for each in t])
    for _ in range(3):
        torch.testing.assert_close(diag_jac(f)(params, t), expected)
    assert len(replayed) == 2


def changed_numbers(net, params):
    with torch.no_grad():
        net[0].weight.mul_(2)


def replaced_layer(net, params):
    net[2] = nn.Linear(8, 8).double()


def other_activation(net, params):
    net[1] = nn.Sigmoid()


def hook(net, params):
    net[2].register_forward_hook(lambda module, args, output: 2 * output)


def own_forward(net, params):
    net[1].forward = torch.sin


def removed_bias(net, params):
    net[2].bias = None


CHANGES = [changed_numbers, replaced_layer, other_activation, hook, own_forward, removed_bias]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_module_is_noticed(change):
    net = network()
    f, _, call = known(net)
    change(net, None)
    for _ in range(3):
        found = call(f.parameters(), POINTS)
        torch.testing.assert_close(found, truth(net, POINTS))


def test_a_changed_class_is_noticed(monkeypatch):
    net = network()
    _, params, call = known(net)
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: torch.sin(x))
    for _ in range(3):
        torch.testing.assert_close(call(params, POINTS), truth(net, POINTS))


def test_a_hook_for_all_modules_is_noticed():
    net = network()
    _, params, call = known(net)
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, o: o * 2 if type(m) is nn.Tanh else None)
    try:
        for _ in range(3):
            torch.testing.assert_close(call(params, POINTS), truth(net, POINTS))
    finally:
        handle.remove()


def test_another_dtype_is_noticed():
    net = network()
    f, _, call = known(net)
    net.float()
    for _ in range(2):
        found = call(f.parameters(), POINTS.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), truth(network(), POINTS), rtol=1e-4, atol=1e-4)


def test_other_parameters_are_used_and_wrong_ones_refused():
    net, other = network(), network()
    _, _, call = known(net)
    changed_numbers(other, None)
    given = dict(other.named_parameters())
    torch.testing.assert_close(call(given, POINTS), truth(other, POINTS))
    with pytest.raises(ParametersError, match="lacks the key"):
        call({name: given[name] for name in list(given)[1:]}, POINTS)
    with pytest.raises(ParametersError, match="unknown key"):
        call({**given, "x": POINTS}, POINTS)
    with pytest.raises(ParametersError, match="shape"):
        call({**given, "0.weight": POINTS}, POINTS)


@pytest.mark.parametrize("function", [torch.tanh, F.linear], ids=["activation", "linear layer"])
def test_a_rule_that_takes_the_place_of_ours_is_noticed(function):
    net = network()
    _, params, call = known(net)
    rule, ran = caches.RULES[function][0], []
    before = dict(caches.RULES)

    def own(*args):
        ran.append(1)
        return rule(*args)

    try:
        add(own, function, keeps_frame=True, overrides=True)
        for _ in range(3):
            ran.clear()
            torch.testing.assert_close(call(params, POINTS), truth(net, POINTS))
            assert ran
    finally:
        caches.RULES.update(before)
        caches.RULES_ENTERED.number += 1


def test_tied_weights_have_one_gradient(replayed):
    net = network()
    net[2].weight = nn.Parameter(torch.randn(8, 8, dtype=torch.double))
    net.insert(3, nn.Tanh())
    net.insert(4, nn.Linear(8, 8).double())
    net[4].weight = net[2].weight
    _, params, call = known(net)
    for _ in range(2):
        found, expected = (
            torch.autograd.grad(how.sin().sum(), net[2].weight)[0] for how in (call(params, POINTS), truth(net, POINTS))
        )
        torch.testing.assert_close(found, expected)
    assert len(replayed) == 3


def test_inside_of_transforms_it_is_not_replayed(replayed):
    net = network()
    _, params, call = known(net)
    replayed.clear()
    with torch.autocast("cpu", torch.bfloat16):
        call(params, POINTS)
    torch.func.grad(lambda p: call(p, POINTS).sum())(params)
    torch.func.vmap(lambda x: call(params, x))(POINTS[None])
    assert not replayed
    nested = diag_jac(lambda x: call(params, x))
    for _ in range(2):
        found = nested(POINTS)
        single = torch.func.jacrev(lambda x: truth(net, x[None])[0, 0])
        torch.testing.assert_close(found, torch.stack([single(each) for each in POINTS]))


def test_transforms_inside_of_a_function_are_steps_of_its_program():
    net = network()
    _, params, call = known(net)
    _, params2, call2 = known(network(nn.Sigmoid))
    switch = [0]

    def function(x):
        y = POINTS.new_tensor([[0.5, 0.25]]).expand(len(x), 2)
        inner = (call(params, y), call2(params2, y))[switch[0]]
        return x.sin() * inner

    for value in (0, 0, 1, 1, 0):
        switch[0] = value
        inner = truth((net, network(nn.Sigmoid))[value], POINTS.new_tensor([[0.5, 0.25]]))
        torch.testing.assert_close(diag_jac(function)(POINTS), POINTS.cos() * inner)


def test_modes_of_torch_see_all_operations(replayed):
    net = network()
    _, params, call = known(net)

    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    replayed.clear()
    with Seen():
        call(params, POINTS)
    assert not replayed


def test_frozen_parameters_and_trained_points(replayed):
    net = network().requires_grad_(False)
    _, params, call = known(net)
    assert not call(params, POINTS).requires_grad
    x = POINTS.clone().requires_grad_()
    found, expected = (torch.autograd.grad(how.sum(), x)[0] for how in (call(params, x), truth(net, x)))
    torch.testing.assert_close(found, expected)
    net[2].weight.requires_grad_()
    found, expected = (
        torch.autograd.grad(how.sum(), params["2.weight"])[0] for how in (call(params, POINTS), truth(net, POINTS))
    )
    torch.testing.assert_close(found, expected)
    assert len(replayed) >= 3


def test_threads_have_numbers_of_their_own():
    nets = [network() for _ in range(4)]
    for number, net in enumerate(nets):
        with torch.no_grad():
            net[0].weight.mul_(1 + number)
    _, _, call = known(network())
    wrong = []

    def run(net, expected):
        params = dict(net.named_parameters())
        for _ in range(100):
            if not torch.allclose(call(params, POINTS), expected):
                wrong.append(1)

    threads = [threading.Thread(target=run, args=(net, truth(net, POINTS))) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_residual_and_its_gradient(replayed):
    net = network()
    f, params = make_functional(net)
    equation = residual(f, lambda d: d.u_x - 0.1 * d.u_yy + d.u**3, inputs="x y", outputs="u")
    by = list(params.values())[:-1]
    for _ in range(4):
        u = net(POINTS)[:, 0]
        x = POINTS.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        (gg,) = torch.autograd.grad(g[:, 1].sum(), x, create_graph=True)
        expected = g[:, 0] - 0.1 * gg[:, 1] + u**3
        found = equation(params, POINTS)
        torch.testing.assert_close(found, expected)
        pairs = [torch.autograd.grad(each.square().mean(), by) for each in (found, expected)]
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other)
    assert len(replayed) >= 2
    assert "taylor" in str(explain(equation)(params, POINTS))


def laplacian_by_reverse(net, x):
    return torch.stack([torch.func.hessian(lambda z: net(z)[0])(one).trace()[None] for one in x]).detach()


def test_the_same_modules_in_another_order_are_another_network():
    x, tanh, sigmoid = torch.randn(5, 2, dtype=torch.double), nn.Tanh(), nn.Sigmoid()
    linear = lambda *sizes: nn.Linear(*sizes).double()
    net = nn.Sequential(linear(2, 8), tanh, linear(8, 8), sigmoid, linear(8, 8), tanh, linear(8, 1))
    kept = laplacian(net)
    for activation in (tanh, sigmoid, tanh):
        net[1] = activation
        for call in (kept, laplacian(net), kept, laplacian(net)):
            torch.testing.assert_close(call(x).detach(), laplacian_by_reverse(net, x))


def test_a_layer_that_comes_once_more_or_goes_is_noticed():
    x, inner, tanh = torch.randn(5, 2, dtype=torch.double), nn.Linear(8, 8).double(), nn.Tanh()
    net = nn.Sequential(nn.Linear(2, 8).double(), tanh, inner, tanh, nn.Linear(8, 1).double())
    call = laplacian(net)
    for change in (None, "more", "less"):
        if change == "more":
            net.insert(2, inner)
            net.insert(3, tanh)
        elif change == "less":
            del net[2:4]
        for _ in range(3):
            torch.testing.assert_close(call(x).detach(), laplacian_by_reverse(net, x))


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("as_buffer", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_a_weight_that_is_no_parameter_counts(name, as_buffer, later):
    x = torch.randn(5, 2, dtype=torch.double)
    net = nn.Sequential(
        nn.Linear(2, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
    ).double()
    call = laplacian(net)
    if later:
        call(x)
    for place in (2, 3):
        tensor = getattr(net[place], name).detach() + 1
        delattr(net[place], name)
        if as_buffer:
            net[place].register_buffer(name, tensor)
        else:
            setattr(net[place], name, tensor)
    truth = laplacian_by_differences(net, x)
    for _ in range(3):
        torch.testing.assert_close(call(x).detach(), truth, rtol=1e-4, atol=1e-4)


def laplacian_by_differences(net, x, step=1e-4):
    """As torch's nested derivatives of LayerNorm are wrong."""
    with torch.no_grad():
        shifts = step * torch.eye(x.shape[1], dtype=x.dtype)
        return sum(net(x + shift) + net(x - shift) - 2 * net(x) for shift in shifts) / step**2


def test_the_last_bias_has_no_gradient_in_a_replay_either():
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    f, params = make_functional(net)
    x = torch.randn(5, 2, dtype=torch.double)
    for _ in range(3):
        net.zero_grad()
        laplacian(f)(params, x).sum().backward()
        assert net[2].bias.grad is None
        called = []
        hook = net[2].bias.register_hook(called.append)
        partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, x).u_t.sum().backward()
        hook.remove()
        assert net[2].bias.grad is None
        assert not called
        partials(f, "u_t u", inputs="t x", outputs="u")(params, x).u.sum().backward()
        assert torch.equal(net[2].bias.grad, torch.full((1,), 5.0, dtype=torch.double))
