"""Sets of multi-indices: the downward-closed one that derivatives need, cut into parts, and who is whose parent.

No tensor lives here; what the rows of such a set do in a product is in ``jet/layout.py``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .jet.layout import Index, Layout, closed


@dataclass(frozen=True)
class MultiIndices:
    """Derivatives that are wanted, and the smallest downward-closed set around them, without the value, by order.

    ``directions`` are the coordinates that anything is differentiated by, in the order of their first-order rows.
    ``taken`` says which rows are wanted: for each order that has any, how many rows there are, and the place, the
    multi-index and the factorial of each.
    """

    wanted: frozenset[Index]
    indices: tuple[Index, ...]
    layout: Layout
    directions: tuple[int, ...]
    taken: tuple[tuple[int, int, tuple[tuple[int, Index, int], ...]], ...]

    @classmethod
    def around(cls, wanted: Iterable[Index]) -> MultiIndices:
        """The set that these derivatives need; one row where only the value is wanted."""
        return _around(tuple(sorted(set(wanted))))

    @property
    def order(self) -> int:
        """The highest order."""
        return self.layout.order

    def of_order(self, order: int) -> tuple[Index, ...]:
        """Those of an order, in the order of their rows."""
        start = sum(self.layout.sizes[: order - 1])
        return self.indices[start : start + self.layout.sizes[order - 1]]

    def parents(self, order: int) -> tuple[tuple[int, int], ...]:
        """For each one of an order, the place of one with an order less (the value has none), and what is between."""
        below = {index: place for place, index in enumerate(self.of_order(order - 1))} if order > 1 else {}
        return tuple([_parent(index, below) for index in self.of_order(order)])

    def parts(self, rows: int | None) -> tuple[MultiIndices, ...]:
        """Sets of at most so many rows, if one derivative alone has no more, that have all that is wanted."""
        if rows is None or rows >= len(self.indices):
            return (self,)
        parts: list[set[Index]] = []
        for index in sorted(self.wanted, key=sum, reverse=True):
            if any(index in _closure(part) for part in parts):
                next(part for part in parts if index in _closure(part)).add(index)
            elif parts and len(_closure(parts[-1] | {index})) <= rows + 1:
                parts[-1].add(index)
            else:
                parts.append({index})
        return tuple([MultiIndices.around(part) for part in parts])


@functools.lru_cache(maxsize=1024)
def _around(wanted: tuple[Index, ...]) -> MultiIndices:
    full = _closure(wanted)
    if not any(map(sum, full)):
        full.add((1, *wanted[0][1:]))
    indices = tuple(sorted(filter(sum, full), key=lambda index: (sum(index), tuple(-count for count in index))))
    directions = tuple([index.index(1) for index in indices if sum(index) == 1])
    return MultiIndices(frozenset(wanted), indices, closed(indices), directions, tuple(_taken(set(wanted), indices)))


def _taken(
    wanted: set[Index], indices: tuple[Index, ...]
) -> Iterator[tuple[int, int, tuple[tuple[int, Index, int], ...]]]:
    for order, group in itertools.groupby(indices, key=sum):
        rows = list(group)
        if found := tuple([(row, index, _factorial(index)) for row, index in enumerate(rows) if index in wanted]):
            yield order, len(rows), found


def _closure(wanted: Iterable[Index]) -> set[Index]:
    """Everything below or equal to one of these, zero included."""
    return {below for index in wanted for below in itertools.product(*(range(count + 1) for count in index))}


def _parent(index: Index, below: dict[Index, int]) -> tuple[int, int]:
    for coordinate, count in enumerate(index):
        if count:
            parent = (*index[:coordinate], count - 1, *index[coordinate + 1 :])
            return below.get(parent, 0), coordinate
    raise AssertionError("zero has no parent")


def _factorial(index: Index) -> int:
    """``a!``, by which a derivative is larger than its Taylor coefficient."""
    return math.prod(map(math.factorial, index))
