"""Which collectives run: a dispatch mode that counts the operations of ``c10d``, in a forward and its backward."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

SPACES = ("c10d", "_c10d_functional", "c10d_functional", "_c10d_functional_autograd")
"""The namespaces of what processes do together."""
WAITING = ("wait_tensor",)


class Collectives(TorchDispatchMode):
    """Counts, by name, what processes do together in this thread while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = function._schema.name.partition("::")
        if space in SPACES and name not in WAITING:
            self.counts[name.rstrip("_")] += 1
        if any(kind.__name__ == "DTensor" for kind in types):  # which does it by operations of its own, seen below
            return NotImplemented
        return function(*args, **(kwargs or {}))
