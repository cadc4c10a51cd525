"""``jacfunc/nn/modules.py``: derivatives as modules with the parameters of their network, in one process."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import ArgumentTypeError, UnsupportedOperationError, laplacian, make_functional, partials, residual
from jacfunc.nn import Derivative, Equation

POINTS = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def heat(d: Any) -> Any:
    return d.u_t - 0.1 * d.u_xx


def test_an_equation_is_the_residual_bit_for_bit() -> None:
    net = network()
    expected = residual(net, heat, inputs="t x", outputs="u")(POINTS)
    found = Equation(net, heat, inputs="t x", outputs="u")(POINTS)
    assert torch.equal(found, expected)
    assert found._base is None  # FSDP2 warns of views


def test_the_parameters_are_those_of_the_network_under_their_names() -> None:
    net = network()
    module = Derivative(net, laplacian)
    assert list(module.state_dict()) == list(net.state_dict())
    assert [*module.parameters()] == [*net.parameters()]
    other = network()
    with torch.no_grad():
        other[0].weight.mul_(2)
    module.load_state_dict(other.state_dict())
    assert torch.equal(net[0].weight, other[0].weight)
    torch.testing.assert_close(module(POINTS), laplacian(other)(POINTS))
    module.float()
    assert net[0].weight.dtype == torch.float32
    module.eval()
    assert not net.training
    module.train()
    assert net.training


def test_a_network_whose_child_is_called_net() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale = network(), nn.Parameter(torch.ones((), dtype=torch.float64))
            self.register_buffer("shift", torch.ones((), dtype=torch.float64))

        def forward(self, x: Any) -> Any:
            return self.scale * self.net(x) + self.shift

    net = Wrapper()
    module = Derivative(net, laplacian)
    assert list(module.state_dict()) == list(net.state_dict())
    assert module.get_submodule("net.0") is net.net[0]
    doubled = {name: 2 * tensor for name, tensor in module.state_dict().items()}
    expected = torch.func.functional_call(net, doubled, (POINTS,))
    assert expected.shape == (5, 1)
    found = torch.func.functional_call(module, doubled, (POINTS,))
    net.load_state_dict(doubled)
    torch.testing.assert_close(found, laplacian(net)(POINTS))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_has_parameters_of_its_own(copied: Any) -> None:
    module = Equation(network(), heat, inputs="t x", outputs="u")
    before = module(POINTS)
    other = copied(module)
    torch.testing.assert_close(other(POINTS), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not other(POINTS).any()
    assert torch.equal(module(POINTS), before)


def test_every_parameter_has_a_gradient() -> None:
    net = network()
    Derivative(net, laplacian)(POINTS).square().sum().backward()
    expected = torch.autograd.grad(laplacian(net)(POINTS).square().sum(), [*net.parameters()][:-1])
    for parameter, gradient in zip(list(net.parameters())[:-1], expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-13, atol=1e-13)
    assert torch.equal(net[2].bias.grad, torch.zeros(1, dtype=torch.float64))  # type: ignore[arg-type]


def test_derivatives_by_name_are_a_dict() -> None:
    module = Derivative(network(), partials, "u u_t-u_xx", inputs="t x", outputs="u", return_value=True)
    named, value = module(POINTS)
    assert (type(named), list(named), value.shape) == (dict, ["u", "u_t-u_xx"], (5, 1))
    assert all(tensor.requires_grad for tensor in named.values())


def test_it_is_differentiated_as_any_module() -> None:
    net = network()
    module = Derivative(net, laplacian)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    loss = lambda weights: torch.func.functional_call(module, weights, (POINTS,)).square().sum()
    gradients = torch.func.grad(loss)(weights)
    direction = {name: torch.ones_like(weight) for name, weight in weights.items()}
    _, slope = torch.func.jvp(loss, (weights,), (direction,))
    torch.testing.assert_close(slope, sum(gradient.sum() for gradient in gradients.values()))
    rows = torch.func.jacrev(lambda w: torch.func.functional_call(module, w, (POINTS,)))(weights)
    assert {name: row.shape[2:] for name, row in rows.items()} == {name: w.shape for name, w in weights.items()}
    function, parameters = make_functional(module)
    assert torch.equal(function(parameters, POINTS), module(POINTS))
    torch.testing.assert_close(laplacian(module)(POINTS), laplacian(laplacian(net))(POINTS))


def test_its_mode_is_that_of_the_network() -> None:
    net = network()
    module = Derivative(net, laplacian)
    net.eval()
    assert not module.training
    net.train()
    assert module.training and copy.deepcopy(module).training
    nn.Sequential(module).eval()
    assert not any(each.training for each in net.modules())


def test_compiled() -> None:
    module = Derivative(network(), laplacian)
    expected = module(POINTS)
    for way in (torch.compile(module, fullgraph=True), Derivative(network(), laplacian, compile=True)):
        found = way(POINTS)
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        assert all(parameter.grad is not None for parameter in way.parameters())


@pytest.mark.slow
def test_compiled_before_any_call() -> None:
    module = Equation(network(), heat, inputs="t x", outputs="u")
    compiled = torch.compile(module)
    first, then = compiled(POINTS), compiled(POINTS)
    torch.testing.assert_close(first, module(POINTS))
    torch.testing.assert_close(then, module(POINTS))


def test_what_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="net is a function; pass the nn.Module"):
        Derivative(heat, laplacian)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="transform is a Tensor"):
        Derivative(network(), POINTS)  # type: ignore[arg-type]
    told = r"^transform is laplacian\(Sequential\), which was made of a function; pass laplacian itself, not laplacian\(net\)"
    with pytest.raises(ArgumentTypeError, match=told):
        Derivative(network(), laplacian(network()))
    with pytest.raises(ArgumentTypeError, match="which made an int"):
        Derivative(network(), lambda net: 1)
    with pytest.raises(ArgumentTypeError, match="equation is a str"):
        Equation(network(), "u_t", inputs="t x", outputs="u")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOperationError, match="DistributedDataParallel, one process for each device"):
        Derivative(network(), laplacian)._replicate_for_data_parallel()
    assert "residual(Sequential, heat, inputs='t x', outputs='u')" in repr(
        Equation(network(), heat, inputs="t x", outputs="u")
    )
