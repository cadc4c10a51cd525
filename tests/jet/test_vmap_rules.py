"""Rows joined to an axis that an operation repeats over, or carried by vmap: as the operation on each row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from propagated import seeded
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError, Jet
from jacfunc.jet.build import linear
from jacfunc.jet.layout import diagonal, first_order
from jacfunc.jet.vmap_rules import batched, in_batch, mapped, mapped_product, stacked, unexpanded

DOUBLE = torch.float64
KERNEL = torch.randn(3, 2, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
X = torch.randn(4, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))


def jet_of(*shape: int, layout: Any = None) -> Any:
    """With rows of every order, each in full."""
    jet, _ = seeded(X, layout or diagonal(6))
    return (jet * jet.sin()).reshape(*shape)


def row_by_row(function: Any, rows: torch.Tensor) -> torch.Tensor:
    return torch.stack([function(row) for row in rows])


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_joined_to_an_axis(axis: int) -> None:
    """``conv1d`` repeats over its first axis, ``cumsum`` along the last over the first two."""
    rows = normal(5, 4, 2, 3)
    function = (lambda x: F.conv1d(x, KERNEL)) if axis == 0 else (lambda x: x.cumsum(-1) * torch.arange(3))
    torch.testing.assert_close(in_batch(rows, function, axis), row_by_row(function, rows))


def test_joined_rows_may_be_the_same_for_all_samples() -> None:
    rows = normal(5, 1, 2, 3)
    assert in_batch(rows, lambda x: F.conv1d(x, KERNEL)).shape == (5, 1, 3, 2)
    like = normal(4, 2, 3)
    assert unexpanded(normal(5, 1, 1, 3), like).shape == (5, 1, 2, 3)
    assert unexpanded(normal(5, 1, 1, 3), like, 1).shape == (5, 4, 1, 3)
    assert unexpanded(normal(5, 4, 2, 1), like).shape == (5, 4, 2, 3)
    assert unexpanded(normal(5), torch.tensor(1.0)).shape == (5,)


@pytest.mark.parametrize("shape", [(4, 2, 3), (2, 12)])
def test_what_repeats_over_a_batch(shape: tuple[int, ...]) -> None:
    """With a rank, fewer axes are one sample, and rows are the batch."""
    jet, convolve = jet_of(*shape), lambda x: F.conv1d(x, KERNEL)
    found = batched(F.conv1d, 2)(jet, KERNEL)
    assert torch.equal(found.value, convolve(jet.value))
    for order in (1, 2):
        torch.testing.assert_close(found.full(order), row_by_row(convolve, jet.full(order)))


def test_along_another_axis() -> None:
    jet, function = jet_of(2, 4, 3), lambda x: x.cumsum(0)
    found = batched(function, axis=1)(jet)
    torch.testing.assert_close(found.full(1), row_by_row(function, jet.full(1)))


@pytest.mark.parametrize("viewing", [False, True])
def test_what_takes_any_axes_in_front(viewing: bool) -> None:
    jet = jet_of(4, 2, 3)
    found = stacked(torch.flip, viewing)(jet, (-1, -2))
    for order in (1, 2):
        torch.testing.assert_close(found.full(order), row_by_row(lambda x: x.flip(-1, -2), jet.full(order)))
    assert (found.kin is not None) is viewing
    assert found.kin is (jet.kin if viewing else None)


@pytest.mark.parametrize("rule", [batched(torch.add), stacked(torch.add)])
def test_a_second_jet_is_refused(rule: Any) -> None:
    jet = jet_of(4, 6)
    for args in ((jet, jet), (X, jet)):
        with pytest.raises(CannotFollowError, match="add of differentiated arguments beside the first"):
            rule(*args)
    with pytest.raises(CannotFollowError, match="beside the first"):
        rule(jet, X, alpha=jet)


def test_linear_maps_by_vmap() -> None:
    jet = jet_of(4, 6)
    found = mapped(torch.gradient)(jet, dim=1)
    assert len(found) == 1
    assert torch.equal(found[0].value, torch.gradient(jet.value, dim=1)[0])
    for order in (1, 2):
        torch.testing.assert_close(
            found[0].full(order), row_by_row(lambda x: torch.gradient(x, dim=1)[0], jet.full(order))
        )
    with pytest.raises(CannotFollowError, match="hstack of several differentiated tensors"):
        mapped(torch.hstack)([jet, jet * 2])
    again = mapped(torch.hstack)([jet, jet])  # of one and the same
    torch.testing.assert_close(again.full(1), torch.cat([jet.full(1)] * 2, 2))


def test_parts_that_are_constant_have_rows_of_zeros() -> None:
    jet, other = jet_of(4, 6), jet_of(4, 6).exp()
    found = mapped(torch.hstack, together=True)([jet, X, other])
    assert torch.equal(found.value, torch.cat([jet.value, X, other.value], 1))
    for order in (1, 2):
        one, two = jet.full(order), other.full(order)
        torch.testing.assert_close(found.full(order), torch.cat([one, torch.zeros_like(one), two], 2))
    constant = Jet(X, (None, None), jet.frame)
    assert mapped(torch.hstack, together=True)([constant, X]).coefficients == (None, None)


@pytest.mark.parametrize("varying", ["left", "right", "both"])
def test_products_by_vmap(varying: str) -> None:
    jet, _ = seeded(X, first_order(6))
    left = jet[:, :3] if varying != "right" else X[:, :3]
    right = jet[:, 3:].sin() if varying != "left" else X[:, 3:].sin()
    product = lambda x, y: torch.linalg.cross(x, y)
    found = mapped_product(left, right, product)
    plain = lambda row: torch.linalg.cross(
        row[:3] if varying != "right" else row[:3].detach(),
        row[3:].sin() if varying != "left" else row[3:].sin().detach(),
    )
    if varying == "both":
        torch.testing.assert_close(found.full(1).permute(1, 2, 0), torch.func.vmap(torch.func.jacrev(plain))(X))
    basis = torch.eye(6, dtype=DOUBLE)[:, None].expand(6, 4, 6)
    one = product(basis[..., :3], X[:, 3:].sin().expand(6, 4, 3))
    two = product(X[:, :3].expand(6, 4, 3), basis[..., 3:] * X[:, 3:].cos())
    wanted = {"left": one, "right": two, "both": one + two}[varying]
    torch.testing.assert_close(found.full(1), wanted)
    assert torch.equal(found.value, torch.linalg.cross(X[:, :3], X[:, 3:].sin()))


def test_a_linear_map_of_rows_needs_no_batch() -> None:
    jet = jet_of(24)
    found = batched(lambda x: x.reshape(2, -1).sum(-1) if x.dim() == 1 else x.reshape(len(x), 2, -1).sum(-1), 1)(jet)
    wanted = linear(jet, lambda x: x.reshape(2, -1).sum(-1), lambda rows: rows.reshape(len(rows), 2, -1).sum(-1))
    torch.testing.assert_close(found.full(1), wanted.full(1))
