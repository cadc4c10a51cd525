"""``jacfunc/jet/chosen.py``: values of which a few entries move, and what asks for their rows in full."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from jacfunc import hess_diag, register_rule
from jacfunc.core import caches
from jacfunc.jet import Jet
from jacfunc.jet.chosen import Chosen, chosen_of, with_chosen
from jacfunc.jet.frame import Frame, Propagation
from jacfunc.jet.layout import diagonal

PLACES = torch.tensor([4, 1])


def jet(width: int = 6) -> Jet:
    """A value whose entries 4 and 1 move along two directions."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(3, width, dtype=torch.float64, generator=generator)
    frame = Frame(Propagation((3,)), diagonal(2))
    entries = Jet(value[:, PLACES], (torch.eye(2, dtype=torch.float64)[:, None], None), frame)
    return with_chosen(value, entries, PLACES)


def test_rows_in_full_are_zero_elsewhere():
    x = jet()
    first, second = x.coefficients
    assert second is None and first.shape == (2, 1, 6)
    assert torch.equal(first[:, 0], F.one_hot(PLACES, 6).double())
    assert chosen_of(x) is None  # now that somebody looked


def test_before_anybody_looks():
    x = jet()
    found = chosen_of(x)
    assert isinstance(found, Chosen) and found.places is PLACES
    assert x.shape == (3, 6) and x.dtype == torch.float64 and torch.equal(x.value[:, PLACES], found.entries.value)
    assert chosen_of(torch.ones(2)) is None
    assert chosen_of(Jet(torch.ones(2), (None, None), x.frame)) is None


def test_what_nobody_knows_of_gets_rows_in_full():
    x = jet()
    y = x.roll(1, -1)
    assert chosen_of(y) is None
    assert torch.equal(y.coefficients[0][:, 0], F.one_hot(PLACES + 1, 6).double())


def test_an_operation_in_place_gets_rows_in_full():
    x = jet()
    y = x * 1.0
    y += x
    assert torch.equal(y.value, 2 * x.value)
    assert torch.equal(y.coefficients[0].expand(2, 3, 6), 2 * x.coefficients[0].expand(2, 3, 6))


def test_a_users_rule_gets_rows_in_full(monkeypatch):
    monkeypatch.setattr(caches, "RULES", dict(caches.RULES))
    monkeypatch.setattr(caches, "USER_RULES", dict(caches.USER_RULES))
    seen = []

    @register_rule(torch.tanh)
    def rule(input):
        seen.append(chosen_of(input))
        return input * 2

    y = torch.tanh(jet())
    assert seen == [None] and y.coefficients[0].shape[-1] == 6


@pytest.mark.parametrize("places", [[0], [5, 2], [0, 1, 2, 3, 4, 5]])
def test_through_a_function(places):
    x = jet().value
    f = lambda x: (x.sin() * torch.arange(6.0).double()).sum(1) * x.square().mean(1)
    found = hess_diag(f, coordinates=torch.tensor(places), method="taylor")(x)
    assert torch.allclose(found, hess_diag(f)(x)[:, places])
