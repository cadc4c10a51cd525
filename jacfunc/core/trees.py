"""Trees of tensors through optree: flattened, rebuilt, and named by path for error messages.

What the trees mean (arguments, outputs, results) is decided in ``request.py`` and ``transforms.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch

from .levels import compiling
from .nodes import NAMESPACE, entered
from .subclasses import cloned


class Leaf:
    """The place of a leaf in its tree; no plain number, since Dynamo cannot build a dict of constants."""

    def __init__(self, number: int) -> None:
        self.number = number


class Structure:
    """How a tree is built, without its leaves; a single tensor needs no optree at all."""

    __slots__ = ("spec",)

    def __init__(self, spec: optree.PyTreeSpec | None) -> None:
        self.spec = spec

    def build(self, leaves: Sequence[Any]) -> Any:
        """The tree with these leaves."""
        return leaves[0] if self.spec is None else optree.tree_unflatten(self.spec, leaves)

    def numbered(self, count: int) -> Any:
        """The tree with a :class:`Leaf` for each of its leaves."""
        return self.build([Leaf(number) for number in range(count)])

    def paths(self, root: str) -> list[str]:
        """The name of every leaf, as one would write it in Python after ``root``."""
        if self.spec is None:
            return [root]
        return [accessor.codify(root) for accessor in optree.treespec_accessors(self.spec)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure) or not compiling():
            return isinstance(other, Structure) and self.spec == other.spec
        return _alike(self.spec, other.spec)

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return "*" if self.spec is None else str(self.spec)


LEAF = Structure(None)


def _alike(one: optree.PyTreeSpec | None, other: optree.PyTreeSpec | None) -> bool:
    """Whether two specs are the same, part by part: torch 2.11 cannot trace a comparison of the functions in them."""
    if one is None or other is None:
        return one is other
    same = one.type is other.type and one.num_nodes == other.num_nodes and one.entries() == other.entries()
    return same and all(_alike(*pair) for pair in zip(one.children(), other.children(), strict=True))


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Leaves and structure; ``None`` is part of the structure."""
    if isinstance(tree, torch.Tensor):
        return [tree], LEAF
    leaves, spec = optree.tree_flatten(tree, namespace=NAMESPACE)
    others = [leaf for leaf in leaves if type(leaf) is not torch.Tensor and entered(leaf)]
    return flatten(tree) if others else (leaves, Structure(spec))


def tensors(tree: Any) -> list[torch.Tensor]:
    """Every tensor in a tree, whatever else is in it."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for leaf in flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def mapped(function: Callable[[torch.Tensor], torch.Tensor], tree: Any) -> Any:
    """The tree with the result of ``function`` in place of every tensor."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    leaves, structure = flatten(tree)
    return structure.build([function(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves])


def copied(tree: Any) -> Any:
    """The tree with every tensor cloned, so that nothing done to it reaches the caller."""
    return mapped(cloned, tree)
