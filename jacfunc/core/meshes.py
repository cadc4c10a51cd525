"""Tensors of a device mesh (``DTensor``): whether there can be any, and which are, without loading their class."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

DTENSOR = "torch.distributed.tensor"
"""The module whose presence tells that there may be such tensors; to ask it would load it, and take a second."""
MODULES = sys.modules


def is_meshed(value: Any) -> bool:
    """Whether a value is a tensor of a device mesh."""
    module = MODULES.get(DTENSOR)
    return module is not None and isinstance(value, module.DTensor)


def any_meshed(args: Iterable[Any], kwargs: dict[str, Any], tensors: Any) -> bool:
    """Whether any argument is one or, by ``tensors`` of a tree, has one in it; asked only where the class is loaded."""
    kind = MODULES[DTENSOR].DTensor
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, kind):
            return True
        if hasattr(argument, "shape"):
            continue
        # Parameters come with every call: without a tree of them.
        flat = type(argument) is dict and all(hasattr(leaf, "shape") for leaf in argument.values())
        if any(isinstance(leaf, kind) for leaf in (argument.values() if flat else tensors(argument))):
            return True
    return False


def told(tensor: Any) -> str:
    """How a sentence says where a tensor lies."""
    return f"a DTensor with placements [{', '.join(map(_placement, tensor.placements))}]"


def _placement(placement: Any) -> str:
    if placement.is_replicate() or placement.is_partial():
        return "Replicate()" if placement.is_replicate() else "Partial()"
    dim = getattr(placement, "dim", None)
    return repr(placement) if dim is None else f"Shard({dim})"
