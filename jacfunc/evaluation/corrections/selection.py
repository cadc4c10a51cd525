"""The different elements of a tensor, of which torch has no derivative: each is taken from where it was found first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .expansion import Tensor


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """For ``torch.unique``."""
    found = torch.unique(input.detach(), sorted, return_inverse=True, return_counts=return_counts, dim=dim)
    return _taken(input, found, return_inverse, dim)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """For ``torch.unique_consecutive``."""
    # By keyword: by position torch leaves the inverse empty.
    found = torch.unique_consecutive(input.detach(), return_inverse=True, return_counts=return_counts, dim=dim)
    return _taken(input, found, return_inverse, dim)


def _taken(input: Tensor, found: Sequence[Tensor], return_inverse: bool, dim: int | None) -> Any:
    """What torch found, with the first of equal elements for the values; the inverse says which are equal."""
    value, inverse, *counts = found
    numbers = inverse.reshape(-1)
    places = torch.arange(len(numbers), device=numbers.device)
    first = torch.full((value.shape[dim or 0],), len(numbers), device=numbers.device)
    first = first.scatter_reduce(0, numbers, places, "amin")
    values = input.reshape(-1)[first] if dim is None else input.index_select(dim, first)
    others = [inverse, *counts] if return_inverse else counts
    return (values, *others) if others else values
