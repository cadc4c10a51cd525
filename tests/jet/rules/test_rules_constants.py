"""Rules of what does not vary with its tensors, and of new tensors that are like another."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, refuse_fallback, sq
from propagated import by_layout, propagated
from rule_cases import Case, check
from torch.nn import functional as F

from jacfunc.jet.layout import first_order

CASES = [
    Case("new_tensor", lambda x: x.sin() * x.new_tensor([1.0, 2.0, 3.0, 4.0])),
    Case("numel", lambda x: x.sin() / x.numel() * x.stride(0)),
]  # fmt: skip
BATCHES = [
    BatchCase("one_hot", lambda x: sq(x) * F.one_hot(x.argmax(1), 4)),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


def test_integer_results_are_constants() -> None:
    value, rows = by_layout(lambda x: x.argmax(1), torch.rand(2, 4), first_order(4))
    assert value.dtype == torch.int64
    assert not rows
