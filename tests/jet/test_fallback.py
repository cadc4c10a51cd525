"""Operations without a rule: right to the second order, in every layout, of one random draw, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from propagated import opened, propagated, seeded
from rule_cases import Case, check, complexes
from torch.nn import functional as F

from jacfunc.core import caches
from jacfunc.jet import CannotFollowError, Frame, Jet, Propagation
from jacfunc.jet.fallback import name_of, pushed, refuse_writing, writes
from jacfunc.jet.layout import Layout, closed, diagonal, first_order, pairs, summed

DOUBLE = torch.float64
linalg = torch.linalg
tall = torch.randn(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
X = torch.rand(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) + 0.3


def matrices(x):
    """Well-conditioned ones, one for each sample."""
    return x.sin().reshape(-1, 2, 2) + 3 * torch.eye(2, dtype=x.dtype)


WITHOUT_A_RULE = [
    Case("matrix_exp", lambda x: linalg.matrix_exp(matrices(x) - 3)),
    Case("pinv", lambda x: linalg.pinv(x.sin().reshape(2, 1, 4) + 2)),
    Case("lu_not_square", lambda x: linalg.lu(x.sin().reshape(2, 4, 1) + tall)[2]),
    Case("integers_of_it", lambda x: torch.lu_unpack(*linalg.lu_factor(x.sin().reshape(2, 4, 1) + tall))[1]),
    Case("lstsq", lambda x: linalg.lstsq(matrices(x), x.exp().reshape(2, 2, 2)).solution),
]


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", WITHOUT_A_RULE, ids=str)
def test_without_a_rule(case: Case, layout: str) -> None:
    check(case, layout)


def test_a_third_order_without_a_rule_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="matrix_exp has no rule"):
        check(WITHOUT_A_RULE[0], "3")


# -------------------------------------------------------------------- beside the rules


OPERATIONS: dict[str, Any] = {
    "sin": lambda jet, other: (torch.sin, (jet,), {}),
    "mul": lambda jet, other: (torch.mul, (jet, other), {}),
    "itself": lambda jet, other: (torch.mul, (jet, jet), {}),
    "constant": lambda jet, other: (torch.div, (2.0, jet), {}),
    "cat": lambda jet, other: (torch.cat, ([jet, other],), {"dim": 1}),
    "softmax": lambda jet, other: (torch.softmax, (jet,), {"dim": 1}),
    "two results": lambda jet, other: (torch.var_mean, (jet, 1), {}),
    "a list": lambda jet, other: (torch.split, (jet, 2), {"dim": 1}),
    "beside integers": lambda jet, other: (torch.sort, (jet,), {"dim": 1}),
    "corrected": lambda jet, other: (F.layer_norm, (jet, (4,)), {}),
}
LAYOUTS = {
    "first": first_order(4),
    "diagonal": diagonal(4),
    "summed": summed((4,)),
    "groups": summed((3, 1)),
    "pairs": pairs(4, ((0, 1), (2, 2))),
}


def jets(layout: Layout) -> tuple[Any, Any]:
    """Two jets of one frame with rows of every order, the other with one row fewer in full."""
    jet, _ = seeded(X, layout)
    return jet * jet.sin(), jet.exp()


def of_its_own(function: Any, args: Any, kwargs: Any) -> Any:
    """By the rule of the operation, or the operation itself on jets."""
    return function(*args, **kwargs)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_is_the_rule(name: str, kind: str) -> None:
    jet, other = jets(LAYOUTS[kind])
    function, args, kwargs = OPERATIONS[name](jet, other)
    results = [run(function, args, kwargs) for run in (pushed, of_its_own)]
    assert type(results[0]) is type(results[1]) or isinstance(results[0], tuple | list)
    pairs_of = [list(result) if isinstance(result, tuple | list) else [result] for result in results]
    for found, wanted in zip(*pairs_of, strict=True):
        if type(wanted) is not Jet:
            assert torch.equal(found, wanted)
            continue
        torch.testing.assert_close(found.value, wanted.value)
        for order in range(1, LAYOUTS[kind].order + 1):
            torch.testing.assert_close(found.full(order), wanted.full(order))


def test_in_the_frame_of_a_narrow_layer() -> None:
    """The products of first-order rows go by the metric there."""
    weight = torch.randn(2, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    propagation = Propagation((3,))
    frame = Frame(propagation, summed((4,))).changed(weight)
    z = X @ weight.T
    jet = Jet(z, (propagation.identity(2, z), None), frame)
    found, wanted = pushed(torch.exp, (jet,), {}), torch.exp(jet)
    torch.testing.assert_close(found.full(1), wanted.full(1))
    torch.testing.assert_close(found.full(2), wanted.full(2))
    assert found.frame is frame


def test_what_is_zero_stays_zero() -> None:
    jet, _ = seeded(X, diagonal(4))
    linear = pushed(torch.mul, (jet, 2.0), {})
    torch.testing.assert_close(linear.full(1), 2 * jet.full(1))
    assert not linear.full(2).any()
    constant = Jet(X, (None, None), jet.frame)
    assert pushed(torch.sin, (constant,), {}).coefficients == (None, None)


def test_results_without_derivatives_are_plain() -> None:
    jet, _ = seeded(X, first_order(4))
    assert torch.equal(pushed(torch.argmax, (jet, 1), {}), X.argmax(1))
    values, indices = pushed(torch.sort, (jet, 1), {})
    assert type(values) is Jet
    assert torch.equal(indices, X.argsort(1))


def test_value_and_rows_are_of_one_draw() -> None:
    jet, _ = seeded(X, diagonal(4))
    torch.manual_seed(3)
    result = pushed(torch.dropout, (jet, 0.5, True), {})
    torch.manual_seed(3)
    noise = torch.dropout(torch.ones_like(X), 0.5, True)
    assert 0 < (noise == 0).sum() < noise.numel()
    assert torch.equal(result.value, X * noise)
    torch.testing.assert_close(result.full(1), jet.full(1) * noise)
    assert not result.full(2).any()


def test_the_second_order_is_of_the_same_draw() -> None:
    """It needs evaluations of its own."""

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return torch.dropout(x * x, 0.5, True)

    jet, _ = seeded(X, diagonal(4))
    torch.manual_seed(3)
    result = pushed(noisy, (jet,), {})
    state = torch.get_rng_state()
    torch.manual_seed(3)
    noise = torch.dropout(torch.ones_like(X), 0.5, True)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(result.value, X * X * noise)
    torch.testing.assert_close(result.full(1), jet.full(1) * 2 * X * noise)
    torch.testing.assert_close(result.full(2), jet.full(1) * noise)


def test_it_is_noted_by_name_and_once() -> None:
    jet, propagation = seeded(X, first_order(4))
    pushed(torch.exp, (jet,), {})
    pushed(torch.sin, (jet,), {})
    pushed(torch.exp, (jet,), {})
    assert list(propagation.slow) == ["exp", "sin"]


def test_what_vmap_cannot_carry_goes_row_by_row() -> None:
    calls = []

    def untraceable(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if float(x.detach().sum()) > 1e9:  # which vmap over x refuses, and rows alone do not
            raise AssertionError
        return x.sin() * x

    jet, _ = seeded(X, diagonal(4))
    for _ in range(2):
        result = pushed(untraceable, (jet,), {})
        wanted = jet.sin() * jet
        torch.testing.assert_close(result.full(1), wanted.full(1))
        torch.testing.assert_close(result.full(2), wanted.full(2))
    assert calls
    assert untraceable in caches.BATCHED


# -------------------------------------------------------------------- what is refused


def test_names() -> None:
    assert name_of(torch.sin) == "sin"
    assert name_of(torch.ops.aten.sin.default) == "sin.default"
    assert name_of("anything") == "anything"


@pytest.mark.parametrize(
    ("function", "kwargs", "told"),
    [
        (torch.Tensor.add_, {}, True),
        (torch.Tensor.__setitem__, {}, True),
        (torch.Tensor.__iadd__, {}, True),
        (F.relu_, {}, True),
        (torch.sin, {"out": torch.ones(2)}, True),
        (torch.sin, {"out": None}, False),
        (torch.sin, {}, False),
        (torch.Tensor.__add__, {}, False),
        (torch.Tensor.__len__, {}, False),
    ],
)
def test_what_writes(function: Any, kwargs: dict[str, Any], told: bool) -> None:
    assert writes(function, kwargs) is told
    if told:
        with pytest.raises(CannotFollowError, match="writes a differentiated tensor into another one"):
            refuse_writing(function, kwargs)
    else:
        refuse_writing(function, kwargs)


def test_complex_numbers_and_writing_are_refused() -> None:
    jet, _ = seeded(X, first_order(4))
    with pytest.raises(CannotFollowError, match="exp of complex numbers"):
        pushed(torch.exp, (complexes(jet),), {})
    with pytest.raises(CannotFollowError, match="complex, whose result is complex"):
        pushed(torch.complex, (jet, jet), {})
    with pytest.raises(CannotFollowError, match="add_ writes"):
        pushed(torch.Tensor.add_, (jet, 1), {})


def test_an_order_that_is_carried_only_by_a_rule_is_refused_but_constants_are_not() -> None:
    jet, _ = seeded(X[:, :1], closed(((1,), (2,), (3,))))
    with pytest.raises(CannotFollowError, match="exp has no rule, so it is not carried to order 3"):
        pushed(torch.exp, (jet,), {})
    assert torch.equal(pushed(torch.argmax, (jet, 0), {}), X[:, :1].argmax(0))


def test_the_parameters_of_an_operation_have_gradients() -> None:
    weight = torch.tensor([0.5, 1.5, -1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    f = lambda x: pushed(torch.mul, (x, weight), {}) if type(x) is Jet else x * weight
    _, (rows,) = propagated(f, X)
    assert opened(seeded(X, first_order(4))[0])[0] is X
    (gradient,) = torch.autograd.grad(rows.sum(), weight)
    torch.testing.assert_close(gradient, torch.full((4,), 3.0, dtype=DOUBLE))
