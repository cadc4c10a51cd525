"""Rules of what does not vary with its tensors, and of new tensors that are like another."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, refuse_fallback, sq
from propagated import by_layout, propagated, seeded
from rule_cases import Case, check
from torch.nn import functional as F

from jacfunc.jet.layout import first_order

X = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.3
B = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

CASES = [
    Case("new_tensor", lambda x: x.sin() * x.new_tensor([1.0, 2.0, 3.0, 4.0])),
    Case("numel", lambda x: x.sin() / x.numel() * x.stride(0)),
]  # fmt: skip
BATCHES = [
    BatchCase("one_hot", lambda x: sq(x) * F.one_hot(x.argmax(1), 4)),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


def test_integer_results_are_constants() -> None:
    value, rows = by_layout(lambda x: x.argmax(1), torch.rand(2, 4), first_order(4))
    assert value.dtype == torch.int64
    assert not rows


CONSTANTS = {
    "comparisons": [
        lambda x: x > 0.5,
        lambda x: x.le(B),
        lambda x: torch.eq(B, x),
        lambda x: x.isclose(x),
        lambda x: x > 1,
    ],
    "roundings": [torch.round, torch.floor, torch.ceil, torch.trunc, torch.sign, lambda x: x // 0.3, lambda x: 2 // x],
    "places": [lambda x: x.argmax(1), torch.argsort, torch.nonzero, lambda x: torch.bucketize(x, B[0].sort().values)],
    "casts": [lambda x: x.long(), lambda x: x.bool(), lambda x: x.int()],
    "counts": [torch.count_nonzero, lambda x: x.all(), lambda x: torch.any(x, 1), lambda x: torch.histc(x, 4)],
    "steps": [lambda x: torch.heaviside(x, B), lambda x: torch.signbit(x), torch.isfinite],
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_what_does_not_vary_is_a_plain_tensor(kind: str) -> None:
    for f in CONSTANTS[kind]:
        value, rows = propagated(f, X)
        assert type(value) is torch.Tensor
        assert torch.equal(value, f(X))
        assert not rows


def test_a_step_has_no_slope_beside_what_varies() -> None:
    """``x floor(x)``: the floor is a constant factor."""
    x = 3 * X
    value, (rows,) = propagated(lambda x: x * x.floor() + x.sign() * B, x)
    torch.testing.assert_close(value, x * x.floor() + x.sign() * B)
    torch.testing.assert_close(rows, torch.diag_embed(x.floor()).movedim(1, 0))


def test_what_is_detached_has_no_slope_and_is_noted() -> None:
    jet, propagation = seeded(X, first_order(4))
    for detach in (lambda: jet.detach(), lambda: jet.data, lambda: torch.detach(jet)):
        apart = detach()
        assert type(apart) is torch.Tensor
        assert torch.equal(apart, X)
        assert propagation.detached[-1][0] is apart
        apart.zero_()
    assert len(propagation.detached) == 3
    assert X.any()


def test_new_tensors_like_it_may_be_written_into() -> None:
    def f(x):
        y = torch.zeros_like(x)
        y[:, 1] = x[:, 0].sin()
        z = x.new_full((3, 1), 2.0)
        z[:, 0] = x[:, 2]
        return torch.cat([y, z], 1)

    value, (rows,) = propagated(f, X)
    torch.testing.assert_close(value, f(X))
    jacobian = torch.func.jacrev(f)(X).sum(2).permute(2, 0, 1)
    torch.testing.assert_close(rows, jacobian)
    assert propagated(lambda x: torch.ones_like(x, dtype=torch.long), X)[0].dtype == torch.long
    jet, _ = seeded(X, first_order(4))
    assert type(torch.zeros_like(jet, dtype=torch.bool)) is torch.Tensor
    assert torch.full_like(jet, 3.0).coefficients == (None,)


def test_draws_like_it_are_those_of_a_plain_forward() -> None:
    for f in (torch.rand_like, torch.randn_like, lambda x: torch.bernoulli(x.sigmoid())):
        torch.manual_seed(2)
        wanted = f(X)
        torch.manual_seed(2)
        value, rows = propagated(f, X)
        assert torch.equal(value, wanted)
        assert not rows


def test_questions_have_the_answers_of_the_value() -> None:
    jet, _ = seeded(X.clone().requires_grad_(), first_order(4))
    tensor = jet.value
    assert (jet.requires_grad, jet.is_leaf, jet.grad, jet.layout, jet.nbytes) == (True, True, None, torch.strided, 96)
    assert jet.stride() == tensor.stride()
    assert jet.is_contiguous()
    assert jet.data_ptr() == tensor.data_ptr()
    assert torch.is_floating_point(jet)
    assert not jet.is_complex()
    assert torch.result_type(jet, 1) == torch.float64
    assert 0.0 not in jet
    assert X[0, 0] in jet
