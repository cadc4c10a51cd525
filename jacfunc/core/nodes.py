"""Trees that optree does not know: what is registered in torch's own pytree, and classes derived from ``dict``.

optree is told of such a class when an object of it is first met, under the namespace of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import optree
import torch

from .torch_private import NODES

NAMESPACE = "jacfunc"
"""Nodes registered globally or under this optree namespace are followed."""

Flat = tuple[Sequence[Any], Any]
ENTRIES = {"MappingKey": optree.MappingEntry, "GetAttrKey": optree.GetAttrEntry, "SequenceKey": optree.SequenceEntry}
"""How a child is written in Python, by what torch calls its key."""


class Context:
    """What an object is but for its children: compared by value, so that objects of one kind have one structure."""

    __slots__ = ("names", "value")

    def __init__(self, value: Any, names: tuple[Any, ...]) -> None:
        self.value, self.names = value, names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Context) or self.names != other.names:
            return False
        try:
            return self.value is other.value or bool(self.value == other.value)
        except (RuntimeError, ValueError):  # of tensors and arrays in it
            return False

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return ", ".join(map(str, self.names))


def entered(leaf: Any) -> bool:
    """Tell optree of the class of what it takes for a leaf; whether that is a tree after all."""
    kind = type(leaf)
    node = None if isinstance(leaf, torch.Tensor) else NODES.get(kind)
    if node is not None:
        keys = None if node.flatten_with_keys_fn is None else [key for key, _ in node.flatten_with_keys_fn(leaf)[0]]
        entry = ENTRIES.get(type(keys[0]).__name__) if keys else None
        _register(kind, node.flatten_fn, node.unflatten_fn, partial(_named_by_torch, node), entry or optree.AutoEntry)
    elif isinstance(leaf, dict) and _is_rebuilt(leaf):
        _register(kind, _parts, partial(_rebuilt, kind), tuple, optree.MappingEntry)
    else:
        return False
    return True


def _register(
    kind: type,
    flatten: Callable[[Any], Flat],
    unflatten: Callable[[Any, Any], Any],
    names: Callable[[Any], tuple[Any, ...]],
    entry: Any,
) -> None:
    def taken_apart(tree: Any) -> tuple[Sequence[Any], Context, tuple[Any, ...]]:
        children, context = flatten(tree)
        found = names(tree)
        return children, Context(context, found), found

    def put_together(context: Any, children: Iterable[Any]) -> Any:
        """An object of the class, or a dict where it does not take such children, as those of a derivative may be."""
        children = list(children)
        with suppress(Exception):
            made = unflatten(children, context.value)
            if type(made) is kind and _same(flatten(made)[0], children):
                return made
        return dict(zip(context.names, children, strict=True))

    with suppress(ValueError):  # another thread was faster
        optree.register_pytree_node(kind, taken_apart, put_together, path_entry_type=entry, namespace=NAMESPACE)


def _named_by_torch(node: Any, tree: Any) -> tuple[Any, ...]:
    if node.flatten_with_keys_fn is None:
        children = node.flatten_fn(tree)[0]
        return tuple(tree) if isinstance(tree, dict) and len(tree) == len(children) else tuple(range(len(children)))
    keys = [key for key, _ in node.flatten_with_keys_fn(tree)[0]]
    return tuple(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in keys)


# -------------------------------------------------------------------- classes derived from dict


def _parts(tree: Any) -> Flat:
    attributes = getattr(tree, "__dict__", {})
    return list(tree.values()), (list(tree), {} if attributes is tree else dict(attributes))


def _rebuilt(kind: type, children: Sequence[Any], context: Any) -> Any:
    keys, attributes = context
    made = kind(dict(zip(keys, children, strict=True)))
    if attributes:
        vars(made).update(attributes)
    return made


def _is_rebuilt(tree: Any) -> bool:
    """Whether an object is what its class makes of a dict of the same."""
    with suppress(Exception):
        children, context = _parts(tree)
        made = _rebuilt(type(tree), children, context)
        again, found = _parts(made)
        return type(made) is type(tree) and _same(again, children) and Context(found, ()) == Context(context, ())
    return False


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
