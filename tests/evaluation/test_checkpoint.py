"""``jacfunc/evaluation/checkpoint.py``: what is run again in the backward finds what surrounded it at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from functions import at_once
from torch.utils.checkpoint import checkpoint

from jacfunc.core import caches
from jacfunc.evaluation.checkpoint import REPLACED, begin, end

Function = Callable[..., Any]
both = pytest.mark.parametrize("reentrant", [False, True])


def torchs() -> list[Any]:
    return [getattr(torch.utils.checkpoint, name) for name in REPLACED]


OWN = torchs()


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    yield
    assert torchs() == OWN
    assert caches.AROUND_COUNT.number == 0 and not caches.AROUND.rebindings


@contextmanager
def surrounded(rebind: Callable[[Function], Function]) -> Iterator[None]:
    begin(rebind)
    try:
        yield
    finally:
        end()


def noting(name: str, log: list[str]) -> Callable[[Function], Function]:
    def rebind(function: Function) -> Function:
        def again(*args: Any) -> Any:
            log.append(name)
            return function(*args)

        return again

    return rebind


def cube(log: list[str]) -> Callable[[torch.Tensor], torch.Tensor]:
    def f(x: torch.Tensor) -> torch.Tensor:
        log.append("f")
        return x**3

    return f


@both
def test_what_is_checkpointed_is_rebound_for_the_backward_and_gives_its_gradient(reentrant: bool) -> None:
    x, log = torch.tensor([2.0, -1.0], requires_grad=True), []
    with surrounded(noting("outer", log)), surrounded(noting("inner", log)):
        y = checkpoint(cube(log), x, use_reentrant=reentrant)
    assert torch.equal(y, x**3)
    log.clear()
    y.sum().backward()  # where nothing surrounds it any more
    assert log == ["inner", "outer", "f"]  # the innermost was bound first, so that it finds all the others
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2)


@both
def test_outside_of_any_evaluation_it_is_torchs_own(reentrant: bool) -> None:
    x, log = torch.tensor([2.0], requires_grad=True), []
    with surrounded(noting("around", log)):
        pass
    checkpoint(cube(log), x, use_reentrant=reentrant).backward()
    assert log == ["f", "f"]


@both
def test_what_was_checkpointed_after_the_inner_one_ended_knows_the_outer_one_only(reentrant: bool) -> None:
    x, log = torch.tensor([2.0], requires_grad=True), []
    with surrounded(noting("outer", log)):
        with surrounded(noting("inner", log)):
            pass
        y = checkpoint(cube(log), x, use_reentrant=reentrant)
    log.clear()
    y.backward()
    assert log == ["outer", "f"]


def test_names_are_exchanged_while_any_evaluation_is_under_way() -> None:
    begin(noting("a", []))
    begin(noting("b", []))
    assert all(one is not other for one, other in zip(torchs(), OWN, strict=True))
    end()
    assert all(one is not other for one, other in zip(torchs(), OWN, strict=True))
    end()
    assert torchs() == OWN


def test_checkpoints_of_other_threads_are_passed_on_as_they_are() -> None:
    log: list[str] = []

    def other() -> torch.Tensor:
        x = torch.tensor([2.0], requires_grad=True)
        checkpoint(cube(log), x, use_reentrant=False).backward()
        return x.grad

    with surrounded(noting("ours", log)):
        (gradient,) = at_once(other)
    assert log == ["f", "f"] and gradient.item() == 12
