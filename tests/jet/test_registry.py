"""The table of rules: for which functions a rule is entered, what is refused, and what users' rules may return."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from propagated import opened, propagated, seeded
from rule_cases import Case, check
from torch import nn

from jacfunc import diag_jac, explain, register_rule
from jacfunc.core import caches
from jacfunc.errors import ArgumentTypeError, RuleError, UnsupportedOperationError
from jacfunc.jet import CannotFollowError, elementwise, linear
from jacfunc.jet.layout import first_order
from jacfunc.jet.registry import add, forms, in_place_of, spelled, writing


@pytest.fixture
def _rules_kept():
    before = dict(caches.RULES)
    yield
    caches.RULES.clear()
    caches.RULES.update(before)


def cube(x, y, order):
    return [3 * x * x, 6 * x, 6 * torch.ones_like(x)]


@pytest.mark.usefixtures("_rules_kept")
class TestRegisterRule:
    def test_it_takes_the_place_of_another(self) -> None:
        register_rule(torch.special.i0e, elementwise(lambda x: x**3, cube))
        value, rows = propagated(torch.special.i0e, torch.full((1, 1), 2.0), "diagonal")
        assert (value.item(), rows[0].item(), rows[1].item()) == (8, 12, 6)

    def test_a_rule_that_is_entered_after_a_call_is_verified_as_one_before(self) -> None:
        x = torch.rand(3, 2, dtype=torch.float64)
        f = lambda x: torch.special.i0e(x)
        known = diag_jac(f, method="taylor")(x)
        register_rule(torch.special.i0e, elementwise(torch.special.i0e, lambda x, y, order: [7 * y] * order))
        torch.testing.assert_close(diag_jac(f, method="taylor")(x), known)
        assert explain(diag_jac(f, method="taylor"))(x).plan.route != "taylor"

    def test_explain_knows_of_a_rule_that_was_entered_since(self) -> None:
        f = lambda x: torch.linalg.matrix_exp(x[:, :, None])[..., 0]
        x = torch.rand(3, 1, dtype=torch.float64)
        assert "without a rule" in str(explain(diag_jac(f, method="taylor"))(x))
        register_rule(torch.linalg.matrix_exp, lambda x: x.exp())
        assert "without a rule" not in str(explain(diag_jac(f, method="taylor"))(x))

    def test_it_decorates(self) -> None:
        @register_rule(torch.special.i0e)
        def rule(x):
            return x * x

        assert propagated(torch.special.i0e, torch.full((1, 1), 2.0))[1][0].item() == 4
        assert callable(rule)

    def test_a_function_of_the_user(self) -> None:
        def mine(x):
            if torch.overrides.has_torch_function((x,)):
                return torch.overrides.handle_torch_function(mine, (x,), x)
            return torch.from_numpy(np.sin(x.numpy()))

        register_rule(mine, elementwise(torch.sin, lambda x, y, order: [x.cos()]))
        x = torch.rand(2, 4)
        torch.testing.assert_close(propagated(mine, x)[1][0].sum(0), x.cos())

    @pytest.mark.parametrize("function", [len, lambda x: x, nn.Linear, 3, "sin"])
    def test_what_torch_does_not_hand_over(self, function) -> None:
        with pytest.raises(ArgumentTypeError, match="no operation that torch hands over"):
            register_rule(function, lambda x: x)

    def test_a_rule_that_is_no_function(self) -> None:
        with pytest.raises(ArgumentTypeError, match="rule is an int"):
            register_rule(torch.sin, 3)

    @pytest.mark.parametrize(
        ("rule", "words"),
        [
            (
                lambda x: x.like(x.value, (x.full(1)[1:],)),
                r"sin gave rows of shape \(3, 2, 4\) at order 1.*\(4, 2, 4\)",
            ),
            (lambda x: x.like(x.value, (x.full(1).sum(1),)), r"rows of shape \(4, 4\)"),
            (lambda x: x.like(x.value.double(), (x.full(1),)), "rows of dtype torch.float32 at order 1 for a value of"),
            (lambda x: x.like(x.value, (x.full(1), None)), "coefficients of 2 orders; the layout carries 1"),
            (lambda x: (x, x.like(x.value[0], (x.full(1),))), "sin gave rows of shape"),
            (lambda x: None, "^the rule of sin gave None; return the jet of the result"),
            (lambda x: 1 / 0, "^the rule of sin raised ZeroDivisionError: division by zero"),
            (lambda x, y: x, "^the rule of sin raised TypeError: .* missing 1 required positional argument: 'y'"),
            (lambda x: x.nothing, "^the rule of sin raised AttributeError: .* no attribute 'nothing'"),
        ],
    )
    def test_rows_that_do_not_belong_to_the_value(self, rule, words: str) -> None:
        register_rule(torch.sin, rule)
        with pytest.raises(RuleError, match=words):
            propagated(torch.sin, torch.rand(2, 4))

    def test_another_route_is_taken_where_it_refuses_and_none_where_it_fails(self) -> None:
        def refusing(x):
            raise UnsupportedOperationError("sin of what is not small")

        x = torch.rand(2, 4)
        register_rule(torch.sin, refusing)
        assert torch.allclose(diag_jac(torch.sin)(x), x.cos())
        register_rule(torch.sin, lambda x: None)
        with pytest.raises(RuleError, match="gave None"):
            diag_jac(torch.sin, method="taylor")(x)

    def test_a_linear_one(self) -> None:
        register_rule(torch.fliplr, lambda x: linear(x, torch.fliplr, lambda rows: rows.flip(2)))
        check(Case("fliplr", lambda x: torch.fliplr(x.sin())), "diagonal")

    def test_an_axis_along_which_rows_are_the_same_may_be_one(self) -> None:
        register_rule(torch.sin, lambda x: x.like(x.value, (torch.full((4, 1, 4), 2.0),)))
        assert torch.equal(propagated(torch.sin, torch.rand(2, 4))[1][0], torch.full((4, 2, 4), 2.0))

    def test_the_latest_of_two_stands(self) -> None:
        register_rule(torch.sin, elementwise(torch.sin, lambda x, y, order: [x.cos()]))
        register_rule(torch.sin, elementwise(torch.sin, lambda x, y, order: [5 * x.cos()]))
        x = torch.rand(1, 1)
        torch.testing.assert_close(propagated(torch.sin, x)[1][0].flatten(), 5 * x[0].cos())

    def test_in_place_it_is_the_same_rule(self) -> None:
        register_rule(torch.Tensor.sin, elementwise(torch.sin, lambda x, y, order: [7 * x.cos()]))
        x = torch.rand(1, 1)
        torch.testing.assert_close(propagated(lambda x: (x * 1).sin_(), x)[1][0].flatten(), 7 * x[0].cos())


def test_what_is_no_operation_or_no_rule_is_refused_in_a_sentence() -> None:
    with pytest.raises(ArgumentTypeError, match="^function=ReLU.* is no operation that torch hands over"):
        register_rule(nn.ReLU(), lambda x: x)
    with pytest.raises(ArgumentTypeError, match="^rule is a NoneType; pass a function"):
        register_rule(torch.cos)(None)


@pytest.mark.usefixtures("_rules_kept")
class TestEntering:
    def test_every_form_of_a_name(self) -> None:
        assert forms("expm1") == [torch.expm1, torch.Tensor.expm1, torch.special.expm1]
        assert forms("gelu") == [torch._C._nn.gelu]
        assert forms("no such operation") == []
        rule = lambda x: x
        add(rule, *forms("expm1"), *forms("erfc"), overrides=True)
        for function in (*forms("expm1"), *forms("erfc")):
            assert caches.RULES[function] == (rule, False)

    def test_a_second_rule_for_an_operation_is_an_error(self) -> None:
        before, number = dict(caches.RULES), caches.RULES_ENTERED.number
        with pytest.raises(RuleError, match="^sin has a rule already; leave one out, or pass overrides"):
            add(lambda x: x, torch._add_relu, torch.sin)
        assert dict(caches.RULES) == before
        assert caches.RULES_ENTERED.number == number
        add(caches.RULES[torch.sin][0], torch.sin, keeps_frame=True)  # which is the same one
        add(rule := lambda x: x, torch.sin, overrides=True)
        assert caches.RULES[torch.sin] == (rule, False)

    def test_a_rule_stands_for_the_forms_in_place_as_well(self) -> None:
        rule = lambda x: x * 2
        add(rule, torch.Tensor.sin, keeps_frame=True, overrides=True)
        assert caches.RULES[torch.Tensor.sin] == (rule, True)
        for function in (torch.sin_, torch.Tensor.sin_):
            in_place, keeps_frame = caches.RULES[function]
            assert keeps_frame
            assert in_place.writes
        add(rule, torch._add_relu)  # whose name is private, as that in place is
        assert caches.RULES[torch._add_relu] == (rule, False)
        assert torch._add_relu_ not in caches.RULES

    def test_what_is_compiled_is_told_that_rules_have_changed(self) -> None:
        before = caches.RULES_ENTERED.number
        add(lambda x: x, torch.sin, overrides=True)
        add(lambda x: x, torch.sin, torch.cos, overrides=True)
        assert caches.RULES_ENTERED.number == before + 2


class TestInPlace:
    def test_the_jet_becomes_the_result(self) -> None:
        jet, _ = seeded(torch.full((1, 2), 3.0), first_order(2))
        double = in_place_of(lambda x: x.like(2 * x.value, (2 * x.coefficients[0],)))
        assert double.writes
        assert double(jet) is jet
        value, (rows,) = opened(jet)
        assert value.tolist() == [[6, 6]]
        assert rows[:, 0].tolist() == [[2, 0], [0, 2]]

    def test_another_shape_or_dtype_is_refused(self) -> None:
        jet, _ = seeded(torch.ones(1, 2), first_order(2))
        for rule in (lambda x: x.sum(), lambda x: x.double(), lambda x: x[:, :1]):
            with pytest.raises(CannotFollowError, match="would change the shape or dtype"):
                in_place_of(rule)(jet)
        assert jet.value.tolist() == [[1, 1]]

    def test_a_plain_tensor_is_not_written_into(self) -> None:
        jet, _ = seeded(torch.ones(1, 2), first_order(2))
        with pytest.raises(CannotFollowError, match="written into another one"):
            in_place_of(torch.add)(torch.ones(1, 2), jet)


def test_arguments_by_the_names_that_torch_has() -> None:
    rule = spelled(lambda left, other=None, alpha=1: (left, other, alpha), mat2="other", scale="alpha")
    assert rule(1, mat2=2, scale=3) == (1, 2, 3)
    assert rule(1, other=2, alpha=4) == (1, 2, 4)


def test_a_rule_that_writes_says_so() -> None:
    rule = lambda x: x
    assert writing(rule) is rule
    assert rule.writes


def test_what_is_handed_over_may_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "RULES", dict(caches.RULES))
    monkeypatch.setattr(caches, "USER_RULES", dict(caches.USER_RULES))
    for function in (
        torch.sin,
        torch.Tensor.sin,
        torch.ops.aten.sin,
        torch.ops.aten.sin.default,
        torch.nn.functional.gelu,
    ):
        rule = lambda x: x
        assert register_rule(function, rule) is rule
        assert caches.USER_RULES[function] is rule
    for function in (math.sin, np.sin, torch.tensor, print, "sin", None):
        with pytest.raises(ArgumentTypeError, match="no operation that torch hands over"):
            register_rule(function, lambda x: x)
