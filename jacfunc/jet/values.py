"""Jets among the arguments of an operation: found, in lists and tuples as well, and replaced, in dicts too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .jet import Jet


def jets_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Jet]:
    """Every jet, in order."""
    found: list[Jet] = []
    _collect(args, found)
    if kwargs:
        _collect(kwargs.values(), found)
    return found


def _collect(items: Any, found: list[Jet]) -> None:
    for item in items:
        if type(item) is Jet:
            found.append(item)
        elif isinstance(item, list | tuple):
            _collect(item, found)


def replaced(tree: Any, replace: Callable[[Jet], Any]) -> Any:
    """Lists, tuples and dicts with something in place of each jet."""
    if type(tree) is Jet:
        return replace(tree)
    if isinstance(tree, dict):
        return {key: replaced(value, replace) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [replaced(item, replace) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


def _value(jet: Jet) -> Any:
    return jet.value


def plain(tree: Any) -> Any:
    """Lists, tuples and dicts with the value in place of each jet."""
    return replaced(tree, _value)
