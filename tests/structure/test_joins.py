"""``structure/joins.py`` against Python's own sets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from jacfunc.structure.joins import all_joined, constant, joined, listed_union, over_axes, up_to_each
from jacfunc.structure.sets import EMPTY, FIRST, KNOWN, Sets

COUNT = 7


def table():
    """A table that has some larger sets, and how many it has."""
    sets = Sets(COUNT)
    joined(sets, torch.arange(FIRST, FIRST + 5).double(), torch.arange(FIRST + 1, FIRST + 6).double())
    return sets, len(sets)


def numbers_of(count, *shape, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed)).double()


def members(sets, number):
    return frozenset(sets.listed(torch.tensor([int(number)]).numpy())[0].tolist())


def assert_union(sets, number, parts):
    """``number`` is that of the union of some others; KNOWN where all of them are."""
    parts = [int(part) for part in parts]
    assert members(sets, number) == frozenset().union(*(members(sets, part) for part in parts))
    assert (number == KNOWN) == all(part == KNOWN for part in parts)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1), (1, 4)), ((), (2, 3)), ((0, 2), (1, 2))])
def test_two_are_joined_and_broadcast(shapes):
    sets, count = table()
    one, other = numbers_of(count, *shapes[0]), numbers_of(count, *shapes[1], seed=1)
    found = joined(sets, one, other)
    for number, *parts in zip(
        found.flatten(), *(t.flatten() for t in torch.broadcast_tensors(one, other)), strict=True
    ):
        assert_union(sets, number, parts)
    three = all_joined(sets, [one, other, one.flip(0) if one.dim() else one])
    assert three.shape == found.shape


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("axes", [(0,), (1,), (-1,), (0, 2), (2, 0, 1), ()])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 3), (2, 0, 3)])
def test_unions_over_axes(shape, axes, keepdim):
    sets, count = table()
    numbers = numbers_of(count, *shape)
    found = over_axes(sets, numbers, axes, keepdim=keepdim)
    assert found.shape == (numbers.sum(axes, keepdim=keepdim).shape if axes else numbers.shape)
    whole = over_axes(sets, numbers, axes, keepdim=True)
    taken = {axis % 3 for axis in axes}
    for place in itertools.product(*map(range, whole.shape)):
        spans = [range(shape[axis]) if axis in taken else [place[axis]] for axis in range(3)]
        assert_union(sets, whole[place], [numbers[each] for each in itertools.product(*spans)])


def test_a_number_alone_has_no_axes():
    assert over_axes(Sets(2), torch.tensor(3.0), (0,)) == 3


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("axis", [0, 1])
def test_unions_up_to_each(size, axis):
    sets, count = table()
    numbers = numbers_of(count, 2, size).movedim(1, axis)
    found = up_to_each(sets, numbers, axis)
    assert found.shape == numbers.shape
    for row, before in zip(found.movedim(axis, 1), numbers.movedim(axis, 1), strict=True):
        for place in range(size):
            assert_union(sets, row[place], before[: place + 1])


def test_listed_unions():
    sets, count = table()
    rows, numbers = numbers_of(4, 11).long(), numbers_of(count, 11, seed=2)
    found = listed_union(sets, rows, numbers, 5)
    for row in range(5):
        assert members(sets, found[row]) == frozenset().union(*(members(sets, n) for n in numbers[rows == row]))
        assert found[row] >= EMPTY


def test_constants_lose_their_members():
    assert constant(torch.tensor([KNOWN, EMPTY, FIRST, 9.0])).tolist() == [KNOWN, EMPTY, EMPTY, EMPTY]
    assert math.prod(constant(torch.zeros(0)).shape) == 0
