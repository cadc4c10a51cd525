"""Convolutions, average pooling, padding, resampling: linear in the input, the rows joined to the batch."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
