"""Columns of a symmetric Jacobian, as a Hessian is, in fewer groups: an entry can be read in either of two columns.

Entry ``(i, j)`` is in row ``i`` of the column that ``j`` is in, and in row ``j`` of the column that ``i`` is in.  In
one of both it is alone in any star colouring: neighbours differ, and no path of four has two colours (T. F. Coleman
and J. J. More, Estimation of Sparse Hessian Matrices and Graph Coloring Problems, 1984).

Two ways compete with the colouring of all columns.  Columns that meet with most others get a colour each, and the rest
one as if these were not there: an arrow takes 2 colours, where each of its columns would have taken one.  And first
fit, for small patterns (A. H. Gebremedhin, F. Manne and A. Pothen, What Color Is Your Jacobian?, 2005, section 4).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .arrays import Array
from .colouring import Conflicts, Entries, by_columns, neighbours_of, number_of, orders_by

PATHS = 300_000
"""Up to so many paths of three first fit looks at, which takes Python's time for each."""
DROPS = 12
"""So many numbers of columns that get a colour each are tried."""


class _Rest(NamedTuple):
    """Some entries of a pattern."""

    arrays: tuple[Array, Array]
    shape: tuple[int, int]
    input_shape: tuple[int, ...]


def by_symmetry(pattern: Entries) -> Array:
    """A colour for each column, such that each entry is alone in one of its two places."""
    found = [_hubs_apart(pattern)]
    conflicts = Conflicts(*pattern.arrays, pattern.shape, diagonal=True)
    degrees = np.bincount(conflicts.rows, minlength=pattern.shape[1])
    if int((degrees**2).sum()) <= PATHS:
        neighbours = neighbours_of(conflicts)
        found += [_first_fit(neighbours, order) for order in orders_by(degrees)]
    return min(found, key=number_of)


def places_by_symmetry(pattern: Entries, colours: Array) -> Array:
    """Where each entry is alone: ``colour * rows + row``."""
    rows, columns = pattern.arrays
    size = pattern.shape[0]
    there, mirrored = colours[columns] * size + rows, colours[rows] * size + columns
    meeting = np.bincount(there, minlength=size * number_of(colours))
    return np.where(meeting[there] == 1, there, mirrored)


# -------------------------------------------------------------------- a colour each for what meets with most


def _hubs_apart(pattern: Entries) -> Array:
    """The fullest columns by themselves, and the rest as if they were not there."""
    rows, columns = pattern.arrays
    degrees = np.bincount(columns, minlength=pattern.shape[1])
    order = np.argsort(-degrees, kind="stable")
    counts = _counts(degrees[order])
    hubs = order[: min(counts, key=lambda count: count + _fullest_without(pattern, order[:count]))]
    if not len(hubs):
        return by_columns(pattern)
    rest = _without(pattern, hubs)
    colours = by_columns(_Rest((rows[rest], columns[rest]), pattern.shape, pattern.input_shape))
    others = np.ones(len(colours), bool)
    others[hubs] = False
    used, numbered = np.unique(colours[others], return_inverse=True)
    colours = np.empty_like(colours)
    colours[others], colours[hubs] = numbered, len(used) + np.arange(len(hubs))
    return colours


def _counts(degrees: Array) -> list[int]:
    """How many columns may be set apart, where the next has far fewer entries; none first, which wins if none gains."""
    drops = -np.diff(degrees[: len(degrees) // 2 + 1])
    largest = np.argsort(-drops, kind="stable")[:DROPS]
    return [0, *(largest[drops[largest] > 0] + 1).tolist()]


def _without(pattern: Entries, hubs: Array) -> Array:
    """Which entries are in none of their rows and columns."""
    kept = np.ones(pattern.shape[1], bool)
    kept[hubs] = False
    rows, columns = pattern.arrays
    found: Array = kept[rows] & kept[columns]
    return found


def _fullest_without(pattern: Entries, hubs: Array) -> int:
    """How many entries the fullest row has beside those."""
    rows = pattern.arrays[0][_without(pattern, hubs)]
    return int(np.bincount(rows, minlength=1).max())


# -------------------------------------------------------------------- first fit


def _first_fit(neighbours: list[Array], order: Array) -> Array:
    """The first colour that closes no path of two colours, for one column after the other.

    Where the column between two others has no colour yet, these get different ones, so that only the ends of paths
    have to be looked at.
    """
    colours = [-1] * len(neighbours)
    seen: list[dict[int, int]] = [{} for _ in neighbours]  # how many neighbours of each colour there are
    lists = [each.tolist() for each in neighbours]
    for column in order.tolist():
        taken = set()
        for middle in lists[column]:
            own = colours[middle]
            taken.add(own)
            for other in lists[middle]:
                colour = colours[other]
                if colour >= 0 and (own < 0 or seen[other].get(own, 0) > 1):
                    taken.add(colour)
        chosen = next(colour for colour in range(len(taken) + 1) if colour not in taken)
        colours[column] = chosen
        for middle in lists[column]:
            seen[middle][chosen] = seen[middle].get(chosen, 0) + 1
    return np.array(colours)
