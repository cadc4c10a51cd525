"""Rules of dropout: one mask for the value and all rows, of the draw of a plain forward."""

from __future__ import annotations

import pytest
import torch
from batch_cases import check_one_draw, sq
from jet_truth import Function
from torch.nn import functional as F

RANDOM = [
    ("dropout", lambda x: F.dropout(sq(x), 0.4), (3, 4)),
    ("dropout-eval", lambda x: F.dropout(sq(x), 0.4, training=False), (3, 4)),
    ("dropout-all", lambda x: F.dropout(sq(x), 1.0), (3, 4)),
    ("dropout-transposed", lambda x: F.dropout(sq(x).transpose(0, 1), 0.4), (3, 4)),
    ("dropout2d", lambda x: F.dropout2d(sq(x), 0.4), (2, 3, 2, 1)),
    ("native_dropout", lambda x: torch.native_dropout(sq(x), 0.4, True)[0], (3, 4)),
    ("alpha_dropout", lambda x: F.alpha_dropout(sq(x), 0.4, True), (3, 4)),
    ("alpha_dropout-all", lambda x: F.alpha_dropout(sq(x), 1.0, True), (3, 4)),
    ("feature_alpha_dropout", lambda x: F.feature_alpha_dropout(sq(x), 0.4, True), (2, 3, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "f", "shape"), RANDOM, ids=[name for name, *_ in RANDOM])
def test_one_draw_which_is_that_of_a_plain_forward(name: str, f: Function, shape: tuple[int, ...]) -> None:
    check_one_draw(f, shape)
