"""Gradients added up beside ``.grad``, which stays as it is until all of them are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed

HALF = (torch.float16, torch.bfloat16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What gradients of a dtype are added up in: half precision would lose those of small blocks."""
    return torch.float32 if dtype in HALF else dtype


class Sums:
    """For each leaf, by its identity, the sum of the gradients so far."""

    def __init__(self) -> None:
        self.of: dict[int, torch.Tensor] = {}

    def add(self, leaf: torch.Tensor, gradient: torch.Tensor, factor: float) -> None:
        """Add a gradient, which becomes ours, times a factor."""
        gradient = gradient.to(wide(gradient.dtype))
        found = self.of.get(id(leaf))
        if found is not None:
            found.add_(gradient, alpha=factor)
        elif factor == 1:
            self.of[id(leaf)] = gradient
        else:
            self.of[id(leaf)] = gradient.mul(factor)

    def merge(self, other: Sums, factor: float) -> None:
        """Add those of others, which become ours, times a factor."""
        for key, gradient in other.of.items():
            found = self.of.get(key)
            if found is None:
                self.of[key] = gradient.mul_(factor)
            else:
                found.add_(gradient, alpha=factor)
        other.of.clear()

    def reduce(self, leaves: Iterable[torch.Tensor], groups: Sequence[Any]) -> None:
        """Add up over all ranks those of some leaves, the same on each: one collective for each dtype and device."""
        kinds: dict[Any, list[torch.Tensor]] = {}
        for leaf in leaves:
            kinds.setdefault((leaf.device, wide(leaf.dtype)), []).append(leaf)
        for (device, dtype), alike in kinds.items():
            parts = [self.of.pop(id(leaf), None) for leaf in alike]
            flat = torch.cat(
                [
                    torch.zeros(leaf.numel(), dtype=dtype, device=device) if part is None else _dense(part).reshape(-1)
                    for leaf, part in zip(alike, parts, strict=True)
                ]
            )
            parts.clear()
            for group in groups:
                distributed.all_reduce(flat, group=group)
            for leaf, part in zip(alike, torch.split(flat, [leaf.numel() for leaf in alike]), strict=True):
                self.of[id(leaf)] = part.view(leaf.shape)


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_dense() if gradient.layout != torch.strided else gradient


class SetAside:
    """What was in ``.grad`` of leaves before, while gradients are added up; put back unless all goes well."""

    def __init__(self) -> None:
        self.leaves: dict[int, torch.Tensor] = {}
        self.before: dict[int, torch.Tensor | None] = {}

    def __contains__(self, leaf: torch.Tensor) -> bool:
        return id(leaf) in self.leaves

    def put(self, leaf: torch.Tensor) -> None:
        """Take what is in ``.grad`` of a leaf away; once it was, nothing happens."""
        if leaf not in self:
            self.leaves[id(leaf)], self.before[id(leaf)] = leaf, leaf.grad
            leaf.grad = None

    def collect(self, sums: Sums, factors: dict[int, float], factor: float) -> None:
        """Move what a backward left in ``.grad``, times a factor, or a leaf's own, to the sums."""
        for key, leaf in self.leaves.items():
            if leaf.grad is not None:
                sums.add(leaf, leaf.grad, factors.get(key, factor))
                leaf.grad = None

    def back(self) -> None:
        """Leave every ``.grad`` as it was found, the tensors themselves."""
        for key, leaf in self.leaves.items():
            leaf.grad = self.before[key]

    def finish(self, sums: Sums) -> None:
        """Put what was there back with the sums added, each rounded once."""
        self.back()
        for key, leaf in self.leaves.items():
            total = sums.of.pop(key, None)
            if total is None:
                continue
            if leaf.grad is None:
                leaf.grad = total.to(leaf.dtype)
            elif leaf.dtype in HALF:
                leaf.grad.copy_(leaf.grad.to(total.dtype) + total)
            else:
                leaf.grad.add_(total)
