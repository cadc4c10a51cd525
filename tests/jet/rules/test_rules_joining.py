"""Rules of tensors joined, repeated or laid out in other ways, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from rule_cases import Case, check, matrix

plain = torch.linspace(0.3, 2.0, 4, dtype=torch.float64)

CASES = [
    Case("hstack", lambda x: torch.hstack([x.sin(), x.cos(), plain.expand(2, 4)])),
    Case("hstack_vectors", lambda x: torch.hstack([x[0].sin(), plain, x.sum()])),
    Case("vstack", lambda x: torch.vstack([x.sin(), plain, x[0].cos()])),
    Case("dstack", lambda x: torch.dstack([x.sin(), x.cos()]) * torch.dstack((x[0].sin(), plain))),
    Case("column_stack", lambda x: torch.column_stack([x.sin(), x[:, 0].cos()])),
    Case("block_diag", lambda x: torch.block_diag(matrix(x)[0], plain, x[0, 0].cos(), matrix(x)[1])),
    Case("meshgrid", lambda x: torch.stack(torch.meshgrid(x[0].sin(), plain, indexing="ij"))),
    Case("meshgrid_xy", lambda x: torch.meshgrid(x[0].sin(), x[1].exp(), indexing="xy")[1]),
    Case("cartesian_prod", lambda x: torch.cartesian_prod(x[0].sin(), plain)),
    Case("atleast_1d", lambda x: torch.atleast_1d(x.sum().sin())),
    Case("atleast_2d", lambda x: torch.cat(torch.atleast_2d(x.sum().sin(), plain[:1]))),
    Case("atleast_3d", lambda x: torch.atleast_3d(x.sin()) + torch.atleast_3d(x[0])),
    Case("trace", lambda x: torch.trace(matrix(x)[0]) + matrix(x)[1].trace()),
    Case("tile", lambda x: torch.tile(x.sin(), (2,)) + x.tile(1, 2)),
    Case("windows", lambda x: x.sin().unfold(1, 2, 1)),
    Case("sum_to_size", lambda x: x.sin().sum_to_size(2, 1)),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)
