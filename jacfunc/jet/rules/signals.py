"""Fourier transforms and other linear maps that torch.vmap carries over rows."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
