"""Tensors of a device mesh (``DTensor``): whether there can be any, and which are, without loading their class."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from . import trees

DTENSOR = "torch.distributed.tensor"
"""The module whose presence tells that there may be such tensors; to ask it would load it, and take a second."""
MODULES = sys.modules
PLAIN = frozenset([torch.Tensor, torch.nn.Parameter])


def is_meshed(value: Any) -> bool:
    """Whether a value is a tensor of a device mesh."""
    module = MODULES.get(DTENSOR)
    return module is not None and isinstance(value, module.DTensor)


def any_meshed(args: Iterable[Any], kwargs: dict[str, Any]) -> bool:
    """Whether any argument is one or has one in it; to be asked only where the class is loaded."""
    for argument in (*args, *kwargs.values()):
        kind = type(argument)
        if kind in PLAIN:
            continue
        if kind is dict and PLAIN.issuperset(map(type, argument.values())):  # parameters, of every call: without a tree
            continue
        if any(map(is_meshed, trees.tensors(argument))):
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


def distributed_as(tensor: Any, other: torch.Tensor) -> Any:
    """A tensor that each rank has whole, lying as a DTensor does along the axes that both have; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor  # which is there, as a DTensor is

    return distribute_tensor(other, tensor.device_mesh, tensor.placements, src_data_rank=None)
