"""Rules of pooling by the maximum, and of what puts back, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, check_one_draw, refuse_fallback, sq
from jet_truth import Function
from propagated import propagated
from torch.nn import functional as F

CASES = [
    BatchCase("max_pool1d", lambda x: F.max_pool1d(sq(x), 2), (2, 2, 5)),
    BatchCase("max_pool2d", lambda x: F.max_pool2d(sq(x), 2, 1, 1, ceil_mode=True), (2, 1, 3, 4)),
    BatchCase("max_pool2d-unbatched", lambda x: F.max_pool2d(sq(x), 2), (2, 3, 4)),
    BatchCase("max_pool3d", lambda x: F.max_pool3d(sq(x), 2), (1, 1, 2, 3, 4)),
    BatchCase("max_pool2d-indices", lambda x: F.max_pool2d(sq(x), 2, return_indices=True)[0], (2, 1, 3, 4)),
    BatchCase("torch.max_pool1d", lambda x: torch.max_pool1d(sq(x), 2), (2, 2, 5)),
    BatchCase("adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(sq(x), 2), (2, 2, 5)),
    BatchCase("torch.adaptive_max_pool1d", lambda x: torch.adaptive_max_pool1d(sq(x), 2)[0], (2, 2, 5)),
    BatchCase("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(sq(x), (2, None)), (2, 1, 3, 4)),
    BatchCase("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(sq(x), 2), (1, 1, 2, 3, 4)),
    BatchCase("max_unpool2d", lambda x: F.max_unpool2d(*F.max_pool2d(sq(x), 2, return_indices=True), 2), (2, 1, 4, 4)),
    BatchCase("max_unpool1d", lambda x: F.max_unpool1d(*F.max_pool1d(sq(x), 2, return_indices=True), 2), (2, 1, 4)),
]  # fmt: skip
RANDOM = [
    ("fractional_max_pool2d", lambda x: F.fractional_max_pool2d(sq(x), 2, output_size=2), (1, 2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


@pytest.mark.parametrize(("name", "f", "shape"), RANDOM, ids=[name for name, *_ in RANDOM])
def test_one_draw_which_is_that_of_a_plain_forward(name: str, f: Function, shape: tuple[int, ...]) -> None:
    check_one_draw(f, shape)
