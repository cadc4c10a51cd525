"""A propagation within another one: derivatives that are jets again, against derivatives of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import hessian, jacfwd, vmap

from jacfunc.jet import Frame, Jet, Propagation
from jacfunc.jet.dispatch import lifted
from jacfunc.jet.frame import AllRowsError, OneHot, Within
from jacfunc.jet.joined import Joined
from jacfunc.jet.layout import Layout, diagonal, first_order
from jacfunc.jet.shared import Origin, Shared, single
from jacfunc.jet.within import (
    differentiated,
    origin_of,
    origin_within,
    rows_within,
    shared_with,
    value_of,
    value_within,
)

DOUBLE = torch.float64
X = torch.randn(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def outer_jet(layout: Layout, known: bool = False) -> Any:
    """The input of the surrounding evaluation; ``known``: what its rows are is told."""
    propagation = Propagation((3,), narrowing=False)
    frame = Frame(propagation, layout)
    jet = Jet(X, (propagation.identity(2, X), *(None,) * (layout.order - 1)), frame)
    if known:
        propagation.origin = Origin(lambda: single(0, 2, [2], layout.order), [jet._coefficients], [2])
    return jet


def inner_frame(around: Frame, inner: Layout, shared: Shared | None = None) -> Frame:
    joined = shared or Joined.of(around.layout, inner)
    propagation = Propagation((3,), narrowing=False, within=Within(around, joined))
    return Frame(propagation, joined.layout)


def per_sample(f: Callable[[torch.Tensor], Any]) -> Any:
    return vmap(f)(X)


def u(x: Any) -> Any:
    return (x[..., 0].sin() * x[..., 1] * x[..., 1] + x[..., 0].exp()).tanh()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_gradient_inside_moves_with_the_input(quiet: bool) -> None:
    """``u`` of what is itself a function of the input, differentiated by that."""
    jet = outer_jet(diagonal(2))
    jet.propagation.quiet = quiet
    given = jet * jet.exp()
    frame = inner_frame(given.frame, first_order(2))
    inside = differentiated(given, given.value, [OneHot(2)], frame)
    assert inside.propagation is frame.propagation
    output = u(inside)
    gradient = rows_within(output, 1)
    plain = lambda row: jacfwd(u)(row * row.exp())
    assert gradient.frame is jet.frame
    torch.testing.assert_close(gradient.value.T, per_sample(plain))
    torch.testing.assert_close(gradient.full(1).permute(2, 1, 0), per_sample(jacfwd(plain)))
    second = per_sample(jacfwd(jacfwd(plain))).diagonal(0, 2, 3)
    torch.testing.assert_close(2 * gradient.full(2).permute(2, 1, 0), second)
    value = value_of(output)
    assert value.frame is jet.frame
    plain_value = lambda row: u(row * row.exp())
    torch.testing.assert_close(value.value, per_sample(plain_value))
    torch.testing.assert_close(value.full(1).T, per_sample(jacfwd(plain_value)))


def test_second_derivatives_inside() -> None:
    jet = outer_jet(first_order(2))
    frame = inner_frame(jet.frame, diagonal(2))
    output = u(differentiated(jet, jet.value, [OneHot(2), None], frame))
    second = rows_within(output, 2)
    plain = lambda row: hessian(u)(row).diagonal()
    torch.testing.assert_close(2 * second.value.T, per_sample(plain))
    torch.testing.assert_close(2 * second.full(1).permute(2, 1, 0), per_sample(jacfwd(plain)))


def test_what_the_inner_one_is_not_differentiated_by_moves_with_the_outer_one_alone() -> None:
    jet = outer_jet(first_order(2))
    factor = jet[:, :1].exp()
    frame = inner_frame(jet.frame, first_order(2))
    output = differentiated(torch.ones(3, 2, dtype=DOUBLE), torch.ones(3, 2, dtype=DOUBLE), [OneHot(2)], frame) * factor
    assert output.frame is frame
    rows = rows_within(output, 1)
    for k in range(2):
        assert torch.equal(rows.value[k, :, k], X[:, 0].exp())
        torch.testing.assert_close(rows.full(1)[:, k, :, k], torch.stack([X[:, 0].exp(), torch.zeros(3, dtype=DOUBLE)]))
    assert torch.equal(lifted(factor, frame).value, factor.value)


def test_what_does_not_vary_inside_has_rows_of_zeros() -> None:
    jet = outer_jet(first_order(2))
    frame = inner_frame(jet.frame, first_order(2))
    constant = lifted(jet.sin(), frame)
    rows = rows_within(constant, 1)
    assert rows.value.shape == (2, 3, 2)
    assert not rows.value.any()
    assert rows.full(1) is None or not rows.full(1).any()


def test_the_value_for_whom_it_is_of() -> None:
    jet = outer_jet(first_order(2))
    frame = inner_frame(jet.frame, first_order(2))
    inside = differentiated(jet, jet.value, [OneHot(2)], frame)
    assert value_of(X) is X
    assert value_of(jet) is X
    assert torch.equal(value_within(None, inside), X)
    assert type(value_within(jet.frame, inside)) is Jet
    assert value_within(jet.frame, inside).frame is jet.frame
    assert value_within(jet.frame, jet) is jet


# -------------------------------------------------------------------- the same coordinates


def shared_of(jet: Any, inner: Layout) -> Shared | None:
    return shared_with([jet], jet.frame, (3,), inner, lambda: single(0, 2, [2], inner.order))


@pytest.mark.parametrize("outer", [first_order(2), diagonal(2)])
@pytest.mark.parametrize("inner", [first_order(2), diagonal(2)])
def test_by_the_same_coordinates_each_derivative_is_carried_once(outer: Layout, inner: Layout) -> None:
    jet = outer_jet(outer, known=True)
    shared = shared_of(jet, inner)
    assert shared is not None
    frame = inner_frame(jet.frame, inner, shared)
    inside = differentiated(jet, jet.value, [OneHot(2), None], frame)
    output = u(inside)
    plain = jacfwd(u)
    for _ in range(inner.order - 1):
        plain = lambda row, f=plain: jacfwd(f)(row).diagonal()
    times = 2.0 ** (inner.order - 1)
    found = rows_within(output, inner.order)
    torch.testing.assert_close(times * found.value.T, per_sample(plain))
    torch.testing.assert_close(times * found.full(1).permute(2, 1, 0), per_sample(jacfwd(plain)))
    if outer.order > 1:
        seconds = per_sample(jacfwd(jacfwd(plain))).diagonal(0, 2, 3)
        torch.testing.assert_close(2 * times * found.full(2).permute(2, 1, 0), seconds)
    torch.testing.assert_close(value_of(output).full(1).T, per_sample(jacfwd(u)))
    # And again within: what its rows are is known there too.
    origin = origin_within([jet], [inside], jet.frame, shared)
    frame.propagation.origin = origin
    assert list(origin.indices()) == list(shared.rows())
    assert origin_of(inside, frame) == range(2)


def test_only_the_input_itself_is_known_by_its_coordinates() -> None:
    jet = outer_jet(first_order(2), known=True)
    assert origin_of(jet, jet.frame) == range(2)
    assert origin_of(X, jet.frame) is None
    assert origin_of(jet, Frame(jet.propagation, first_order(2))) is None
    for other in (jet * 1.0, jet.sin(), jet[:, :1], jet.detach()):
        assert origin_of(other, jet.frame) is None
        assert shared_of(other if type(other) is Jet else outer_jet(first_order(2)), first_order(2)) is None


def test_leaves_of_an_input_are_told_apart() -> None:
    propagation = Propagation((3,), narrowing=False)
    frame = Frame(propagation, first_order(3))
    values = [X, X[:, :1]]
    rows = [torch.eye(3, dtype=DOUBLE)[:, None, :2].contiguous(), torch.eye(3, dtype=DOUBLE)[:, None, 2:].contiguous()]
    jets = [Jet(value, (one,), frame) for value, one in zip(values, rows, strict=True)]
    propagation.origin = Origin(lambda: single(0, 3, [2, 1], 1), [(one,) for one in rows], [2, 1])
    assert [origin_of(jet, frame) for jet in jets] == [range(2), range(2, 3)]
    shared = shared_with([jets[1]], frame, (3,), first_order(1), lambda: [(1,)])
    assert shared is not None
    assert shared.moved == {2}
    assert shared.by_inner[1] == ((0, 0, 1),)
    assert shared_with([jets[1], jets[1]], frame, (3,), first_order(2), lambda: [(1, 0), (0, 1)]) is None
    # What it is not differentiated by may be another leaf, and nothing that moves with the same one.
    inside = inner_frame(frame, first_order(1), shared)
    assert torch.equal(lifted(jets[0], inside).value, X)
    with pytest.raises(AllRowsError, match="also uses the surrounding input"):
        lifted(jets[1], inside)
    with pytest.raises(AllRowsError, match="also uses the surrounding input"):
        lifted(jets[0].sin(), inside)


def test_rows_are_shared_only_where_samples_and_origin_are_known() -> None:
    jet = outer_jet(first_order(2), known=True)
    indices = lambda: single(0, 2, [2], 1)
    assert shared_with([jet], jet.frame, (3,), first_order(2), indices) is not None
    assert shared_with([jet], jet.frame, (1,), first_order(2), indices) is None
    assert shared_with([jet], jet.frame, (3,), first_order(2), None) is None
    unknown = outer_jet(first_order(2))
    assert shared_with([unknown], unknown.frame, (3,), first_order(2), indices) is None
