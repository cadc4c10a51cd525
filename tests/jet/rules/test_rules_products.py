"""Rules of sums and products, of what is linear in each of two operands, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated
from rule_cases import Case, check, complexes, parts, wave
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError

double = torch.float64
plain = torch.linspace(0.4, 1.5, 4, dtype=double)
wide = torch.randn(4, 3, dtype=double, generator=torch.Generator().manual_seed(2))
bias = torch.tensor([0.3, -0.2, 0.5], dtype=double)
square = torch.tensor([[2.0, 0.3], [0.1, 1.5]], dtype=double)


def matrices(x):
    """Well-conditioned ones, one for each sample."""
    return x.sin().reshape(-1, 2, 2) + 3 * torch.eye(2, dtype=x.dtype)


CASES = [
    Case("add", lambda x: torch.add(x.sin(), plain, alpha=2) + torch.add(plain, x, alpha=3) + x.add(x, alpha=0.5)),
    Case("sub", lambda x: torch.sub(x.sin(), x, alpha=2) - (plain - x) + torch.rsub(x, plain) + torch.subtract(plain, x, alpha=3)),
    Case("mul", lambda x: x.sin() * x * plain * 2 + torch.multiply(plain, x.exp())),
    Case("div", lambda x: x.sin() / (x + 3) + plain / (x + 3) + x / plain / 2 + 1 / (x + 4) + torch.true_divide(x, x + 3)),
    Case("div_ranks", lambda x: x[0].sin() / (x[:, None] + 3) + x[:, None] / plain),
    Case("div_rounded", lambda x: torch.div(x, 0.3, rounding_mode="floor") + x),
    Case("neg", lambda x: -x.sin() + torch.negative(x.exp())),
    Case("linear", lambda x: F.linear(x.sin(), wide.T, bias) + F.linear(x, wide.T)),
    Case("linear_of_all", lambda x: F.linear(x.sin(), x.exp(), x[0, :2])),
    Case("linear_weight", lambda x: F.linear(wide.T, x.exp(), x[0, :2]) + F.linear(wide.T, wide.T[:2], x[1, :2])),
    Case("linear_vector", lambda x: F.linear(x.sin(), plain) + F.linear(plain, x)),
    Case("linear_twice", lambda x: F.linear(F.linear(x.sin(), wide.T), wide)),
    Case("linear_three_axes", lambda x: F.linear(x.sin().reshape(1, 2, 4), wide.T, bias).tanh()),
    Case("matmul", lambda x: x.sin() @ wide + (x @ x.T) @ wide[:2] + torch.mm(x, wide)),
    Case("matmul_left", lambda x: wide.T @ x.sin().T),
    Case("matmul_vectors", lambda x: x[0].sin() @ x[1] + x @ x[0] + plain @ x.T + torch.mv(x, plain) + x[0].dot(plain)),
    Case("matmul_stacks", lambda x: (x.reshape(2, 2, 2).sin() @ x[0].reshape(2, 2).exp()).sum(0) @ x.reshape(4, 2).T),
    Case("matmul_stack_by_vector", lambda x: x.reshape(2, 2, 2).sin() @ x[0, :2] + x[1, :2] @ x.reshape(2, 2, 2)),
    Case("bmm", lambda x: torch.bmm(x.reshape(2, 2, 2).sin(), x.reshape(2, 2, 2).exp())),
    Case("addmm", lambda x: torch.addmm(bias, x.sin(), wide) + torch.addmv(x[:, 0], x, plain, beta=2, alpha=3)[:, None]),
    Case("products_by_name", lambda x: torch.mm(x.sin(), mat2=wide) + x.T.sin().mv(vec=x[:, 0]).dot(tensor=plain) + torch.bmm(x[None], mat2=wide[None])[0]),
    Case("addmm_by_name", lambda x: torch.addmm(bias, mat1=x.sin(), mat2=wide, beta=2) + torch.addmv(x[:, 0], mat=x, vec=plain)[:, None] + torch.baddbmm(bias, batch1=x[None], batch2=wide[None])[0]),
    Case("addbmm", lambda x: torch.addbmm(bias, x.sin().reshape(2, 2, 2), wide[:2].expand(2, 2, 3), alpha=0.5)),
    Case("addcmul", lambda x: torch.addcmul(x, x.sin(), plain, value=2) + torch.addcdiv(plain, x, x + 3, value=0.5)),
    Case("lerp", lambda x: torch.lerp(x.sin(), x.exp(), 0.3) + torch.lerp(plain.expand(2, 4), x, x.cos())),
    Case("einsum", lambda x: torch.einsum("ni,ij->nj", x.sin(), wide) + torch.einsum("ni,nk,ij", x, x[:, :1], wide).T),
    Case("einsum_ellipsis", lambda x: torch.einsum("...i,...i->...", x.sin(), x) + torch.einsum("...i->...", x)),
    Case("einsum_diagonal", lambda x: torch.einsum("nii->n", x.sin().reshape(2, 2, 2)) + torch.einsum("ni,ni->", [x, x.exp()])),
    Case("einsum_three", lambda x: torch.einsum("ni,mi,ki->nmk", x.sin(), x.cos(), x)),
    Case("addmm_of_matrices", lambda x: torch.addmm(square, x.sin(), x.reshape(4, 2), beta=2, alpha=3)),
    Case("baddbmm", lambda x: torch.baddbmm(square, matrices(x), matrices(x.exp()), beta=0.5)),
    Case("einsum_three_letters", lambda x: torch.einsum("ni,nj,nk->nik", x.sin(), x.cos(), x.exp())),
    Case("mv", lambda x: torch.mv(x.sin(), x[0]) + x.cos() @ x[1]),
    Case("dot", lambda x: torch.dot(x[0].sin(), x[1].exp())),
    Case("complex_product", lambda x: (complexes(x) * wave * (1 + 2j)).real),
    Case("complex_quotient", lambda x: (complexes(x) / (complexes(x.exp()) + wave)).imag),
    Case("complex_einsum", lambda x: parts(torch.einsum("ni,mi->nm", complexes(x), complexes(x).conj()))),
]  # fmt: skip
ALONE = [
    Case("quotient", lambda x: x.sin() / (2 + x.exp()), 1, 1),
    Case("product", lambda x: x.sin() * x.exp() * (1 + x), 1, 1),
]  # fmt: skip
MIXED = [
    Case("product_of_three", lambda x: x[:, 0] * x[:, 1] * x[:, 2], 3),
    Case("network", lambda x: ((x @ wide[:3]).tanh() @ wide.T).sin().sum(1), 3),
    Case("quotient", lambda x: x[:, 0].sin() / (2 + x[:, 1] * x[:, 0]), 2),
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


def test_three_factors_with_an_ellipsis_are_refused() -> None:
    with pytest.raises(CannotFollowError, match="three differentiated tensors with an ellipsis"):
        propagated(lambda x: torch.einsum("...i,...i,...i->...", x, x, x), torch.rand(2, 4))


def test_rows_that_are_zero_are_not_carried() -> None:
    x = torch.rand(2, 4)
    _, (rows, second) = propagated(lambda x: F.linear(x, torch.rand(3, 4)) * 2 + 1, x, "diagonal")
    assert rows is not None
    assert second is None
    _, (rows,) = propagated(lambda x: torch.zeros_like(x) + 1, x)
    assert rows is None
