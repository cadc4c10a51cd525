"""Traps in Functions as they are written in the wild: wrong ones give no wrong number, right ones give theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pytest
import torch
from differences import stencil
from judging import METHODS
from tape_functions import WRONG, Map, Member, SavedSwish
from tape_mended import MENDED, NOT_LINEAR
from tape_right import MEANT, RIGHT, Swish
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from jacfunc import JacfuncError, batch_jac, diag_jac, hess_diag, hessian, laplacian, make_functional, partials

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
DOUBLE = torch.float64
X = torch.tensor([[0.3, 0.9, -0.6], [-1.2, 0.4, 0.8], [0.7, -0.5, -0.35], [1.3, 1.1, 0.25]], dtype=DOUBLE)
W = torch.tensor(1.3, dtype=DOUBLE)
UNITS = torch.eye(3, dtype=DOUBLE)

OF_JACOBIAN: dict[str, Callable[[Tensor], Tensor]] = {
    "diag_jac": lambda first: first.diagonal(dim1=1, dim2=2),
    "batch_jac": lambda first: first,
}
OF_HESSIAN: dict[str, Callable[[Tensor], Tensor]] = {
    "hess_diag": lambda second: second.diagonal(dim1=2, dim2=3),
    "laplacian": lambda second: second.diagonal(dim1=2, dim2=3).sum(-1),
    "partials": lambda second: torch.stack((second[:, :, 0, 0].sum(1), second[:, :, 1, 2].sum(1)), 1),
    "nested": lambda second: second.diagonal(dim1=1, dim2=2).diagonal(dim1=1, dim2=2),
    "backward": lambda second: second.diagonal(dim1=1, dim2=2).sum(-1),
}
BY_PARAMETER = {"parameter": "diag_jac", "laplacian by parameter": "laplacian"}
KINDS = (*OF_JACOBIAN, *OF_HESSIAN, *BY_PARAMETER)
SAME = {
    "hessian": "hessian", "vmap": "hess_diag", "func.grad": "parameter", "func.jvp": "parameter", "cut": "laplacian",
    "one row": "batch_jac", "unchecked": "hess_diag", "Jacobian of diagonal": "Jacobian of diagonal",
}  # fmt: skip
OF_HESSIAN_TOO: dict[str, Callable[[Tensor], Tensor]] = {
    "hessian": lambda second: second,
    "Jacobian of diagonal": lambda second: second.diagonal(dim1=1, dim2=2).transpose(1, 2),
}


def by(loss: Tensor, moving: Tensor) -> Tensor:
    """The gradient, or zeros where there is none, as an optimiser takes it."""
    if not loss.requires_grad:
        return torch.zeros_like(moving)
    return torch.autograd.grad(loss, moving, materialize_grads=True)[0]


def calls(f: Map, method: str, w: Tensor = W, x: Tensor = X) -> dict[str, Callable[[], Tensor]]:
    """Every quantity, as a user asks for it."""

    def named() -> Tensor:
        summed = lambda w, x: f(w, x).sum(1, keepdim=True)
        return torch.stack([*partials(summed, "u_xx u_yz", inputs="x y z", outputs="u", method=method)(w, x)], 1)

    def backward() -> Tensor:
        moving = x.clone().requires_grad_()
        return by(diag_jac(f, method=method)(w, moving).sum(), moving)

    def parameter(transform: Callable) -> Tensor:
        moving = w.clone().requires_grad_()
        return by(transform(f, method=method)(moving, x).square().sum(), moving)

    def of_one(x: Tensor) -> Tensor:
        return hess_diag(lambda w, x: f(w, x[None])[0], method=method, batch_dims=0)(w, x)

    loss = lambda w: diag_jac(f, method=method)(w, x).square().sum()
    return {
        "diag_jac": lambda: diag_jac(f, method=method)(w, x),
        "batch_jac": lambda: batch_jac(f, method=method)(w, x),
        "hess_diag": lambda: hess_diag(f, method=method)(w, x),
        "laplacian": lambda: laplacian(f, method=method)(w, x),
        "partials": named,
        "nested": lambda: diag_jac(diag_jac(f, method=method), method=method)(w, x),
        "backward": backward,
        "parameter": lambda: parameter(diag_jac),
        "laplacian by parameter": lambda: parameter(laplacian),
        "hessian": lambda: hessian(f, method=method)(w, x),
        "vmap": lambda: torch.func.vmap(of_one)(x),
        "func.grad": lambda: torch.func.grad(loss)(w),
        "func.jvp": lambda: torch.func.jvp(loss, (w,), (torch.ones_like(w),))[1],
        "cut": lambda: laplacian(f, method=method, sample_chunk_size=3, in_dims=(None, 0))(w, x),
        "one row": lambda: batch_jac(f, method=method, chunk_size=1)(w, x),
        "unchecked": lambda: hess_diag(f, method=method, check=False)(w, x),
        "Jacobian of diagonal": lambda: batch_jac(diag_jac(f, method=method), method=method)(w, x),
    }


Derivatives = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def by_differences(plain: Map) -> Derivatives:
    """The Jacobians ``(N, 3, 3)`` and Hessians ``(N, 3, 3, 3)`` at a parameter, of values alone."""

    def along(call: Callable[[Tensor], Tensor], x: Tensor, step: float) -> Tensor:
        return torch.stack([stencil(lambda h, e=e: call(x + h * e), step) for e in UNITS], -1)

    def hessians(w: Tensor) -> Tensor:
        return along(lambda x: along(lambda x: plain(w, x), x, 8e-3), X, 8e-3)

    return lambda w: along(lambda x: plain(w, x), X, 1e-3), hessians


def by_autograd(f: Map) -> Derivatives:
    """What torch makes of the backwards as they are written, a row at a time."""

    def rows(outputs: Tensor, x: Tensor) -> Tensor:
        if not outputs.requires_grad:
            return x.new_zeros(*outputs.shape, 3)
        found = [
            torch.autograd.grad(row.sum(), x, create_graph=True, materialize_grads=True)[0]
            for row in outputs.flatten(1).unbind(1)
        ]
        return torch.stack(found, 1).reshape(*outputs.shape, 3)

    def jacobian(w: Tensor) -> tuple[Tensor, Tensor]:
        x = X.clone().requires_grad_()
        return rows(f(w, x), x), x

    return lambda w: jacobian(w)[0], lambda w: rows(*jacobian(w))


@lru_cache
def truth(member: Member, kind: str) -> Tensor:
    first, second = by_differences(member.plain) if member.plain else by_autograd(member.f)

    def value(kind: str, w: Tensor) -> Tensor:
        return OF_JACOBIAN[kind](first(w)) if kind in OF_JACOBIAN else (OF_HESSIAN | OF_HESSIAN_TOO)[kind](second(w))

    kind = SAME.get(kind, kind)
    if kind not in BY_PARAMETER:
        return value(kind, W).detach()
    loss = lambda w: value(BY_PARAMETER[kind], w).square().sum()
    if member.plain:
        return stencil(lambda h: loss(W + h), 1e-3 if kind == "parameter" else 4e-3)
    w = W.clone().requires_grad_()
    return by(loss(w), w)


def close(found: Tensor, true: Tensor, tolerance: float) -> bool:
    """Sample by sample and output by output: a small derivative is not right because another is large."""
    found = found.detach().double()
    size = true if true.dim() < 3 else true.abs().amax(-1, keepdim=True)
    return found.shape == true.shape and bool(((found - true).abs() <= tolerance * (1 + size.abs())).all())


def right_or_refused(call: Callable[[], Tensor], member: Member, kind: str) -> bool:
    """Whether there was a number, which is right then."""
    try:
        found = call()
    except JacfuncError:
        return False
    assert close(found, truth(member, kind), 1e-5), kind
    return True


def judged(member: Member, method: str, kinds: tuple[str, ...]) -> dict[str, bool]:
    """Which of ``kinds`` had a number, all of which are right."""
    asked = calls(member.f, method)
    return {kind: right_or_refused(asked[kind], member, kind) for kind in kinds}


OUTSIDE = tuple(SAME)
ALL: Mapping[str, Member] = {f"{table}: {name}": member for table, members in
                             {"wrong": WRONG, "right": RIGHT, "meant": MEANT}.items() for name, member in members.items()}  # fmt: skip
TAKEN = {name: member for name, member in ALL.items() if not name.startswith("wrong")}


def quick(members: Mapping[str, Member]) -> list[Any]:
    """Those that take long are slow ones."""
    long = ("custom operator", "Kepler by numbers", "right: custom operator", "right: Newton", "right: convolution")
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in long)) for name in members]


@pytest.mark.parametrize("name", quick(WRONG))
def test_wrong_ones_have_their_first_derivative_and_no_wrong_number(name: str) -> None:
    assert judged(WRONG[name], "auto", ("diag_jac", "hess_diag"))["diag_jac"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_give_no_wrong_number_by_any_method(name: str, method: str) -> None:
    found = judged(WRONG[name], method, KINDS)
    assert method == "forward" or (found["diag_jac"] and found["batch_jac"])


@pytest.mark.parametrize("name", quick(TAKEN))
def test_right_ones_are_taken(name: str) -> None:
    assert judged(TAKEN[name], "auto", ("hess_diag",))["hess_diag"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TAKEN)
def test_right_ones_are_taken_at_every_order(name: str, method: str) -> None:
    found = judged(TAKEN[name], method, KINDS)
    assert method == "forward" or all(found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_right_ones_are_taken_in_single_precision(name: str) -> None:
    asked = calls(TAKEN[name].f, "auto", W.float(), X.float())
    for kind in KINDS:
        assert close(asked[kind](), truth(TAKEN[name], kind), 2e-3), kind


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALL)
def test_no_option_and_no_transform_outside_brings_a_wrong_number(name: str, method: str) -> None:
    judged(ALL[name], method, OUTSIDE)


class Net(nn.Module):
    """Of activations that are given, as a network for an equation is written."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in ((3, 16), (16, 16), (16, 1)))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


def trained(net: Net, x: Tensor, transform: Callable = laplacian) -> list[Tensor]:
    """The gradients of a residual by the parameters."""
    f, parameters = make_functional(net)
    residual = (
        transform(f)(parameters, x).squeeze(-1) + x.sin().sum(1)
        if transform is laplacian
        else transform(f)(parameters, x)
    )
    residual.square().mean().backward()
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_equation_is_trained_by_a_right_activation_and_not_by_a_wrong_one(dtype: torch.dtype) -> None:
    x = torch.randn(40, 3, dtype=dtype)
    right, wrong, plain = (Net(each).to(dtype) for each in (Swish.apply, SavedSwish.apply, F.silu))
    for net in (right, wrong):
        net.load_state_dict(plain.state_dict())
    atol = 1e-9 if dtype == DOUBLE else 1e-4
    for found, true in zip(trained(right, x), trained(plain, x), strict=True):
        assert torch.allclose(found, true, atol=atol) if true is not None else found is None
    for transform in (laplacian, diag_jac):
        with pytest.raises(JacfuncError):
            trained(wrong, x, transform)
    assert all(p.grad is None for p in wrong.parameters())


NOTHING = [
    ("swish with its sigmoid", "zeros"),
    ("swish with its sigmoid", "none"),
    ("a cache of the module", "NaN"),
    pytest.param("kinematics with Jacobian", "saturated", marks=pytest.mark.slow),
    ("vmap of its own", "zeros"),
    ("vmap of its own", "saturated"),
    ("swish with its sigmoid", "saturated"),
]


@pytest.mark.parametrize(("name", "first"), NOTHING)
def test_a_first_call_that_told_nothing_is_no_verdict(name: str, first: str) -> None:
    member = WRONG[name]
    x = {"zeros": 0 * X, "none": X[:0], "NaN": X * float("nan"), "saturated": X.sign() * 60}[first]
    seconds, firsts = hess_diag(member.f), diag_jac(member.f)
    for call in (seconds, firsts):
        with suppress(JacfuncError):
            call(W, x)
    for _ in range(2):
        moving = X.clone().requires_grad_()
        right_or_refused(lambda: seconds(W, X), member, "hess_diag")
        right_or_refused(lambda x=moving: by(firsts(W, x).sum(), x), member, "backward")


@pytest.mark.parametrize("name", ["LayerNorm with statistics", "swish with its sigmoid"])
def test_what_was_asked_before_makes_no_difference(name: str) -> None:
    member = WRONG[name]
    with torch.no_grad():
        assert judged(member, "auto", ("diag_jac",))["diag_jac"]
    for _ in range(2):
        found = judged(member, "auto", ("diag_jac", "parameter", "hess_diag", "backward"))
        assert found == {"diag_jac": True, "parameter": False, "hess_diag": False, "backward": False}


# ------------------------------------------------------------------ each judged by itself


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, mended in MENDED.items() for kind in mended.kinds])
def test_a_function_is_judged_by_itself(name: str, kind: str) -> None:
    member, _, refusable = MENDED[name]
    call = calls(member.f, "auto")[kind]
    if refusable:
        right_or_refused(call, member, kind)
    else:
        assert close(call(), truth(member, kind), 1e-2)


@pytest.mark.parametrize("kind", ["hess_diag", "laplacian", "backward", "parameter"])
@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_in_its_cotangent_is_refused(name: str, kind: str) -> None:
    with pytest.raises(JacfuncError, match="cotangent|no gradient"):
        calls(NOT_LINEAR[name], "auto")[kind]()


class Partly(Function):
    """Off the tape in part of its domain."""

    how = "by sample"

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if Partly.how == "by sample":
            x = torch.where(x > 0, x.detach(), x)
        elif x.max() > 0:
            x = x.detach()
        return g * x.cos()


@pytest.mark.parametrize("how", ["by sample", "by batch"])
def test_a_part_off_the_tape_that_is_reached_later(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Partly, "how", how)
    seconds = laplacian(lambda x: Partly.apply(x))
    for x in (X - 3, X):
        with suppress(JacfuncError):
            assert close(seconds(x), -x.sin(), 1e-5)
