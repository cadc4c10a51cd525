"""Rules of what joins, adds up, casts or copies, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from rule_cases import Case, check

double = torch.float64
plain = torch.linspace(0.4, 1.5, 4, dtype=double)

CASES = [
    Case("cat", lambda x: torch.cat([x.sin(), plain[None], x[:1]]) + torch.cat((x, x, x[1:]), dim=-2)[:4]),
    Case("cat_empty", lambda x: torch.cat([torch.zeros(0, dtype=double), x.sin()], 1)),
    Case("concat", lambda x: torch.concat([x, x.sin()], -1) + torch.concatenate([x.sin(), x], axis=1)),
    Case("stack", lambda x: torch.stack([x.sin(), plain.expand(2, 4)], 1) + torch.stack([x, x], -2)),
    Case("sum", lambda x: x.sin().sum() + x.sum(0) + x.sum((0, 1), keepdim=True) + torch.sum(x, dim=[-1])[0]),
    Case("mean", lambda x: x.sin().mean() + x.mean(1, True) + x.mean(dim=(0,))),
    Case("cast", lambda x: x.to(double) + x.type(double) + x.to(x)),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)
