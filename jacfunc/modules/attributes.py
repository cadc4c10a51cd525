"""What a forward leaves in the attributes of modules, taken back where it was made without a graph.

A module may keep what it computes of its parameters (a cache, the factors of a Gaussian process) and use it from then
on.  Kept from a forward under ``no_grad``, it would have no gradients ever after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Attributes = tuple[dict[str, Any], dict[str, Any]]
"""Those of a module, and a copy of what they were."""


def attributes_of(modules: Iterable[nn.Module]) -> list[Attributes]:
    """Those of each module, as they are."""
    return [(module.__dict__, dict(module.__dict__)) for module in modules]


def put_back(attributes: Iterable[Attributes]) -> None:
    """Have modules as they were, but for what is in their own tables of parameters, buffers and modules."""
    for home, before in attributes:
        for name in home.keys() - before.keys():
            del home[name]
        for name, value in before.items():
            if home.get(name) is not value:
                home[name] = value


@contextmanager
def as_they_were(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A context that modules leave with the attributes that they entered with."""
    before = attributes_of(modules)
    try:
        yield
    finally:
        put_back(before)
