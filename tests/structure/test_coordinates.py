"""``jacfunc/structure/coordinates.py``: functions of a few coordinates, on tensors and on jets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jacfunc import ShapeError, batch_jac, diag_jac
from jacfunc.structure.coordinates import AtCoordinates, entries_at, placed

PLACES = torch.tensor([5, 0, 3])


def test_placed_and_picked_of_tensors():
    x, steps = torch.arange(12.0).reshape(2, 2, 3), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = placed(x, steps, PLACES)
    assert found.shape == x.shape
    assert torch.equal(entries_at(found, PLACES, 1), entries_at(x, PLACES, 1) + steps)
    others = torch.tensor([1, 2, 4])
    assert torch.equal(entries_at(found, others, 1), entries_at(x, others, 1))


@pytest.mark.parametrize("method", ["taylor", "forward", "reverse"])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_samples_of_any_shape(method, shape):
    x = torch.randn(4, *shape, dtype=torch.float64)
    f = lambda x: x.roll(1, -1) * x.sin() + x.flatten(1).sum(1).reshape(-1, *(1,) * len(shape))
    found = diag_jac(f, coordinates=PLACES, method=method)(x)
    torch.testing.assert_close(found, diag_jac(f)(x).flatten(1)[:, PLACES])


def test_of_a_last_layer_only_the_rows_are_multiplied(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    expected, sizes = diag_jac(net)(x)[:, PLACES], []
    from jacfunc.jet import jet

    usual = jet.multiplied
    monkeypatch.setattr(
        jet, "multiplied", lambda source, weight, rows: sizes.append(len(weight)) or usual(source, weight, rows)
    )
    made = diag_jac(net, coordinates=PLACES, method="taylor")
    made(x)
    sizes.clear()
    torch.testing.assert_close(made(x), expected)
    assert 6 not in sizes


def test_the_identity_and_what_is_no_tensor():
    x = torch.randn(4, 6)
    assert torch.equal(diag_jac(lambda x: x, coordinates=PLACES)(x), torch.ones(4, 3))
    assert torch.equal(batch_jac(lambda x: {"y": x}, coordinates=PLACES)(x)["y"].sum((1, 2)), torch.full((4,), 3.0))
    with pytest.raises(ShapeError, match="returns one tensor, but f returned a dict"):
        diag_jac(lambda x: {"y": x}, coordinates=PLACES)(x)


def test_places_as_a_field_and_as_an_argument():
    x, steps = torch.zeros(2, 6), torch.ones(2, 3)
    function = AtCoordinates(torch.sin, 0, 1, False, False, False)
    bound = AtCoordinates(torch.sin, 0, 1, False, False, False, PLACES)
    assert torch.equal(function(x, steps, jacfunc_places=PLACES), bound(x, steps))
    assert repr(bound) == "sin"
