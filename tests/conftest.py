"""Fixtures of the whole suite, and what is not measured of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from jacfunc import clear_caches


def pytest_configure(config: pytest.Config) -> None:
    """Here and not in pyproject.toml, where it would import the package before its coverage is measured."""
    config.addinivalue_line("filterwarnings", "error::jacfunc.IndependenceWarning")
    if hasattr(config, "workerinput"):  # one of several processes, each with a core of its own
        torch.set_num_threads(1)
    gc.set_threshold(200_000, 20, 100)  # or a tenth of a trace goes to looking through what torch keeps
    if sys.gettrace() is not None:
        _leave_dynamo_out()


def pytest_collection_finish() -> None:
    """What was imported stays, and need not be looked through."""
    gc.collect()
    gc.freeze()


def _leave_dynamo_out() -> None:
    """Have coverage not look at what Dynamo does, which would take twice as long, and runs no line of ours."""

    def load() -> Any:
        from torch._dynamo import convert_frame

        return convert_frame

    dynamo = _unmeasured(load)()
    dynamo._compile = _unmeasured(dynamo._compile)


def _unmeasured(function: Callable[..., Any]) -> Callable[..., Any]:
    def unmeasured(*args: Any, **kwargs: Any) -> Any:
        measuring = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(measuring)

    return unmeasured


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Every test starts with the same random numbers and no memories of another."""
    torch.manual_seed(0)
    clear_caches()
