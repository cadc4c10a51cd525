"""Rows that are zero but for one part of a sample: which part each entry of a value moves with, and what is made of it.

A sample of several particles has one row for each coordinate of each.  As long as layers act on every particle by
itself, the rows of a particle are zero everywhere but at that particle.  So there is one stack for all of them: entry
k along an axis has the rows of the particle ``owners[k]``, of which there are as many as one particle has coordinates.
This is folx's idea (N. Gao et al., "folx: forward Laplacian for JAX", 2024), for one axis.  Which operations keep that
is in ``rules/blockwise.py``; whatever does not gets the rows in full.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

Tensor = torch.Tensor


class Blocks(NamedTuple):
    """Entry k along an ``axis``, counted from the end, moves with the ``each`` coordinates of part ``owners[k]`` alone.

    There are ``parts`` of them.
    """

    axis: int
    owners: tuple[int, ...]
    parts: int
    each: int

    @property
    def all_in_order(self) -> bool:
        """Whether the entries are the parts themselves."""
        return self.owners == tuple(range(self.parts))

    def spread(self, rows: Tensor) -> Tensor:
        """Rows ``(each, *S)`` as those of all parts, ``(parts * each, *S)``."""
        at = rows.dim() + self.axis
        if rows.shape[at] != len(self.owners):
            rows = rows.expand(*rows.shape[:at], len(self.owners), *rows.shape[at + 1 :])
        if self.all_in_order:
            wide = torch.diag_embed(rows.movedim(at, -1), dim1=0, dim2=at + 1)
        else:
            own = torch.tensor(self.owners, device=rows.device) == torch.arange(self.parts, device=rows.device)[:, None]
            mask = own.reshape(self.parts, *(1,) * at, len(self.owners), *(1,) * (rows.dim() - at - 1))
            wide = torch.where(mask, rows, 0.0)
        return wide.flatten(0, 1)

    def by_part(self, rows: Tensor) -> Tensor:
        """The sum of spread rows along the axis, which is left out, of rows whose entries along it are all there."""
        moved = rows.movedim(rows.dim() + self.axis, 0)
        if not self.all_in_order:
            into = torch.tensor(self.owners, device=rows.device)
            moved = moved.new_zeros((self.parts, *moved.shape[1:])).index_add(0, into, moved)
        return moved.flatten(0, 1)


def first_blocks(sample: tuple[int, ...]) -> Blocks | None:
    """The parts of a sample of the input: the entries of its first axis of several; None where it has no other axis."""
    place = next((place for place, size in enumerate(sample) if size > 1), len(sample))
    others = sample[place + 1 :]
    if not others:
        return None
    return Blocks(-1 - len(others), tuple(range(sample[place])), sample[place], torch.Size(others).numel())
