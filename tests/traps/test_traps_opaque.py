"""Traps in what torch runs out of sight of ``torch.func``: scripted code, and operators of other libraries."""

from __future__ import annotations

import re

import pytest
import torch
from judging import AGAIN, CURED, METHODS, far
from torch import nn
from torch.autograd import forward_ad
from torch.func import jvp, vmap

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, hess_diag, laplacian

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
DOUBLE = torch.float64
EVERY = [*METHODS, "taylor"]


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (4, 3)), dtype=DOUBLE)


# ------------------------------------------------------------ scripted code that torch has optimised


@torch.jit.script
def hot(x):
    return x.sin() * x


class Calling(nn.Module):
    """Calls scripted code that a walk through its attributes does not find."""

    def forward(self, x):
        return hot(x)


class Attribute:
    def __init__(self):
        self.function = hot

    def __call__(self, x):
        return self.function(x)


@torch.jit.script
def forking(x):
    return torch.jit.wait(torch.jit.fork(hot, x)) * 1.0


class Scaled(nn.Module):
    def forward(self, x, scale: float = 2.0):
        return x.sin() * x * scale


def twice(module):
    return lambda x: module(x=x) - module(x, scale=1.0)


SCRIPTS = {
    "function": lambda: hot,
    "traced": lambda: torch.jit.trace(lambda x: x.sin() * x, torch.ones(2, 3, dtype=DOUBLE)),
    "global of a module": Calling,
    "attribute": Attribute,
    "fork": lambda: forking,
    "named and default arguments": lambda: twice(torch.jit.script(Scaled())),
}


def hot_slope(x):
    return x.cos() * x + x.sin()


def hot_curvature(x):
    return 2 * x.cos() - x * x.sin()


def warmed(f):
    for _ in range(4):
        f(batch().requires_grad_()).sum().backward()
    return f


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torch_has_zeros_for_second_derivatives_of_optimised_scripts():
    f, x = warmed(hot), batch()
    second = jvp(torch.func.grad(lambda x: f(x).sum()), (x,), (torch.ones_like(x),))[1]
    assert far(second, hot_curvature(x)), CURED


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", SCRIPTS)
def test_derivatives_of_optimised_scripts(name, method):
    f, x = warmed(SCRIPTS[name]()), batch()
    for _ in range(2):
        torch.testing.assert_close(diag_jac(f, method=method)(x), hot_slope(x))
        torch.testing.assert_close(laplacian(lambda x: f(x).sum(1), method=method)(x), hot_curvature(x).sum(1))
        for again in AGAIN.values():
            torch.testing.assert_close(again(f, x, method), hot_curvature(x))
        mapped = vmap(diag_jac(f, method=method))(torch.stack([x, -x]))
        torch.testing.assert_close(mapped, torch.stack([hot_slope(x), hot_slope(-x)]))
        warmed(f)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("transform", [diag_jac, batch_jac, hess_diag, laplacian])
def test_parameter_gradients_of_optimised_scripted_modules(transform, method):
    net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double(), batch()
    scripted, weights = warmed(torch.jit.script(net)), [net[0].weight, net[0].bias, net[2].weight]

    def gradients(f):
        return torch.autograd.grad(transform(lambda x: f(x).sin(), method=method)(x).square().sum(), weights)

    torch.testing.assert_close(gradients(scripted), gradients(net))


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scripts_are_torchs_own_outside_of_evaluations():
    kinds = (torch.jit.ScriptFunction, torch._C.ScriptMethod)
    before = [kind.__call__ for kind in kinds]

    def failing(x):
        assert [kind.__call__ for kind in kinds] != before
        hot(x)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        diag_jac(failing)(batch())
    assert [kind.__call__ for kind in kinds] == before
    assert torch._C._get_graph_executor_optimize()
    for wrong in (lambda x: hot(), lambda x: hot(x, x), lambda x: hot(x, y=x)):
        with pytest.raises(RuntimeError, match="hot"):
            diag_jac(wrong)(batch())


@torch.jit.interface
class Interface(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() * x


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner.forward(x)


Outer.__annotations__["inner"] = Interface  # which torch cannot find by its name


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("method", METHODS)
def test_scripts_that_call_others_are_refused(method):
    with pytest.raises(UnsupportedOperationError, match="method of an interface"):
        laplacian(torch.jit.script(Outer()), method=method)(batch())


# ------------------------------------------------------------ operators of other libraries

NO_KERNEL = pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered")

LIBRARY = torch.library.Library("jacfunc_tests", "DEF")


def cubed(x):
    return x**3


def kept(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])


def by_formula(ctx, cotangent):
    return 3 * cotangent * ctx.saved_tensors[0] ** 2


def by_detached(ctx, cotangent):
    return by_formula(ctx, cotangent).detach()


def by_operator(ctx, cotangent):
    return torch.ops.jacfunc_tests.backward_of_cube(cotangent, ctx.saved_tensors[0])


def operator_of(name, kernel, key="CompositeExplicitAutograd", backward=None, arguments="Tensor x"):
    LIBRARY.define(f"{name}({arguments}) -> Tensor")
    LIBRARY.impl(name, kernel, key)
    if backward is not None:
        torch.library.register_autograd(f"jacfunc_tests::{name}", backward, setup_context=kept, lib=LIBRARY)
    return getattr(torch.ops.jacfunc_tests, name)


def written(name, backward=None):
    def cube(x: torch.Tensor) -> torch.Tensor:
        return x**3

    cube.__annotations__ = {"x": torch.Tensor, "return": torch.Tensor}
    operator = torch.library.custom_op(f"jacfunc_tests::{name}", cube, mutates_args=())
    if backward is not None:
        operator.register_autograd(backward, setup_context=kept)
    operator.register_vmap(lambda info, dims, x: (operator(x), dims[0]))
    return operator


def graphless(x):
    return torch.from_numpy(x.detach().numpy() ** 3)


def graphless_backward(cotangent, x):
    return torch.from_numpy(3 * cotangent.detach().numpy() * x.detach().numpy() ** 2)


operator_of("backward_of_cube", graphless_backward, "CPU", arguments="Tensor cotangent, Tensor x")
OPERATORS = {
    "custom_op": written("cube", by_formula),
    "defined": operator_of("defined", cubed, backward=by_formula),
    "an overload": operator_of("overload", cubed, backward=by_formula).default,
    "without a formula, of torch's operations": operator_of("plain", cubed),
    "composite": operator_of("composite", cubed, "CompositeImplicitAutograd"),
}
ONCE = {
    "detached backward": written("detached", by_detached),
    "backward by an operator": written("nested", by_operator),
}
NEVER = {"custom_op": written("formless"), "of numpy": operator_of("graphless", graphless, "CPU")}


REFUSALS = (
    r"cannot differentiate (the operator \S+|an autograd\.Function( or custom operator)?) inside f; "
    r"|an autograd\.Function inside f \(or a custom operator, .*write it with differentiable operations"
)


def right_or_refused(call, truth):
    """Whether it was refused, for the operator and by a sentence with a way out; what is not must be right."""
    try:
        found = call()
    except UnsupportedOperationError as refused:
        assert re.search(REFUSALS, str(refused)), refused
        return True
    torch.testing.assert_close(found, truth)
    return False


@pytest.mark.parametrize("name", ["custom_op", "defined", "without a formula, of torch's operations"])
def test_torch_has_zeros_for_forward_derivatives_of_operators(name):
    x = batch()
    found = jvp(OPERATORS[name], (x,), (torch.ones_like(x),))[1]
    assert not found.any(), CURED


@NO_KERNEL
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_of_operators_are_right_or_refused(name, method):
    f, x = OPERATORS[name], batch()
    first, second = 3 * x**2, 6 * x
    always = name == "composite" or method != "forward"
    for call, truth in (
        (lambda: diag_jac(f, method=method)(x), first),
        (lambda: diag_jac(lambda x: f(x) * x, method=method)(x), 4 * x**3),
        (lambda: laplacian(lambda x: f(x).sum(1), method=method)(x), second.sum(1)),
        (lambda: AGAIN["nested"](f, x, method), second),
        (lambda: AGAIN["backward"](f, x, method), second),
    ):
        assert not right_or_refused(call, truth) or not always
    tangents = torch.ones_like(x)
    for call, truth in (
        (lambda: vmap(diag_jac(f, method=method))(x[None])[0], first),
        (lambda: AGAIN["torch.func.grad"](f, x, method), second),
        (lambda: jvp(diag_jac(f, method=method), (x,), (tangents,))[1], second),
        (lambda: forward_ad_slope(diag_jac(f, method=method), x), second),
    ):
        assert not right_or_refused(call, truth) or name != "composite"


def forward_ad_slope(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


@NO_KERNEL
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", ONCE)
def test_operators_whose_backward_cannot_be_differentiated_have_values_only(name, method):
    f, x = ONCE[name], batch()
    refused = right_or_refused(lambda: diag_jac(f, method=method)(x), 3 * x**2)
    assert refused == (method == "forward")
    for again in AGAIN.values():
        with pytest.raises(UnsupportedOperationError):
            again(f, x, method)
    with pytest.raises(UnsupportedOperationError):
        hess_diag(f, method=method)(x)


@NO_KERNEL
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", NEVER)
def test_operators_without_a_derivative_are_refused(name, method):
    f, x = NEVER[name], batch()
    for g in (f, lambda x: f(x) * x):
        for transform in (diag_jac, hess_diag):
            with pytest.raises(UnsupportedOperationError, match="no (route|derivative)"):
                transform(g, method=method)(x)
    with pytest.raises(UnsupportedOperationError):
        vmap(diag_jac(f, method=method))(x[None])
    torch.testing.assert_close(diag_jac(lambda x: f(x.detach()) * x, method=method)(x), x**3)
