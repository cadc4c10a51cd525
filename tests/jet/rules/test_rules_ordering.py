"""Rules of the largest, the smallest, the middle, and of sorting, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, both, normal, refuse_fallback, sq
from propagated import propagated

B = normal(3, 4, seed=11)
MASK = normal(3, 4, seed=12) > 0
CASES = [
    *[
        case
        for name in ("max", "min")
        for case in (
            BatchCase(f"{name}-two", lambda x, name=name: getattr(torch, name)(sq(x), x.cos())),
            BatchCase(f"{name}-constant", lambda x, name=name: getattr(torch, name)(B, sq(x))),
            BatchCase(f"{name}-tied", lambda x, name=name: getattr(torch, name)(x, x.flip(1)), order=1, ties=True),
        )
    ],
    *[
        case
        for name in ("max", "min", "median", "nanmedian")
        for case in (
            *both(getattr(torch, name)),
            BatchCase(f"{name}-dim", lambda x, name=name: getattr(sq(x), name)(1)[0]),
            BatchCase(f"{name}-keepdim", lambda x, name=name: getattr(sq(x), name)(dim=-1, keepdim=True).values),
        )
    ],
    BatchCase("kthvalue", lambda x: torch.kthvalue(sq(x), 2, 1).values),
    BatchCase("mode", lambda x: torch.mode(sq(x), 1).values),
    BatchCase("sort", lambda x: sq(x).sort(1, descending=True).values),
    BatchCase("sort-stable", lambda x: torch.sort(sq(x), stable=True, dim=-1)[0]),
    BatchCase("msort", lambda x: torch.msort(sq(x))),
    BatchCase("topk", lambda x: torch.topk(sq(x), 2, 1)[0]),
    BatchCase("cummax", lambda x: sq(x).cummax(1).values),
    BatchCase("cummin", lambda x: sq(x).cummin(-1)[0]),
    *both(torch.amax, dim=1),
    *both(torch.amin, dim=(0, 1), keepdim=True),
    *both(lambda x: torch.stack([*torch.aminmax(x)]), "aminmax"),
    *both(lambda x: torch.stack([*torch.aminmax(x, dim=1)]), "aminmax-dim"),
    BatchCase("quantile", lambda x: torch.quantile(sq(x), torch.tensor([0.1, 0.6], dtype=torch.double), 1)),
    BatchCase("quantile-keepdim", lambda x: torch.quantile(sq(x), 0.3, 1, True, interpolation="higher")),
    BatchCase("quantile-all", lambda x: sq(x).quantile(0.3, interpolation="midpoint")),
    BatchCase("nanquantile", lambda x: torch.nanquantile(torch.where(MASK, sq(x), torch.nan), 0.45, 1)),
    BatchCase("quantile-q", lambda x: torch.quantile(B, x.sigmoid()[:, 0], 1)),
    BatchCase("quantile-both", lambda x: torch.quantile(sq(x), x.sigmoid()[0], 0, True)),
    BatchCase("quantile-both-nearest", lambda x: torch.nanquantile(sq(x), x.sigmoid()[0], interpolation="nearest")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    if torch.__version__ < (2, 12) and str(case).startswith("aminmax"):
        pytest.skip("the truth is missing: torch 2.11 has no derivative of aten::aminmax")
    case.check()


@pytest.mark.parametrize("case", [case for case in CASES if case.order > 1], ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


def test_indices_are_plain() -> None:
    def f(x):
        for result in (x.max(1), x.sort(1), x.topk(2), x.cummax(1)):
            assert type(result.indices) is torch.Tensor
        return x.max(1).values

    propagated(f, B)
