"""What the tests of the benchmark share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deepxde", "omnibias"):
        monkeypatch.setitem(sys.modules, name, None)
