"""One draw of the random generators: saved, and replayed for dry runs, chunks and retries.

Covers torch on the CPU and on the accelerators in use, numpy's global generator and Python's ``random``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Draw:
    """The state of every generator at one moment."""

    cpu: torch.Tensor
    cuda: dict[torch.device, torch.Tensor]
    numpy: Any
    python: Any

    @classmethod
    def capture(cls, tensors: Iterable[torch.Tensor] = ()) -> Draw:
        """The state now, of the CPU and of the CUDA devices on which ``tensors`` live."""
        return cls.now({tensor.device for tensor in tensors if tensor.device.type == "cuda"})

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> Draw:
        """The state now, of the CPU and of these CUDA devices."""
        return cls(
            torch.get_rng_state(),
            {device: torch.cuda.get_rng_state(device) for device in devices},
            np.random.get_state(),
            random.getstate(),
        )

    def is_now(self) -> bool:
        """Whether torch's generators still are in this state."""
        return torch.equal(self.cpu, torch.get_rng_state()) and all(
            torch.equal(state, torch.cuda.get_rng_state(device)) for device, state in self.cuda.items()
        )

    def restore(self) -> None:
        """Set every generator back, so that the next evaluation sees the same draw."""
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


@contextmanager
def replaying(draw: Draw) -> Iterator[None]:
    """Run the body from ``draw`` and leave the generators as they were found before it."""
    found = Draw.now(draw.cuda)
    draw.restore()
    try:
        yield
    finally:
        found.restore()
