"""Rules of parts of a tensor, read and written, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from rule_cases import Case, check

CASES = [
    Case("getitem", lambda x: x.sin()[1:, ::2] + x[0, [0, 2]] + x[..., None, 1] + x[torch.tensor([True, False]), 1:3]),
    Case("unbind", lambda x: x.sin().unbind(1)[2] + torch.unbind(x)[1].sum()),
    Case("select", lambda x: x.sin().select(1, -1) + x.select(0, 1).sum()),
    Case("narrow", lambda x: x.sin().narrow(1, 1, 2) + torch.narrow(x, -1, 0, 2)),
    Case("split", lambda x: x.sin().split([1, 3], 1)[1] * torch.split(x, 1)[0][:, 1:] + x.tensor_split(2, -1)[0][:, :1]),
    Case("chunk", lambda x: x.sin().chunk(2, dim=1)[0] + torch.chunk(x, 2, 1)[1] + x.split_with_sizes([2, 2], 1)[0]),
    Case("pieces_by_name", lambda x: x.sin().split(split_size=2, dim=1)[1] + x.tensor_split(sections=2, dim=1)[0] + x.tensor_split(indices=(2,), dim=1)[1]),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)
