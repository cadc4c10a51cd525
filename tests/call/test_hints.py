"""Warnings at the first look: detached parameters, and second derivatives that are zero everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from jacfunc import (
    batch_jac,
    biharmonic,
    clear_caches,
    diag_jac,
    hess_diag,
    hessian,
    laplacian,
    make_functional,
    partials,
    residual,
)
from jacfunc.errors import DetachedParametersWarning, PrecisionWarning, ZeroDerivativeWarning

X = torch.linspace(-1, 1, 12).reshape(6, 2)
SECOND: dict[str, Callable[[Any], Any]] = {
    "laplacian": laplacian,
    "with its gradient": lambda f: laplacian(f, return_gradient=True),
    "hess_diag": hess_diag,
    "hessian": hessian,
    "with its gradients": lambda f: hessian(f, return_gradient=True),
    "biharmonic": biharmonic,
    "partials": lambda f: partials(f, "u u_x u_xy", inputs="x y", outputs="u"),
    "a sum": lambda f: partials(f, "u_x, u_xx+u_yy", inputs="x y", outputs="u"),
    "residual": lambda f: residual(f, lambda d: d.u_x - d.u_xx, inputs="x y", outputs="u"),
}


def network(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 1))


def warned(call: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call()
    return told


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_of_straight_pieces(name: str) -> None:
    transform = SECOND[name]
    for activation in (nn.ReLU(), nn.LeakyReLU(), nn.Hardtanh(), nn.PReLU()):
        call = transform(network(activation))
        (told,) = warned(lambda call=call: call(X))
        assert told.category is ZeroDerivativeWarning
        assert told.filename == __file__
        assert type(activation).__name__.lower() in str(told.message).replace("_", "")
        assert not warned(lambda call=call: call(X)), "a call that is known warns no more"
    assert not warned(lambda: transform(network(nn.Tanh()))(X))
    assert not warned(lambda: transform(nn.Linear(2, 1))(X)), "a linear map is meant to be one"


def test_a_function_of_straight_pieces_is_seen_without_a_module() -> None:
    net = network(nn.Identity())
    (told,) = warned(lambda: laplacian(lambda x: torch.relu(net(x)))(X))
    assert "(relu)" in str(told.message)
    assert not warned(lambda: laplacian(lambda x: torch.relu(net(x) + 9) ** 2)(X))
    assert not warned(lambda: batch_jac(lambda x: torch.relu(net(x)))(X)), "first derivatives are none of them"


def test_looking_for_pieces_draws_and_writes_nothing() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8).eval(), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert [told.category for told in warned(lambda: laplacian(net)(X))] == [ZeroDerivativeWarning]
    after, drawn = net.state_dict(), torch.get_rng_state()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    torch.set_rng_state(state)
    net(X)
    assert torch.equal(torch.get_rng_state(), drawn), "as much is drawn as by one forward"


def test_parameters_that_were_detached() -> None:
    net = network(nn.Tanh())
    f, params = make_functional(net)
    live = {name: value.detach() for name, value in net.named_parameters()}
    own: Callable[[Any, torch.Tensor], torch.Tensor] = lambda params, x: functional_call(net, params, x)
    for function in (f, own):
        for given in (net.state_dict(), live):
            told = warned(lambda function=function, given=given: diag_jac(function)(given, X))
            assert [warning.category for warning in told] == [DetachedParametersWarning]
            assert told[0].filename == __file__
            clear_caches()
    assert not warned(lambda: diag_jac(f)(params, X))
    assert not warned(lambda: diag_jac(own)(dict(net.named_parameters()), X))


def test_parameters_that_are_meant_to_be_constants() -> None:
    net = network(nn.Tanh())
    f, _ = make_functional(net)
    with torch.no_grad():
        assert not warned(lambda: diag_jac(f)(net.state_dict(), X))
    g, frozen = make_functional(net, snapshot=True)
    assert not warned(lambda: diag_jac(g)(frozen, X))
    live = {name: value.detach() for name, value in net.named_parameters()}
    assert not warned(lambda: torch.func.grad(lambda params: diag_jac(f)(params, X).sum())(live))
    net.requires_grad_(False)
    assert not warned(lambda: diag_jac(make_functional(net)[0])(net.state_dict(), X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_second_derivatives_in_half_precision(dtype: torch.dtype) -> None:
    net = network(nn.Tanh()).to(dtype)
    for name, transform in SECOND.items():
        told = [warning.category for warning in warned(lambda transform=transform: transform(net)(X.to(dtype)))]
        assert PrecisionWarning in told, name
    assert not warned(lambda: diag_jac(net)(X.to(dtype)))
    assert not warned(lambda: laplacian(net.float())(X))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_what_is_detached_from_its_input() -> None:
    net = network(nn.Tanh())
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "no_grad": Detached(),
        "output": lambda x: net(x).detach(),
        "input": lambda x: net(x.detach()),
        "unused": lambda x: net(torch.ones_like(x)),
    }
    for name, f in functions.items():
        for transform in (batch_jac, *SECOND.values()):
            (told,) = warned(lambda f=f, transform=transform: transform(f)(X))
            assert told.category is ZeroDerivativeWarning, name
            assert "no output of f is connected to args[0]" in str(told.message)
            assert told.filename == __file__
    assert not warned(lambda: diag_jac(lambda x: x**2)(0 * X)), "zero at these points alone"


def test_asking_whether_it_is_connected_draws_nothing() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    f = lambda x: net(x).detach()
    state = torch.get_rng_state()
    assert warned(lambda: batch_jac(f)(X))
    drawn = torch.get_rng_state()
    torch.set_rng_state(state)
    net(X)
    assert torch.equal(torch.get_rng_state(), drawn)
