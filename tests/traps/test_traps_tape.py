"""Traps in backwards that use the input out of torch's sight: first derivatives are right, what follows is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from differences import stencil
from judging import METHODS

from jacfunc import JacfuncError, batch_jac, diag_jac, hess_diag, laplacian, partials

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
DOUBLE = torch.float64
X = torch.tensor([[0.3, 0.9], [-1.2, 0.4], [0.7, -0.5], [1.9, 1.1], [-0.2, 0.6]], dtype=DOUBLE)


def made(forward: Callable, backward: Callable, setup: Callable | None = None, old: bool = False) -> type:
    """An ``autograd.Function``; ``old`` where forward has the context."""
    body: dict[str, Any] = {"backward": staticmethod(backward), "generate_vmap_rule": not old}
    body["forward"] = staticmethod(forward if old else lambda x: forward(x))  # a builtin has no signature
    if setup is not None:
        body["setup_context"] = staticmethod(setup)
    return type("Made", (torch.autograd.Function,), body)


def saving(compute: Callable) -> Callable:
    return lambda ctx, inputs, output: ctx.save_for_backward(*compute(*inputs, output))


def old(compute: Callable, value: Callable = torch.tanh) -> Callable:
    def forward(ctx, x):
        y = value(x)
        ctx.save_for_backward(*compute(x, y))
        return y

    return forward


def keeping(name: str, compute: Callable, value: Callable = torch.tanh) -> Callable:
    def forward(ctx, x):
        y = value(x)
        setattr(ctx, name, compute(x, y))
        return y

    return forward


def by_saved(ctx, g):
    return g * ctx.saved_tensors[0]


def numpy_tanh(ctx, x):
    y = np.tanh(x.detach().numpy())
    ctx.slope = torch.from_numpy(1 - y * y)
    return torch.from_numpy(y)


class Twice(torch.autograd.Function):
    """With two outputs, one of which the backward of the other needs."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.slope = 1 - y * y
        return y, y**2

    @staticmethod
    def backward(ctx, g, h):
        return (g + 2 * h * ctx.slope.sqrt()) * ctx.slope


def solved(ctx, x):
    """The root of ``y + y^3 = x`` by Newton's iteration, and its slope by the implicit function theorem."""
    y = x.clone()
    for _ in range(60):
        y = y - (y + y**3 - x) / (1 + 3 * y**2)
    ctx.slope = 1 / (1 + 3 * y**2)
    return y


def root(x):
    return solved(type("Context", (), {})(), x)


WRONG: dict[str, tuple[Callable, Callable]] = {
    "1 - y * y saved": (made(old(lambda x, y: (1 - y * y,)), by_saved, old=True).apply, torch.tanh),
    "an attribute of ctx": (
        made(keeping("slope", lambda x, y: 1 - y * y), lambda ctx, g: g * ctx.slope, old=True).apply, torch.tanh
    ),
    "the output as an attribute": (
        made(keeping("y", lambda x, y: y.detach()), lambda ctx, g: g * (1 - ctx.y**2), old=True).apply, torch.tanh
    ),
    "the input as an attribute, detached": (
        made(keeping("x", lambda x, y: x.detach(), torch.sin), lambda ctx, g: g * ctx.x.cos(), old=True).apply, torch.sin
    ),
    "detached in backward": (
        made(old(lambda x, y: (x,), torch.sin), lambda ctx, g: g * ctx.saved_tensors[0].detach().cos(), old=True).apply,
        torch.sin,
    ),
    "data in backward": (
        made(old(lambda x, y: (x,), torch.exp), lambda ctx, g: g * ctx.saved_tensors[0].data.exp(), old=True).apply,
        torch.exp,
    ),
    "numpy": (made(numpy_tanh, lambda ctx, g: g * ctx.slope, old=True).apply, torch.tanh),
    "saved by setup_context": (
        made(lambda x: (x.tanh(), 1 - x.tanh() ** 2), lambda ctx, g, _: g * ctx.saved_tensors[0],
             lambda ctx, inputs, output: (ctx.mark_non_differentiable(output[1]), ctx.save_for_backward(output[1]))),
        torch.tanh,
    ),
    "computed in setup_context": (
        made(torch.tanh, by_saved, saving(lambda x, y: ((1 - y * y).detach(),))).apply, torch.tanh
    ),
    "detached in backward, by setup_context": (
        made(torch.exp, lambda ctx, g: g * ctx.saved_tensors[0].detach(), saving(lambda x, y: (y,))).apply, torch.exp
    ),
    "no_grad in backward": (
        made(torch.sin, lambda ctx, g: g * no_grad_cos(ctx.saved_tensors[0]), saving(lambda x, y: (x,))).apply, torch.sin
    ),
    "an implicit function": (made(solved, lambda ctx, g: g * ctx.slope, old=True).apply, root),
    "a mask of numbers": (
        made(keeping("slope", lambda x, y: 2 * x.relu(), lambda x: x.relu() ** 2), lambda ctx, g: g * ctx.slope, old=True)
        .apply,
        lambda x: x.relu() ** 2,
    ),
}  # fmt: skip
WRONG["saved by setup_context"] = (lambda x, f=WRONG["saved by setup_context"][0]: f.apply(x)[0], torch.tanh)


def no_grad_cos(x):
    with torch.no_grad():
        return x.cos()


class Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos() * (1 + 1e-9 * torch.sin(1e9 * x.detach()))


def through(forward: Callable, backward: Callable) -> Callable:
    """With x saved, forward and backward as they are."""
    return made(forward, lambda ctx, g: backward(g, *ctx.saved_tensors), saving(lambda x, y: (x,))).apply


SINE = through(torch.sin, lambda g, x: g * x.cos())
RIGHT: dict[str, tuple[Callable, Callable]] = {
    "sine": (SINE, torch.sin),
    "ReLU": (through(torch.relu, lambda g, x: g * (x > 0)), torch.relu),
    "clamp": (through(lambda x: x.clamp(-1, 1), lambda g, x: g * ((x > -1) & (x < 1))), lambda x: x.clamp(-1, 1)),
    "abs": (through(torch.abs, lambda g, x: g * x.sign()), torch.abs),
    "squared ReLU": (through(lambda x: x.relu() ** 2, lambda g, x: 2 * g * x.relu()), lambda x: x.relu() ** 2),
    "leaky": (
        through(lambda x: torch.where(x > 0, x, 0.1 * x), lambda g, x: torch.where(x > 0, g, 0.1 * g)),
        lambda x: torch.where(x > 0, x, 0.1 * x),
    ),
    "output saved": (
        made(torch.tanh, lambda ctx, g: g * (1 - ctx.saved_tensors[0] ** 2), saving(lambda x, y: (y,))).apply, torch.tanh
    ),
    "old style": (
        made(old(lambda x, y: (y,)), lambda ctx, g: g * (1 - ctx.saved_tensors[0] ** 2), old=True).apply, torch.tanh
    ),
    "old style, exp": (
        made(old(lambda x, y: (y,), torch.exp), lambda ctx, g: g * ctx.saved_tensors[0], old=True).apply, torch.exp
    ),
    "linear": (through(lambda x: 3 * x, lambda g, x: 3 * g), lambda x: 3 * x),
    "noise in its backward": (Noisy.apply, torch.sin),
    "straight through": (through(lambda x: x + 0, lambda g, x: g), lambda x: x),
    "a product": (lambda x: SINE(x) * x + torch.exp(-SINE(x)), lambda x: x.sin() * x + torch.exp(-x.sin())),
}  # fmt: skip


def second(f: Callable, x: torch.Tensor) -> torch.Tensor:
    return stencil(lambda h: stencil(lambda k: f(x + h + k), 1e-2), 1e-2)


def by_parameter(f: Callable, method: str) -> torch.Tensor:
    """The gradient of first derivatives by a factor that scales the input."""
    w = torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    (found,) = torch.autograd.grad(diag_jac(lambda x: f(w * x), method=method)(X).square().sum(), w)
    return found


def refused_or_close(call: Callable, truth: torch.Tensor, atol: float = 1e-5) -> bool:
    """Whether there was a number, which is right then."""
    try:
        found = call()
    except JacfuncError:
        return False
    assert torch.allclose(found.detach(), truth.reshape(found.shape), atol=atol)
    return True


def derivatives(f: Callable, method: str) -> dict[str, Callable[[], torch.Tensor]]:
    def by_name():
        wanted = partials(lambda x: f(x).sum(1, keepdim=True), "u_xx u_yy", inputs="x y", outputs="u", method=method)
        return torch.stack([*wanted(X)], 1)

    return {
        "hess_diag": lambda: own(hess_diag(f, method=method)(X)),
        "laplacian": lambda: laplacian(f, method=method)(X),
        "partials": by_name,
        "nested": lambda: diag_jac(diag_jac(f, method=method), method=method)(X),
        "parameter": lambda: by_parameter(f, method),
        "backward": lambda: backward(f, method),
    }


def own(found: torch.Tensor) -> torch.Tensor:
    """Of each output by the input of the same place."""
    return found.diagonal(dim1=1, dim2=2)


def backward(f: Callable, method: str) -> torch.Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(diag_jac(f, method=method)(x).sum(), x)[0]


def truths(plain: Callable) -> dict[str, torch.Tensor]:
    twice = second(plain, X)
    first = lambda w: (stencil(lambda h: plain(w * (X + h)), 1e-3)).square().sum()
    return {
        **dict.fromkeys(("hess_diag", "laplacian", "partials", "nested", "backward"), twice),
        "parameter": stencil(lambda h: first(1.3 + h), 1e-3),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WRONG)
def test_backwards_off_the_tape_are_refused_where_they_are_differentiated(name: str, method: str) -> None:
    f, plain = WRONG[name]
    with torch.no_grad():
        truth = stencil(lambda h: plain(X + h), 1e-3)
        refused_or_close(lambda: diag_jac(f, method=method)(X), truth)
        true = truths(plain)
    for kind, call in derivatives(f, method).items():
        assert not refused_or_close(call, true[kind]), kind


@pytest.mark.parametrize("name", WRONG)
def test_first_derivatives_are_there_and_say_that_they_have_no_gradient(name: str) -> None:
    f, plain = WRONG[name]
    truth = stencil(lambda h: plain(X + h), 1e-3)
    for transform in (diag_jac, batch_jac):
        found = transform(f)(X)
        own = found if transform is diag_jac else found.diagonal(dim1=1, dim2=2)
        assert torch.allclose(own.detach(), truth, atol=1e-6)
    x = X.clone().requires_grad_()
    with pytest.raises(JacfuncError, match="this derivative has no gradient"):
        diag_jac(f)(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RIGHT)
def test_right_backwards_are_taken(name: str, method: str, dtype: torch.dtype) -> None:
    f, plain = RIGHT[name]
    with torch.no_grad():
        truth = second(plain, X) if "ReLU" not in name else None
    auto = []
    for x in (X.to(dtype), torch.zeros_like(X[:1]).to(dtype)):  # at a kink too
        try:
            found = own(hess_diag(f, method=method)(x))
        except JacfuncError:
            auto.append(False)
            continue
        auto.append(True)
        if truth is not None and dtype == DOUBLE and len(x) > 1 and "old" not in name:
            assert torch.allclose(found.detach(), truth, atol=1e-4)
    assert all(auto) or method == "forward"
    w = torch.tensor(1.3, dtype=dtype, requires_grad=True)
    if method != "forward":
        torch.autograd.grad(diag_jac(lambda x: f(w * x), method=method)(X.to(dtype)).square().sum(), w)


def iterated(ctx, x):
    """A fixed point that is not reached, as a deep equilibrium model stops at a tolerance."""
    y = torch.zeros_like(x)
    for _ in range(12):
        y = torch.tanh(0.5 * y + x)
    ctx.save_for_backward(y)
    return y


def fixed_point(ctx, g):
    slope = 1 - ctx.saved_tensors[0] ** 2
    return g * slope / (1 - 0.5 * slope)


def solved_roughly(ctx, x):
    y = x.clone()
    for _ in range(50):
        step = (y + y**3 - x) / (1 + 3 * y**2)
        y = y - step
        if step.abs().max() < 1e-6:
            break
    ctx.save_for_backward(y)
    return y


def of_x(formula: Callable) -> Callable:
    return lambda ctx, g: formula(g, *ctx.saved_tensors)


MEANT: dict[str, Callable] = {
    "swish": made(
        old(lambda x, y: (x,), lambda x: x * x.sigmoid()),
        of_x(lambda g, x: g * x.sigmoid() * (1 + x * (1 - x.sigmoid()))),
        old=True,
    ).apply,
    "ReLU": made(old(lambda x, y: (x,), torch.relu), of_x(lambda g, x: g * (x > 0)), old=True).apply,
    "Newton": made(solved_roughly, of_x(lambda g, y: g / (1 + 3 * y**2)), old=True).apply,
    "equilibrium": made(iterated, fixed_point, old=True).apply,
    "straight through": made(lambda ctx, x: x.round(), lambda ctx, g: g, old=True).apply,
    "reversed": made(lambda ctx, x: x.view_as(x), lambda ctx, g: -g, old=True).apply,
    "clipped": made(lambda ctx, x: x.clone(), lambda ctx, g: g.clamp(-1e3, 1e3), old=True).apply,
    "stochastic": made(
        old(lambda x, y: (x,), torch.sin),
        of_x(lambda g, x: g * x.cos() * (1 + 0.01 * torch.randn_like(x))),
        old=True,
    ).apply,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("name", MEANT)
def test_what_is_meant_so_is_taken_in_a_network_of_any_scale(name: str, size: float, dtype: torch.dtype) -> None:
    function = MEANT[name]
    first, second, third = (torch.nn.Linear(*shape, dtype=dtype) for shape in ((3, 32), (32, 32), (32, 2)))
    x = size * torch.randn(200, 3, dtype=dtype)
    f = lambda x: third(function(second(torch.tanh(first(x)))))
    hess_diag(f, check=False)(x)
    g = lambda x: third(function(second(function(first(x)))))[:, :1].expand(-1, 3)
    torch.autograd.grad(diag_jac(g, check=False)(x).sum(), second.weight)


def test_values_beside_the_samples_that_the_function_refuses_say_nothing() -> None:
    def f(x):
        if not bool((x.detach() >= 0).all()):
            raise ValueError("a root of what is negative")
        return SINE(x) * x

    x = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    found = hess_diag(f, check=False)(x)
    assert torch.allclose(found.flatten(), 2 * x.cos().flatten() - (x * x.sin()).flatten())
