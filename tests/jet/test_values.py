"""Jets among the arguments of an operation."""

from __future__ import annotations

from collections import namedtuple

import torch
from propagated import seeded

from jacfunc.jet.layout import first_order
from jacfunc.jet.values import jets_in, plain, replaced

Pair = namedtuple("Pair", ["left", "right"])


def jets(count: int) -> list:
    return [seeded(torch.full((1, 2), float(k)), first_order(2))[0] for k in range(count)]


def test_every_jet_is_found_in_order() -> None:
    a, b, c, d = jets(4)
    found = jets_in((1, [a, (b, None)], torch.ones(2), "text"), {"weight": c, "others": (d, a)})
    assert [id(jet) for jet in found] == [id(jet) for jet in (a, b, c, d, a)]
    assert jets_in((1, [2.0, torch.ones(1)]), {"name": None}) == []


def test_only_jets_are_replaced() -> None:
    a, b = jets(2)
    tensor = torch.ones(3)
    tree = [a, (b, 3, tensor), {"key": a, "none": None}]
    found = replaced(tree, lambda jet: "A" if jet is a else "B")
    assert found == ["A", ("B", 3, tensor), {"key": "A", "none": None}]
    assert found[1][2] is tensor
    assert tree[0] is a
    assert tree[1][0] is b


def test_containers_keep_their_kind() -> None:
    (a,) = jets(1)
    found = replaced(Pair(a, [a]), lambda jet: 5)
    assert type(found) is Pair
    assert found == Pair(5, [5])
    shape = replaced(torch.Size([2, 3]), lambda jet: 5)
    assert type(shape) is torch.Size
    assert shape == (2, 3)


def test_values_in_place_of_jets() -> None:
    a, b = jets(2)
    one, (other, number) = plain((a, [b, 2]))
    assert one is a.value
    assert other is b.value
    assert number == 2
