"""Rules of views under further names, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from rule_cases import Case, check

CASES = [
    Case("copies", lambda x: torch.permute_copy(torch.unsqueeze_copy(x.sin(), 0), (0, 2, 1)) + torch.t_copy(x) + torch.transpose_copy(x, 0, 1) + torch.alias_copy(x).T),
    Case("copies_of_parts", lambda x: torch.diagonal_copy(x.sin()) + torch.unbind_copy(x, 1)[0] + torch.split_with_sizes_copy(x, [2, 2], 1)[1].sum(1) + torch.select_copy(x, 1, 2)),
    Case("copies_of_shapes", lambda x: torch.view_copy(x.sin(), (4, 2)) + torch.squeeze_copy(torch.expand_copy(x[:, :2, None], (2, 2, 2))).sum((0, 1)) + torch.unfold_copy(x, 1, 2, 2).flatten(0, 1)),
    Case("copy_in_place", lambda x: torch.alias_copy(y := x.sin()).mul_(2) + y + torch.view_copy(y, (8,)).add_(1).view(2, 4)),
    Case("slice_copy", lambda x: torch.slice_copy(x.sin(), 1, 0, 4, 2) + torch.slice_copy(x, 1, 2)),
    Case("unsafe_pieces", lambda x: torch.unsafe_chunk(x.sin(), 2, 1)[0] + torch.unsafe_split(x, 2, 1)[1]),
    Case("splits", lambda x: x.hsplit(2)[0].sin() + torch.vsplit(x, 2)[1][:, 2:] + torch.dsplit(x[None], (1, 3))[1][0] + x[0].hsplit(2)[1]),
    Case("as_strided", lambda x: x.sin().as_strided((2, 3), (4, 1), 1) + torch.as_strided(x, (2, 3), (1, 2)) + torch.as_strided_copy(x, (2, 1), (0, 1))),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)
