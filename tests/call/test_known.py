"""``jacfunc/call/known.py``: which programs a plan was found of, and how many of them are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import vmap

from jacfunc import (
    CoupledSamplesError,
    UnsupportedOperationError,
    batch_jac,
    clear_caches,
    diag_jac,
    hess_diag,
    laplacian,
    make_functional,
)
from jacfunc.call.independence import Independence
from jacfunc.call.known import recorder_of, with_program
from jacfunc.call.plan import Findings
from jacfunc.call.request import Request
from jacfunc.core import caches
from jacfunc.evaluation import program as programs
from jacfunc.evaluation.recorder import Recorder
from jacfunc.options import Options

X = torch.randn(4, 3)


def request(f: Any, *args: Any, **more: Any) -> Request:
    return Request(f, Options(), args or (X,), {}, **more)


def known() -> list[Any]:
    """The programs of all plans that are remembered."""
    return [p for _, plans in caches.PLANS._entries.values() for plan in plans.values() for p in plan.findings.programs]


def test_plain_layers_and_what_is_traced_are_not_noted() -> None:
    f, params = make_functional(nn.Linear(3, 3))
    findings = Findings(Independence.CHECKED)
    assert recorder_of(findings, request(f, params, X)) is None
    assert recorder_of(findings, request(torch.sin, traced=True)) is None
    seen: list[Any] = []
    vmap(lambda x: seen.append(recorder_of(findings, request(torch.sin, x))) or x)(X[None])
    assert seen == [None]


def test_what_is_settled_is_compared_and_what_is_not_is_noted() -> None:
    noting = recorder_of(Findings(Independence.CHECKED), request(torch.sin))
    assert isinstance(noting, Recorder) and noting.known is None
    diag_jac(torch.sin)(X)
    settled = Findings(Independence.CHECKED, settled=True, programs=tuple(known()[:1]))
    following = recorder_of(settled, request(torch.sin))
    assert following is not None and following.known == settled.programs
    assert recorder_of(Findings(Independence.CHECKED, settled=True), request(torch.sin)) is None


def test_each_way_is_kept_once_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacfunc.call.known.PROGRAMS", 3)
    clear_caches()
    asked = SimpleNamespace(steps=1)

    def f(x: Any) -> Any:
        for _ in range(asked.steps):
            x = x.sin()
        return x

    for count in (1, 2, 1, 2, 3, 4, 5):
        asked.steps = count
        for x in (X, torch.randn(7, 3)):
            diag_jac(lambda x: f(x))(x)
    assert [len(program.steps) - 1 for program in known()] == [5, 4, 3]


def test_what_a_proof_is_of_needs_no_numbers() -> None:
    clear_caches()
    shift, mixing = torch.ones(3), torch.eye(4)
    diag_jac(lambda x: x + shift)(X)
    (program,) = known()
    assert program.proved and program.held == ()
    clear_caches()
    diag_jac(lambda x: mixing @ x)(X)
    (program,) = known()
    assert not program.proved and program.depends


def test_nothing_is_added_where_nothing_was_noted() -> None:
    findings = Findings(Independence.CHECKED)
    assert with_program(findings, None, None, True) == ()
    assert with_program(findings, Recorder(4), None, True) == ()
    assert programs.PROGRAMS >= 32


# -------------------------------------------------------------------- what no program shows


class Switched(torch.autograd.Function):
    """A hyperbolic tangent whose backward may be told to detach what it saved."""

    detaches = False

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        square = y * y
        return g * (1 - (square.detach() if Switched.detaches else square))


@pytest.mark.parametrize("transform", [hess_diag, laplacian])
def test_backwards_are_verified_again_and_again(transform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    derivative, x = transform(lambda x: Switched.apply(x) * x), torch.randn(4, 2, dtype=torch.float64)
    right = transform(lambda x: x.tanh() * x)(x)
    for _ in range(3):
        torch.testing.assert_close(derivative(x), right)
    monkeypatch.setattr(Switched, "detaches", True)
    derivative(x)  # the fourth call
    for _ in range(4):
        with pytest.raises(UnsupportedOperationError, match=r"autograd\.Function"):
            derivative(x)
    monkeypatch.setattr(Switched, "detaches", False)
    torch.testing.assert_close(transform(lambda x: Switched.apply(x) * x + 0.0)(x), right)


def test_statistics_of_the_batch_that_are_turned_on_later() -> None:
    """Of a normalisation whose weight is zero at first nothing tells; its running statistics are written at each call."""
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    nn.init.zeros_(net[1].weight)
    derivative, x = batch_jac(net), torch.randn(6, 3, dtype=torch.float64)
    derivative(x)
    net[1].weight.data.fill_(1.0)
    with pytest.raises(CoupledSamplesError):
        derivative(x)
    residual = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    nn.init.zeros_(residual[1].weight)
    derivative = diag_jac(lambda x: x.sin() + residual(x))
    for _ in range(3):
        torch.testing.assert_close(derivative(x), x.cos())
    residual[1].weight.data.fill_(1.0)
    derivative(x)
    with pytest.raises(CoupledSamplesError):  # at the fifth call
        derivative(x)
