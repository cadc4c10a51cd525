"""Rules of elementwise functions of one tensor, against nested reverse mode to the sixth order."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, refuse_fallback, sq
from propagated import propagated
from rule_cases import Case, check, complexes, parts
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError

CASES = [
    *(
        Case(name, getattr(torch, name), 1, 1)
        for name in (
            ["tanh", "sigmoid", "sin", "cos", "tan", "sinh", "cosh", "exp", "expm1", "exp2", "erf", "erfc", "atan", "asinh", "asin", "acos", "square", "relu", "abs", "sinc"]
        )
    ),
    *(
        Case(name, getattr(torch, name), 1, 1, 0.5, 1.5)
        for name in ["log", "log2", "log10", "log1p", "reciprocal", "sqrt", "rsqrt", "lgamma", "digamma"]
    ),
    *(
        Case(name, getattr(F, name), 1, 1)
        for name in ["gelu", "silu", "softplus", "logsigmoid", "relu6", "leaky_relu", "elu", "hardtanh", "softsign", "tanhshrink", "mish"]
    ),
    Case("atanh", torch.atanh, 1, 1, -0.6, 0.6),
    Case("acosh", torch.acosh, 1, 1, 1.5, 2.5),
    Case("erfinv", torch.erfinv, 1, 1, -0.6, 0.6),
    Case("entr", torch.special.entr, 1, 1, 0.3, 0.7),
    Case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), 1, 1),
    Case("softplus_beta", lambda x: F.softplus(x, 2.0, 1.0), 1, 1, -1, 0.3),
    Case("softplus_linear", lambda x: F.softplus(x, 2.0, 1.0), 1, 1, 0.6, 1.0),
    Case("elu_alpha", lambda x: F.elu(x, 0.7) + torch.celu(x, 1.3), 1, 1, -1, -0.5, lambda x: 0.7 * x.expm1() + 1.3 * (x / 1.3).expm1()),
    Case("threshold", lambda x: F.threshold(x, 0.1, 0.4) + F.hardtanh(x, -0.2, 0.3), 1, 1),
    Case("nested", lambda x: (x.tanh() * 2 + x.sin().exp()).log1p().sqrt(), 1, 1, 0.1, 1.0),
]  # fmt: skip
COMPLEX = [
    Case("complex_exp", lambda x: parts(complexes(x).exp())),
    Case("complex_log_sqrt", lambda x: parts((complexes(x) + 2).log().sqrt())),
    *(
        Case(f"complex_{name}", lambda x, name=name: parts(getattr(torch, name)(complexes(x) * 0.4 + 0.3j)))
        for name in ("tan", "asin", "acos", "atan", "asinh", "acosh", "atanh", "reciprocal", "sqrt", "log1p", "sigmoid")
    ),
]  # fmt: skip
MIXED = [
    Case("gelu_of_a_sum", lambda x: F.gelu(x[:, 0] + 2 * x[:, 1]) * torch.exp(x[:, 0] * x[:, 1]), 2),
]  # fmt: skip
BATCHES = [
    BatchCase("hardtanh", lambda x: F.hardtanh(3 * sq(x))),
    BatchCase("softsign", lambda x: F.softsign(sq(x))),
    BatchCase("tanhshrink", lambda x: F.tanhshrink(sq(x))),
    BatchCase("mish", lambda x: F.mish(sq(x)), order=2),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_to_the_sixth_order(case: Case) -> None:
    check(case, "6", 1e-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_the_lower_orders(case: Case) -> None:
    for layout in ("first", "diagonal", "summed"):
        check(case, layout, 1e-9)


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", COMPLEX, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", COMPLEX, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("case", MIXED, ids=str)
def test_mixed_derivatives(case: Case, order: int) -> None:
    check(case, str(order), 1e-8)


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", [case for case in BATCHES if case.name != "mish"], ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


def test_an_unknown_approximation_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="approximate"):
        propagated(lambda x: F.gelu(x, approximate="other"), torch.rand(2, 4))
