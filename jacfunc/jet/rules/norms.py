"""Normalisations, softmax and its kin, variances and vector norms: composed of sums and products of jets."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
