"""Tensors joined, repeated or laid out in other ways, written in the operations of ``structure.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..build import linear
from ..jet import Jet
from ..mapped import mapped, stacked
from ..registry import add, forms, named
from ..values import plain
from .structure import from_end

Tensor = torch.Tensor


def _several(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors that came one by one, or in one list."""
    return tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors


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
        return tuple(map(widened, _several(tensors)))

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
    axes = [_one_axis(x) for x in _several(tensors)]
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


def broadcast_tensors(*tensors: Any) -> Any:
    """All in the one shape that they broadcast to."""
    several = _several(tensors)
    shape = torch.broadcast_shapes(*(x.shape for x in several))  # type: ignore[no-untyped-call]
    return tuple(torch.broadcast_to(x, shape) for x in several)


# -------------------------------------------------------------------- laid out


def roll(input: Jet, shifts: Any, dims: Any = None) -> Jet:
    """Moved round along axes, or along all elements."""
    if dims is None or dims == ():
        flat: Any = torch.reshape(input, (-1,))  # type: ignore[arg-type]
        return torch.reshape(roll(flat, shifts, 0), input.shape)  # type: ignore[arg-type,return-value]
    ndim = input.dim()
    at = from_end(dims, ndim) if isinstance(dims, int) else tuple(from_end(d, ndim) for d in dims)
    return linear(input, lambda x: x.roll(shifts, dims), lambda rows: rows.roll(shifts, at))


def diagonals(function: Callable[..., Tensor], dims: tuple[int, int], more: int = 0) -> Callable[..., Jet]:
    """The rule of an operation on the diagonals of two axes, in a tensor with ``more`` axes."""

    def rule(input: Jet, offset: int = 0, dim1: int = dims[0], dim2: int = dims[1]) -> Jet:
        one, two = (from_end(d, input.dim() + more) for d in (dim1, dim2))
        result = linear(input, lambda x: function(x, offset, dim1, dim2), lambda rows: function(rows, offset, one, two))
        if not more:
            input.shared = result.shared = True
        return result

    return rule


def linalg_diagonal(input: Jet, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Jet:
    """``torch.linalg.diagonal``."""
    return diagonals(torch.diagonal, (-2, -1))(input, offset, dim1, dim2)


def diag(input: Any, diagonal: int = 0) -> Any:
    """A vector as the diagonal of a matrix, or the diagonal of a matrix."""
    return torch.diag_embed(input, diagonal) if input.dim() == 1 else torch.diagonal(input, diagonal)


def diagflat(input: Any, offset: int = 0) -> Any:
    """All elements as a diagonal."""
    return torch.diag_embed(torch.reshape(input, (-1,)), offset)


def trace(input: Jet) -> Any:
    """The sum of a diagonal."""
    return torch.sum(torch.diagonal(input))  # type: ignore[arg-type]


def repeat_interleave(input: Jet, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Any:
    """Each element repeated in its place."""
    if dim is None:
        return repeat_interleave(torch.reshape(input, (-1,)), repeats, 0, output_size=output_size)  # type: ignore[arg-type]
    at, repeats = from_end(dim, input.dim()), plain(repeats)

    def on(x: Tensor) -> Tensor:
        return x.repeat_interleave(repeats, at, output_size=output_size)

    return linear(input, on, on)


def windows(input: Jet, dimension: int, size: int, step: int) -> Jet:
    """``Tensor.unfold``: windows along an axis, behind all axes."""
    at = from_end(dimension, input.dim())
    result = linear(input, lambda x: x.unfold(at, size, step), lambda rows: rows.unfold(at, size, step))
    input.shared = result.shared = True
    return result


STACKED = ("tril", "triu")
MAPPED = ("rot90", "fliplr", "flipud", "tile", "sum_to_size", "narrow_copy")
JOINED: dict[str, Callable[..., Any]] = {
    "hstack": hstack,
    "vstack": vstack,
    "row_stack": vstack,
    "dstack": dstack,
    "column_stack": column_stack,
    "block_diag": block_diag,
    "meshgrid": meshgrid,
    "cartesian_prod": cartesian_prod,
    "broadcast_tensors": broadcast_tensors,
    "atleast_1d": at_least(_one_axis),
    "atleast_2d": at_least(_two_axes),
    "atleast_3d": at_least(_three_axes),
}


def install() -> None:
    """Enter the rules of this file."""
    for name, rule in JOINED.items():
        named(rule, name)
        add(rule, *(function for function in [getattr(torch._VF, name, None)] if function))
    named(roll, "roll")
    named(diagonals(torch.diagonal, (0, 1)), "diagonal")
    named(diagonals(torch.diag_embed, (-2, -1), more=1), "diag_embed")
    add(linalg_diagonal, torch.linalg.diagonal)
    named(diag, "diag")
    named(diagflat, "diagflat")
    named(trace, "trace")
    named(repeat_interleave, "repeat_interleave")
    add(windows, torch.Tensor.unfold)
    for name in STACKED:
        named(stacked(getattr(torch, name)), name)
    for name in MAPPED:
        for function in forms(name):
            add(mapped(function), function)
