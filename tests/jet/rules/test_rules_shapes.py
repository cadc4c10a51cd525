"""Rules of the same elements in another shape or order of axes, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated
from rule_cases import Case, check

from jacfunc.jet import CannotFollowError

wide = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def box(x):
    return x.sin().reshape(2, 2, -1)


CASES = [
    Case("reshape", lambda x: x.sin().reshape(4, 2) + x.view(-1, 2).sin() + x.reshape(shape=(4, 2))),
    Case("view_as", lambda x: x.sin().view_as(wide[:, :2]) + x.reshape_as(wide[:, :2])),
    Case("flatten", lambda x: box(x).flatten(1) * box(x).ravel().unflatten(0, (2, -1))),
    Case("expand", lambda x: x.sin()[:, None].expand(-1, 3, 4) + x[0].broadcast_to(2, 3, 4) + x[:1].expand_as(x)[:, None]),
    Case("expand_scalar", lambda x: x.sum().sin().expand(2, 3)),
    Case("as_other", lambda x: wide[:, :1].expand_as(x.T) * x.T.sin() + wide.flatten()[:8].view_as(x).sin().T * x.T),
    Case("repeat", lambda x: x.sin().repeat(2, 1) + x.cos().repeat((2, 1))),
    Case("squeeze", lambda x: x.sin()[:, None].squeeze() + x[:, None, :].squeeze(1) + x[None].squeeze((0, 1))),
    Case("unsqueeze", lambda x: x.sin().unsqueeze(1) + x.unsqueeze(-2) + x[:, None]),
    Case("permute", lambda x: box(x).permute(2, 0, -2) + torch.permute(box(x), dims=(2, 0, 1))),
    Case("transpose", lambda x: box(x).transpose(0, -1) + box(x).swapaxes(2, 0) + torch.swapdims(box(x), dim0=0, dim1=2)),
    Case("transposes", lambda x: x.t().sin() @ x + x.T @ x + x.mT @ x),
    Case("movedim", lambda x: box(x).movedim(0, -1) + torch.moveaxis(box(x), (0, 1), (2, 0))),
    Case("flip", lambda x: x.sin().flip(0, 1) + torch.flip(x, [-1]) + x.flip(dims=(0,))),
    Case("cumsum", lambda x: x.sin().cumsum(0) + torch.cumsum(x, dim=-1)),
    Case("index_select", lambda x: x.sin().index_select(1, torch.tensor([0, 2, 2])) * x.index_select(0, torch.tensor([1]))[:, :1]),
    Case("sizes_by_name", lambda x: x[:, :1].expand(size=(2, 4)) * x.sin() + x.repeat(repeats=(1, 1)).chunk(chunks=1)[0]),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


def test_a_view_as_another_dtype_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="another dtype"):
        propagated(lambda x: x.view(torch.int32), torch.rand(2, 4))
