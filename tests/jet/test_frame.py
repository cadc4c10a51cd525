"""Frames: one-hot rows, scales of them, narrow layers set aside and contracted again, metrics of a Laplacian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import hessian, jacrev, vmap

from jacfunc.core import caches
from jacfunc.jet import Frame, Jet, Propagation
from jacfunc.jet.frame import AllRowsError, OneHot, contracted, plus
from jacfunc.jet.layout import diagonal, first_order, summed

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------- one-hot rows


def test_one_hot_rows_are_the_same_for_every_sample() -> None:
    propagation = Propagation((5,))
    rows = propagation.identity(3, normal(5, 3))
    assert rows.dtype == DOUBLE
    assert torch.equal(rows, torch.eye(3, dtype=DOUBLE)[:, None, :])
    assert propagation.identity(3, normal(5, 3)) is rows
    assert propagation.identity(2, normal(5, 2)).shape == (2, 1, 2)


def test_one_hot_rows_are_known_by_themselves_and_not_by_their_numbers() -> None:
    propagation = Propagation((5,))
    rows = propagation.identity(3, normal(5, 3))
    assert propagation.is_identity(rows)
    assert propagation.is_identity(OneHot(7))
    assert not propagation.is_identity(rows.clone())
    assert not Propagation((5,)).is_identity(rows)


def test_one_hot_rows_are_remembered_between_evaluations_but_not_of_a_trace() -> None:
    like = normal(5, 3)
    rows = Propagation((5,)).identity(3, like)
    assert Propagation((2,)).identity(3, like) is rows
    assert Propagation((2,)).identity(3, like.float()).dtype == torch.float32
    assert Propagation((5,), traced=True).identity(3, like) is not rows
    caches.IDENTITIES.clear()
    large = caches.LARGEST_IDENTITY + 1
    Propagation((5,), traced=True).identity(4, like)
    assert not caches.IDENTITIES
    Propagation((1,)).identity(large, like.new_zeros(1, 1))
    assert not caches.IDENTITIES


def test_scaled_one_hot_rows_are_remembered_with_their_scale() -> None:
    propagation = Propagation((5,))
    rows, scale = propagation.identity(3, normal(5, 3)), normal(5, 3)
    scaled = propagation.times(scale, rows)
    assert torch.equal(scaled, rows * scale)
    assert propagation.scale_of(scaled) is scale
    assert propagation.scale_of(rows) is None
    assert propagation.scale_of(scaled.clone()) is None
    twice = propagation.times(scale, scaled)  # which are no longer one-hot
    assert torch.equal(twice, scaled * scale)
    assert propagation.scale_of(twice) is None
    one = propagation.times(normal(5, 1), rows)  # not a scale for each coordinate
    assert propagation.scale_of(one) is None


def test_what_shares_memory_with_a_jet_is_copied_and_watched() -> None:
    propagation, value = Propagation((2,)), normal(2, 2)
    copy = propagation.apart(value)
    assert torch.equal(copy, value)
    assert copy.data_ptr() != value.data_ptr()
    ((kept, version),) = propagation.detached
    assert kept is copy
    assert version == copy._version
    copy.add_(1)
    assert version != copy._version
    assert Propagation((2,), traced=True).apart(value) is value


# -------------------------------------------------------------------- products of rows


def test_products_of_rows_of_a_laplacian() -> None:
    left, right = normal(3, 4), normal(3, 4, seed=2)
    frame = Frame(Propagation((4,)), summed((3,)))
    torch.testing.assert_close(frame.convolve(1, 1, left, right, torch.mul), (left * right).sum(0, keepdim=True))
    torch.testing.assert_close(frame.squared(1, left), left.square().sum(0, keepdim=True))
    metric = normal(3, 3, seed=3)
    metric = metric @ metric.T
    changed = Frame(Propagation((4,)), summed((3,)), metric=metric)
    wanted = torch.einsum("ij,in,jn->n", metric, left, right)[None]
    torch.testing.assert_close(changed.convolve(1, 1, left, right, torch.mul), wanted)
    torch.testing.assert_close(changed.squared(1, left), torch.einsum("ij,in,jn->n", metric, left, left)[None])


def test_what_is_zero_or_of_too_high_an_order_is_none() -> None:
    frame, rows = Frame(Propagation((4,)), diagonal(3)), normal(3, 4)
    assert frame.convolve(1, 1, None, rows, torch.mul) is None
    assert frame.convolve(1, 1, rows, None, torch.mul) is None
    assert frame.convolve(1, 2, rows, rows, torch.mul) is None
    assert frame.squared(2, rows) is None


def test_sums_of_rows_of_which_none_is_zero() -> None:
    one, other = normal(3), normal(3, seed=2)
    assert plus(None, None) is None
    assert plus(one, None) is one
    assert plus(None, other) is other
    assert torch.equal(plus(one, other), one + other)


# -------------------------------------------------------------------- narrow layers


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("shape", [(1,), (3,), (3, 2)])
def test_contracting_is_the_chain_rule(samples: int, shape: tuple[int, ...]) -> None:
    """Either part may have one entry for all samples."""
    factor = normal(6, samples, 2)
    for count in {samples, 4}:
        rows = normal(2, count, *shape, seed=2)
        flat = rows.reshape(2, count, -1)
        wanted = torch.einsum(
            "rnk,kns->rns", factor.expand(6, max(samples, count), 2), flat.expand(2, max(samples, count), -1)
        )
        torch.testing.assert_close(contracted(factor, rows), wanted.reshape(6, max(samples, count), *shape))


def test_a_narrow_frame_begins_with_a_row_for_each_coordinate_of_its_layer() -> None:
    propagation = Propagation((4,))
    outer, rows = Frame(propagation, first_order(6)), normal(6, 4, 2)
    frame = outer.narrowed(rows)
    assert frame.layout == first_order(2)
    assert frame.parent is outer
    assert frame.factor is rows
    assert propagation.narrowed


def test_two_narrow_layers_are_contracted_one_after_the_other() -> None:
    weights = [normal(*size, seed=k) for k, size in enumerate([(8, 4), (4, 2), (2, 3)])]
    f, g, h = (lambda x, w=weight: (x @ w).tanh() for weight in weights)
    x = normal(5, 8)
    first, second = f(x), g(f(x))
    jacobian = lambda function, at: vmap(jacrev(lambda row: function(row[None])[0]))(at).permute(2, 0, 1)
    propagation = Propagation((5,))
    outer = Frame(propagation, first_order(8))
    middle = outer.narrowed(jacobian(f, x))
    inner = middle.narrowed(jacobian(g, first))
    rows = middle.contracted(inner.contracted(jacobian(h, second)))
    torch.testing.assert_close(rows, jacobian(lambda x: h(g(f(x))), x))


def test_a_laplacian_by_the_variables_of_a_layer() -> None:
    """With ``z = W x``, the Laplacian by x is the metric ``W W^T`` with the second derivatives by z."""
    weight, x = normal(2, 5), normal(3, 5, seed=2)
    propagation = Propagation((3,))
    frame = Frame(propagation, summed((5,))).changed(weight)
    assert propagation.narrowed
    torch.testing.assert_close(frame.metric, weight @ weight.T)
    z = x @ weight.T
    jet: Any = Jet(z, (propagation.identity(2, z), None), frame)
    y = (jet[:, 0].sin() * jet[:, 1]).exp()
    plain = lambda row: ((weight @ row)[0].sin() * (weight @ row)[1]).exp()
    wanted = vmap(hessian(plain))(x).diagonal(0, 1, 2).sum(1)
    torch.testing.assert_close(2 * y.coefficients[1][0], wanted)


def test_the_first_derivatives_by_all_coordinates_are_lost_in_such_a_frame() -> None:
    frame = Frame(Propagation((3,)), summed((5,))).changed(normal(2, 5))
    with pytest.raises(AllRowsError, match="used beside a first layer that is narrower"):
        frame.contracted(normal(2, 3))
