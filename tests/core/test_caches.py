"""``jacfunc/core/caches.py``: what is remembered, how much of it, for how long, and that all of it can be forgotten."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import clear_caches, diag_jac, laplacian, make_functional, partials, register_rule
from jacfunc.core import caches
from jacfunc.core.caches import ByKind, Memory, computed_once
from jacfunc.core.once import once

KEPT = {"RULES", "USER_RULES", "ROOTED", "BLOCKWISE", "CHOSEN", "_NOTHING"}
"""What is no memory of calls: rules stay, and nothing is nothing."""


class Part:
    """Something that a function is made of."""


def memories() -> Iterator[tuple[str, Any]]:
    for name, value in vars(caches).items():
        if (
            name not in KEPT
            and isinstance(value, Memory | ByKind | dict | weakref.WeakKeyDictionary)
            and name[:2] != "__"
        ):
            yield name, value


def test_every_memory_is_empty_after_clearing() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    f, params = make_functional(module)
    x = torch.randn(6, 3, dtype=torch.float64)
    derivative = diag_jac(f)
    before = derivative(params, x)
    laplacian(module, sample_chunk_size="auto")(x.repeat(1000, 1))
    diag_jac(lambda x: module(x))(x)
    with warnings.catch_warnings(action="ignore"):  # of torch, that TorchScript is deprecated
        diag_jac(torch.jit.trace(torch.sin, x))(x)
    partials(lambda x: x**3, "u_x", inputs="x", outputs="u")(x[:, :1])
    filled = {name for name, memory in memories() if len(memory)}
    assert filled >= {"PLANS", "INDEPENDENT", "SAMPLE_BYTES", "FAST_CALLS", "IDENTITIES", "INVENTORIES"}
    clear_caches()
    assert {name for name, memory in memories() if len(memory)} == set()
    assert torch.equal(derivative(params, x), before)


def test_what_was_compiled_is_forgotten() -> None:
    x = torch.randn(2, 1, dtype=torch.float64)
    derivative = diag_jac(torch.sin, compile=True)
    derivative(x)
    assert len(caches.COMPILED) == 1
    clear_caches()
    assert not len(caches.COMPILED) and not len(caches.FAST_COMPILED)


def test_results_that_are_computed_once_are_forgotten_wherever_they_are() -> None:
    found = [clear.__self__ for clear in caches._COMPUTED_ONCE]
    partials(lambda x: torch.sin(x), "u_x u_xx", inputs="x", outputs="u")(torch.randn(3, 1))
    assert sum(value.cache_info().currsize > 0 for value in found) > 3
    clear_caches()
    assert all(value.cache_info().currsize == 0 for value in found)


def test_rules_of_users_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("RULES", "USER_RULES"):  # the forms in place among them
        monkeypatch.setattr(caches, name, dict(getattr(caches, name)))
    own = caches.RULES[torch.sinc][0]
    register_rule(torch.sinc, lambda x: (asked.append(1), own(x))[1])
    clear_caches()
    x = torch.full((2, 1), 2.0)
    torch.testing.assert_close(diag_jac(torch.sinc, method="taylor")(x), torch.full((2, 1), 0.5))
    assert asked


# -------------------------------------------------------------------- the memories themselves


def test_a_memory_forgets_with_what_it_is_about() -> None:
    memory, part = Memory(), Part()
    memory.put("f", [part], "signature", 1)
    assert memory.get("f", "signature") == 1 and memory.get("f", "other") is None and memory.get("g", "") is None
    del part
    gc.collect()
    assert memory.get("f", "signature") is None and not len(memory)


def test_a_memory_keeps_what_was_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MAX_FUNCTIONS", 3)
    monkeypatch.setattr(caches, "MAX_SIGNATURES", 2)
    memory, part = Memory(), Part()
    for name in "abc":
        memory.put(name, [part], 0, name)
    assert memory.get("a", 0) == "a"  # now b is the oldest
    memory.put("d", [part], 0, "d")
    assert [memory.get(name, 0) for name in "abcd"] == ["a", None, "c", "d"]
    for signature in range(1, 4):
        memory.put("d", [part], signature, signature)
    assert [memory.get("d", signature) for signature in range(4)] == [None, None, 2, 3]
    memory.forget("d")
    assert memory.get("d", 3) is None
    memory.clear()
    assert not len(memory)


def test_by_kind_keeps_the_newest_kinds_and_no_owner_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MAX_SIGNATURES", 2)
    memory, owner = ByKind(), Part()
    for kind in range(3):
        memory.put(owner, kind, str(kind))
    assert [memory.get(owner, kind, "none") for kind in range(3)] == ["none", "1", "2"]
    assert memory.kinds(owner) == 2 and memory.get(Part(), 1) is None
    del owner
    gc.collect()
    assert not len(memory)
    kept = Part()
    memory.put(kept, 0, 1)
    memory.clear()
    assert not len(memory)


def test_what_is_computed_once_is_computed_once_and_again_after_clearing() -> None:
    seen = []

    @computed_once(2)
    def doubled(number: int) -> int:
        seen.append(number)
        return 2 * number

    assert [doubled(1), doubled(1), doubled(2), doubled(3), doubled(1)] == [2, 2, 4, 6, 2]
    assert seen == [1, 2, 3, 1]
    clear_caches()
    assert doubled(1) == 2 and seen == [1, 2, 3, 1, 1]


def test_dynamo_comes_across_no_cache() -> None:
    @computed_once(2)
    def doubled(number: int) -> int:
        return 2 * number

    f = torch.compile(lambda x: x * doubled(3), fullgraph=True, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f(torch.ones(2)).tolist() == [6, 6]
    assert doubled.__name__ == "doubled" and doubled(3) == 6


def test_what_an_object_is_asked_once_it_knows() -> None:
    class Asked:
        times = 0

        @once
        def answer(self) -> int:
            """What is asked."""
            self.times += 1
            return 42

    asked, other = Asked(), Asked()
    assert [asked.answer, asked.answer, asked.times, other.times, other.answer] == [42, 42, 1, 0, 42]
    assert vars(Asked)["answer"].__doc__ == "What is asked."
