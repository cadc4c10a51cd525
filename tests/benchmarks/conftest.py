"""What the tests of the benchmark share."""

from __future__ import annotations

import importlib.util
import sys

import pytest

OF_JAX = ["peers/jax_jet.py", "peers/jax_networks.py"]
collect_ignore = ["peers/asdex_maps.py", *([] if importlib.util.find_spec("jax") else OF_JAX)]


@pytest.fixture(autouse=True)
def _no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deepxde", "omnibias"):
        monkeypatch.setitem(sys.modules, name, None)
