"""Compiled code that is slower than eager code: not called.  No time is measured here: what would be is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from backends import compiling_by
from torch import nn
from torch._dynamo.testing import CompileCounter

from jacfunc import explain, laplacian, make_functional
from jacfunc.call import faster


@pytest.fixture
def counter() -> Iterator[CompileCounter]:
    """A backend that counts, in place of one that takes seconds."""
    with compiling_by(counting := CompileCounter()):
        yield counting


class Clock:
    """In place of the clock: each run takes as long as it returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.called: list[float] = []
        monkeypatch.setattr(faster, "_seconds", self)

    def __call__(self, run: Callable[[], float]) -> float:
        self.called.append(run())
        return self.called[-1]


def test_slower_by_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert faster.slowdown(lambda: 0.1, lambda: 0.13, recorded=False) == pytest.approx(1.3)
    assert clock.called == [0.1, 0.13] * faster.ROUNDS
    assert faster.slowdown(lambda: 0.1, lambda: 0.13, recorded=True) == pytest.approx(1.3)
    assert faster.slowdown(lambda: 0.1, lambda: 0.11, recorded=True) is None
    assert faster.slowdown(lambda: 0.1, lambda: 0.104, recorded=False) is None
    assert faster.slowdown(lambda: 0.1, lambda: 0.05, recorded=False) is None


def test_the_fastest_of_each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    eager, compiled = iter([0.1, 0.5, 0.1, 0.1]), iter([0.9, 0.1, 0.9, 0.9])
    assert faster.slowdown(lambda: next(eager), lambda: next(compiled), recorded=False) is None


def test_what_is_short_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert faster.slowdown(lambda: 1e-3, lambda: 1.0, recorded=False) is None
    assert len(clock.called) == 2


def test_only_on_a_cpu() -> None:
    assert faster.comparable([torch.ones(1)])
    assert not faster.comparable([torch.ones(1, device="meta")])


def test_what_is_slower_is_left_eager(counter: CompileCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster, "slowdown", lambda *_: 1.7)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    f, params = make_functional(net)
    x = torch.randn(5, 3, dtype=torch.float64)
    compiled, eager = laplacian(f, compile=True), laplacian(f)
    assert "compiled" not in dict(explain(compiled)(params, x).items())
    for _ in range(3):
        found, truth = compiled(params, x), eager(params, x)
        assert torch.equal(found, truth)
        gradients = [torch.autograd.grad(one.square().sum(), list(net.parameters())[:3]) for one in (found, truth)]
        assert all(map(torch.equal, *gradients))
        assert counter.frame_count == 1
    told = dict(explain(compiled)(params, x).items())["compiled"]
    assert told == "left eager: compiled, a call took 1.7 times as long"
    assert "compiled" not in dict(explain(eager)(params, x).items())


def test_what_is_faster_is_kept(counter: CompileCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster, "slowdown", lambda *_: None)
    compiled, x = laplacian(torch.nn.Tanh(), compile=True), torch.randn(5, 3)
    for _ in range(2):
        compiled(x)
    assert counter.frame_count == 1
    assert counter.op_count > 0
    assert "compiled" not in dict(explain(compiled)(x).items())
