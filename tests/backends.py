"""The backends of ``torch.compile`` that tests run by: a quick one, and Inductor, which takes seconds for a graph, slowly."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch


def by_backend(quickest: str) -> Any:
    """Run a test of ``backend`` by the quickest that does what it needs, and by Inductor with the slow ones."""
    return pytest.mark.parametrize("backend", [quickest, pytest.param("inductor", marks=pytest.mark.slow)])


@contextmanager
def compiling_by(backend: Any) -> Iterator[None]:
    """Have ``torch.compile`` take a backend where none is named, ``compile=True`` included."""
    torch._dynamo.reset()
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend=backend)):
        yield
