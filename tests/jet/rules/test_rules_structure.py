"""Rules of what moves, joins and adds up, of products, and of elementwise functions, the latter to the sixth order."""

from __future__ import annotations

import math

import pytest
import torch
from propagated import by_layout, propagated
from rule_cases import Case, check
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError
from jacfunc.jet.layout import closed, first_order, pairs

double = torch.float64
plain = torch.linspace(0.4, 1.5, 4, dtype=double)
wide = torch.randn(4, 3, dtype=double, generator=torch.Generator().manual_seed(2))
evens = torch.tensor([0.0, 1, 0, 1], dtype=double)
bias = torch.tensor([0.3, -0.2, 0.5], dtype=double)


def box(x):
    return x.sin().reshape(2, 2, -1)


STRUCTURE = [
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
    Case("getitem", lambda x: x.sin()[1:, ::2] + x[0, [0, 2]] + x[..., None, 1] + x[torch.tensor([True, False]), 1:3]),
    Case("unbind", lambda x: x.sin().unbind(1)[2] + torch.unbind(x)[1].sum()),
    Case("select", lambda x: x.sin().select(1, -1) + x.select(0, 1).sum()),
    Case("narrow", lambda x: x.sin().narrow(1, 1, 2) + torch.narrow(x, -1, 0, 2)),
    Case("split", lambda x: x.sin().split([1, 3], 1)[1] * torch.split(x, 1)[0][:, 1:] + x.tensor_split(2, -1)[0][:, :1]),
    Case("chunk", lambda x: x.sin().chunk(2, dim=1)[0] + torch.chunk(x, 2, 1)[1] + x.split_with_sizes([2, 2], 1)[0]),
    Case("cat", lambda x: torch.cat([x.sin(), plain[None], x[:1]]) + torch.cat((x, x, x[1:]), dim=-2)[:4]),
    Case("cat_empty", lambda x: torch.cat([torch.zeros(0, dtype=double), x.sin()], 1)),
    Case("concat", lambda x: torch.concat([x, x.sin()], -1) + torch.concatenate([x.sin(), x], axis=1)),
    Case("stack", lambda x: torch.stack([x.sin(), plain.expand(2, 4)], 1) + torch.stack([x, x], -2)),
    Case("copies", lambda x: torch.permute_copy(torch.unsqueeze_copy(x.sin(), 0), (0, 2, 1)) + torch.t_copy(x) + torch.transpose_copy(x, 0, 1) + torch.alias_copy(x).T),
    Case("copies_of_parts", lambda x: torch.diagonal_copy(x.sin()) + torch.unbind_copy(x, 1)[0] + torch.split_with_sizes_copy(x, [2, 2], 1)[1].sum(1) + torch.select_copy(x, 1, 2)),
    Case("copies_of_shapes", lambda x: torch.view_copy(x.sin(), (4, 2)) + torch.squeeze_copy(torch.expand_copy(x[:, :2, None], (2, 2, 2))).sum((0, 1)) + torch.unfold_copy(x, 1, 2, 2).flatten(0, 1)),
    Case("copy_in_place", lambda x: torch.alias_copy(y := x.sin()).mul_(2) + y + torch.view_copy(y, (8,)).add_(1).view(2, 4)),
    Case("slice_copy", lambda x: torch.slice_copy(x.sin(), 1, 0, 4, 2) + torch.slice_copy(x, 1, 2)),
    Case("unsafe_pieces", lambda x: torch.unsafe_chunk(x.sin(), 2, 1)[0] + torch.unsafe_split(x, 2, 1)[1]),
    Case("splits", lambda x: x.hsplit(2)[0].sin() + torch.vsplit(x, 2)[1][:, 2:] + torch.dsplit(x[None], (1, 3))[1][0] + x[0].hsplit(2)[1]),
    Case("as_strided", lambda x: x.sin().as_strided((2, 3), (4, 1), 1) + torch.as_strided(x, (2, 3), (1, 2)) + torch.as_strided_copy(x, (2, 1), (0, 1))),
    Case("nansum", lambda x: torch.nansum(torch.where(x > 0, x.sin(), torch.nan), 1) + torch.where(x > 0, torch.nan, x).nansum()),
    Case("nanmean", lambda x: torch.nanmean(torch.where(x > 0, x.sin(), torch.nan), 0) + torch.nanmean(x)),
    Case("sum", lambda x: x.sin().sum() + x.sum(0) + x.sum((0, 1), keepdim=True) + torch.sum(x, dim=[-1])[0]),
    Case("mean", lambda x: x.sin().mean() + x.mean(1, True) + x.mean(dim=(0,))),
    Case("sizes_by_name", lambda x: x[:, :1].expand(size=(2, 4)) * x.sin() + x.repeat(repeats=(1, 1)).chunk(chunks=1)[0]),
    Case("pieces_by_name", lambda x: x.sin().split(split_size=2, dim=1)[1] + x.tensor_split(sections=2, dim=1)[0] + x.tensor_split(indices=(2,), dim=1)[1]),
    Case("cast", lambda x: x.to(double) + x.type(double) + x.to(x)),
    Case("new_tensor", lambda x: x.sin() * x.new_tensor([1.0, 2.0, 3.0, 4.0])),
    Case("numel", lambda x: x.sin() / x.numel() * x.stride(0)),
]  # fmt: skip
PRODUCTS = [
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
    Case("powers", lambda x: x ** torch.arange(4) + (x + 2) ** plain + x[0] ** torch.tensor(3) + ((x[:, 0] + 2) ** plain[:, None]).T),
    Case("power_of_a_constant_like_it", lambda x: x ** torch.full_like(x, 3.0) + torch.ones_like(x) ** x, 1, 1, -2, -1),
    Case("float_power", lambda x: torch.float_power(x + 2, x.sin()) + torch.float_power(plain, x) + x.float_power(2), low=0.1),
    Case("power_of_a_jet_at_zero", lambda x: (x.exp() * evens) ** (3 + 0 * x), truth=lambda x: (x.exp() * evens) ** 3),
    Case("power_of_a_jet", lambda x: (x + 2) ** x.sin() + torch.pow(plain, x), low=0.1),
]  # fmt: skip
ELEMENTWISE = [
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
        for name in ["gelu", "silu", "softplus", "logsigmoid", "relu6", "leaky_relu", "elu", "selu", "celu", "hardtanh", "softsign", "tanhshrink", "mish"]
    ),
    Case("atanh", torch.atanh, 1, 1, -0.6, 0.6),
    Case("acosh", torch.acosh, 1, 1, 1.5, 2.5),
    Case("erfinv", torch.erfinv, 1, 1, -0.6, 0.6),
    Case("logit", torch.logit, 1, 1, 0.3, 0.7),
    Case("logit_eps", lambda x: torch.logit(x, 0.2) + torch.special.logit(x, eps=0.3), 1, 1, 0.35, 0.6),
    Case("logit_outside", lambda x: torch.logit(x, 0.2) + x, 1, 1, 0.85, 0.95),
    *(Case(f"polygamma_{n}", lambda x, n=n: torch.polygamma(n, x) + torch.special.polygamma(n, x) + x.polygamma(n), 1, 1, 1, 2) for n in (0, 1, 3)),
    Case("mvlgamma", lambda x: torch.mvlgamma(x, 3) + torch.special.multigammaln(x, 2), 1, 1, 2, 3),
    Case("ldexp", lambda x: torch.ldexp(x, torch.tensor([3])) + torch.ldexp(plain[:1], x) + torch.ldexp(x, x), 1, 1),
    Case("frexp", lambda x: torch.frexp(x.exp())[0], 1, 1),
    Case("bessel", lambda x: torch.i0(x) + torch.special.i1(x), 1, 1, 0.5, 1.5, lambda x: torch.special.i0e(x) * x.abs().exp() + torch.special.i1e(x) * x.abs().exp()),
    Case("angle_of_real", lambda x: torch.angle(x) + x.sin(), 1, 1),
    Case("erfcx", torch.special.erfcx, 1, 1),
    Case("entr", torch.special.entr, 1, 1, 0.3, 0.7),
    Case("log_ndtr", torch.special.log_ndtr, 1, 1),
    Case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), 1, 1),
    Case("softplus_beta", lambda x: F.softplus(x, 2.0, 1.0), 1, 1, -1, 0.3),
    Case("softplus_linear", lambda x: F.softplus(x, 2.0, 1.0), 1, 1, 0.6, 1.0),
    Case("elu_alpha", lambda x: F.elu(x, 0.7) + torch.celu(x, 1.3), 1, 1, -1, -0.5, lambda x: 0.7 * x.expm1() + 1.3 * (x / 1.3).expm1()),
    Case("threshold", lambda x: F.threshold(x, 0.1, 0.4) + F.hardtanh(x, -0.2, 0.3), 1, 1),
    *(Case(f"power_{p}", lambda x, p=p: x**p, 1, 1, 0.5, 1.5) for p in (0, 1, 2, 3, 5, -1, -2, 0.5, 2.5)),
    Case("power_of_negative", lambda x: x**3 + x**7 + torch.float_power(x, 2), 1, 1, -2, -1),
    Case("constant_base", lambda x: 2**x + torch.pow(0.7, x) + plain[:1] ** x, 1, 1),
    Case("both_powers", lambda x: (x + 2) ** (x * x), 1, 1),
    Case("quotient", lambda x: x.sin() / (2 + x.exp()), 1, 1),
    Case("product", lambda x: x.sin() * x.exp() * (1 + x), 1, 1),
    Case("nested", lambda x: (x.tanh() * 2 + x.sin().exp()).log1p().sqrt(), 1, 1, 0.1, 1.0),
]  # fmt: skip
MIXED = [
    Case("product_of_three", lambda x: x[:, 0] * x[:, 1] * x[:, 2], 3),
    Case("network", lambda x: ((x @ wide[:3]).tanh() @ wide.T).sin().sum(1), 3),
    Case("gelu_of_a_sum", lambda x: F.gelu(x[:, 0] + 2 * x[:, 1]) * torch.exp(x[:, 0] * x[:, 1]), 2),
    Case("quotient", lambda x: x[:, 0].sin() / (2 + x[:, 1] * x[:, 0]), 2),
    Case("power", lambda x: (2 + x[:, 0]) ** x[:, 1] + (x[:, 0] + 2 + x[:, 1]) ** 2.5, 2),
    Case("solve", lambda x: torch.linalg.solve(x.reshape(-1, 1, 2).mT @ x.reshape(-1, 1, 2) + 2 * torch.eye(2), x.exp()), 2),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", [*STRUCTURE, *PRODUCTS], ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", [*STRUCTURE, *PRODUCTS], ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_elementwise_to_the_sixth_order(case: Case) -> None:
    check(case, "6", 1e-8)


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_elementwise_at_the_lower_orders(case: Case) -> None:
    for layout in ("first", "diagonal", "summed"):
        check(case, layout, 1e-9)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("case", MIXED, ids=str)
def test_mixed_derivatives(case: Case, order: int) -> None:
    check(case, str(order), 1e-8)


def test_chosen_pairs() -> None:
    x = torch.rand(3, 3, dtype=double)
    f = lambda x: (x[:, 0] * x[:, 1].exp() * x[:, 2].sin()).tanh()
    hessian = torch.func.vmap(torch.func.hessian(lambda row: f(row[None])[0]))(x)
    _, (_, rows) = by_layout(f, x, pairs(3, ((0, 1), (2, 2), (1, 2))))
    torch.testing.assert_close(rows[0], hessian[:, 0, 1])
    torch.testing.assert_close(rows[1], hessian[:, 2, 2] / 2)
    torch.testing.assert_close(rows[2], hessian[:, 1, 2])


def test_a_few_mixed_derivatives_of_a_high_order() -> None:
    indices = ((1, 0), (0, 1), (2, 0), (1, 1), (3, 0), (2, 1), (3, 1))
    x = torch.rand(2, 2, dtype=double)
    _, coefficients = by_layout(lambda x: torch.exp(2 * x[:, 0] + 3 * x[:, 1]), x, closed(indices))
    wanted = torch.exp(2 * x[:, 0] + 3 * x[:, 1]) * 2**3 * 3 / math.factorial(3)
    torch.testing.assert_close(coefficients[3][0], wanted)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x: torch.einsum("...i,...i,...i->...", x, x, x), "three differentiated tensors with an ellipsis"),
        (lambda x: x.view(torch.int32), "another dtype"),
        (lambda x: F.gelu(x, approximate="other"), "approximate"),
    ],
)
def test_what_no_rule_can_follow(f, words: str) -> None:
    with pytest.raises(CannotFollowError, match=words):
        propagated(f, torch.rand(2, 4))


def test_rows_that_are_zero_are_not_carried() -> None:
    x = torch.rand(2, 4)
    _, (rows, second) = propagated(lambda x: F.linear(x, torch.rand(3, 4)) * 2 + 1, x, "diagonal")
    assert rows is not None
    assert second is None
    _, (rows,) = propagated(lambda x: torch.zeros_like(x) + 1, x)
    assert rows is None


def test_integer_results_are_constants() -> None:
    value, rows = by_layout(lambda x: x.argmax(1), torch.rand(2, 4), first_order(4))
    assert value.dtype == torch.int64
    assert not rows
