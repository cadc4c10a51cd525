"""Tensors joined, repeated or laid out in other ways, written in the operations of ``structure.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core.torch_private import c_torch
from ..build import linear
from ..jet import Jet
from ..registry import add
from ..vmap_rules import mapped
from .shared import enter, enter_each, from_end, several

Tensor = torch.Tensor


# -------------------------------------------------------------------- joined


def _one_axis(x: Any) -> Any:
    return x if x.dim() else torch.reshape(x, (1,))


def _two_axes(x: Any) -> Any:
    return x if x.dim() > 1 else torch.unsqueeze(_one_axis(x), 0)


def _three_axes(x: Any) -> Any:
    return x if x.dim() > 2 else torch.unsqueeze(_two_axes(x), -1)


def at_least(widened: Callable[[Any], Any]) -> Callable[..., Any]:
    """The rule of ``atleast_1d`` and its kin."""

    def rule(*tensors: Any) -> Any:
        if len(tensors) == 1 and not isinstance(tensors[0], list | tuple):
            return widened(tensors[0])
        return tuple(map(widened, several(tensors)))

    return rule


def hstack(tensors: Any) -> Any:
    """Side by side."""
    parts = [_one_axis(x) for x in tensors]
    return torch.cat(parts, 0 if parts[0].dim() == 1 else 1)


def vstack(tensors: Any) -> Any:
    """One below the other."""
    return torch.cat([_two_axes(x) for x in tensors], 0)


def dstack(tensors: Any) -> Any:
    """One behind the other."""
    return torch.cat([_three_axes(x) for x in tensors], 2)


def column_stack(tensors: Any) -> Any:
    """Vectors as the columns of a matrix."""
    return torch.cat([x if x.dim() > 1 else torch.reshape(x, (-1, 1)) for x in tensors], 1)


def block_diag(*tensors: Any) -> Any:
    """Matrices along a diagonal."""
    blocks = [_two_axes(x) for x in tensors]
    width, before, padded = sum(x.shape[1] for x in blocks), 0, []
    for block in blocks:
        after = width - before - block.shape[1]
        padded.append(F.pad(block, (before, after)))
        before += block.shape[1]
    return torch.cat(padded, 0)


def meshgrid(*tensors: Any, indexing: str | None = None) -> Any:
    """The coordinates of a grid."""
    axes = [_one_axis(x) for x in several(tensors)]
    sizes = tuple(x.shape[0] for x in axes)
    spread = []
    for place, x in enumerate(axes):
        shape = [1] * len(axes)
        shape[place] = -1
        spread.append(torch.broadcast_to(torch.reshape(x, shape), sizes))
    if indexing == "xy" and len(axes) > 1:
        return tuple(torch.transpose(x, 0, 1) for x in spread)
    return tuple(spread)


def cartesian_prod(*tensors: Any) -> Any:
    """All points of a grid."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack([torch.reshape(x, (-1,)) for x in meshgrid(*tensors)], 1)


# -------------------------------------------------------------------- laid out


def linalg_diagonal(input: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """``torch.linalg.diagonal``."""
    return torch.diagonal(input, offset, dim1, dim2)


def trace(input: Jet) -> Any:
    """The sum of a diagonal."""
    return torch.sum(torch.diagonal(input))  # type: ignore[arg-type]


def windows(input: Jet, dimension: int, size: int, step: int) -> Jet:
    """``Tensor.unfold``: windows along an axis, behind all axes."""
    at = from_end(dimension, input.dim())
    return input.seen_by(linear(input, lambda x: x.unfold(at, size, step), lambda rows: rows.unfold(at, size, step)))


MAPPED = ("fliplr", "flipud", "tile", "sum_to_size", "narrow_copy")
JOINED: dict[str, Callable[..., Any]] = {
    "hstack": hstack,
    "vstack": vstack,
    "row_stack": vstack,
    "dstack": dstack,
    "column_stack": column_stack,
    "block_diag": block_diag,
    "meshgrid": meshgrid,
    "cartesian_prod": cartesian_prod,
    "atleast_1d": at_least(_one_axis),
    "atleast_2d": at_least(_two_axes),
    "atleast_3d": at_least(_three_axes),
}


def install() -> None:
    """Enter the rules of this file."""
    enter(JOINED)
    for name, rule in JOINED.items():
        add(rule, *(function for function in [getattr(c_torch, name, None)] if function))
    enter({torch.linalg.diagonal: linalg_diagonal, "trace": trace, torch.Tensor.unfold: windows})
    enter_each(mapped, *MAPPED)
