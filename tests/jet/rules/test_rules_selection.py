"""Rules of elements chosen by a mask or by comparing operands, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, normal, refuse_fallback, sq
from propagated import propagated

B = normal(3, 4, seed=11)
MASK = normal(3, 4, seed=12) > 0
CASES = [
    BatchCase("clamp", lambda x: sq(x).clamp(-0.4, 0.7)),
    BatchCase("clamp-at-bound", lambda x: x.clamp(-0.5, 0.5), ties=True),
    BatchCase("clamp-tensors", lambda x: torch.clamp(sq(x), B - 0.5, B + 0.5)),
    BatchCase("clamp-crossed", lambda x: torch.clamp(x, x.cos() + 0.3, x.sin())),
    BatchCase("clamp-jet-bounds", lambda x: torch.clamp(B, x, x + 0.5)),
    BatchCase("clamp-jet-minimum", lambda x: torch.clamp(B, min=sq(x))),
    BatchCase("clamp_min", lambda x: torch.clamp_min(sq(x), 0.1)),
    BatchCase("clamp_max", lambda x: sq(x).clamp_max(B)),
    BatchCase("clip", lambda x: torch.clip(sq(x), max=0.2)),
    BatchCase("clamp_", lambda x: sq(x).clamp_(-0.4, 0.7)),
    BatchCase("where", lambda x: torch.where(x > 0, sq(x), x.exp())),
    BatchCase("where-scalar", lambda x: torch.where(MASK, 0.0, sq(x))),
    BatchCase("where-broadcast", lambda x: torch.where(MASK[:, None], sq(x), B[:, None].expand(3, 2, 4)), (2, 4)),
    BatchCase("where-method", lambda x: sq(x).where(MASK, x.exp())),
    BatchCase("masked_fill", lambda x: sq(x).masked_fill(MASK, 2.0)),
    BatchCase("masked_fill-jet", lambda x: torch.masked_fill(B, MASK, sq(x).sum())),
    BatchCase("masked_fill_", lambda x: sq(x).masked_fill_(MASK, -torch.inf).exp()),
    BatchCase("copysign", lambda x: torch.copysign(sq(x), B)),
    BatchCase("nextafter", lambda x: torch.nextafter(sq(x), B) + torch.nextafter(B, x), reference=lambda x: sq(x) + B),
    BatchCase("copysign-number", lambda x: sq(x).copysign(-1.0)),
    BatchCase("fmod", lambda x: torch.fmod(3 * sq(x), 0.7)),
    BatchCase("fmod-jets", lambda x: torch.fmod(3 * sq(x), x.exp())),
    BatchCase("remainder", lambda x: torch.remainder(sq(x), B)),
    BatchCase("remainder-operator", lambda x: sq(x) % 0.3),
    BatchCase(
        "remainder-of-number",
        lambda x: 2.0 % (x.exp() + 1),
        reference=lambda x: 2 - (x.exp() + 1) * (2 / (x.exp() + 1)).floor(),
    ),
    BatchCase("nan_to_num", lambda x: torch.where(MASK, torch.nan, sq(x)).nan_to_num(1.0)),
    BatchCase("frac", lambda x: torch.frac(3 * sq(x))),
    BatchCase("deg2rad", lambda x: torch.rad2deg(sq(x)).sin() + torch.deg2rad(x).exp()),
    *[
        case
        for name in ("maximum", "minimum", "fmax", "fmin")
        for case in (
            BatchCase(f"{name}-two", lambda x, name=name: getattr(torch, name)(sq(x), x.cos())),
            BatchCase(f"{name}-constant", lambda x, name=name: getattr(torch, name)(B, sq(x))),
            BatchCase(f"{name}-tied", lambda x, name=name: getattr(torch, name)(x, x.flip(1)), order=1, ties=True),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", [case for case in CASES if case.order > 1], ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())
