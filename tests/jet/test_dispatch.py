"""From an operation on jets to its rule: the order in which it is looked up, the frame of its jets, and constants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from propagated import opened, seeded
from torch import nn
from torch.nn import functional as F

from jacfunc.core import caches
from jacfunc.jet import CannotFollowError, Frame, Jet, Propagation
from jacfunc.jet.dispatch import apply, common_frame, constant, lifted, root
from jacfunc.jet.frame import Within
from jacfunc.jet.joined import Joined
from jacfunc.jet.layout import diagonal, first_order

DOUBLE = torch.float64
X = torch.rand(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) + 0.3


def jet_of(layout: Any = None) -> Any:
    return seeded(X, layout or first_order(4))[0]


# -------------------------------------------------------------------- what is looked up


@pytest.fixture
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "RULES", dict(caches.RULES))


@pytest.mark.usefixtures("_rules")
def test_the_rule_comes_first() -> None:
    caches.RULES[torch.sin] = (lambda x: ("rule", x), False)
    jet = jet_of()
    assert apply(torch.sin, (jet,), {}) == ("rule", jet)
    assert torch.sin(jet) == ("rule", jet)


@pytest.mark.usefixtures("_rules")
def test_without_one_the_operation_goes_alone() -> None:
    wanted = jet_of(diagonal(4)).sin()
    del caches.RULES[torch.sin]
    jet = jet_of(diagonal(4))
    found = torch.sin(jet)
    assert list(jet.propagation.slow) == ["sin"]
    for order in (1, 2):
        torch.testing.assert_close(found.full(order), wanted.full(order))


def test_a_corrected_operation_is_made_of_others() -> None:
    """``mish`` has no rule: what the table has instead, on jets."""
    jet = jet_of(diagonal(4))
    found = F.mish(jet)
    wanted = jet * torch.tanh(F.softplus(jet))
    assert not jet.propagation.slow
    assert not jet.propagation.replacing
    assert torch.equal(found.value, F.mish(X))
    for order in (1, 2):
        torch.testing.assert_close(found.full(order), wanted.full(order))


def test_what_a_replacement_calls_of_itself_goes_alone() -> None:
    """As ``gelu`` by tanh calls ``gelu``, which would be replaced for ever."""
    jet = jet_of()
    jet.propagation.replacing.add(F.mish)
    found = F.mish(jet)
    assert list(jet.propagation.slow) == ["mish"]
    torch.testing.assert_close(found.full(1), (jet * torch.tanh(F.softplus(jet))).full(1))


def test_a_python_function_of_torch_runs_with_jets_inside() -> None:
    jet = jet_of(diagonal(4))
    found = F.softsign(jet)
    assert not jet.propagation.slow
    wanted = jet / (1 + jet.abs())
    for order in (1, 2):
        torch.testing.assert_close(found.full(order), wanted.full(order))
    rule, keeps_frame = caches.RULES[F.softsign]
    assert rule.body
    assert keeps_frame


def test_without_jets_an_operation_is_itself() -> None:
    assert torch.equal(apply(torch.sin, (X,), {}), X.sin())
    assert torch.equal(apply(torch.sum, (X,), {"dim": 1}), X.sum(1))


def test_arguments_by_numpys_names() -> None:
    jet = jet_of()
    for found in (torch.sum(jet, axis=1, keepdims=True), jet.sum(axis=1, keepdims=True), jet.sum(1, keepdim=True)):
        assert torch.equal(found.value, X.sum(1, keepdim=True))
        assert torch.equal(found.full(1), jet.full(1).sum(2, keepdim=True))


def test_a_tensor_to_write_to_is_refused() -> None:
    jet = jet_of()
    assert torch.equal(torch.sin(jet, out=None).value, X.sin())
    with pytest.raises(CannotFollowError, match="sin with out="):
        torch.sin(jet, out=torch.zeros_like(X))


def test_operators_with_a_number_or_a_tensor_on_either_side() -> None:
    jet, one = jet_of(), torch.ones(4, dtype=DOUBLE)
    eye = jet.full(1)
    cases = [
        (2 - jet, 2 - X, -eye),
        (2 / jet, 2 / X, -2 * eye / X**2),
        (one / jet, 1 / X, -eye / X**2),
        (2**jet, 2**X, eye * 2**X * torch.tensor(2.0, dtype=DOUBLE).log()),
        (one - jet, 1 - X, -eye),
        (jet @ one, X @ one, eye.sum(2)),
        (one @ jet.T, one @ X.T, eye.sum(2)),
        (3 % (jet + 1), 3 % (X + 1), -eye * (3 / (X + 1)).floor()),
        (-jet, -X, -eye),
        (abs(-jet), X, eye),
    ]
    for place, (found, value, rows) in enumerate(cases):
        torch.testing.assert_close(found.value, value, msg=str(place))
        torch.testing.assert_close(found.full(1), rows, msg=str(place))
    for answer, truth in ((jet > 0.8, X > 0.8), (jet > 1, X > 1), (jet == 0.5, X == 0.5), (jet // 2, X // 2)):
        assert type(answer) is torch.Tensor
        assert torch.equal(answer, truth)


# -------------------------------------------------------------------- frames


WIDE, TWO = (nn.Linear(4, 2, dtype=DOUBLE) for _ in range(2))


def narrow_jet() -> Any:
    """In a frame of two directions within one of four."""
    propagation = Propagation((3,))
    jet: Any = Jet(X, (propagation.identity(4, X),), Frame(propagation, first_order(4)))
    return WIDE(jet).tanh(), jet


def rows_at_the_root(jet: Any) -> torch.Tensor:
    return lifted(jet, root(jet.frame)).full(1)


def jacobian(f: Any) -> torch.Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda row: f(row[None])[0]))(X).permute(2, 0, 1).detach()


def test_the_root_is_the_frame_of_the_input() -> None:
    narrow, jet = narrow_jet()
    assert narrow.frame.parent is jet.frame
    assert narrow.frame.layout.sizes == (2,)
    assert root(narrow.frame) is jet.frame
    assert root(jet.frame) is jet.frame
    changed = jet.frame.changed(torch.eye(4, dtype=DOUBLE)[:2])
    assert root(changed) is changed  # out of which no factor leads


def test_a_jet_is_lifted_by_its_factors() -> None:
    narrow, jet = narrow_jet()
    assert lifted(jet, jet.frame) is jet
    assert lifted(narrow, narrow.frame) is narrow
    torch.testing.assert_close(rows_at_the_root(narrow), jacobian(lambda x: WIDE(x).tanh()))
    constant_one = Jet(narrow.value, (None,), narrow.frame)
    assert lifted(constant_one, jet.frame).coefficients == (None,)


def test_operations_keep_the_narrow_frame_where_they_may() -> None:
    narrow, jet = narrow_jet()
    kept = (narrow.sin() * 2 + narrow).exp()
    assert kept.frame is narrow.frame
    torch.testing.assert_close(rows_at_the_root(kept), jacobian(lambda x: ((y := WIDE(x).tanh()).sin() * 2 + y).exp()))
    for moved in (narrow.sum(0), narrow.T, narrow * torch.ones(1, 1, 1, dtype=DOUBLE), torch.cat([narrow, narrow])):
        assert moved.frame is jet.frame


def test_the_common_frame_is_the_nearest() -> None:
    narrow, jet = narrow_jet()
    other = TWO(jet).tanh()
    assert common_frame([narrow, narrow]) is narrow.frame
    assert common_frame([narrow, jet]) is jet.frame
    assert common_frame([narrow, other]) is jet.frame
    within = narrow.frame.narrowed(torch.ones(2, 3, 1, dtype=DOUBLE))
    assert common_frame([Jet(X, (None,), within), narrow]) is narrow.frame
    torch.testing.assert_close(rows_at_the_root(narrow + other), jacobian(lambda x: WIDE(x).tanh() + TWO(x).tanh()))


def test_the_common_frame_is_of_the_innermost_evaluation() -> None:
    jet = jet_of()
    inner = Propagation((3,), within=Within(jet.frame, Joined.of(jet.frame.layout, first_order(4))))
    frame = Frame(inner, Joined.of(jet.frame.layout, first_order(4)).layout)
    inside = Jet(X, (None, None), frame)
    assert common_frame([jet, inside]) is frame
    assert common_frame([inside, jet]) is frame
    with pytest.raises(CannotFollowError, match="jets of two evaluations"):
        common_frame([jet, jet_of()])
    stranger = jet_of()
    stranger.propagation.alive = False
    assert common_frame([stranger, jet]) is jet.frame


# -------------------------------------------------------------------- constants


def test_of_an_evaluation_that_has_ended_values_are_left() -> None:
    jet = jet_of()
    jet.propagation.alive = False
    found = jet.sin()
    assert type(found) is torch.Tensor
    assert torch.equal(found, X.sin())
    living = jet_of()
    product = living * jet
    torch.testing.assert_close(product.full(1), living.full(1) * X)


def test_under_no_grad_all_is_constant_and_shares_no_memory() -> None:
    jet = jet_of()
    with torch.no_grad():
        found, view, parts = jet.sin(), jet[:2], torch.split(jet, 2, 1)
    assert torch.equal(found, X.sin())
    for shared, place in ((view, X[:2]), (parts[0], X[:, :2])):
        assert type(shared) is torch.Tensor
        assert torch.equal(shared, place)
        assert shared.untyped_storage().data_ptr() != jet.value.untyped_storage().data_ptr()
    assert [kept is view for kept, _ in jet.propagation.detached].count(True) == 1
    assert all(kept is not found for kept, _ in jet.propagation.detached)
    with torch.no_grad(), pytest.raises(CannotFollowError, match="add_ in place under no_grad"):
        jet.add_(1)


def test_inside_of_a_rule_no_grad_is_the_rules_own() -> None:
    jet = jet_of()
    jet.propagation.inside = True
    with torch.no_grad():
        assert type(jet.sin()) is Jet


def test_the_constant_of_a_trace_is_left_as_it_is() -> None:
    jet = jet_of()
    jet.propagation.traced = True
    found = constant(torch.Tensor.view, (jet, 12), {})
    assert found.untyped_storage().data_ptr() == jet.value.untyped_storage().data_ptr()


def test_quiet_rules_leave_gradients_as_they_were() -> None:
    jet = jet_of()
    jet.propagation.quiet = True
    weight = torch.ones(4, dtype=DOUBLE, requires_grad=True)
    found = jet * weight
    assert torch.is_grad_enabled()
    assert not jet.propagation.inside
    value, (rows,) = opened(found)
    assert not value.requires_grad
    assert not rows.requires_grad
    with pytest.raises(RuntimeError):
        _ = jet @ torch.ones(3, dtype=DOUBLE)
    assert torch.is_grad_enabled()
    assert not jet.propagation.inside
