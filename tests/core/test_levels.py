"""``jacfunc/core/levels.py``: what surrounds a call, asked from inside and from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functions import at_once
from torch.autograd import forward_ad

from jacfunc.core import caches, levels

X = torch.linspace(0.1, 1, 3)


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def pulled(f: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``f`` inside of ``vjp``; ``grad`` is the same, and would load all of torch.compile."""
    return lambda *args: torch.func.vjp(f, *args)[0]


def noted(ask: Callable[[], Any]) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[Any]]:
    """A function that asks when it runs, and the answers."""
    answers: list[Any] = []

    def f(x: torch.Tensor) -> torch.Tensor:
        answers.append(ask())
        return (x * x).sum()

    return f, answers


SURROUNDINGS: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "nothing": (lambda f: f(X), set()),
    "twice": (lambda f: pulled(pulled(f))(X), {"transform"}),
    "vjp": (lambda f: pulled(f)(X), {"transform"}),
    "jvp": (lambda f: torch.func.jvp(f, (X,), (X,)), {"transform", "jvp"}),
    "vmap": (lambda f: torch.func.vmap(f)(X[None]), {"transform", "vmap"}),
    "vjp in vmap": (lambda f: torch.func.vmap(pulled(f))(X[None]), {"transform", "vmap"}),
    "vmap in vjp": (
        lambda f: pulled(lambda x: torch.func.vmap(f)(x[None]).sum())(X),
        {"transform", "vmap"},
    ),
    "jvp in vmap": (
        lambda f: torch.func.vmap(lambda x: torch.func.jvp(f, (x,), (x,)))(X[None]),
        {"transform", "vmap", "jvp"},
    ),
}


def around() -> set[str]:
    questions = {
        "transform": levels.inside_transform,
        "vmap": levels.inside_vmap,
        "jvp": levels.inside_jvp,
        "trace": levels.tracing,
        "compile": levels.compiling,
        "export": levels.exporting,
    }
    return {name for name, ask in questions.items() if ask()}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_surrounds_a_call(name: str) -> None:
    run, expected = SURROUNDINGS[name]
    f, answers = noted(around)
    run(f)
    assert answers == [expected]
    assert around() == set()


def test_what_make_fx_records_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "get_proxy_mode", object)  # to enter such a mode is to load all of torch.compile
    assert around() == {"trace"}


def test_a_transform_of_another_thread_is_none_of_ours() -> None:
    found = []

    def outside() -> None:
        found.append(around())

    f, answers = noted(lambda: (at_once(outside), levels.inside_transform())[1])
    pulled(f)(X)
    assert found == [set()] and answers == [True]


# -------------------------------------------------------------------- modes


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("on", [True, False])
def test_the_grad_mode_is_set_and_put_back(before: bool, on: bool) -> None:
    with torch.set_grad_enabled(before):
        with levels.grad_mode(on):
            assert torch.is_grad_enabled() is on
        assert torch.is_grad_enabled() is before


def test_a_result_is_differentiated_again_in_a_graph_or_a_transform() -> None:
    assert levels.differentiated_again()
    with torch.no_grad():
        assert not levels.differentiated_again()
        f, answers = noted(levels.differentiated_again)
        torch.func.vmap(f)(X[None])
    assert answers == [True]


def test_inference_mode_is_left_without_a_graph_and_no_grad_stays() -> None:
    def inside() -> tuple[bool, bool, bool]:
        with levels.recording() as left:
            return left, torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    assert inside() == (False, False, True)
    with torch.no_grad():
        assert inside() == (False, False, False)
    with torch.inference_mode():
        assert inside() == (True, False, False)
        assert torch.is_inference_mode_enabled()
        with levels.recording():
            assert not torch.zeros(1).is_inference()


class Asks(torch.autograd.Function):
    answers: list[bool] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        Asks.answers.append(levels.inside_function())
        return x.clone()


@pytest.fixture
def answers() -> Iterator[list[bool]]:
    Asks.answers.clear()
    yield Asks.answers
    caches.AROUND.told_off = False


def test_the_forward_of_a_function_is_told_from_no_grad(answers: list[bool]) -> None:
    Asks.apply(X)
    with torch.no_grad():
        assert not levels.inside_function()
    with torch.inference_mode():
        assert not levels.inside_function()
    caches.AROUND.told_off = True  # a no_grad that switched both off
    Asks.apply(X)
    assert answers == [True, False]


# -------------------------------------------------------------------- tensors


def test_a_tensor_with_a_tangent_is_dual_while_its_level_lasts() -> None:
    assert not levels.is_dual(X)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, X)
        assert levels.is_dual(dual) and levels.is_dual(dual * 2)
        assert not levels.is_dual(X)
    assert not levels.is_dual(dual)


def test_what_a_transform_tracks() -> None:
    constant, seen = torch.ones(3), {}

    def f(x: torch.Tensor) -> torch.Tensor:
        seen["strictly"] = [levels.tracked(tensor) for tensor in (x, x * 2, x.detach(), constant)]
        seen["else"] = [levels.tracked(tensor, strictly=False) for tensor in (x, x * 2, constant)]
        return (x * x).sum()

    pulled(f)(X)
    assert seen == {"strictly": [True, True, False, False], "else": [True, True, False]}
    torch.func.vmap(f)(X[None])
    assert seen == {"strictly": [False] * 4, "else": [False] * 3}
    torch.func.vmap(pulled(f))(X[None])
    assert seen["strictly"] == [True, True, False, False]


def test_a_tensor_has_memory_of_its_own() -> None:
    whole = torch.zeros(4, 3)
    for tensor in (whole, whole.T, whole.reshape(12), torch.zeros(0)):
        assert levels.apart(tensor)
    for tensor in (whole[0], whole[:, 0], whole[:1].expand(5, 3), torch._efficientzerotensor(3)):
        assert not levels.apart(tensor)


def test_a_wrapper_has_the_memory_of_what_it_wraps() -> None:
    f, answers = noted(lambda: None)
    seen = []

    def asked(x: torch.Tensor) -> torch.Tensor:
        seen.append(levels.apart(x))
        return f(x)

    torch.func.vmap(asked)(torch.zeros(2, 3))
    torch.func.vmap(asked)(torch.zeros(4, 3)[:2])
    assert seen == [True, False] and len(answers) == 2


def test_the_wrapper_of_a_transform_is_of_no_use_when_it_is_over() -> None:
    kept: list[torch.Tensor] = []

    def keeping(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        assert not levels.ended(x)
        return (x * x).sum()

    pulled(keeping)(X)
    torch.func.vmap(keeping)(X[None])
    torch.func.jvp(keeping, (X,), (X,))
    assert [levels.ended(tensor) for tensor in kept] == [True] * 3
    assert not levels.ended(X)
    others: list[list[bool]] = []

    def later(x: torch.Tensor) -> torch.Tensor:
        others.append([levels.ended(tensor) for tensor in kept])
        return x.sum()

    pulled(later)(X)  # a level of the same number, and of another kind than that of vmap
    assert others == [[True] * 3]


def test_a_shape_is_fixed_to_plain_ints() -> None:
    assert levels.fixed((2, 0, 3)) == (2, 0, 3) and levels.fixed(()) == ()
    assert all(type(size) is int for size in levels.fixed(torch.zeros(2, 3).shape))


# -------------------------------------------------------------------- what stands for torch


def test_a_backward_without_the_comparison_of_shapes() -> None:
    x, unused = X.clone().requires_grad_(), torch.zeros(2, requires_grad=True)
    y = x**3
    found = levels.run_backward((y,), (torch.ones(3),), (x, unused), False)
    assert found[1] is None and found[0] is not None and not found[0].requires_grad
    torch.testing.assert_close(found[0], 3 * X**2)
    recorded, _ = levels.run_backward((y,), (torch.ones(3),), (x, unused), True)
    assert recorded is not None and recorded.requires_grad
    (second,) = torch.autograd.grad(recorded.sum(), x)
    torch.testing.assert_close(second, 6 * X)
    assert x.grad is None


def test_forward_mode_is_loaded_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    levels.load_forward_mode.cache_clear()
    levels.load_forward_mode()
    assert not recwarn.list and not levels.inside_jvp()
