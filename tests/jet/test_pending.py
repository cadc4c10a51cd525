"""What a jet waits for: a layer that is multiplied out when needed, a view to be written back, and an end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from propagated import opened, seeded
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError, Jet
from jacfunc.jet.layout import diagonal, first_order
from jacfunc.jet.pending import Ended, PendingLayer, PendingWrite, versions_of

DOUBLE = torch.float64
X = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.randn(2, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
BIAS = torch.tensor([0.3, -0.7], dtype=DOUBLE)


def jet_of(x: torch.Tensor = X) -> Any:
    return seeded(x.clone(), first_order(4))[0]


# -------------------------------------------------------------------- a layer


@pytest.mark.parametrize("bias", [None, BIAS])
def test_a_layer_waits_and_knows_its_shape(bias: torch.Tensor | None) -> None:
    source = jet_of().sin()
    jet = Jet.linear(source, WEIGHT, bias)
    assert type(jet.pending) is PendingLayer
    assert (jet.shape, jet.dtype, jet.device, jet.dim(), len(jet)) == ((3, 2), DOUBLE, X.device, 2, 3)
    assert jet._value is None
    assert type(jet.pending) is PendingLayer  # still
    torch.testing.assert_close(jet.value, F.linear(X.sin(), WEIGHT, bias))
    assert type(jet.pending) is PendingLayer  # whose rows nobody has asked for
    torch.testing.assert_close(jet.coefficients[0], F.linear(torch.diag_embed(X.cos()).movedim(1, 0), WEIGHT))
    assert jet.pending is None
    assert jet.frame is source.frame


def test_an_operation_multiplies_it_out() -> None:
    jet = Jet.linear(jet_of().sin(), WEIGHT, BIAS)
    value, (rows,) = opened(jet.exp())
    plain = lambda x: F.linear(x.sin(), WEIGHT, BIAS).exp()
    torch.testing.assert_close(value, plain(X))
    torch.testing.assert_close(rows, torch.func.vmap(torch.func.jacrev(plain))(X).permute(2, 0, 1))
    assert jet.pending is None


def test_the_linear_layer_of_torch_waits() -> None:
    assert type(F.linear(jet_of(), WEIGHT, BIAS).pending) is PendingLayer


@pytest.mark.parametrize("changed", ["weight", "bias"])
@pytest.mark.parametrize("asked", ["value", "coefficients", "frame"])
def test_a_weight_that_has_changed_by_then_is_refused(changed: str, asked: str) -> None:
    weight, bias = WEIGHT.clone(), BIAS.clone()
    jet = Jet.linear(jet_of(), weight, bias)
    assert jet.pending.versions == (weight._version, bias._version)
    {"weight": weight, "bias": bias}[changed].add_(1)
    with pytest.raises(CannotFollowError, match="changed in place after its linear layer"):
        getattr(jet, asked)


def test_a_weight_that_changes_between_value_and_rows_is_refused() -> None:
    weight = WEIGHT.clone()
    jet = Jet.linear(jet_of(), weight, None)
    torch.testing.assert_close(jet.value, X @ WEIGHT.T)
    weight.add_(1)
    with pytest.raises(CannotFollowError, match="changed in place after its linear layer"):
        _ = jet.coefficients


def test_a_source_that_changes_in_place_leaves_the_layer_alone() -> None:
    source = jet_of() * 1
    jet = Jet.linear(source, WEIGHT, None)
    source.mul_(3)
    value, (rows,) = opened(jet)
    torch.testing.assert_close(value, X @ WEIGHT.T)
    torch.testing.assert_close(rows, WEIGHT.T[:, None].expand(4, 3, 2))


def test_what_becomes_another_waits_no_longer() -> None:
    jet = Jet.linear(jet_of(), WEIGHT, None)
    jet.add_(1)
    assert jet.pending is None
    torch.testing.assert_close(jet.value, X @ WEIGHT.T + 1)


def test_in_a_trace_versions_are_not_asked() -> None:
    source = jet_of()
    source.propagation.traced = True
    assert Jet.linear(source, WEIGHT, None).pending.versions is None


def test_versions_are_counted_where_torch_counts() -> None:
    weight, bias = torch.ones(2, 2), torch.ones(2)
    assert versions_of(weight, None) == (0, 0)
    weight.add_(1).add_(1)
    bias.add_(1)
    assert versions_of(weight, bias) == (2, 1)
    assert versions_of(weight, None) == (2, 0)
    with torch.inference_mode():
        made = torch.ones(2, 2)
    assert versions_of(made, bias) == (0, 0)


def test_layers_of_second_order() -> None:
    jet = Jet.linear(seeded(X, diagonal(4))[0].exp(), WEIGHT, BIAS)
    torch.testing.assert_close(2 * jet.full(2), X.exp().T[:, :, None] * WEIGHT.T[:, None, :])


# -------------------------------------------------------------------- a view to be written back


def test_a_view_that_changes_is_waited_for_until_it_is_written_back() -> None:
    """What ``x[:, 0] += 1`` is to Python: a view taken, changed in place, and assigned."""
    x = jet_of() * 1
    view = x[:, 0]
    view.mul_(2)
    assert type(x.pending) is PendingWrite
    assert x.pending.view is view
    assert x.pending.index == (slice(None), 0)
    assert (x.shape, x.dtype, x.device) == ((3, 4), DOUBLE, X.device)
    for ask in (lambda: x.value, lambda: x.coefficients, lambda: x + 1, lambda: Jet.linear(x, WEIGHT, None)):
        with pytest.raises(CannotFollowError, match="an operation in place on a view"):
            ask()
    x[:, 0] = view
    assert x.pending is None
    wanted = X.clone()
    wanted[:, 0] *= 2
    value, (rows,) = opened(x)
    torch.testing.assert_close(value, wanted)
    scale = torch.tensor([2.0, 1, 1, 1], dtype=DOUBLE)
    torch.testing.assert_close(rows, torch.diag(scale)[:, None].expand(4, 3, 4))


def test_it_may_change_more_than_once_before() -> None:
    x = jet_of() * 1
    view = x[0]
    view.mul_(2)
    view.add_(1)
    x[0] = view
    torch.testing.assert_close(x.value, torch.cat([2 * X[:1] + 1, X[1:]]))


@pytest.mark.parametrize("index", [1, (slice(None), 0)])
def test_another_place_is_not_what_it_waits_for(index: Any) -> None:
    x = jet_of() * 1
    view = x[0]
    view.mul_(2)
    assert not x.takes_back(view, index)
    assert not x.takes_back(x, 0)
    assert x.takes_back(view, 0)
    assert x.pending is None


def test_two_views_may_not_change() -> None:
    x = jet_of() * 1
    view, other = x[0], x[:, 1]
    with pytest.raises(CannotFollowError, match="in place on a view"):
        view.mul_(2)
    assert x.pending is None
    del other
    view.mul_(2)
    assert type(x.pending) is PendingWrite


def test_a_view_of_what_has_died_may_change() -> None:
    x = jet_of() * 1
    view = x[0]
    del x
    view.mul_(2)
    torch.testing.assert_close(view.value, 2 * X[0])


# -------------------------------------------------------------------- the end


def test_a_view_that_was_written_back_is_of_no_further_use() -> None:
    x = jet_of() * 1
    view = x[0]
    view.mul_(2)
    x[0] = view
    assert type(view.pending) is Ended
    for ask in (lambda: view.value, lambda: view.coefficients, lambda: view * 2):
        with pytest.raises(CannotFollowError, match="an operation in place on a view"):
            ask()
    torch.testing.assert_close((x * 2).value[0], 4 * X[0])


def test_what_is_assigned_and_is_no_view_goes_on() -> None:
    x = jet_of() * 1
    row = x.sum(0)
    x[0] = row
    assert row.pending is None
    torch.testing.assert_close(row.value, X.sum(0))
    torch.testing.assert_close(x.value[0], X.sum(0))
