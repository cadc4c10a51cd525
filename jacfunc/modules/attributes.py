"""What a forward leaves behind, taken back where it was made without a graph: in modules, and in what a function holds.

A module may keep what it computes of its parameters (a cache, the factors of a Gaussian process) and use it from then
on.  Kept from a forward under ``no_grad``, it would have no gradients ever after.  It may lie in an attribute, in a
dict or list in one or that the function closes over, or in an object there.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

Contents = tuple[Any, Any]
"""A dict or a list, and a copy of it as it was."""

OWN = frozenset(nn.Module().__dict__) - {"training"}
"""Tables that modules are made of, which have their own guards."""
DICTS = (dict, OrderedDict, defaultdict)
LEAVES = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, type, ModuleType, FunctionType)
MOST = 4096
"""Containers that are looked into."""


def contents_of(modules: Iterable[nn.Module], function: Any = None) -> list[Contents]:
    """All that modules, and what a function closes over, keep things in, as it is."""
    found: list[Contents] = []
    waiting, seen = [module.__dict__ for module in modules], set[int]()
    for item in waiting:
        found.append((item, dict(item)))
        seen.add(id(item))
    held = [value for home, before in found for name, value in before.items() if name not in OWN]
    held += _closed_over(function)
    while held and len(found) < MOST:
        item = held.pop()
        if isinstance(item, (*LEAVES, nn.Module)):
            continue
        if isinstance(item, tuple):
            held += item
            continue
        home: Any = item if type(item) in (*DICTS, list) else getattr(item, "__dict__", None)
        if type(home) not in (*DICTS, list) or id(home) in seen:
            continue
        seen.add(id(home))
        found.append((home, list(home) if type(home) is list else dict(home)))
        held += home if type(home) is list else home.values()
    return found


def _closed_over(function: Any) -> list[Any]:
    while hasattr(function, "transformed"):
        function = function.transformed
    if not inspect.isfunction(function):
        return []
    scopes = inspect.getclosurevars(function)
    return [*scopes.nonlocals.values(), *scopes.globals.values()]


def _holds_tensors(item: Any) -> bool:
    if isinstance(item, LEAVES):
        return isinstance(item, torch.Tensor)
    within = getattr(item, "__dict__", item)
    parts = within.values() if isinstance(within, dict) else within if isinstance(within, list | tuple | set) else ()
    return any(isinstance(part, torch.Tensor) for part in parts)


def put_back(contents: Iterable[Contents], modules: int = 0) -> None:
    """Have them as they were: the first so many, of modules, as a whole, others where there are tensors now.

    What else there is may be another thread's, or count calls, and stays as the function wrote it.
    """
    for place, (home, before) in enumerate(contents):
        if type(home) is list:
            known = set(map(id, before))
            if any(id(item) not in known and _holds_tensors(item) for item in home):
                home[:] = before
            continue
        for name, now in list(home.items()):
            if name in before and now is before[name]:
                continue
            if place < modules or _holds_tensors(now):
                if name in before:
                    home[name] = before[name]
                else:
                    del home[name]
        if place < modules:
            home.update({name: value for name, value in before.items() if name not in home})


@contextmanager
def as_they_were(modules: Iterable[nn.Module], function: Any = None) -> Iterator[None]:
    """A context that modules, and what a function closes over, leave as they entered."""
    modules = list(modules)
    before = contents_of(modules, function)
    try:
        yield
    finally:
        put_back(before, len(modules))
