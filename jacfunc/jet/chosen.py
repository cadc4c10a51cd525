"""Values of which only some entries move: those entries as a jet of their own, all others constants.

The input of a transform by a few of very many coordinates is one.  An elementwise function of it moves at the same
entries, a sum is a sum of theirs, and a linear layer takes their columns of the weight.  So no row is as long as the
input, whatever the order of the derivatives.  Which operations keep that is in ``rules/chosen.py``; whatever does not
gets the rows in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..core import caches
from .jet import Jet
from .values import jets_in

Tensor = torch.Tensor


class Chosen(NamedTuple):
    """The ``entries`` at some ``places`` along the last axis of a value, ``(*S, k)`` at ``(k,)``."""

    entries: Jet
    places: Tensor

    def spread(self, value: Tensor) -> tuple[Tensor | None, ...]:
        """The rows of each order, zero at all other places."""
        return tuple([self._rows(order, value) for order in range(1, self.entries.frame.layout.order + 1)])

    def _rows(self, order: int, value: Tensor) -> Tensor | None:
        rows = self.entries.coefficients[order - 1]
        if rows is None:
            return None
        rows = rows.expand(*rows.shape[:-1], len(self.places))
        return rows.new_zeros(*rows.shape[:-1], value.shape[-1]).index_copy(-1, self.places, rows)


def chosen_of(jet: Any) -> Chosen | None:
    """What moves of a jet, where it is known to be some entries alone."""
    rows = jet._coefficients if type(jet) is Jet and jet.pending is None else ()
    return rows[0] if rows and type(rows[0]) is Chosen else None


def with_chosen(value: Tensor, entries: Jet, places: Tensor) -> Jet:
    """A value that moves at these places as the entries do."""
    jet = Jet(value, (), entries.frame)
    jet._coefficients = (Chosen(entries, places),)
    jet.propagation.chosen = True
    return jet


def at_places(function: Any, rule: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The rule of an operation some of whose jets may be such values; one that needs their rows in full gets them."""
    jets = [jet for jet in jets_in(args, kwargs) if chosen_of(jet) is not None]
    if not jets or getattr(rule, "body", False):  # whose operations are asked for themselves
        return rule
    handler = None if function in caches.USER_RULES else caches.CHOSEN.get(function)
    instead = None if handler is None else handler(function, rule, args, kwargs)
    if instead is None:
        for jet in jets:
            _ = jet.coefficients
    return instead or rule
