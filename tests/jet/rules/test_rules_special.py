"""Rules of special functions with a parameter, and of numbers by their exponents, to the sixth order."""

from __future__ import annotations

import pytest
import torch
from rule_cases import Case, check

plain = torch.linspace(0.4, 1.5, 4, dtype=torch.float64)

CASES = [
    Case("logit", torch.logit, 1, 1, 0.3, 0.7),
    Case("logit_eps", lambda x: torch.logit(x, 0.2) + torch.special.logit(x, eps=0.3), 1, 1, 0.35, 0.6),
    Case("logit_outside", lambda x: torch.logit(x, 0.2) + x, 1, 1, 0.85, 0.95),
    *(Case(f"polygamma_{n}", lambda x, n=n: torch.polygamma(n, x) + torch.special.polygamma(n, x) + x.polygamma(n), 1, 1, 1, 2) for n in (0, 1, 3)),
    Case("mvlgamma", lambda x: torch.mvlgamma(x, 3) + torch.special.multigammaln(x, 2), 1, 1, 2, 3),
    Case("ldexp", lambda x: torch.ldexp(x, torch.tensor([3])) + torch.ldexp(plain[:1], x) + torch.ldexp(x, x), 1, 1),
    Case("frexp", lambda x: torch.frexp(x.exp())[0], 1, 1),
    Case("bessel", lambda x: torch.i0(x) + torch.special.i1(x), 1, 1, 0.5, 1.5, lambda x: torch.special.i0e(x) * x.abs().exp() + torch.special.i1e(x) * x.abs().exp()),
    Case("erfcx", torch.special.erfcx, 1, 1),
    Case("log_ndtr", torch.special.log_ndtr, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_to_the_sixth_order(case: Case) -> None:
    check(case, "6", 1e-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_the_lower_orders(case: Case) -> None:
    for layout in ("first", "diagonal", "summed"):
        check(case, layout, 1e-9)
