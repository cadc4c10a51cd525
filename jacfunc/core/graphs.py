"""Autograd's graph of tensors: its nodes, and the leaves that get gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def nodes(roots: Iterable[torch.Tensor], seen: set[Any] | None = None) -> Iterator[Any]:
    """Every node behind these tensors, once and without those that are ``seen``, to which it is added."""
    seen = set() if seen is None else seen
    left: list[Any] = [root.grad_fn for root in roots]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            left += [following for following, _ in node.next_functions]


def leaves(roots: Iterable[torch.Tensor], seen: set[Any] | None = None) -> list[torch.Tensor]:
    """The tensors whose ``.grad`` a backward writes to: that these are computed of, or are themselves."""
    roots = list(roots)
    found = {id(root): root for root in roots if root.requires_grad and root.grad_fn is None}
    found |= {id(node.variable): node.variable for node in nodes(roots, seen) if hasattr(node, "variable")}
    return list(found.values())
