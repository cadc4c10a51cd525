"""What a process asks of the others: each collective that runs in a block, by its name."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Collectives(TorchDispatchMode):
    """A context that counts the operations of process groups (torch's own ``CommDebugMode`` breaks within vmap)."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = function.name().partition("::")
        if space in ("c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional"):
            self.counts[name.rstrip("_").partition(".")[0]] += "wait" not in name
        return function(*args, **(kwargs or {}))

    def found(self) -> dict[str, int]:
        """How often each was asked for."""
        return {name: count for name, count in self.counts.items() if count}
