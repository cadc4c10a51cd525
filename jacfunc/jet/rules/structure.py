"""What moves, joins, selects or adds up elements: linear, and the same for a value and for its stacked rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..build import frame_of, linear
from ..frame import CannotFollowError
from ..jet import Jet
from ..registry import add, forms, named, writing
from ..values import plain

Tensor = torch.Tensor


def _view(x: Jet, result: Jet) -> Jet:
    """A jet whose numbers may be those of another."""
    return x.seen_by(result)


def from_end(dim: int, ndim: int) -> int:
    """An axis counted from the end, where rows have as many."""
    return dim if dim < 0 else dim - max(ndim, 1)


def _flat_sizes(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        return tuple(sizes[0])
    return sizes


# -------------------------------------------------------------------- other shapes


def reshape(input: Jet, *shape: Any, **named_shape: Any) -> Jet:
    """``reshape`` and ``view`` to a shape."""
    sizes = _flat_sizes(shape or tuple(named_shape.values()))
    if any(isinstance(size, torch.dtype) for size in sizes):
        raise CannotFollowError("a view as another dtype")
    value = input.value.reshape(sizes)
    return _view(input, linear(input, lambda _: value, lambda rows: rows.reshape(rows.shape[0], *value.shape)))


def _as_other(rule: Callable[..., Jet], function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The rule of what takes a shape from another tensor, which may be the only jet."""

    def rule_as(input: Any, other: Any) -> Any:
        shape = tuple(other.shape)
        return rule(input, shape) if type(input) is Jet else function(input, shape)

    return rule_as


def flatten(input: Jet, start_dim: int = 0, end_dim: int = -1) -> Jet:
    """Axes joined."""
    return reshape(input, tuple(torch.empty(input.shape, device="meta").flatten(start_dim, end_dim).shape))


def unflatten(input: Jet, dim: int, sizes: Any) -> Jet:
    """An axis cut in several."""
    shaped = torch.unflatten(torch.empty(input.shape, device="meta"), dim, sizes)
    return reshape(input, tuple(shaped.shape))


def expand(input: Jet, *sizes: Any, size: Any = (), implicit: bool = False) -> Jet:
    """Axes repeated without a copy."""
    value = input.value.expand(_flat_sizes(sizes or tuple(size)))

    def on_rows(rows: Tensor) -> Tensor:
        missing = value.dim() - (rows.dim() - 1)
        return rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]).expand(rows.shape[0], *value.shape)

    return _view(input, linear(input, lambda _: value, on_rows))


def repeat(input: Jet, *sizes: Any, repeats: Any = ()) -> Jet:
    """Copies along axes."""
    counts = _flat_sizes(sizes or tuple(repeats))
    missing = len(counts) - input.dim()

    def on_rows(rows: Tensor) -> Tensor:
        return rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]).repeat(1, *counts)

    return linear(input, lambda x: x.repeat(counts), on_rows)


def _by_dims(function: Callable[..., Tensor], dims: tuple[str, ...], viewing: bool = True) -> Callable[..., Jet]:
    """The rule of an operation whose arguments of these names, in this order, are axes; others follow as they are."""

    def rule(input: Jet, *args: Any, **kwargs: Any) -> Jet:
        ndim = input.dim()
        if not ndim:  # the only axis of its rows is theirs
            return linear(
                input,
                lambda x: function(x, *args, **kwargs),
                lambda rows: torch.stack([function(row, *args, **kwargs) for row in rows]),
            )
        given = {**dict(zip(dims, args, strict=False)), **{k: v for k, v in kwargs.items() if k in dims}}
        rest, others = args[len(dims) :], {k: v for k, v in kwargs.items() if k not in dims}
        moved = {
            name: tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else from_end(dim, ndim)
            for name, dim in given.items()
        }
        at = tuple(moved[name] for name in dims if name in moved)

        def on(x: Tensor) -> Tensor:
            return function(x, *at, *rest, **others)

        result = linear(input, lambda x: function(x, *args, **kwargs), on)
        return _view(input, result) if viewing else result

    return rule


def flip(input: Jet, *dims: Any, **named_dims: Any) -> Jet:
    """Axes turned round."""
    ndim = input.dim()
    order = _flat_sizes(dims or tuple(named_dims.values()))
    order = tuple(order) if isinstance(order, list | tuple) else (order,)
    if not ndim:
        return input
    at = tuple(from_end(d, ndim) for d in order)
    return linear(input, lambda x: x.flip(order), lambda rows: rows.flip(at))


def squeeze(input: Jet, dim: Any = None) -> Jet:
    """Axes of size 1 left out."""
    value = input.value.squeeze() if dim is None else input.value.squeeze(dim)
    return reshape(input, tuple(value.shape))


def unsqueeze(input: Jet, dim: int) -> Jet:
    """An axis of size 1."""
    at = dim if dim < 0 else dim + 1
    return _view(input, linear(input, lambda x: x.unsqueeze(dim), lambda rows: rows.unsqueeze(at)))


def permute(input: Jet, *dims: Any, **named_dims: Any) -> Jet:
    """Axes in another order."""
    order = _flat_sizes(dims or tuple(named_dims.values()))
    ndim = input.dim()
    at = (0, *(d % ndim + 1 for d in order))
    return _view(input, linear(input, lambda x: x.permute(order), lambda rows: rows.permute(at)))


def transposed(input: Jet) -> Jet:
    """``t()`` and ``.T`` of a matrix, ``.mT`` of a stack of them."""
    if input.dim() < 2:
        return input
    return _view(input, linear(input, lambda x: x.transpose(-1, -2), lambda rows: rows.transpose(-1, -2)))


def reversed_axes(input: Jet) -> Jet:
    """``.T``: all axes in the opposite order."""
    return permute(input, tuple(reversed(range(input.dim()))))


# -------------------------------------------------------------------- parts


def getitem(input: Any, index: Any) -> Any:
    """Indexing by anything but a jet, whose values are constants."""
    index = plain(index)
    if type(input) is not Jet:
        return input[index]
    items = index if isinstance(index, tuple) else (index,)
    if _separated(items):
        raise CannotFollowError("an index with tensors on both sides of a slice")
    basic = all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in items)
    result = linear(input, lambda x: x[index], lambda rows: rows[(slice(None), *items)])
    return input.seen_by(result, index) if basic else result


def _separated(items: tuple[Any, ...]) -> bool:
    """Whether torch would put the indexed axis in front: then the axis of the rows would lie elsewhere."""
    advanced = [not (item is None or item is Ellipsis or isinstance(item, slice)) for item in items]
    tensors = any(a and not isinstance(item, int) for a, item in zip(advanced, items, strict=True))
    places = [place for place, is_advanced in enumerate(advanced) if is_advanced]
    return tensors and bool(places) and places[-1] - places[0] + 1 != len(places)


def setitem(input: Any, index: Any, item: Any) -> None:
    """Writing into a jet; into a plain tensor it cannot be followed."""
    if type(input) is not Jet:
        raise CannotFollowError("a differentiated tensor is written into another one")
    index = plain(index)
    items = index if isinstance(index, tuple) else (index,)
    if _separated(items):
        raise CannotFollowError("an index with tensors on both sides of a slice")
    taken_back = input.takes_back(item, index)
    value = input.value.clone()
    value[index] = plain(item)
    written: list[Tensor | None] = []
    for order in range(1, input.frame.layout.order + 1):
        rows, other = input.full(order), item.full(order) if type(item) is Jet else None
        written.append(_written(rows, other, (slice(None), *items), value))
    input.become(Jet(value, tuple(written), input.frame))
    if taken_back:
        item.end()


def _written(rows: Tensor | None, other: Tensor | None, at: tuple[Any, ...], value: Tensor) -> Tensor | None:
    """Rows of a tensor after those of an item were written to a place; None for zero."""
    if other is None:
        if rows is None:
            return None
        result = rows.clone()
        result[at] = 0
        return result
    result = value.new_zeros((len(other), *value.shape)) if rows is None else rows.clone()
    axes = result[at].dim() - 1
    missing, leading = max(axes - (other.dim() - 1), 0), max(other.dim() - 1 - axes, 0)
    result[at] = other.reshape(len(other), *(1,) * missing, *other.shape[1 + leading :]).to(result.dtype)
    return result


def copy_(input: Any, src: Any, non_blocking: bool = False) -> Any:
    """All elements written."""
    setitem(input, Ellipsis, src)
    return input


def fill_(input: Any, value: Any) -> Any:
    """One number everywhere."""
    return copy_(input, value)


def zero_(input: Any) -> Any:
    """Zeros everywhere."""
    return copy_(input, 0)


def unbind(input: Jet, dim: int = 0) -> tuple[Jet, ...]:
    """The slices along an axis."""
    at = from_end(dim, input.dim())
    return tuple(select(input, at, place) for place in range(input.shape[at]))


def select(input: Jet, dim: int, index: int) -> Jet:
    """One slice along an axis."""
    at = from_end(dim, input.dim())
    return _view(input, linear(input, lambda x: x.select(at, index), lambda rows: rows.select(at, index)))


def _pieces(cut: Callable[..., Sequence[Tensor]]) -> Callable[..., tuple[Jet, ...]]:
    """The rule of ``split``, ``chunk`` and their kin: as many narrow views."""

    def rule(input: Jet, sizes: Any = None, dim: int = 0, **named_sizes: Any) -> tuple[Jet, ...]:
        sizes = next(iter(named_sizes.values()), sizes)
        at = from_end(dim, input.dim())
        lengths = [piece.shape[at] for piece in cut(input.value, sizes, at)]
        starts = [sum(lengths[:place]) for place in range(len(lengths))]
        return tuple(narrow(input, at, start, length) for start, length in zip(starts, lengths, strict=True))

    return rule


def narrow(input: Jet, dim: int, start: int, length: int) -> Jet:
    """A range of an axis."""
    at = from_end(dim, input.dim())
    return _view(
        input, linear(input, lambda x: x.narrow(at, start, length), lambda rows: rows.narrow(at, start, length))
    )


# -------------------------------------------------------------------- several tensors


def _joined(tensors: Any, join: Callable[[list[Tensor], int], Tensor], dim: int, at: int) -> Jet:
    frame = frame_of(*tensors)
    value = join([plain(tensor) for tensor in tensors], dim)
    result: list[Tensor | None] = []
    for order in range(1, frame.layout.order + 1):
        stacks = [tensor.full(order) if type(tensor) is Jet else None for tensor in tensors]
        if all([stack is None for stack in stacks]):  # noqa: C419  # Dynamo traces lists better
            result.append(None)
            continue
        count = frame.layout.sizes[order - 1]
        rows = [
            value.new_zeros((count, *tensor.shape)) if stack is None else stack
            for stack, tensor in zip(stacks, tensors, strict=True)
        ]
        result.append(join(rows, at).to(value.dtype))
    return Jet(value, tuple(result), frame)


def cat(tensors: Any, dim: int = 0) -> Jet:
    """Joined along an axis; an empty vector among them is left out, as torch does."""
    tensors = [tensor for tensor in tensors if tuple(tensor.shape) != (0,)] or list(tensors)
    return _joined(tensors, torch.cat, dim, from_end(dim, tensors[0].dim()))


def stack(tensors: Any, dim: int = 0) -> Jet:
    """Joined along a new axis."""
    return _joined(tensors, torch.stack, dim, dim if dim < 0 else dim - tensors[0].dim() - 1)


# -------------------------------------------------------------------- sums


def _all_dims(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """``sum`` and ``mean`` over some axes, or over all."""

    def rule(input: Jet, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Jet:
        ndim = input.dim()
        if not ndim:  # the only axis of its rows is theirs
            return linear(input, lambda x: function(x, dtype=dtype), lambda rows: rows.to(dtype or rows.dtype))
        if dim is None or (isinstance(dim, list | tuple) and not dim):
            dim = tuple(range(-ndim, 0))
        at = tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else from_end(dim, ndim)
        return linear(
            input,
            lambda x: function(x, dim, keepdim, dtype=dtype),
            lambda rows: function(rows, at, keepdim, dtype=dtype),
        )

    return rule


def cast(function: Callable[..., Any]) -> Callable[..., Any]:
    """``to``, ``float``, ``type``: another dtype or device; to one without derivatives it is constant."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = plain(args), plain(kwargs)
        if type(input) is not Jet:
            return function(input, *args, **kwargs)
        value = function(input.value, *args, **kwargs)
        if not value.is_floating_point() and not value.is_complex():
            return value
        precision = torch.finfo(value.dtype).eps
        input.propagation.coarsest = max(input.propagation.coarsest, precision)  # for whoever compares the results
        rows = tuple(None if c is None else c.to(value.dtype).to(value.device) for c in input.coefficients)
        return _view(input, Jet(value, rows, input.frame))

    return rule


def contiguous(input: Jet, **options: Any) -> Jet:
    """The same tensor where it is contiguous."""
    if input.pending is not None or input.value.is_contiguous(**options):
        return input
    return copied(input)


def copied(input: Jet, **_: Any) -> Jet:
    """``clone``: nothing in place reaches the numbers of a jet, so there is nothing to copy."""
    result = Jet(None, (), input._frame)
    result._value, result._coefficients, result.pending = input._value, input._coefficients, input.pending
    result.versions = input.versions
    return result


def same(input: Jet, *_: Any, **__: Any) -> Jet:
    """What leaves a tensor as it is."""
    return input


def install() -> None:
    """Enter the rules of this file."""
    method = torch.Tensor
    named(reshape, "reshape", "view")
    named(_as_other(reshape, torch.reshape), "reshape_as", "view_as")
    named(flatten, "flatten", "ravel")
    named(unflatten, "unflatten")
    named(expand, "expand", "broadcast_to")
    named(_as_other(expand, torch.broadcast_to), "expand_as")
    named(repeat, "repeat")
    named(squeeze, "squeeze")
    named(unsqueeze, "unsqueeze")
    named(permute, "permute")
    named(flip, "flip")
    named(transposed, "t")
    add(transposed, method.mT.__get__)  # type: ignore[attr-defined]
    add(reversed_axes, method.T.__get__)  # type: ignore[attr-defined]
    for name, dims, viewing in (
        ("transpose", ("dim0", "dim1"), True),
        ("swapaxes", ("axis0", "axis1"), True),
        ("swapdims", ("dim0", "dim1"), True),
        ("movedim", ("source", "destination"), True),
        ("moveaxis", ("source", "destination"), True),
        ("cumsum", ("dim",), False),
        ("index_select", ("dim",), False),
    ):
        for function in forms(name):
            add(_by_dims(function, dims, viewing), function)
    add(getitem, method.__getitem__)
    add(writing(setitem), method.__setitem__)
    add(writing(copy_), method.copy_)
    add(writing(fill_), method.fill_, torch.fill_)
    add(writing(zero_), method.zero_, torch.zero_)
    named(unbind, "unbind")
    named(select, "select")
    named(narrow, "narrow")
    add(_pieces(lambda x, sizes, dim: x.split(sizes, dim)), torch.split, torch._VF.split, method.split)  # type: ignore[attr-defined]
    named(_pieces(lambda x, sizes, dim: x.split(sizes, dim)), "split_with_sizes")
    named(_pieces(lambda x, sizes, dim: x.chunk(sizes, dim)), "chunk")
    named(_pieces(lambda x, sizes, dim: x.tensor_split(sizes, dim)), "tensor_split")
    named(cat, "cat", "concat", "concatenate")
    add(stack, torch.stack)
    named(_all_dims(torch.sum), "sum")
    named(_all_dims(torch.mean), "mean")
    for name in ("to", "float", "double", "half", "bfloat16", "chalf", "cfloat", "cdouble", "type", "type_as"):
        for function in forms(name):
            add(cast(function), function)
    named(copied, "clone", keeps_frame=True)
    named(contiguous, "contiguous", keeps_frame=True)
    named(same, "requires_grad_", "positive", "cpu", keeps_frame=True)
