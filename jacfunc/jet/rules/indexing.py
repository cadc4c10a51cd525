"""Elements taken from and put at places: linear in what is taken from and in what is put, the places being constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...core.torch_private import c_torch
from ..build import Operand, linear
from ..fallback import pushed
from ..frame import CannotFollowError
from ..jet import Jet
from ..registry import add
from ..values import plain
from ..vmap_rules import stacked
from .parts import getitem
from .shared import all_dims, broadcast, enter, from_end, gathered, jointly, row_by_row, several, valued

Tensor = torch.Tensor


# -------------------------------------------------------------------- taken


def gather(input: Jet, dim: int, index: Any, *, sparse_grad: bool = False) -> Jet:
    """Along an axis."""
    index = plain(index)
    return gathered(input, torch.gather(input.value, dim, index), dim, index)


def take(input: Jet, index: Any) -> Jet:
    """From the flattened input."""
    index = plain(index)
    return linear(input, lambda x: torch.take(x, index), lambda rows: _flat(rows)[:, index])


def _flat(rows: Tensor) -> Tensor:
    """Rows of the flattened tensor, which may be of no axis."""
    return rows.reshape(rows.shape[0], -1)


def take_along_dim(input: Jet, indices: Any, dim: int | None = None) -> Jet:
    """Along an axis, the others broadcast."""
    indices = plain(indices)
    value = torch.take_along_dim(input.value, indices, dim)
    if dim is None:
        return linear(input, lambda _: value, lambda rows: _flat(rows)[:, indices.flatten()])
    at = from_end(dim, input.dim())
    return linear(input, lambda _: value, lambda rows: torch.take_along_dim(rows, indices.unsqueeze(0), at))


def masked_select(input: Jet, mask: Any) -> Jet:
    """Where a mask holds, flattened."""
    mask = plain(mask)
    shape = broadcast(mask, input)
    return getitem(input.expand(shape), mask.expand(shape))  # type: ignore[attr-defined,no-any-return]


def repeat_interleave(input: Any, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Jet:
    """Each element several times in a row."""
    value = torch.repeat_interleave(input.value, plain(repeats), dim, output_size=output_size)
    source, at = (input.flatten(), -1) if dim is None else (input, dim)
    places = torch.arange(source.shape[at], device=input.device).repeat_interleave(plain(repeats))
    return Jet(value, source.index_select(at, places).coefficients, input.frame)


def embedding(weight: Operand, indices: Any, padding_idx: int = -1, scaled: bool = False, sparse: bool = False) -> Any:
    """Rows of a table; torch gives that of the padding no derivative."""
    if scaled:
        raise CannotFollowError("an embedding that scales its gradient")
    indices = plain(indices)
    taken = weight[indices]
    if padding_idx is None or padding_idx < 0:
        return taken
    kept = (indices != padding_idx).unsqueeze(-1)
    return Jet(taken.value, torch.where(kept, taken, 0.0).coefficients, taken.frame)  # type: ignore[attr-defined]


# -------------------------------------------------------------------- put


def scatter(
    input: Operand, dim: int, index: Any, src: Operand = None, *, value: Operand = None, reduce: Any = None
) -> Any:
    """Put along an axis: numbers, or another tensor's elements."""
    index, source = plain(index), value if src is None else src
    if reduce is not None:
        return pushed(torch.scatter, (input, dim, index, source), {"reduce": reduce})
    result = torch.scatter(plain(input), dim, index, plain(source))
    return _put(torch.scatter, result, input, dim, index, source)


def scatter_add(input: Operand, dim: int, index: Any, src: Operand) -> Jet:
    """Added along an axis."""
    index = plain(index)
    return _put(torch.scatter_add, torch.scatter_add(plain(input), dim, index, plain(src)), input, dim, index, src)


def _put(
    function: Callable[..., Tensor], value: Tensor, input: Operand, dim: int, index: Tensor, source: Operand
) -> Jet:
    if not value.dim():
        return jointly(value, (input, source), row_by_row(lambda x, y: function(x, dim, index, y)))
    at = from_end(dim, value.dim())
    if not isinstance(source, Tensor | Jet):  # one number, which torch takes as such only
        source = torch.full_like(index, source, dtype=value.dtype)

    def on_rows(target: Tensor, rows: Tensor) -> Tensor:
        return function(target, at, index.expand(len(rows), *index.shape), rows)

    return jointly(value, (input, source), on_rows)


def scatter_reduce(
    input: Operand, dim: int, index: Any, src: Operand, reduce: str, *, include_self: bool = True
) -> Any:
    """Sums, means and extremes; products are not linear and have no rule."""
    index = plain(index)
    if reduce == "prod":
        return pushed(torch.scatter_reduce, (input, dim, index, src, reduce), {"include_self": include_self})
    value = torch.scatter_reduce(plain(input), dim, index, plain(src), reduce, include_self=include_self)
    if reduce in ("amax", "amin"):
        return _extreme_put(value, input, dim, index, src, include_self)
    target = input if include_self else torch.scatter(input, dim, index, 0.0)
    total: Any = torch.scatter_add(target, dim, index, src)
    if reduce == "mean":
        start = torch.ones_like(value) if include_self else torch.zeros_like(value)
        total = total / torch.scatter_add(start, dim, index, torch.ones_like(plain(src))).clamp(min=1)
    return Jet(value, total.coefficients, total.frame) if type(total) is Jet else value


def _extreme_put(value: Tensor, input: Operand, dim: int, index: Tensor, src: Operand, include_self: bool) -> Any:
    """What is equal to the largest or smallest at its place has the same share."""
    own, other = (plain(input) == value).to(value.dtype), plain(src)
    if not include_self:
        own = own.scatter(dim, index, 0.0)
    sizes = tuple(slice(size) for size in index.shape)  # of the source no more is read
    equal = (other[sizes] == value.gather(dim, index)).to(value.dtype)
    count = own.scatter_add(dim, index, equal).clamp(min=1)
    share = equal / count.gather(dim, index)
    kept = torch.mul(input, torch.where(own > 0, own / count, 0.0))
    result: Any = torch.scatter_add(kept, dim, index, torch.mul(src[sizes], share))
    return Jet(value, result.coefficients, result.frame)


def index_reduce(
    input: Operand, dim: int, index: Any, source: Operand, reduce: str, *, include_self: bool = True
) -> Any:
    """Slices along an axis put at places and reduced with what is there."""
    index, shape = plain(index), [1] * max(input.dim(), 1)
    shape[dim] = -1
    wide = index.reshape(shape).expand(source.shape) if source.dim() else index.reshape(())
    return torch.scatter_reduce(input, dim, wide, source, reduce, include_self=include_self)


def _by_index(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """``index_add`` and ``index_copy``: slices put along an axis."""

    def rule(input: Operand, dim: int, index: Any, source: Operand, **options: Any) -> Jet:
        value = function(plain(input), dim, plain(index), plain(source), **options)
        if not value.dim():
            on_rows = row_by_row(lambda x, y: function(x, dim, plain(index), y, **options))
            return jointly(value, (input, source), on_rows)
        at = from_end(dim, value.dim())
        if not source.dim():
            source = source.reshape((1,) * value.dim())
        return jointly(value, (input, source), lambda x, y: function(x.contiguous(), at, plain(index), y, **options))

    return rule


def index_fill(input: Operand, dim: int, index: Any, value: Operand) -> Any:
    """One number along an axis."""
    places = torch.zeros(input.shape, dtype=torch.bool, device=input.device).index_fill(dim, plain(index), True)
    return torch.masked_fill(input, places, value)


def put(input: Operand, index: Any, source: Operand, accumulate: bool = False) -> Any:
    """Put at places of the flattened input."""
    places, elements = (plain(index).reshape(-1),), torch.reshape(source, (-1,))
    return torch.reshape(torch.index_put(torch.reshape(input, (-1,)), places, elements, accumulate), input.shape)


def fill(input: Operand, value: Operand) -> Any:
    """One number everywhere."""
    return torch.masked_fill(input, torch.ones_like(plain(input), dtype=torch.bool), value)


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """The choices of r elements."""
    return input[torch.combinations(torch.arange(len(input), device=input.device), r, with_replacement)]


def index_put(input: Operand, indices: Any, values: Operand, accumulate: bool = False) -> Jet:
    """Put at places of several axes."""
    indices = plain(indices)
    return _rows_alike(lambda x, y: torch.index_put(x, indices, y, accumulate), input, values, one_by_one=True)


def masked_scatter(input: Operand, mask: Any, source: Operand) -> Jet:
    """The elements of another tensor, one after the other, where a mask holds."""
    mask = plain(mask)
    return _rows_alike(lambda x, y: torch.masked_scatter(x, mask, y), input, source, one_by_one=True)


def select_scatter(input: Operand, src: Operand, dim: int, index: int) -> Jet:
    """One slice along an axis replaced."""
    at = from_end(dim, input.dim())
    return _rows_alike(lambda x, y: torch.select_scatter(x, y, at, index), input, src)


def slice_scatter(input: Operand, src: Operand, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Jet:
    """A range along an axis replaced."""
    at = from_end(dim, input.dim())
    return _rows_alike(lambda x, y: torch.slice_scatter(x, y, at, start, end, step), input, src)


def diagonal_scatter(input: Operand, src: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Jet:
    """A diagonal replaced."""
    one, two = (from_end(dim, input.dim()) for dim in (dim1, dim2))
    return _rows_alike(lambda x, y: torch.diagonal_scatter(x, y, offset, one, two), input, src)


def _rows_alike(
    put: Callable[[Tensor, Tensor], Tensor], input: Operand, source: Operand, one_by_one: bool = False
) -> Jet:
    """What is done to the values done to their rows, to all at once or one by one."""
    value = put(plain(input), plain(source))
    return jointly(value, (input, source), row_by_row(put) if one_by_one else put)


# -------------------------------------------------------------------- moved


def roll(input: Jet, shifts: Any, dims: Any = None) -> Jet:
    """Around the ends of axes, or of the flattened input."""
    value = torch.roll(input.value, shifts, dims if dims is not None else ())
    if dims is None or dims in ((), []):
        return linear(input, lambda _: value, lambda rows: _flat(rows).roll(shifts, 1).reshape(rows.shape))
    at = all_dims(dims, input.dim())
    return linear(input, lambda _: value, lambda rows: rows.roll(shifts, at))


def rot90(input: Jet, k: int = 1, dims: Any = (0, 1)) -> Jet:
    """By quarter turns."""
    at = [from_end(dim, input.dim()) for dim in dims]
    return linear(input, lambda x: torch.rot90(x, k, dims), lambda rows: torch.rot90(rows, k, at))


def diagonal(input: Jet, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Jet:
    """Of two axes, put last."""
    one, two = (from_end(dim, input.dim()) for dim in (dim1, dim2))
    value = torch.diagonal(input.value, offset, dim1, dim2)
    return input.seen_by(linear(input, lambda _: value, lambda rows: rows.diagonal(offset, one, two)))


def diag_embed(input: Jet, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Jet:
    """The last axis as the diagonal of two."""
    value = torch.diag_embed(input.value, offset, dim1, dim2)
    one, two = (from_end(dim, value.dim()) for dim in (dim1, dim2))
    return linear(input, lambda _: value, lambda rows: torch.diag_embed(rows, offset, one, two))


def diag(input: Any, diagonal: int = 0) -> Any:
    """Of a matrix its diagonal, of a vector the matrix."""
    return torch.diag_embed(input, diagonal) if input.dim() == 1 else torch.diagonal(input, diagonal)


def diagflat(input: Any, offset: int = 0) -> Any:
    """The flattened input as a diagonal."""
    return torch.diag_embed(input.flatten(), offset)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All in one shape."""
    tensors = several(tensors)
    shape = broadcast(*tensors)
    return tuple(tensor.expand(shape) for tensor in tensors)


def install() -> None:
    """Enter the rules of this file."""
    enter(
        {
            "gather": gather,
            "take": take,
            "take_along_dim": take_along_dim,
            "masked_select": masked_select,
            "repeat_interleave": repeat_interleave,
            torch.embedding: embedding,
            "scatter": scatter,
            "scatter_add": scatter_add,
            "scatter_reduce": scatter_reduce,
            "index_reduce": valued(torch.index_reduce, index_reduce),
            "index_add": _by_index(torch.index_add),
            "index_copy": _by_index(torch.index_copy),
            "index_fill": index_fill,
            "index_put": index_put,
            "put": put,
            torch.fill: fill,
            "combinations": combinations,
            "masked_scatter": masked_scatter,
            "select_scatter": select_scatter,
            "slice_scatter": slice_scatter,
            "diagonal_scatter": diagonal_scatter,
            "roll": roll,
            "rot90": rot90,
            "tril": stacked(torch.tril),
            "triu": stacked(torch.triu),
            "diagonal": diagonal,
            "diag_embed": diag_embed,
            "diag": diag,
            "diagflat": diagflat,
        }
    )
    add(broadcast_tensors, torch.broadcast_tensors, c_torch.broadcast_tensors)
