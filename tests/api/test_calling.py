"""``jacfunc/api/calling.py``: a transform taken for its result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sized
from typing import Any

import numpy as np
import pytest
import torch

from jacfunc import diag_jac, explain, laplacian, partials, residual
from jacfunc.api.calling import Uncalled
from jacfunc.errors import ArgumentTypeError

X = torch.ones(2, 3)


class Transform(Uncalled):
    known = 5

    def __repr__(self) -> str:
        return "transform(f)"

    def _results(self) -> tuple[str, ...]:
        return ("u_x",)


@pytest.mark.parametrize("name", ["shape", "sum", "backward", "T", "u_x"])
def test_what_only_the_result_has_says_so(name: str) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(Transform(), name)
    assert str(raised.value) == (
        "transform(f) is a function of the arguments of f, not yet its result; call it first, as in "
        f"g(x).{name} instead of g.{name}"
    )


@pytest.mark.parametrize("name", ["no_such_thing", "_private", "__len__", "u_t"])
def test_what_nothing_has_is_told_as_ever(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^'Transform' object has no attribute '{name}'$"):
        getattr(Transform(), name)
    assert not hasattr(Transform(), name)
    assert Transform().known == 5


def test_transforms_say_so() -> None:
    with pytest.raises(AttributeError, match=r"as in g\(x\).shape instead of g.shape"):
        _ = diag_jac(torch.sin).shape
    with pytest.raises(AttributeError, match=r"as in g\(x\).u_x instead of g.u_x"):
        _ = partials(torch.sin, "u_x", inputs="x", outputs="u").u_x
    with pytest.raises(AttributeError, match="has no attribute 'u_t'"):
        _ = partials(torch.sin, "u_x", inputs="x", outputs="u").u_t


@pytest.mark.parametrize(
    ("operate", "written"),
    [
        (lambda g: g + X, "{} + .."),
        (lambda g: X + g, ".. + {}"),
        (lambda g: g - 1, "{} - .."),
        (lambda g: 1.0 - g, ".. - {}"),
        (lambda g: g * g, "{} * .."),
        (lambda g: np.ones(2) * g, ".. * {}"),
        (lambda g: g / X, "{} / .."),
        (lambda g: X / g, ".. / {}"),
        (lambda g: g @ X, "{} @ .."),
        (lambda g: X @ g, ".. @ {}"),
        (lambda g: g**2, "{} ** .."),
        (lambda g: 2**g, ".. ** {}"),
        (lambda g: -g, "-{}"),
        (abs, "abs({})"),
        (lambda g: g[:, 0], "{}[..]"),
    ],
)
@pytest.mark.parametrize(
    "transform",
    [
        Transform(),
        laplacian(torch.sin),
        partials(torch.sin, "u_x", inputs="x", outputs="u"),
        residual(torch.sin, lambda d: d.u_x, inputs="x", outputs="u"),
        explain(laplacian(torch.sin)),
    ],
)
def test_operators_of_the_result_say_so(operate: Callable[[Any], Any], written: str, transform: Any) -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        operate(transform)
    assert str(raised.value) == (
        f"{transform!r} is a function of the arguments of f, not yet its result; call it first, as in "
        f"{written.format('g(x)')} instead of {written.format('g')}"
    )


def test_what_else_there_is_may_know_an_operator() -> None:
    class Composing:
        def __radd__(self, other: Any) -> str:
            return "composed"

    transform: Any = laplacian(torch.sin)
    assert transform + Composing() == "composed"
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = transform + [1]


def test_nothing_becomes_iterable_or_comparable() -> None:
    transform: Any = laplacian(torch.sin)
    assert not isinstance(transform, (Collection, Container, Iterable, Mapping, Sized))
    assert not np.iterable(transform)
    assert hash(transform) == hash(transform)
    assert transform != laplacian(torch.sin)
    for wrong in (lambda: iter(transform), lambda: [*transform], lambda: transform < 1, lambda: 1 in transform):
        with pytest.raises(TypeError):
            wrong()
