"""Fixtures of the whole suite."""

from __future__ import annotations

import pytest
import torch

from jacfunc import clear_caches


def pytest_configure(config: pytest.Config) -> None:
    """Here and not in pyproject.toml, where it would import the package before its coverage is measured."""
    config.addinivalue_line("filterwarnings", "error::jacfunc.IndependenceWarning")
    if hasattr(config, "workerinput"):  # one of several processes, each with a core of its own
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Every test starts with the same random numbers and no memories of another."""
    torch.manual_seed(0)
    clear_caches()
