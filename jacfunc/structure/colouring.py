"""Columns of a sparse Jacobian in few groups, each of which one pass gives, since no two of a group meet in a row.

That is a colouring of the graph whose vertices are columns and whose edges join those that share a row (a distance-2
colouring of the bipartite graph of rows and columns: A. R. Curtis, M. J. D. Powell and J. K. Reid, On the Estimation of
Sparse Jacobian Matrices, 1974; A. H. Gebremedhin, F. Manne and A. Pothen, What Color Is Your Jacobian?, 2005).  For the
diagonal alone two columns ``j`` and ``k`` may share a colour unless entry ``(j, k)`` or ``(k, j)`` can be nonzero.

Three ways compete, the fewest colours win: colours that repeat along the axes of the input, as fit a stencil
(``(a i + b j) mod C``); first fit in some orders, for small patterns; and first fit of many columns at once, those that
come first among all they conflict with (M. T. Jones and P. E. Plassmann, A Parallel Graph Coloring Heuristic, 1993).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from .arrays import Array, different, different_pairs, each_of, starts_of_runs

SMALL = 20_000
"""Up to so many entries columns are coloured one after the other, which takes Python's time for each."""
SMALL_DIAGONAL = 5_000
"""Up to so many columns for a diagonal, where each has no more neighbours than entries."""
TRIES = 400
"""So many ways to repeat colours are tried."""
CLOSE = 2
"""At most so many times the least number of colours is few enough for a large pattern."""
WIDER = 4
"""So many more colours than the fullest row has entries are tried before others are looked for."""


class Entries(Protocol):
    """What is known of a pattern here: the row and the column of each entry, in order, and of how many there are."""

    @property
    def arrays(self) -> tuple[Array, Array]:
        """Row and column of each entry."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a sample of the input, of as many elements as there are columns."""


def by_columns(pattern: Entries) -> Array:
    """A colour for each column, such that no two columns of a row have the same."""
    return _fewest(Conflicts(*pattern.arrays, pattern.shape, diagonal=False), pattern.input_shape)


def for_diagonal(pattern: Entries) -> Array:
    """A colour for each column of a square pattern, such that in row ``j`` no other column has that of column ``j``."""
    return _fewest(Conflicts(*pattern.arrays, pattern.shape, diagonal=True), pattern.input_shape)


def number_of(colours: Array) -> int:
    """How many there are."""
    return int(colours.max()) + 1 if len(colours) else 0


class Conflicts:
    """The entries of a pattern, and which columns may not share a colour."""

    def __init__(self, rows: Array, columns: Array, shape: tuple[int, int], diagonal: bool) -> None:
        if diagonal:
            apart = rows != columns
            rows, columns = rows[apart], columns[apart]
        self.rows, self.columns, self.shape, self.diagonal = rows, columns, shape, diagonal

    @property
    def least(self) -> int:
        """No colouring has fewer colours."""
        if self.diagonal:
            return min(2, 1 + len(self.rows))
        return int(np.bincount(self.rows, minlength=1).max()) if len(self.rows) else min(1, self.shape[1])

    @property
    def small(self) -> bool:
        """Whether columns may be coloured one after the other."""
        return len(self.rows) <= SMALL or (self.diagonal and self.shape[1] <= SMALL_DIAGONAL)

    def allow(self, colours: Array, count: int) -> bool:
        """Whether no two columns that conflict have the same colour."""
        if self.diagonal:
            return not bool((colours[self.rows] == colours[self.columns]).any())
        seen = np.zeros(self.shape[0] * count, bool)
        places = self.rows * count + colours[self.columns]
        seen[places] = True
        return int(np.count_nonzero(seen)) == len(places)


def _fewest(conflicts: Conflicts, shape: tuple[int, ...]) -> Array:
    """The colouring with the fewest colours of those that are found."""
    if not len(conflicts.rows):
        return np.zeros(conflicts.shape[1], np.int64)
    least = conflicts.least
    box = None if conflicts.diagonal else _by_reach(conflicts, shape, CLOSE * least)
    if box is not None and number_of(box) == least:
        return box
    found = _repeating(conflicts, shape, range(least, least + WIDER + 1))
    small = conflicts.small
    if found is not None and (not small or number_of(found) == least):
        return found
    if box is not None and not small:
        return box
    greedy = _in_turn(conflicts) if small else _at_once(conflicts)
    if found is None:
        found = _repeating(conflicts, shape, range(least + WIDER + 1, number_of(greedy)))
    return min((each for each in (found, box, greedy) if each is not None), key=number_of)


# -------------------------------------------------------------------- colours that repeat along axes


def _repeating(conflicts: Conflicts, shape: tuple[int, ...], counts: range) -> Array | None:
    """Colours by a linear function of the place, modulo their number; None if none of those tried is allowed."""
    axes = [size for size in shape if size > 1] or [1]
    places = np.indices(axes).reshape(len(axes), -1)
    some = _some_rows(conflicts)
    for count, factors in itertools.islice(_lattices(counts, axes), TRIES):
        colours = np.asarray(factors) @ places % count
        if some.allow(colours, count) and conflicts.allow(colours, count):
            return colours
    return None


def _by_reach(conflicts: Conflicts, shape: tuple[int, ...], most: int) -> Array | None:
    """Colours by the place in a box as large as the reach of a row along each axis, if they are not too many.

    As a convolution of ``C`` channels and windows of ``r`` by ``r`` has boxes of ``C r r`` columns.
    """
    starts = starts_of_runs(conflicts.rows)
    places = np.unravel_index(conflicts.columns, shape or (1,))
    reach = [
        int((np.maximum.reduceat(along, starts) - np.minimum.reduceat(along, starts)).max()) + 1 for along in places
    ]
    if math.prod(reach) > most:
        return None
    factors = [math.prod(reach[axis + 1 :]) for axis in range(len(reach))]
    every = np.indices(shape or (1,)).reshape(len(reach), -1)
    return np.asarray(factors) @ every % math.prod(reach)


def _lattices(counts: range, axes: list[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Numbers of colours and factors by axis, those with the fewest colours first."""
    for count in counts:
        for factors in itertools.product(range(1, max(count, 2)), repeat=len(axes) - 1):
            yield count, (*factors, 1)


def _some_rows(conflicts: Conflicts) -> Conflicts:
    """A few hundred of the rows, which tell most colourings apart from those that are allowed."""
    if conflicts.diagonal or conflicts.shape[0] <= 512:
        return conflicts
    chosen = np.zeros(conflicts.shape[0], bool)
    chosen[np.random.default_rng(0).integers(0, conflicts.shape[0], 256)] = True
    kept = chosen[conflicts.rows]
    return Conflicts(conflicts.rows[kept], conflicts.columns[kept], conflicts.shape, diagonal=False)


# -------------------------------------------------------------------- first fit


def _in_turn(conflicts: Conflicts) -> Array:
    """First fit, columns one after the other, in two orders."""
    neighbours = neighbours_of(conflicts)
    degrees = np.array([len(each) for each in neighbours])
    return min((_first_fit(neighbours, order) for order in orders_by(degrees)), key=number_of)


def orders_by(degrees: Array) -> tuple[Array, Array]:
    """Columns as they are, and those with the most conflicts first."""
    return np.arange(len(degrees)), np.argsort(-degrees, kind="stable")


def neighbours_of(conflicts: Conflicts) -> list[Array]:
    """The columns that each conflicts with."""
    rows, columns, width = conflicts.rows, conflicts.columns, conflicts.shape[1]
    if conflicts.diagonal:
        ones, others = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    else:
        starts = np.searchsorted(rows, np.arange(conflicts.shape[0] + 1))
        sizes = np.diff(starts)[rows]
        ones, others = np.repeat(columns, sizes), columns[each_of(starts[rows], sizes)]
    ones, others = different_pairs(ones, others, width)
    return np.split(others, np.searchsorted(ones, np.arange(1, width)))


def _first_fit(neighbours: list[Array], order: Array) -> Array:
    """The first colour that none of its neighbours has, for one column after the other."""
    colours = np.full(len(order), -1)
    for column in order.tolist():
        taken = np.zeros(len(neighbours[column]) + 2, bool)
        found = colours[neighbours[column]]
        taken[found[(found >= 0) & (found < len(taken))]] = True
        colours[column] = int(np.argmin(taken))
    return colours


def _at_once(conflicts: Conflicts) -> Array:
    """First fit of all columns that come before those that they conflict with, until none is left."""
    width = conflicts.shape[1]
    groups, columns, count = _cliques(conflicts)
    degree = np.bincount(columns, minlength=width)
    rank = np.empty(width, np.int64)  # the fullest columns first, in a random order
    rank[np.lexsort((np.random.default_rng(0).random(width), degree))] = np.arange(width)
    colours = np.full(width, -1)
    colours[degree == 0] = 0
    words = 1
    taken = np.zeros((count, words), np.uint64)
    while len(columns):
        highest = np.full(count, -1)
        np.maximum.at(highest, groups, rank[columns])
        beaten = np.zeros(width, bool)
        beaten[columns[highest[groups] != rank[columns]]] = True
        first = different(columns[~beaten[columns]])
        among = ~beaten[columns]
        forbidden = np.zeros((width, words), np.uint64)
        np.bitwise_or.at(forbidden, columns[among], taken[groups[among]])
        colours[first] = _lowest_free(forbidden[first])
        if colours.max() >= 64 * words:
            taken = np.pad(taken, ((0, 0), (0, 1)))
            words += 1
        chosen = colours[columns[among]]
        bits = np.uint64(1) << (chosen % 64).astype(np.uint64)
        np.bitwise_or.at(taken, (groups[among], chosen // 64), bits)
        groups, columns = groups[~among], columns[~among]
    return colours


def _cliques(conflicts: Conflicts) -> tuple[Array, Array, int]:
    """Groups of columns that all conflict with each other, as a group and a column for each member: rows, or pairs."""
    if not conflicts.diagonal:
        return conflicts.rows, conflicts.columns, conflicts.shape[0]
    pairs = np.arange(len(conflicts.rows))
    return (
        np.concatenate([pairs, pairs]),
        np.concatenate([conflicts.rows, conflicts.columns]),
        len(pairs),
    )


def _lowest_free(forbidden: Array) -> Array:
    """The lowest bit that is not set, of words from the lowest on; the next word's first if all are."""
    found = np.full(len(forbidden), 64 * forbidden.shape[1])
    for word in reversed(range(forbidden.shape[1])):
        free = ~forbidden[:, word]
        lowest = free & (~free + np.uint64(1))
        some = free != 0
        found[some] = 64 * word + np.log2(lowest[some].astype(np.float64)).astype(np.int64)
    return found
