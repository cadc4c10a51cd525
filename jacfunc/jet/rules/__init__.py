"""The rules of the Taylor route by family, each file with the same one name, ``install``, that enters its own."""

from __future__ import annotations

from . import (
    algebra,
    attention,
    blockwise,
    chosen,
    constants,
    convolution,
    decompositions,
    dropout,
    elementwise,
    indexing,
    joining,
    losses,
    norms,
    ordering,
    parts,
    piecewise,
    pooling,
    powers,
    products,
    recurrent,
    roots,
    selection,
    shapes,
    signals,
    softmax,
    special,
    structure,
    views,
)

FAMILIES = (
    elementwise,
    powers,
    special,
    products,
    structure,
    shapes,
    parts,
    constants,
    joining,
    selection,
    ordering,
    indexing,
    views,
    piecewise,
    pooling,
    dropout,
    softmax,
    norms,
    losses,
    attention,
    convolution,
    signals,
    algebra,
    decompositions,
    recurrent,
    roots,
    blockwise,
    chosen,
)


def install() -> None:
    """Enter all rules; a family may build on a rule of one before it, and then says that it overrides that."""
    for family in FAMILIES:
        family.install()
