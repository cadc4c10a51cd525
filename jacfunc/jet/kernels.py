"""Which of torch's kernels are the fastest on this processor: one table, with what was measured and nothing else.

MKL, which torch takes for matrices and ``tanh``, uses the widest instructions on processors of its own maker only,
while oneDNN, which torch takes for convolutions, uses them on all.  What is in no row is left to torch's own choice;
``docs/measurements.md`` has the figures, and what was measured and does not pay.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import NamedTuple

import torch


class Large(NamedTuple):
    """From which sizes on a product goes by a convolution: so many multiplications or so many entries of the result."""

    products: float
    result: int
    narrowest: int = 16
    """Columns of the result that it has at least."""


class Kernels(NamedTuple):
    """What is faster than torch's own choice, on one kind of processor and for one dtype."""

    product: Large | None = None
    """Products by a convolution of oneDNN."""
    compiled: bool = False
    """Whether that pays under ``torch.compile`` too, with an activation and its product as one node."""
    tanh: float = math.inf
    """Entries from which on ``tanh`` goes by oneDNN, the copies into its layout and back included."""


MEASURED: dict[tuple[str, str, torch.dtype], Kernels] = {
    ("AuthenticAMD", "AVX512", torch.float32): Kernels(Large(6_000_000, 2**19), compiled=True, tanh=2**16),
    ("AuthenticAMD", "AVX2", torch.float32): Kernels(Large(math.inf, 2**20)),
}
"""By maker, instruction set and dtype."""


def measured_here() -> dict[torch.dtype, Kernels]:
    """What is faster on this processor, by dtype; nothing where torch has only one of the two libraries."""
    mkl, onednn = torch.backends.mkl, torch.backends.mkldnn
    if not (mkl.is_available() and onednn.is_available()):  # type: ignore[no-untyped-call]
        return {}
    capability, maker = torch.backends.cpu.get_cpu_capability(), _maker()
    return {
        dtype: kernels
        for (made_by, instructions, dtype), kernels in MEASURED.items()
        if made_by == maker and instructions in capability
    }


def _maker() -> str:
    """Of the processor, as it calls itself; empty where it cannot be told."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text().splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
    return platform.processor().split(", ")[-1]


NONE = Kernels()
HERE = measured_here()


def kernels(tensor: torch.Tensor) -> Kernels:
    """Those for a tensor, by its device and dtype."""
    return HERE.get(tensor.dtype, NONE) if tensor.is_cpu else NONE
