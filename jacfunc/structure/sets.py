"""Sets of input coordinates, each known by a number, so that equal ones are stored and joined once.

An element of a tensor depends on a set of coordinates.  Many elements depend on the same ones, so a tensor holds
numbers of sets, and a table holds the sets themselves, one after the other in one array.
"""

from __future__ import annotations

import numpy as np

from .arrays import Array, different_pairs, each_of, starts_of_runs

KNOWN = 0
"""The number of an element that is the same for all inputs and parameters, so that its value may be looked at."""
EMPTY = 1
"""The number of an element that does not depend on the input, but may have another value at the next call."""
FIRST = 2
"""The number of the first set with a member."""


class Sets:
    """A table of sets of the numbers below ``count``; set ``FIRST + i`` is ``{i}`` at first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._starts = np.concatenate([np.zeros(FIRST, np.int64), np.arange(count + 1)])
        self._members = np.arange(count)
        # Two sums of random numbers tell sets apart: 128 bits, whatever the order of their members.
        self._keys = np.random.default_rng(20190613).integers(0, 2**63, size=(2, count), dtype=np.uint64)
        order = np.argsort(self._keys[0])
        self._sums, self._numbers = self._keys[:, order], order + FIRST  # of the sets with members, by their first sum
        self._everything = -1

    def __len__(self) -> int:
        return len(self._starts) - 1

    def listed(self, numbers: Array) -> tuple[Array, Array]:
        """The members of sets, one set after the other, and the place in ``numbers`` that each belongs to."""
        sizes = self._starts[numbers + 1] - self._starts[numbers]
        return self._members[each_of(self._starts[numbers], sizes)], np.repeat(np.arange(len(numbers)), sizes)

    def everything(self) -> int:
        """The set of all numbers."""
        if self._everything < 0:
            every = np.arange(self.count)
            self._everything = int(self._entered(every, np.zeros_like(every), 1)[0])
        return self._everything

    def union(self, groups: Array) -> Array:
        """The union of each row of set numbers ``(G, R)``; KNOWN where all of a row are."""
        if groups.shape[1] == 0:
            return np.full(len(groups), KNOWN)
        first = groups[:, 0]
        if groups.shape[1] == 1 or not (groups != groups[:, :1]).any():
            return first
        rows = np.repeat(np.arange(len(groups)), groups.shape[1])
        return np.where(groups.any(1), self.union_of(rows, groups.ravel(), len(groups)), KNOWN)

    def union_of(self, rows: Array, numbers: Array, count: int) -> Array:
        """For each of ``count`` rows the union of the sets that are listed beside it, EMPTY at least."""
        some = numbers >= FIRST
        rows, numbers = different_pairs(rows[some], numbers[some], len(self))
        found = np.full(count, EMPTY)
        alone = np.bincount(rows, minlength=count)[rows] == 1
        found[rows[alone]] = numbers[alone]
        rows, numbers = rows[~alone], numbers[~alone]
        if not len(rows):
            return found
        rows, numbers, ids, kind = self._different(rows, numbers)
        members, places = self.listed(numbers)
        joined = self._entered(members, rows[places], int(kind.max()) + 1)
        found[ids] = joined[kind]
        return found

    def _different(self, rows: Array, numbers: Array) -> tuple[Array, Array, Array, Array]:
        """Rows that list the same sets once: these, the rows there were, and which one each of them is."""
        starts = starts_of_runs(rows)
        ids, compact = rows[starts], np.repeat(np.arange(len(starts)), np.diff(starts, append=len(rows)))
        sums = np.stack([_added(_mixed(numbers, half), compact, len(ids)) for half in (0, 1)])
        first, kind = _unique_columns(sums)
        place = np.full(len(ids), -1)
        place[first] = np.arange(len(first))
        chosen = place[compact] >= 0
        return place[compact[chosen]], numbers[chosen], ids, kind

    def _entered(self, members: Array, rows: Array, count: int) -> Array:
        """The numbers of sets whose members are listed, some twice; new ones are entered."""
        rows, members = different_pairs(rows, members, self.count)
        sums = np.stack([_added(keys[members], rows, count) for keys in self._keys])
        first, kind = _unique_columns(sums)
        different = sums[:, first]
        places = np.searchsorted(self._sums[0], different[0])
        met = np.minimum(places, len(self._numbers) - 1)
        known = (self._sums[:, met] == different).all(0)
        numbers = np.where(known, self._numbers[met], len(self) + np.cumsum(~known) - 1)
        self._enter(members, rows, first[~known], count)
        self._sums = np.insert(self._sums, places[~known], different[:, ~known], axis=1)
        self._numbers = np.insert(self._numbers, places[~known], numbers[~known])
        return numbers[kind]

    def _enter(self, members: Array, rows: Array, new: Array, count: int) -> None:
        """Put the sets of some rows at the end of the table, in their order."""
        sizes = np.bincount(rows, minlength=count)
        starts = np.cumsum(sizes) - sizes
        self._members = np.concatenate([self._members, members[each_of(starts[new], sizes[new])]])
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(sizes[new])])


def _mixed(numbers: Array, half: int) -> Array:
    """A random number for each number of a set."""
    mixed = (numbers + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15 if half else 0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9 if half else 0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(32))


def _added(values: Array, rows: Array, count: int) -> Array:
    """The sum of the values of each row, modulo 2 ** 64; rows are in order."""
    total = np.zeros(count, np.uint64)
    if len(rows):
        starts = starts_of_runs(rows)
        total[rows[starts]] = np.add.reduceat(values, starts)
    return total


def _unique_columns(sums: Array) -> tuple[Array, Array]:
    """Of columns of two numbers: one of each kind, by the first number, and of which kind each is."""
    order = np.argsort(sums[0])
    ordered = sums[:, order]
    # Where the first number alone is the same both count as new, once each: more sets than there are, and no error.
    starts = np.flatnonzero(np.concatenate([[True], (ordered[:, 1:] != ordered[:, :-1]).any(0)]))
    kind = np.empty(len(order), np.int64)
    kind[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    return order[starts], kind
