"""Operations that keep rows of blocks, and sums over parts, whose rows in full are those of the parts side by side.

Each handler is given a call and says by which rule it is done, or None where its jets need their rows in full
(``jet/blockwise.py``).  What a rule computes entry by entry, or along other axes than that of the parts, is done by the
rule itself, on the fewer rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core import caches
from ...core.torch_private import math_attention
from ...evaluation.sample_axis_rules import tensors_in
from ..blocks import Blocks
from ..blockwise import Call, in_blocks
from ..build import aligned
from ..frame import Frame, plus
from ..jet import Jet
from . import constants
from .algebra import inverse_if_any
from .shared import Rows, Rule, all_dims, from_end, functions_of

Tensor = torch.Tensor
Found = Rule | None


def _then(call: Call, blocks: Blocks) -> Rule:
    """The rule, whose result has these blocks."""

    def rule(*args: Any, **kwargs: Any) -> Any:
        parent = call.jets[0].frame.parent
        assert parent is not None
        return in_blocks(call.rule(*args, **kwargs), parent.of_blocks(blocks))

    return call.rule if blocks == call.blocks else rule


def _argument(call: Call, place: int, *names: str) -> Any:
    for name in names:
        if name in call.kwargs:
            return call.kwargs[name]
    return call.args[place] if len(call.args) > place else None


def _others_fit(call: Call, axis: int, size: int) -> bool:
    """Whether tensors that are broadcast with the jets leave an axis as it is."""
    for tensor in tensors_in((*call.args, *call.kwargs.values())):
        if tensor.dim() >= -axis and tensor.shape[axis] not in (1, size):
            return False
    return True


# -------------------------------------------------------------------- entry by entry


def elementwise(call: Call) -> Found:
    """Entry by entry, of tensors that are broadcast with each other."""
    blocks = call.blocks
    return call.rule if blocks is not None and _others_fit(call, blocks.axis, len(blocks.owners)) else None


def constant(call: Call) -> Found:
    """Of the values alone."""
    return call.rule


def fresh(call: Call) -> Found:
    """A new tensor of zeros or the like, of any shape: no part moves it."""

    def rule(*args: Any, **kwargs: Any) -> Any:
        result = call.rule(*args, **kwargs)
        if type(result) is Jet and result._frame.parent is not None:
            result._frame = result._frame.parent
        return result

    return rule


def composed(call: Call) -> Found:
    """Made of other operations on jets, each of which is asked for itself."""
    return call.rule


# -------------------------------------------------------------------- along axes


def reduced(call: Call, keeps: bool = False) -> Found:
    """Along axes that are not that of the parts."""
    if call.blocks is None or len(call.jets) != 1 or type(call.args[0]) is not Jet:
        return None
    dim = _argument(call, 1, "dim", "axis")
    if isinstance(dim, bool) or (keeps and dim is None):
        return None
    axis = call.blocks.axis
    dims = all_dims(dim, call.args[0].dim())
    if axis in dims:
        return None
    keepdim = keeps or bool(_argument(call, 2, "keepdim", "keepdims"))
    return _then(call, call.blocks._replace(axis=axis if keepdim else axis + sum(d > axis for d in dims)))


def along(call: Call) -> Found:
    """What keeps its axis."""
    return reduced(call, True)


def added_up(function: Callable[..., Tensor]) -> Callable[[Call], Found]:
    """Sums and means, over parts too."""

    def handler(call: Call) -> Found:
        return reduced(call) or (None if call.blocks is None else rule)

    def rule(input: Jet, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
        blocks, frame = input.frame.blocks, input.frame.parent
        assert blocks is not None
        assert frame is not None
        dims = all_dims(dim, input.dim())
        others = [d for d in dims if d != blocks.axis]
        value = function(input.value, dims, keepdim, dtype=dtype)
        first, *second = (input.full(order) for order in range(1, frame.layout.order + 1))
        if first is not None:
            first = function(first, others, True, dtype=dtype) if others else first.to(value.dtype)
            first = blocks.by_part(first)
            if function is torch.mean:
                first = first / len(blocks.owners)
            first = first.unsqueeze(first.dim() + blocks.axis + 1)
            first = first if keepdim else first.squeeze(dims)
        rows = [None if stack is None else function(stack, dims, keepdim, dtype=dtype) for stack in second]
        return Jet(value, (first, *rows), frame)

    return handler


# -------------------------------------------------------------------- shapes


def traced(call: Call) -> Found:
    """Views: the axis of the parts is followed by its stride in one where no other has any."""
    blocks = call.blocks
    if blocks is None or len(call.jets) != 1 or type(call.args[0]) is not Jet or len(blocks.owners) < 2:
        return None
    index = call.args[1:] if call.function is torch.Tensor.__getitem__ else ()
    items = index[0] if index and isinstance(index[0], tuple) else index
    if not all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in items):
        return None
    input = call.args[0]
    marks = torch.empty(len(blocks.owners), device="meta").reshape(-1, *(1,) * (-1 - blocks.axis)).expand(input.shape)
    views = call.function(marks, *call.args[1:], **call.kwargs)
    if isinstance(views, Tensor):
        found = _seen(blocks, views)
        return None if found is None else _then(call, found)
    several = [_seen(blocks, view) for view in views]
    if any(one is None for one in several):
        return None

    def rule(*args: Any, **kwargs: Any) -> Any:
        frame = call.args[0].frame.parent
        pairs = zip(call.rule(*args, **kwargs), several, strict=True)
        return tuple([in_blocks(jet, frame.of_blocks(one)) for jet, one in pairs])

    return rule


def _seen(blocks: Blocks, view: Tensor) -> Blocks | None:
    """The blocks of a view by its strides; None where it has none of the parts, or one, or they lie on two axes."""
    axes = [place - view.dim() for place, size in enumerate(view.shape) if size > 1 and view.stride(place)]
    if len(axes) != 1 or 0 in view.shape:
        return None
    start, step = view.storage_offset(), view.stride(axes[0])
    owners = tuple([blocks.owners[start + step * place] for place in range(view.shape[axes[0]])])
    return blocks._replace(axis=axes[0], owners=owners)


def reshaped(call: Call) -> Found:
    """Another shape, in which as many entries come before each part and after it."""
    blocks = call.blocks
    if blocks is None or len(call.jets) != 1 or type(call.args[0]) is not Jet or len(blocks.owners) < 2:
        return None
    shape = call.args[0].shape
    result = call.function(torch.empty(shape, device="meta"), *call.args[1:], **call.kwargs).shape
    after = shape[len(shape) + blocks.axis + 1 :].numel()
    for place in range(len(result)):
        if result[place] == len(blocks.owners) and result[place + 1 :].numel() == after:
            return _then(call, blocks._replace(axis=place - len(result)))
    return None


def concatenated(call: Call) -> Found:
    """Along another axis than that of the parts."""
    tensors, blocks = call.args[0], call.blocks
    if blocks is None or not isinstance(tensors, list | tuple):
        return None
    if any(tensor.dim() < -blocks.axis for tensor in tensors):
        return None
    at = from_end(_argument(call, 1, "dim", "axis") or 0, tensors[0].dim())
    sizes = {tensor.shape[blocks.axis] for tensor in tensors}
    return None if at == blocks.axis or sizes != {len(blocks.owners)} else call.rule


def stacked(call: Call) -> Found:
    """Along a new axis."""
    tensors, blocks = call.args[0], call.blocks
    if blocks is None or not isinstance(tensors, list | tuple):
        return None
    at = from_end(_argument(call, 1, "dim", "axis") or 0, tensors[0].dim() + 1)
    after = at > blocks.axis - 1
    return _then(call, blocks._replace(axis=blocks.axis - 1 if after else blocks.axis))


# -------------------------------------------------------------------- products


def layer(call: Call) -> Found:
    """A linear layer of each part."""
    input, weight = call.args[0], _argument(call, 1, "weight")
    if call.blocks is None or len(call.jets) != 1 or type(input) is not Jet or call.blocks.axis == -1:
        return None
    return call.rule if weight.dim() == 2 else None


def product(call: Call) -> Found:
    """Products of matrices, in which no part meets another, or all do."""
    if len(call.args) != 2 or call.kwargs:
        return None
    left, right = call.args
    if not all(isinstance(one, Tensor | Jet) and one.dim() > 1 for one in (left, right)):
        return None
    if call.blocks is not None and _apart(call, call.blocks):
        return call.rule
    one, two = (operand.frame.blocks if type(operand) is Jet else None for operand in (left, right))
    if one is not None and two is not None and one.all_in_order and two == one._replace(axis=-1) and one.axis == -2:
        return all_with_all
    if one is None and two is not None and two.all_in_order and two.axis == -2:
        return mixed if type(left) is not Jet or left.frame is right.frame.parent else None
    return None


def _apart(call: Call, blocks: Blocks) -> bool:
    """Whether the axis of the parts is one of matrices, or is left as it is."""
    left, right = call.args
    if blocks.axis < -2:
        return _others_fit(call, blocks.axis, len(blocks.owners))
    one = left if blocks.axis == -2 else right
    return type(one) is Jet and len(call.jets) == 1


def all_with_all(left: Jet, right: Jet) -> Jet:
    """``x y`` where row p of x and column p of y move with part p: row and column p of the product do."""
    x, y, parent = left.value, right.value, left.frame.parent
    ours, theirs = left.frame.blocks, right.frame.blocks
    assert ours is not None
    assert theirs is not None
    assert parent is not None
    dx, dy = left.full(1), right.full(1)
    rows: list[Tensor | None] = [
        plus(
            None if dx is None else ours.spread(torch.matmul(aligned(dx, y.dim()), y)),
            None if dy is None else theirs.spread(torch.matmul(x, aligned(dy, x.dim()))),
        )
    ]
    if parent.layout.order == 2:
        second = _second(left, right)
        if dx is not None and dy is not None:  # of one part where its row meets its column
            met = (aligned(dx, dy.dim() - 1) * aligned(dy, dx.dim() - 1).mT).sum((0, -1))
            second = plus(second, torch.diag_embed(met).unsqueeze(0))
        rows.append(second)
    return _cast(torch.matmul(x, y), rows, parent)


def mixed(left: Any, right: Jet) -> Jet:
    """``x y`` where row p of y moves with part p, and x with any: no sum over parts is taken of what y moves."""
    x, y = left.value if type(left) is Jet else left, right.value
    blocks, parent = right.frame.blocks, right.frame.parent
    assert blocks is not None
    assert parent is not None
    value = torch.matmul(x, y)
    dx, dy = left.full(1) if type(left) is Jet else None, right.full(1)
    first = None if dx is None else torch.matmul(aligned(dx, y.dim()), y)
    if dy is not None:
        dim = max(x.dim(), y.dim())
        columns = aligned(x.unsqueeze(0), dim).movedim(-1, 0).unsqueeze(-1)  # (parts, 1, *, i, 1)
        moved = aligned(dy, dim).movedim(-2, 0).unsqueeze(-2)  # (parts, each, *, 1, k)
        own = (columns * moved).flatten(0, 1)
        first = own if first is None else first + own
    rows = [first]
    if parent.layout.order == 2:
        second = _second(left, right)
        if dx is not None and dy is not None:
            by_part = dx.reshape(blocks.parts, blocks.each, *dx.shape[1:]).diagonal(
                dim1=0, dim2=-1
            )  # (each, *, i, parts)
            second = plus(second, torch.matmul(aligned(by_part, dy.dim() - 1), aligned(dy, dx.dim() - 1)).sum(0, True))
        rows.append(second)
    return _cast(value, rows, parent)


def _cast(value: Tensor, rows: Rows, frame: Frame) -> Jet:
    """Rows have the dtype of the value, which autocast may have chosen."""
    return Jet(value, tuple([None if stack is None else stack.to(value.dtype) for stack in rows]), frame)


def _second(left: Any, right: Jet) -> Tensor | None:
    """The second-order row of a product, without what both move."""
    one = left.full(2) if type(left) is Jet else None
    two = right.full(2)
    x = left.value if type(left) is Jet else left
    found = None if one is None else torch.matmul(aligned(one, right.dim()), right.value)
    return plus(found, None if two is None else torch.matmul(x, aligned(two, x.dim())))


# -------------------------------------------------------------------- determinants


def slogdet(call: Call) -> Found:
    """Of a matrix with a row, or a column, for each part: each moves it in one row only."""
    blocks, A = call.blocks, call.args[0]  # noqa: N806
    if blocks is None or type(A) is not Jet or blocks.axis not in (-1, -2) or A.dtype.is_complex:
        return None
    return _slogdet if len(set(blocks.owners)) == len(blocks.owners) else None


def _slogdet(A: Jet) -> Any:  # noqa: N803
    """With first derivatives ``g``, each by what moves one row, the second row is ``tr(A^-1 A_2) - sum g^2 / 2``."""
    values = torch.linalg.slogdet(A.value)
    blocks, parent = A.frame.blocks, A.frame.parent
    assert blocks is not None
    assert parent is not None
    inverse = inverse_if_any(A.value).mT
    summed = -3 - blocks.axis  # the other axis of the matrix
    first, *others = (A.full(order) for order in range(1, A.frame.layout.order + 1))
    slopes = None if first is None else (first * inverse).sum(summed)  # (each, *, parts)
    rows: list[Tensor | None] = [None if slopes is None else blocks._replace(axis=-1).by_part(slopes)]
    for second in others:
        curved = None if second is None else (second * inverse).sum((-2, -1))
        bent = None if slopes is None else -0.5 * slopes.square().sum((0, -1)).unsqueeze(0)
        rows.append(plus(curved, bent))
    return type(values)((values[0], Jet(values[1], tuple(rows), parent)))


# -------------------------------------------------------------------- entered

REDUCING = ("amax", "amin", "prod", "var", "std", "logsumexp", "nansum", "nanmean")
ALONG = ("softmax", "log_softmax", "cumsum", "cumprod")
VIEWS = (
    *("unsqueeze", "squeeze", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "expand", "t"),
    *("broadcast_to", "narrow", "select", "unbind", "split", "split_with_sizes", "chunk", "tensor_split"),
)
RESHAPING = ("reshape", "view", "flatten", "unflatten", "ravel")


def install() -> None:
    """Enter what this file knows, for operations that have rules."""
    method: Any = torch.Tensor
    linalg = torch.linalg
    views = [*functions_of(*VIEWS), method.T.__get__, method.mT.__get__, method.__getitem__]
    norms = [linalg.vector_norm, linalg.norm, torch.norm, method.norm, F.layer_norm, torch.layer_norm, torch.rms_norm]
    plain_values = functions_of(*constants.CONSTANT)
    plain_values += [getattr(method, name) for name in constants.CONSTANT_METHODS]
    plain_values += [*constants.attributes(), *functions_of("detach")]
    table: list[tuple[Callable[[Call], Found], list[Any]]] = [
        (elementwise, [*functions_of("pow", "float_power", "addcmul", "addcdiv", "lerp")]),
        (elementwise, [method.__pow__, *functions_of("to", "float", "double", "half", "bfloat16")]),
        (constant, plain_values),
        (fresh, functions_of(*constants.LIKE)),
        (composed, [*norms, F.scaled_dot_product_attention, math_attention, math_attention.default]),
        (composed, [F.multi_head_attention_forward]),
        (reduced, functions_of(*REDUCING)),
        (along, [*functions_of(*ALONG)]),
        (added_up(torch.sum), functions_of("sum")),
        (added_up(torch.mean), functions_of("mean")),
        (traced, views),
        (reshaped, functions_of(*RESHAPING)),
        (concatenated, functions_of("cat", "concat", "concatenate")),
        (stacked, [torch.stack]),
        (layer, [F.linear]),
        (product, [*functions_of("matmul", "bmm"), method.__matmul__]),
        (slogdet, [linalg.slogdet, *functions_of("slogdet")]),
    ]
    caches.BLOCKWISE.update({function: handler for handler, functions in table for function in functions})
    others = {"elementwise": elementwise, "composed": composed, "cutting": frozenset(functions_of(*RESHAPING))}
    caches.BLOCKWISE.update(others)  # for whatever has a rule of such a kind; what may cut an input of one axis
