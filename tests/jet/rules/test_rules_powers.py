"""Rules of powers, of which either part or both vary, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from rule_cases import Case, check, complexes, parts

double = torch.float64
plain = torch.linspace(0.4, 1.5, 4, dtype=double)
evens = torch.tensor([0.0, 1, 0, 1], dtype=double)

CASES = [
    Case("powers", lambda x: x ** torch.arange(4) + (x + 2) ** plain + x[0] ** torch.tensor(3) + ((x[:, 0] + 2) ** plain[:, None]).T),
    Case("power_of_a_constant_like_it", lambda x: x ** torch.full_like(x, 3.0) + torch.ones_like(x) ** x, 1, 1, -2, -1),
    Case("float_power", lambda x: torch.float_power(x + 2, x.sin()) + torch.float_power(plain, x) + x.float_power(2), low=0.1),
    Case("power_of_a_jet_at_zero", lambda x: (x.exp() * evens) ** (3 + 0 * x), truth=lambda x: (x.exp() * evens) ** 3),
    Case("power_of_a_jet", lambda x: (x + 2) ** x.sin() + torch.pow(plain, x), low=0.1),
    Case("complex_tanh_pow", lambda x: parts(complexes(x).tanh() ** 3)),
]  # fmt: skip
ALONE = [
    *(Case(f"power_{p}", lambda x, p=p: x**p, 1, 1, 0.5, 1.5) for p in (0, 1, 2, 3, 5, -1, -2, 0.5, 2.5)),
    Case("power_of_negative", lambda x: x**3 + x**7 + torch.float_power(x, 2), 1, 1, -2, -1),
    Case("constant_base", lambda x: 2**x + torch.pow(0.7, x) + plain[:1] ** x, 1, 1),
    Case("both_powers", lambda x: (x + 2) ** (x * x), 1, 1),
]  # fmt: skip
MIXED = [
    Case("power", lambda x: (2 + x[:, 0]) ** x[:, 1] + (x[:, 0] + 2 + x[:, 1]) ** 2.5, 2),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_to_the_sixth_order(case: Case) -> None:
    check(case, "6", 1e-8)


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_at_the_lower_orders(case: Case) -> None:
    for layout in ("first", "diagonal", "summed"):
        check(case, layout, 1e-9)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("case", MIXED, ids=str)
def test_mixed_derivatives(case: Case, order: int) -> None:
    check(case, str(order), 1e-8)
