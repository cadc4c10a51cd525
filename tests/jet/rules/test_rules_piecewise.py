"""Rules of activations in pieces, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, check_one_draw, normal, refuse_fallback, sq
from jet_truth import Function
from propagated import propagated
from rule_cases import Case, check
from torch.nn import functional as F

B = normal(3, 4, seed=11)
CASES = [
    *(Case(name, getattr(F, name), 1, 1) for name in ("selu", "celu")),
]  # fmt: skip
BATCHES = [
    BatchCase("hardshrink", lambda x: F.hardshrink(sq(x))),
    BatchCase("softshrink", lambda x: F.softshrink(sq(x), 0.2)),
    BatchCase("hardswish", lambda x: F.hardswish(3 * sq(x))),
    BatchCase("hardswish_", lambda x: F.hardswish(3 * sq(x), inplace=True)),
    BatchCase("hardsigmoid", lambda x: F.hardsigmoid(3 * sq(x)), reference=lambda x: (sq(x) / 2 + 0.5).clamp(0, 1)),
    BatchCase("prelu", lambda x: F.prelu(sq(x), B[0])),
    BatchCase("prelu-channels", lambda x: F.prelu(sq(x), B[0, :3]), (2, 3, 2)),
    BatchCase("prelu-jet", lambda x: F.prelu(sq(x), x[0].exp())),
    BatchCase("rrelu", lambda x: F.rrelu(sq(x))),
    BatchCase("selu", lambda x: F.selu(sq(x))),
    BatchCase("celu", lambda x: F.celu(sq(x), 0.7)),
]  # fmt: skip
RANDOM = [
    ("rrelu", lambda x: F.rrelu(sq(x), 0.2, 0.3, training=True), (3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_to_the_sixth_order(case: Case) -> None:
    check(case, "6", 1e-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_the_lower_orders(case: Case) -> None:
    for layout in ("first", "diagonal", "summed"):
        check(case, layout, 1e-9)


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


@pytest.mark.parametrize(("name", "f", "shape"), RANDOM, ids=[name for name, *_ in RANDOM])
def test_one_draw_which_is_that_of_a_plain_forward(name: str, f: Function, shape: tuple[int, ...]) -> None:
    check_one_draw(f, shape)


def test_slopes_have_the_precision_of_the_input() -> None:
    x = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    for function in (lambda x: F.leaky_relu(x, 0.3), lambda x: F.rrelu(x, 0.2, 0.4), lambda x: F.elu(x, 0.3)):
        _, (rows,) = propagated(function, x)
        (expected,) = torch.autograd.functional.jvp(function, x, torch.ones_like(x))[1:]
        assert (rows[0] - expected).abs().max() < 1e-15
