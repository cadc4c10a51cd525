"""Solves, inverses and decompositions, by the recursion that their defining equation gives."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
