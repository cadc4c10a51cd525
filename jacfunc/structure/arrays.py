"""Sorted arrays: where runs begin, what is different, pairs as one number."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def starts_of_runs(ordered: Array) -> Array:
    """Where runs of equal entries begin."""
    return np.flatnonzero(np.concatenate([[len(ordered) > 0], ordered[1:] != ordered[:-1]]))


def different(values: Array) -> Array:
    """Each value once, in order; ``np.unique``, which hashes, takes ten times as long."""
    if len(values) > 1 and not (values[1:] > values[:-1]).all():
        values = np.sort(values)
        values = values[starts_of_runs(values)]
    return values


def different_pairs(rows: Array, numbers: Array, bound: int) -> tuple[Array, Array]:
    """Each pair of a row and a number below the bound once, in order."""
    pairs = different(rows * bound + numbers)
    rows = pairs // bound
    return rows, pairs - rows * bound


def each_of(starts: Array, sizes: Array) -> Array:
    """The places ``start, .., start + size - 1`` of each run, one run after the other."""
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.repeat(starts, sizes) + np.arange(len(first)) - first)
