"""Warnings that point to the user's own line, however many files of this package lie in between."""

from __future__ import annotations

import inspect
import warnings

PACKAGE = __name__.partition(".")[0]


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside of this package that the call came from."""
    warnings.warn(message, category, stacklevel=_outside())


def _outside() -> int:
    """How far above :func:`warn` the first frame is that is not of this package."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (PACKAGE, "contextlib"):
        level, frame = level + 1, frame.f_back
    return level
