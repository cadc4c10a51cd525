"""Other processes that run the same program: whether there are any, and numbers that all of them add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed


def count(group: Any = None) -> int:
    """How many processes there are, this one among them; 1 where no process group was made."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(group)


def summed(numbers: Sequence[float], device: torch.device | str = "cpu", group: Any = None) -> list[float]:
    """Each of the numbers, added up over all processes, by one collective that every one of them has to call."""
    if count(group) == 1:
        return [float(number) for number in numbers]
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    distributed.all_reduce(total, group=group)
    return [float(number) for number in total]
