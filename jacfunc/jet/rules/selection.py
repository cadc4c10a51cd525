"""What picks elements by value or by index: clamp, where, max, sort, gather, scatter, dropout, pooling of maxima."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
