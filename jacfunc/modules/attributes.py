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
from typing import Any, NamedTuple

import torch
from torch import nn

COUNTS = (int, float, complex)
"""What a module counts in; no bool, which tells whether something has been done that is not undone."""


class Contents(NamedTuple):
    """A dict or a list, a copy of it as it was, and whether it is that of a module, which is put back as a whole."""

    home: Any
    before: Any
    of_module: bool = False


OWN = frozenset(nn.Module().__dict__) - {"training"}
"""Tables that modules are made of, which have their own guards."""
HOOKS = tuple(name for name, table in vars(nn.Module()).items() if name in OWN and "ward" in name and table == {})
"""Those of hooks around a forward or backward, which a forward may register and remember that it has (transformers)."""
DICTS = (dict, OrderedDict, defaultdict)
LEAVES = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, type, ModuleType, FunctionType)
MOST = 4096
"""Containers that are looked into."""


class Counts(NamedTuple):
    """The numbers in plain attributes of modules, as they were."""

    before: list[tuple[dict[str, Any], str, Any]]

    def put_back(self) -> str:
        """Have them as they were; the name of one that was another, if one was."""
        changed = [each for each in self.before if each[0].get(each[1]) is not each[2]]
        for home, name, value in changed:
            home[name] = value
        return changed[0][1] if changed else ""


def counts_of(modules: Iterable[nn.Module]) -> Counts:
    """The numbers in plain attributes of modules."""
    homes = [vars(module) for module in modules]
    return Counts([(home, name, value) for home in homes for name, value in home.items() if type(value) in COUNTS])


def contents_of(modules: Iterable[nn.Module], function: Any = None) -> list[Contents]:
    """All that modules, and what a function closes over, keep things in, as it is."""
    found = [Contents(module.__dict__, dict(module.__dict__), of_module=True) for module in modules]
    seen = {id(contents.home) for contents in found}
    held = [value for contents in found for name, value in contents.before.items() if name not in OWN]
    held += _closed_over(function)
    tables = [contents.before[name] for contents in found for name in HOOKS if name in contents.before]
    found += [Contents(table, dict(table), of_module=True) for table in tables if isinstance(table, dict)]
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
        found.append(Contents(home, list(home) if type(home) is list else dict(home)))
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


def put_back(contents: Iterable[Contents]) -> None:
    """Have them as they were: those of modules as a whole, others where there are tensors now.

    What else there is may be another thread's, or count calls, and stays as the function wrote it.
    """
    for home, before, of_module in contents:
        if type(home) is list:
            known = set(map(id, before))
            if any(id(item) not in known and _holds_tensors(item) for item in home):
                home[:] = before
            continue
        new = [name for name, now in home.items() if name not in before or now is not before[name]]
        taken = [name for name in new if of_module or _holds_tensors(home[name])]
        for name in taken:
            del home[name]
        lost = before.keys() - home.keys() if of_module else before.keys() & set(taken)
        home.update({name: before[name] for name in lost})


@contextmanager
def as_they_were(modules: Iterable[nn.Module], function: Any = None) -> Iterator[None]:
    """A context that modules, and what a function closes over, leave as they entered."""
    before = contents_of(modules, function)
    try:
        yield
    finally:
        put_back(before)
