"""What is in autograd's graph of a block: parts that run again in the backward, and how much memory it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..core.caches import computed_once
from ..core.graphs import leaves, nodes
from ..core.torch_private import RAW_SAVED

REENTRANT = "CheckpointFunctionBackward"
"""The node of a ``checkpoint`` with ``use_reentrant=True``, behind which nothing is seen before it runs again."""


def reentrant(root: torch.Tensor) -> bool:
    """Whether the graph has a part that runs a backward of its own."""
    return any(type(node).__name__ == REENTRANT for node in nodes([root]))


def kept_bytes(root: torch.Tensor) -> int:
    """The memory that the graph keeps for its backward, leaves and shared memory left out; nothing is unpacked.

    What hooks have packed away already, as ``checkpoint`` does, counts nothing.
    """
    apart = {leaf.untyped_storage().data_ptr() for leaf in leaves([root])}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            size = min(tensor.numel() * tensor.element_size(), storage.nbytes())
            sizes[storage.data_ptr()] = max(size, sizes.get(storage.data_ptr(), 0))
        return tensor

    for node in nodes([root]):
        for saved in _saved(node):
            try:
                saved.register_hooks(note, _itself)  # is told of the tensor at once
            except RuntimeError:  # None, or it has hooks
                continue
    return sum(sizes.values())


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _saved(node: Any) -> Iterator[Any]:
    for name in _names(type(node)):
        try:
            found = getattr(node, name)
        except RuntimeError:  # of what is freed already
            continue
        yield from found if isinstance(found, tuple | list) else [] if found is None else [found]


@computed_once(1024, traced=False)
def _names(kind: type) -> list[str]:
    return [name for name in dir(kind) if name.startswith(RAW_SAVED)]
