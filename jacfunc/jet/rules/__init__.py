"""The rules of the Taylor route by family, each file with the same one name, ``install``, that enters its own."""

from __future__ import annotations

from . import (
    algebra,
    attention,
    convolution,
    elementwise,
    joining,
    norms,
    products,
    recurrent,
    selection,
    signals,
    structure,
)

FAMILIES = (
    elementwise,
    products,
    structure,
    joining,
    selection,
    norms,
    attention,
    convolution,
    signals,
    algebra,
    recurrent,
)


def install() -> None:
    """Enter all rules; a family may replace a rule of one before it."""
    for family in FAMILIES:
        family.install()
