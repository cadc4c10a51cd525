"""Evaluations that nobody asked for: at other points than the user's, or once more at these.

Of what a function warns in them nothing is shown, and nothing raises where warnings are made errors.
``catch_warnings`` would do so for all threads, and have Python forget what it has shown once already.  So one filter is
put in front, which matches in threads that are in such an evaluation; what the function itself does with warnings comes
before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import caches


class _Unasked:
    """In place of the pattern that a message has to match."""

    def match(self, _: str) -> bool:
        """Whether this thread evaluates what nobody asked for."""
        return caches.UNASKED.depth > 0


_FILTER: Any = ("ignore", _Unasked(), Warning, None, 0)


@contextmanager
def unasked() -> Iterator[None]:
    """A context in which this thread evaluates what nobody asked for."""
    here = caches.UNASKED
    if here.depth:
        here.depth += 1
        try:
            yield
        finally:
            here.depth -= 1
        return
    caches.UNASKED_COUNT.change(1, lambda _: None)
    here.depth = 1
    filters: Any = warnings.filters
    if filters[:1] != [_FILTER]:  # those of a catch_warnings that another thread has begun or ended since, too
        filters.insert(0, _FILTER)
    try:
        yield
    finally:
        here.depth = 0
        caches.UNASKED_COUNT.change(-1, _removed)


def _removed(_: bool) -> None:
    filters: Any = warnings.filters
    while _FILTER in filters:
        filters.remove(_FILTER)
