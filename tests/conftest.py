"""Fixtures of the whole suite."""

from __future__ import annotations

import pytest
import torch

from jacfunc import caches


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Every test starts with the same random numbers and no memories of another."""
    torch.manual_seed(0)
    for memory in (caches.PLANS, caches.INDEPENDENT, caches.INVENTORIES):
        memory.clear()
