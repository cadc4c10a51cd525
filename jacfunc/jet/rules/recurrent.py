"""RNN, LSTM and GRU, layers and cells, step by step in jets."""

from __future__ import annotations


def install() -> None:
    """Enter the rules of this file."""
