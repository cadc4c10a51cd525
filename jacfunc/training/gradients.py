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
        """Add a gradient times a factor; it stays as it is, since autograd may give several leaves the same."""
        gradient = gradient.to(wide(gradient.dtype))
        found = self.of.get(id(leaf))
        if found is not None:
            found.add_(gradient, alpha=factor)
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


def reduce(parts: Iterable[tuple[Sums, torch.Tensor]], groups: Sequence[Any]) -> None:
    """Add up over all ranks what sums have of leaves, the same on each: one collective for each dtype and device."""
    kinds: dict[Any, list[tuple[Sums, torch.Tensor]]] = {}
    for sums, leaf in parts:
        kinds.setdefault((leaf.device, wide(leaf.dtype)), []).append((sums, leaf))
    for (device, dtype), alike in kinds.items():
        own = [sums.of.pop(id(leaf), None) for sums, leaf in alike]
        sizes = [leaf.numel() for _, leaf in alike]
        flat = torch.cat(
            [
                torch.zeros(size, dtype=dtype, device=device) if part is None else _dense(part).reshape(-1)
                for size, part in zip(sizes, own, strict=True)
            ]
        )
        own.clear()
        for group in groups:
            distributed.all_reduce(flat, group=group)
        for (sums, leaf), part in zip(alike, torch.split(flat, sizes), strict=True):
            sums.of[id(leaf)] = part.view(leaf.shape)


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_dense() if gradient.layout != torch.strided else gradient


class SetAside:
    """What was in ``.grad`` of leaves before, while gradients are added up; put back unless all goes well."""

    def __init__(self) -> None:
        self.leaves: dict[int, torch.Tensor] = {}
        self.before: dict[int, torch.Tensor | None] = {}
        self.averaged = Sums()

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

    def average(self, leaves: Sequence[torch.Tensor], ranks: int) -> None:
        """Note this rank's share of the mean over all of them of what was in ``.grad``, which is put there in the end.

        A gradient that was reduced before stays what it is, and one of ``no_sync`` becomes what the wrapper's next
        backward would make of it.
        """
        for leaf in leaves:
            gradient = self.before[id(leaf)]
            if gradient is not None:
                self.averaged.add(leaf, gradient, 1 / ranks)

    def back(self) -> None:
        """Leave every ``.grad`` as it was found, the tensors themselves."""
        for key, leaf in self.leaves.items():
            leaf.grad = self.before[key]

    def finish(self, sums: Sums) -> set[int]:
        """Put what was there back with the sums added, each rounded once; which leaves got some."""
        self.back()
        written = set(sums.of)
        for key, leaf in self.leaves.items():
            averaged, total = self.averaged.of.pop(key, None), sums.of.pop(key, None)
            if averaged is not None:
                total = averaged if total is None else averaged + total
                if leaf.grad is None or leaf.grad.layout != torch.strided:
                    leaf.grad = _laid_out(total, leaf)
                else:
                    leaf.grad.copy_(total)
            elif total is None:
                continue
            elif leaf.grad is None:
                leaf.grad = _laid_out(total, leaf)
            elif leaf.dtype in HALF:
                leaf.grad.copy_(leaf.grad.to(total.dtype) + total)
            else:
                leaf.grad.add_(total)
        return written


def _laid_out(gradient: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """A gradient of the dtype and the strides of its leaf, as a backward writes it."""
    if gradient.layout != torch.strided or gradient.stride() == leaf.stride():
        return gradient.to(leaf.dtype)
    return torch.empty_like(leaf, requires_grad=False).copy_(gradient)
