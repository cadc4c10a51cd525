"""Attention from matmul and softmax of jets."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
