"""Traps in branches that are not taken, by another hand: where a careful rewriting has a number, so has ``auto``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from judging import METHODS
from quick import mostly_slow
from torch.nn import functional as F

from jacfunc import JacfuncError, diag_jac, hess_diag, partials

Function = Callable[[Any], Any]
DOUBLE = torch.float64
INF = float("inf")


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=DOUBLE)[:, None]


# ------------------------------------------------------------ branches that are not taken

SIGNED, BELOW, BALL, UNIT, FAR = (
    column(0.3, 0.0, 0.7, -0.9),
    column(0.3, 0.7, -0.9),
    column(0.3, 1.0, -1.0, 2.0),
    column(0.3, 1.0, 0.0, 2.0),
    column(0.3, 1000.0, -1000.0, 2.0),
)


def careful(branch: Function, alive: Function = lambda x: x > 0, beside: float = 1.0, other: Any = None) -> Function:
    """The branch is never evaluated where it is dead."""
    other = other or (lambda x: x * 0)
    return lambda x: torch.where(alive(x), branch(torch.where(alive(x), x, beside)), other(x))


def within(x: Any) -> Any:
    return x.abs() < 1


def written_over(branch: Function) -> Function:
    def f(x: Any) -> Any:
        y = branch(x)
        y[x <= 0] = 0.0
        return y

    return f


def chosen(x: Any) -> Any:
    out, alive = torch.zeros_like(x), x > 0
    out[alive] = x[alive].log()
    return out


def one_of(take: Callable[..., Any], branch: Function, x: Any) -> Any:
    return take(torch.stack([x * 2, branch(x)], -1), -1, (x > 0).long()[..., None])[..., 0]


def barred(x: Any, reduce: Function) -> Any:
    """Features of which one is barred by an infinite logit, as in attention."""
    return reduce(torch.cat([x, x**2, x.sin()], 1).masked_fill(torch.tensor([True, False, False]), -INF))


def unbarred(x: Any, reduce: Function) -> Any:
    return reduce(torch.cat([x**2, x.sin()], 1))


DEAD: dict[str, tuple[Function, Function, torch.Tensor]] = {
    "masked_fill": (lambda x: x.sqrt().masked_fill(x <= 0, 0.0), careful(torch.sqrt), SIGNED),
    "masked_fill in place": (
        lambda x: x.sqrt().exp().masked_fill_(x <= 0, 0.0), careful(lambda x: x.sqrt().exp()), SIGNED
    ),
    "written over by a mask": (written_over(torch.sqrt), careful(torch.sqrt), SIGNED),
    "index_put": (
        lambda x: x.rsqrt().index_put((x <= 0,), torch.zeros((), dtype=DOUBLE)), careful(torch.rsqrt), SIGNED
    ),
    "masked_scatter": (
        lambda x: x.log().masked_scatter(x <= 0, torch.zeros_like(x)), careful(torch.log), SIGNED
    ),
    "chosen by a mask": (chosen, careful(torch.log), SIGNED),
    "gathered": (
        lambda x: one_of(torch.gather, torch.sqrt, x),
        careful(torch.sqrt, other=lambda x: 2 * x), SIGNED
    ),
    "taken along": (
        lambda x: one_of(lambda y, dim, k: torch.take_along_dim(y, k, dim), torch.log, x),
        careful(torch.log, other=lambda x: 2 * x), SIGNED
    ),
    "nan_to_num": (lambda x: torch.nan_to_num(x * x.log()), careful(lambda x: x * x.log()), SIGNED),
    "nan_to_num of infinities": (
        lambda x: torch.nan_to_num(1 / x, posinf=0.0), careful(torch.reciprocal), column(0.3, 0.0, 0.7)
    ),
    "nansum": (
        lambda x: torch.nansum(torch.stack([x.sqrt(), x * 2], -1), -1),
        careful(lambda x: x.sqrt() + 2 * x, other=lambda x: 2 * x), BELOW
    ),
    "a power of a ReLU": (lambda x: F.relu(x) ** 1.5, careful(lambda x: x**1.5), BELOW),
    "another power of a ReLU": (lambda x: F.threshold(x, 0.0, 0.0) ** 2.5, careful(lambda x: x**2.5), BELOW),
    "logarithm of a ReLU": (lambda x: torch.where(x > 0, F.relu(x).log(), 0.0), careful(torch.log), SIGNED),
    "logarithm of a clamp": (lambda x: torch.where(x > 0, x.clamp(min=0).log2(), 0.0), careful(torch.log2), SIGNED),
    "arcsine": (lambda x: torch.where(within(x), x.asin(), 0.0), careful(torch.asin, within, 0.0), BALL),
    "area cosine": (
        lambda x: torch.where(x > 1, x.acosh(), 0.0), careful(torch.acosh, lambda x: x > 1, 2.0), column(1.3, 1.0, 0.4, 2.0)
    ),
    "area tangent": (lambda x: torch.where(within(x), x.atanh(), 0.0), careful(torch.atanh, within, 0.0), BALL),
    "logit": (
        lambda x: torch.where((x > 0) & (x < 1), x.logit(), 0.0),
        careful(torch.logit, lambda x: (x > 0) & (x < 1), 0.5), UNIT
    ),
    "inverse error function": (
        lambda x: torch.where(within(x), x.erfinv(), 0.0), careful(torch.erfinv, within, 0.0), BALL
    ),
    "a quantile": (
        lambda x: torch.where((x > 0) & (x < 1), torch.special.ndtri(x), 0.0),
        careful(torch.special.ndtri, lambda x: (x > 0) & (x < 1), 0.5), UNIT
    ),
    "a smooth bump": (
        lambda x: torch.where(within(x), torch.exp(-1 / (1 - x**2)), 0.0),
        careful(lambda x: torch.exp(-1 / (1 - x**2)), within, 0.0), BALL
    ),
    "gamma function": (lambda x: torch.where(x > 0, x.lgamma(), 0.0), careful(torch.lgamma), SIGNED),
    "entropy": (lambda x: torch.where(x > 0, torch.special.entr(x), 0.0), careful(torch.special.entr), SIGNED),
    "x to the x": (lambda x: torch.where(x > 0, x**x, 0.0), careful(lambda x: x**x), SIGNED),
    "a potential": (lambda x: torch.where(x > 0, x**-6 - x**-3, 0.0), careful(lambda x: x**-6 - x**-3), SIGNED),
    "a thin plate": (lambda x: torch.where(x > 0, x**2 * x.log(), 0.0), careful(lambda x: x**2 * x.log()), SIGNED),
    "a tower of exponentials": (
        lambda x: torch.where(x < 5, x.exp().exp(), 0.0), careful(lambda x: x.exp().exp(), lambda x: x < 5, 0.0), FAR
    ),
    "a softplus by hand": (lambda x: torch.where(x > 20, x, x.exp().log1p()), F.softplus, FAR[[0, 1, 3]]),
    "a sigmoid by hand": (
        lambda x: torch.where(x > 0, 1 / (1 + (-x).exp()), x.exp() / (1 + x.exp())), torch.sigmoid, FAR
    ),
    "a tangent by hand": (
        lambda x: torch.where(x.abs() > 20, x.sign(), (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())), torch.tanh, FAR
    ),
    "a sinc by hand": (
        lambda x: torch.where(x.abs() < 1e-4, 1 - x**2 / 6, x.sin() / x),
        careful(lambda x: x.sin() / x, lambda x: x.abs() >= 1e-4, 1.0, lambda x: 1 - x**2 / 6), SIGNED
    ),
    "a quotient that goes to one": (
        lambda x: torch.where(x == 0, 1 + x / 2 + x**2 / 6, x.expm1() / x),
        careful(lambda x: x.expm1() / x, lambda x: x != 0, 1.0, lambda x: 1 + x / 2 + x**2 / 6), SIGNED
    ),
    "three branches": (
        lambda x: torch.where(x > 0, x.sqrt(), torch.where(x < 0, (-x).log(), 0.0)),
        careful(lambda x: torch.where(x > 0, x.abs().sqrt(), x.abs().log()), lambda x: x != 0), SIGNED
    ),
    "a part that is replaced": (
        lambda x: torch.stack([x.sqrt(), x.sin()], -1).select_scatter(x.cos(), -1, 0).sum(-1),
        lambda x: x.cos() + x.sin(), SIGNED
    ),
    "a column that is left out": (lambda x: torch.cat([x.log(), x.sin()], 1)[:, 1:], torch.sin, SIGNED),
    "a barred logit": (
        lambda x: barred(x, lambda h: h.softmax(1)[:, 1:2]), lambda x: unbarred(x, lambda h: h.softmax(1)[:, :1]), SIGNED
    ),
    "a barred sum": (
        lambda x: barred(x, lambda h: h.logsumexp(1, keepdim=True)),
        lambda x: unbarred(x, lambda h: h.logsumexp(1, keepdim=True)), SIGNED
    ),
    "nothing but barred": (
        lambda x: torch.where(x > 0, torch.cat([x, x**2], 1).masked_fill(x <= 0, -INF).softmax(1)[:, :1], 0.0),
        careful(lambda x: torch.cat([x, x**2], 1).softmax(1)[:, :1]), SIGNED
    ),
    "the smaller": (lambda x: torch.minimum(x.abs().sqrt() + 5, x.sin()), torch.sin, SIGNED),
}  # fmt: skip
SQRT = careful(torch.sqrt)
ROOTS: dict[str, tuple[Function, Function, torch.Tensor]] = {
    "root of a ReLU": (lambda x: F.relu(x).sqrt(), SQRT, SIGNED),
    "root of a clamp": (lambda x: x.clamp(min=0).sqrt(), SQRT, BELOW),
    "root of a clamp by a tensor": (lambda x: torch.clamp_min(x, torch.zeros((), dtype=DOUBLE)).sqrt(), SQRT, BELOW),
    "root of a maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)).sqrt(), SQRT, BELOW),
    "root of a threshold": (lambda x: F.threshold(x, 0.0, 0.0).sqrt(), SQRT, SIGNED),
    "root of a hardtanh": (lambda x: F.hardtanh(x, 0.0, 1.0).sqrt(), SQRT, SIGNED),
    "a power by a tensor": (lambda x: F.relu(x) ** torch.tensor(0.5, dtype=DOUBLE), SQRT, SIGNED),
    "times a mask": (lambda x: x.clamp(min=0).sqrt() * (x > 0), SQRT, BELOW),
    "times a step": (lambda x: F.relu(x).sqrt() * whole(x), SQRT, SIGNED),
    "one hot": (
        lambda x: (torch.stack([x * 0, x.clamp(min=0).sqrt()], -1) * F.one_hot((x > 0).long(), 2)).sum(-1), SQRT, BELOW
    ),
    "lerp": (lambda x: torch.lerp(x.clamp(min=0).sqrt(), x.sin(), 1.0), torch.sin, BELOW),
}  # fmt: skip
DEAD |= ROOTS
ORDERS = {"diag_jac": diag_jac, "hess_diag": hess_diag}
QUICK = (
    "masked_fill",
    "gathered",
    "nan_to_num",
    "a smooth bump",
    "a sinc by hand",
    "a barred sum",
    "index_put",
    "the smaller",
)


def near(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.allclose(one.detach(), two.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", mostly_slow(DEAD, QUICK))
def test_a_dead_branch_has_no_derivative(name: str, order: str) -> None:
    f, plain, x = DEAD[name]
    truth = ORDERS[order](plain, method="reverse")(x)
    assert truth.isfinite().all()
    derivative = ORDERS[order](f, return_value=True)
    for _ in range(2):
        found, value = derivative(x)
        assert near(found, truth) and near(value, plain(x))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("name", DEAD)
def test_a_method_that_is_forced_gives_no_other_number(name: str, method: str) -> None:
    f, plain, x = DEAD[name]
    for transform in ORDERS.values():
        try:
            found = transform(f, method=method)(x)
        except JacfuncError:
            continue
        told = found.isfinite()
        assert near(found[told], transform(plain, method="reverse")(x)[told])
        assert told[[0]].all()


@pytest.mark.parametrize("name", mostly_slow(DEAD, QUICK))
@pytest.mark.parametrize("asked", mostly_slow(["u u_x", "u_xx u", "u_x u_xx", "u_x+2*u_xx u_x"], ["u_x u_xx"]))
def test_what_else_is_asked_for_changes_nothing(name: str, asked: str) -> None:
    f, plain, x = DEAD[name]
    found = partials(f, asked, inputs="x", outputs="u")(x)
    truth = partials(plain, asked, inputs="x", outputs="u", method="reverse")(x)
    assert all(map(near, found, truth))


def by_factor(transform: Function, f: Function, x: torch.Tensor, **options: Any) -> torch.Tensor:
    w = torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    loss = transform(lambda x: w * f(x) + w**2 * x.sin(), **options)(x).square().sum()
    return torch.autograd.grad(loss, w)[0]


NO_GRADIENT = {"hess_diag": ["a power of a ReLU", *ROOTS], "diag_jac": [*ROOTS]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", mostly_slow(DEAD, QUICK[:3]))
def test_gradients_by_a_parameter_beside_a_dead_branch(name: str, order: str) -> None:
    f, plain, x = DEAD[name]
    found = by_factor(ORDERS[order], f, x)
    if name in NO_GRADIENT.get(order, []):
        assert found.isnan()  # as in torch, by every route
    else:
        assert near(found, by_factor(ORDERS[order], plain, x, method="reverse"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_fill", "a sinc by hand", "a softplus by hand", "a barred logit"])
def test_compiled_beside_a_dead_branch(name: str) -> None:
    f, plain, x = DEAD[name]
    found = diag_jac(f, compile=True)(x)
    told = found.isfinite()
    assert told[0].all() and near(found[told], diag_jac(plain, method="reverse")(x)[told])


# ------------------------------------------------------------ where it fails


def whole(x: Any) -> Any:
    return torch.heaviside(x.detach(), torch.zeros((), dtype=DOUBLE))
