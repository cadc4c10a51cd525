"""Sets of multi-indices: the downward-closed one that derivatives need, cut into parts, and who is whose parent.

Of derivatives that are wanted only in a sum, one row may carry the sum.  No tensor lives here; what the rows of such a
set do in a product is in ``jet/layout.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..core.caches import computed_once
from .layout import Index, Layout, Terms, closed

SECOND = 2
RATIO = 1e6
"""By how much weights within a row may differ: beyond, one of its derivatives could be lost where another is zero."""


class Sum(NamedTuple):
    """A combination that has a row: led by a derivative of the highest order, that with the largest coefficient, 1."""

    terms: Terms

    @property
    def lead(self) -> Index:
        """The derivative of the highest order that comes first."""
        return self.terms[0][0]


Key = Index | Sum
"""What a result is found by."""
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MultiIndices:
    """Derivatives that are wanted, and the smallest downward-closed set around them, without the value, by order.

    ``directions`` are the coordinates that anything is differentiated by, in the order of their first-order rows.
    ``taken`` says which rows are wanted: for each order that has any, how many rows there are, and the place, the
    key and the factor of each, by which a derivative is larger than its Taylor coefficient.
    ``apart`` is the same with each derivative by itself, where there are sums.
    ``pieces`` say what each combination is made of, and ``starts`` what rows are of the input where there are ``sums``:
    for some orders, how much of the one-hot row of each coordinate is in each of its rows.
    """

    wanted: frozenset[Index]
    indices: tuple[Index, ...]
    layout: Layout
    directions: tuple[int, ...]
    taken: tuple[tuple[int, int, tuple[tuple[int, Key, int], ...]], ...]
    sums: tuple[Sum, ...] = ()
    starts: tuple[tuple[int, Matrix], ...] = ()
    pieces: tuple[tuple[Terms, tuple[tuple[Key, float], ...]], ...] = ()
    apart: MultiIndices | None = None

    @classmethod
    def around(cls, wanted: Iterable[Index], combined: Iterable[Terms] = ()) -> MultiIndices:
        """The set that these derivatives and these combinations need; one row where only the value is wanted."""
        return _around(tuple(sorted(set(wanted))), tuple(dict.fromkeys(combined)))

    @property
    def order(self) -> int:
        """The highest order."""
        return self.layout.order

    @property
    def rows(self) -> int:
        """How many rows there are beside the value."""
        return len(self.indices) + len(self.sums)

    @property
    def separate(self) -> MultiIndices:
        """The set with a row for each derivative, none of them in a sum."""
        return self.apart or self

    @property
    def squared(self) -> MultiIndices:
        """The set with what is missing of an order, from the third on, along the coordinates of each derivative.

        That of ``u_xyz`` has no ``u_xx``, without which nobody knows that ``x^2`` is not zero.
        """
        return _squared(self)

    def made_of(self, terms: Terms) -> Sequence[tuple[Key, float]]:
        """The results that a combination is the sum of, with their coefficients."""
        return dict(self.pieces).get(terms, terms)

    def of_order(self, order: int) -> tuple[Index, ...]:
        """Those of an order, in the order of their rows."""
        return tuple([index for index in self.indices if sum(index) == order])

    def parents(self, order: int) -> tuple[tuple[int, int], ...]:
        """For each one of an order, the place of one with an order less (the value has none), and what is between."""
        below = {index: place for place, index in enumerate(self.of_order(order - 1))} if order > 1 else {}
        return tuple([_parent(index, below) for index in self.of_order(order)])

    def parts(self, rows: int | None) -> tuple[MultiIndices, ...]:
        """Sets of at most so many rows, if one derivative alone has no more, that have all that is wanted."""
        if rows is None or rows >= self.rows:
            return (self,)
        if self.sums:
            return self.separate.parts(rows)
        parts: list[set[Index]] = []
        for index in sorted(self.wanted, key=sum, reverse=True):
            if any(index in _closure(part) for part in parts):
                next(part for part in parts if index in _closure(part)).add(index)
            elif parts and len(_closure(parts[-1] | {index})) <= rows + 1:
                parts[-1].add(index)
            else:
                parts.append({index})
        return tuple([MultiIndices.around(part) for part in parts])


@computed_once(1024)
def _around(wanted: tuple[Index, ...], combined: tuple[Terms, ...]) -> MultiIndices:
    pieces = _pieces(wanted, combined)
    keys: set[Key] = {*wanted, *(key for made in pieces.values() for key, _ in made)}
    sums = sorted([key for key in keys if isinstance(key, Sum)])
    alone = {key for key in keys if not isinstance(key, Sum)}
    full = _closure(alone) | _below(terms for (terms,) in sums)
    apart = MultiIndices.around({*wanted, *(index for terms in combined for index, _ in terms)}) if combined else None
    if apart is not None and len(full) + len(sums) > apart.rows:  # with the value
        return apart
    if not sums and not any(map(sum, full)):
        full.add((1, *next(iter(full))[1:]))
    indices = tuple(sorted(filter(sum, full), key=_by_order))
    directions = tuple([index.index(1) for index in indices if sum(index) == 1])
    rows: list[Key] = sorted([*indices, *sums], key=lambda key: sum(_lead(key)))  # stable, so sums come last
    taken = tuple(_taken(keys, rows))
    layout = closed(indices, [_row(key) for key in sums])
    starts = tuple(_starts(rows))
    return MultiIndices(
        frozenset(alone), indices, layout, directions, taken, tuple(sums), starts, tuple(pieces.items()), apart
    )


@computed_once(1024)
def _squared(given: MultiIndices) -> MultiIndices:
    full = set(given.indices)
    for index in given.indices:
        if sum(index) > SECOND:
            along = [coordinate for coordinate, count in enumerate(index) if count]
            for chosen in itertools.combinations_with_replacement(along, sum(index)):
                full |= _closure([index_of(chosen, len(index))])
    full = set(filter(sum, full))
    if given.sums or full == set(given.indices):
        return given
    whole = MultiIndices.around(full)
    wanted = [
        (order, count, tuple([row for row in rows if row[1] in given.wanted])) for order, count, rows in whole.taken
    ]
    return replace(whole, wanted=given.wanted, taken=tuple([taken for taken in wanted if taken[2]]))


# -------------------------------------------------------------------- what combinations are made of


def _pieces(wanted: Iterable[Index], combined: Sequence[Terms]) -> dict[Terms, tuple[tuple[Key, float], ...]]:
    """Of each combination the derivatives that have rows anyway, and sums of the others, one for each order."""
    alone = set(wanted)
    while True:
        rows = _closure(alone) | _below(combined)
        pieces = {terms: tuple(_made(terms, rows)) for terms in combined}
        found = {key for made in pieces.values() for key, _ in made if not isinstance(key, Sum)}
        if found <= rows:
            return pieces
        alone |= found


def _made(terms: Terms, rows: set[Index]) -> Iterator[tuple[Key, float]]:
    yield from (term for term in terms if term[0] in rows)
    rest = sorted([term for term in terms if term[0] not in rows], key=lambda term: _by_order(term[0]))
    weights = [abs(coefficient) * _factorial(index) for index, coefficient in rest]
    if weights and max(weights) > RATIO * min(weights):
        yield from rest
        return
    groups = [[term for term in rest if sum(term[0]) == order] for order in _orders(index for index, _ in rest)]
    if len(groups) > 1 and sum(groups[0][0][0]) == 1:  # first derivatives ride on the sum of the highest order
        groups[-1] += groups.pop(0)
    for group in groups:
        if len(group) == 1:
            yield group[0]
        else:
            top = sum(group[0][0])
            group.sort(key=lambda term: (-sum(term[0]), -abs(term[1]) if sum(term[0]) == top else 0))
            lead = group[0][1]
            yield Sum(tuple([(index, coefficient / lead) for index, coefficient in group])), lead


def _below(combined: Iterable[Terms]) -> set[Index]:
    """Everything below the derivatives of combinations, but not themselves."""
    return {below for terms in combined for index, _ in terms for below in _closure([index]) - {index}}


def _lead(key: Key) -> Index:
    """The derivative that says the order of a row."""
    return key.lead if isinstance(key, Sum) else key


def _row(key: Sum) -> Terms:
    """The weights of Taylor coefficients in the row of a sum, whose lead has 1."""
    lead = _factorial(key.lead)
    return tuple([(index, coefficient * (_factorial(index) / lead)) for index, coefficient in key.terms])


def _starts(rows: Sequence[Key]) -> Iterator[tuple[int, Matrix]]:
    for order in _orders(map(_lead, rows)):
        keys = [key for key in rows if sum(_lead(key)) == order]
        matrix = tuple([_of_input(key) for key in keys])
        if any(isinstance(key, Sum) for key in keys) and any(map(any, matrix)):
            yield order, matrix


def _of_input(key: Key) -> tuple[float, ...]:
    """A row of the input: the weights of first derivatives in it, by coordinate."""
    weights = [0.0] * len(_lead(key))
    for index, weight in _row(key) if isinstance(key, Sum) else ((key, 1.0),):
        if sum(index) == 1:
            weights[index.index(1)] = weight
    return tuple(weights)


# -------------------------------------------------------------------- sets of derivatives


def index_of(coordinates: Sequence[int], total: int) -> Index:
    """The derivative by these coordinates, each as often as it is there, of so many."""
    return tuple([coordinates.count(place) for place in range(total)])


def _by_order(index: Index) -> tuple[int, Index]:
    return sum(index), tuple([-count for count in index])


def _orders(indices: Iterable[Index]) -> list[int]:
    """Those that there are, in order."""
    return sorted({sum(index) for index in indices})


def _taken(keys: set[Key], rows: Sequence[Key]) -> Iterator[tuple[int, int, tuple[tuple[int, Key, int], ...]]]:
    for order in _orders(map(_lead, rows)):
        of_order = [key for key in rows if sum(_lead(key)) == order]
        places = [(place, key, _factorial(_lead(key))) for place, key in enumerate(of_order) if key in keys]
        if places:
            yield order, len(of_order), tuple(places)


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
    return math.prod([math.factorial(count) for count in index])  # a list, for Dynamo
