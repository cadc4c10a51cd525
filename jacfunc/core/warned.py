"""Warnings that point to the user's own line, however many files of this package lie in between."""

from __future__ import annotations

import inspect
import warnings

PACKAGE = __name__.partition(".")[0]
OURS = (PACKAGE, "contextlib")
"""Whose frames are passed over in any case."""
PASSING = (*OURS, "torch")
"""And those of torch, by which a module's forward is called."""
MADE = "<eval_with_key>"
"""How the name of a file begins that torch has made up, for code that it compiles."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's line that the call came from: the first one outside of this package and of torch."""
    warnings.warn(message, category, stacklevel=_outside())


def _outside() -> int:
    """How far above :func:`warn` the first frame of the user's is; of torch's alone, the first not ours."""
    level, first, frame = 0, None, inspect.currentframe()
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if first is None and package not in OURS:
            first = level
        if package not in PASSING and not frame.f_code.co_filename.startswith(MADE):
            return level
        level, frame = level + 1, frame.f_back
    return level if first is None else first
