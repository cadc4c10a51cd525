"""Which cases of a test every run takes; the others are slow ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """The values of a test's parameter, of which every run takes those that are ``fast``."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]
