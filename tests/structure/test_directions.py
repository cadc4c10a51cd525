"""``jacfunc/structure/directions.py``: products with each sample's Jacobian from both sides, by every route."""

from __future__ import annotations

import pytest
import torch

from jacfunc import batch_jac
from jacfunc.structure.directions import AlongDirections, OfCotangents, shifted

METHODS = ("taylor", "forward", "reverse")


def field(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.flatten(1).sin().sum(1), x.flatten(1).prod(1)], -1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3,), (2, 2), ()])
def test_along_directions(method, shape):
    x, v = torch.randn(4, *shape, dtype=torch.float64), torch.randn(4, 5, *shape, dtype=torch.float64)
    function = AlongDirections(lambda x: field(x.reshape(4, -1)), 0)
    found = batch_jac(function, method=method)(x, v, torch.zeros(4, 5, dtype=torch.float64))
    jacobian = batch_jac(lambda x: field(x.reshape(4, -1)))(x).reshape(4, 2, -1)
    torch.testing.assert_close(found, torch.einsum("noi,npi->nop", jacobian, v.reshape(4, 5, -1)))


@pytest.mark.parametrize("method", METHODS)
def test_against_cotangents(method):
    x, u = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 5, 2, dtype=torch.float64)
    found = batch_jac(OfCotangents(field, 1, False), argnums=0, method=method)(x, u)
    torch.testing.assert_close(found, torch.einsum("noi,npo->npi", batch_jac(field)(x), u))
    aux = batch_jac(OfCotangents(lambda x: (field(x), x), 1, True), argnums=0, method=method)(x, u)
    torch.testing.assert_close(aux, found)


def test_no_steps_change_nothing():
    x = torch.randn(4, 3)
    assert torch.equal(shifted(x, torch.zeros(4, 2), torch.randn(4, 2, 3)), x)
    assert shifted(x[:0], torch.zeros(0, 2), torch.randn(0, 2, 3)).shape == (0, 3)


def test_names():
    assert repr(AlongDirections(torch.sin, 0)) == repr(OfCotangents(torch.sin, 1, False)) == "sin"
