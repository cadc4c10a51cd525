"""Functions of a whole batch, judged in several layouts and along a direction to the third order; no test lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jet_truth import Function, check
from propagated import propagated

from jacfunc.evaluation.corrections import corrected
from jacfunc.jet import fallback


@dataclass(frozen=True)
class BatchCase:
    """A function of a batch; ``ties``: on rounded numbers, of which some are equal (then to first order)."""

    name: str
    f: Function
    shape: tuple[int, ...] = (3, 4)
    order: int = 3
    ties: bool = False
    reference: Function | None = None

    def input(self) -> torch.Tensor:
        x = normal(*self.shape, seed=3)
        return (x * 2).round() / 2 if self.ties else x

    def check(self) -> None:
        check(self.f, self.input(), self.order, self.reference)

    def __str__(self) -> str:
        return self.name


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def sq(x: Any) -> Any:
    return x * x.sin()  # so that every order is there


def soft(x: Any) -> Any:
    """Between zero and one."""
    return (x.sin() + 1.2) / 3


def both(function: Callable[..., Any], name: str | None = None, **options: Any) -> list[BatchCase]:
    """A function of one tensor and a parameter, on smooth input and on input with ties."""
    name = name or function.__name__
    smooth = BatchCase(name, lambda x: function(sq(x), **options))
    return [smooth, BatchCase(f"{name}-ties", lambda x: function(x, **options), order=1, ties=True)]


def refuse_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an operation without a rule be an error."""

    def refuse(function: Any, *_: Any) -> None:
        raise AssertionError(fallback.name_of(function))

    monkeypatch.setattr("jacfunc.jet.dispatch.pushed", refuse)


def with_corrections(f: Function) -> Function:
    """The function with right derivatives where torch's own are not."""

    def run(x: torch.Tensor) -> torch.Tensor:
        with corrected():
            return f(x)

    return run


def check_one_draw(f: Function, shape: tuple[int, ...]) -> None:
    """Rows for the draw of a plain forward, which leaves the generator where that does."""
    x = normal(*shape, seed=11)

    def seeded(x: Any) -> Any:
        torch.manual_seed(1)
        return f(x)

    check(seeded, x, 3)
    seeded(x)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    propagated(f, x)
    assert torch.equal(torch.get_rng_state(), state)
