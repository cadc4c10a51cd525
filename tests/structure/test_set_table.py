"""``structure/sets.py`` and ``structure/arrays.py`` against Python's own sets."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jacfunc.structure.arrays import different, different_pairs, each_of, starts_of_runs
from jacfunc.structure.sets import EMPTY, FIRST, KNOWN, Sets

COUNT = 9


class Truth:
    """The table as Python has it: the set of each number."""

    def __init__(self):
        self.table = Sets(COUNT)
        self.sets = {KNOWN: frozenset(), EMPTY: frozenset()} | {FIRST + i: frozenset({i}) for i in range(COUNT)}

    def enter(self, number: int, members: frozenset[int]) -> None:
        found = frozenset(self.table.listed(np.array([number]))[0].tolist())
        assert found == members
        assert self.sets.setdefault(number, members) == members


@pytest.mark.parametrize("seed", range(20))
def test_unions(seed):
    draw, truth = random.Random(seed), Truth()
    for _ in range(12):
        rows, width = draw.randrange(5), draw.randrange(5)
        groups = np.array([[draw.choice([*truth.sets]) for _ in range(width)] for _ in range(rows)], np.int64)
        groups = groups.reshape(rows, width)
        for group, number in zip(groups.tolist(), truth.table.union(groups).tolist(), strict=True):
            truth.enter(number, frozenset().union(*(truth.sets[each] for each in group)))
            assert (number == KNOWN) == (set(group) <= {KNOWN})
    members = [frozenset(truth.table.listed(np.array([n]))[0].tolist()) for n in range(FIRST, len(truth.table))]
    assert len(set(members)) == len(members)  # each set is in the table once


@pytest.mark.parametrize("seed", range(20))
def test_unions_of_lists(seed):
    draw, truth = random.Random(seed), Truth()
    for _ in range(8):
        count, listed = draw.randrange(1, 6), draw.randrange(12)
        rows = np.array([draw.randrange(count) for _ in range(listed)], np.int64)
        numbers = np.array([draw.choice([*truth.sets]) for _ in range(listed)], np.int64)
        for row, number in enumerate(truth.table.union_of(rows, numbers, count).tolist()):
            own = [truth.sets[each] for each, of in zip(numbers.tolist(), rows.tolist(), strict=True) if of == row]
            truth.enter(number, frozenset().union(*own))
            assert number >= EMPTY


def test_everything():
    table = Sets(4)
    number = table.everything()
    assert table.listed(np.array([number]))[0].tolist() == [0, 1, 2, 3]
    assert table.everything() == number
    singles = np.arange(FIRST, FIRST + 4)[None]
    assert table.union(singles).tolist() == [number]


def test_listed_says_whose_members_they_are():
    table = Sets(3)
    both = table.union(np.array([[FIRST + 2, FIRST]]))[0]
    members, places = table.listed(np.array([FIRST + 1, EMPTY, both]))
    assert (members.tolist(), places.tolist()) == ([1, 0, 2], [0, 2, 2])


def test_a_table_of_none():
    assert Sets(0).union(np.zeros((2, 3), np.int64)).tolist() == [KNOWN, KNOWN]
    assert Sets(0).union(np.full((1, 2), EMPTY)).tolist() == [EMPTY]


def test_sorted_arrays():
    values = np.array([3, 1, 3, 0, 1])
    assert different(values).tolist() == [0, 1, 3]
    assert different(np.zeros(0, np.int64)).tolist() == []
    assert starts_of_runs(np.array([0, 0, 2, 2, 2, 5])).tolist() == [0, 2, 5]
    assert starts_of_runs(np.zeros(0, np.int64)).tolist() == []
    rows, numbers = different_pairs(np.array([1, 0, 1]), np.array([4, 2, 4]), 5)
    assert (rows.tolist(), numbers.tolist()) == ([0, 1], [2, 4])
    assert each_of(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
