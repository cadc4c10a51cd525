"""Rows joined to an axis that an operation repeats over, or carried by ``torch.func.vmap``.

For linear operations that are rare, or that have no axis to spare; ``vmap`` costs about 100 us a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch.func import vmap

from .build import bilinear, filled, linear
from .frame import CannotFollowError
from .jet import Jet
from .values import jets_in, plain, replaced

Tensor = torch.Tensor
Rule = Callable[..., Any]


def in_batch(rows: Tensor, function: Callable[[Tensor], Tensor], axis: int = 0) -> Tensor:
    """``function`` of rows ``(R, *S)``, joined to an axis of S that it repeats over."""
    count, size = rows.shape[0], rows.shape[axis + 1]
    joined = rows.movedim(0, axis).flatten(axis, axis + 1)
    result = function(joined)
    return result.reshape(*result.shape[:axis], count, size, *result.shape[axis + 1 :]).movedim(axis, 0)


def unexpanded(rows: Tensor, like: Tensor, axis: int = 0) -> Tensor:
    """Rows in full shape, but for an axis along which they are the same."""
    shape = list(like.shape)
    if like.dim():
        shape[axis] = rows.shape[axis + 1]
    return rows.expand(rows.shape[0], *shape)


def batched(function: Callable[..., Tensor], rank: int | None = None, axis: int = 0) -> Rule:
    """The rule of what is linear in its first argument and repeats over an axis of it.

    ``rank``: with that many axes, or fewer, the argument is one sample without a batch axis; then rows are the batch.
    """

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        if type(input) is not Jet or jets_in(args, kwargs):
            raise CannotFollowError(f"{function.__name__} of differentiated arguments beside the first")

        def on_value(x: Tensor) -> Tensor:
            return function(x, *args, **kwargs)

        if rank is not None and input.dim() <= rank:
            return linear(input, on_value, on_value)
        rows = [
            c if c is None else in_batch(unexpanded(c, input.value, axis), on_value, axis) for c in input.coefficients
        ]
        return input.like(on_value(input.value), tuple(rows))

    return rule


def stacked(function: Callable[..., Tensor], viewing: bool = False) -> Rule:
    """The rule of what is linear in its first argument, with any number of axes in front of those that it acts on.

    ``viewing``: the result may be a view, so that neither may change in place.
    """

    def rule(input: Any, *args: Any, **kwargs: Any) -> Jet:
        if type(input) is not Jet or jets_in(args, kwargs):
            raise CannotFollowError(f"{function.__name__} of differentiated arguments beside the first")

        def on(x: Tensor) -> Tensor:
            return function(x, *args, **kwargs)

        result = linear(input, on, on)
        return input.seen_by(result) if viewing else result

    return rule


def mapped(function: Callable[..., Any], together: bool = False) -> Rule:
    """The rule of what is linear in its jets: all of them together, or just the one that there is.

    ``together``: plain tensors are summands or parts of the result as well, so that they are zero for the rows.
    """

    def rule(*args: Any, **kwargs: Any) -> Any:
        jets = list({id(jet): jet for jet in jets_in(args, kwargs)}.values())
        if len(jets) > 1 and not together:
            raise CannotFollowError(f"{function.__name__} of several differentiated tensors")
        places = {id(jet): place for place, jet in enumerate(jets)}
        fixed = _zeroed((args, kwargs)) if together else (args, kwargs)

        def on_rows(*rows: Tensor) -> Any:
            given = replaced(fixed, lambda jet: rows[places[id(jet)]])
            return tuple(optree.tree_leaves(function(*given[0], **given[1])))

        values, spec = optree.tree_flatten(function(*plain(args), **plain(kwargs)))
        frame = jets[0].frame
        columns = [_over_rows(on_rows, jets, order) for order in range(1, frame.layout.order + 1)]
        results = [
            Jet(value, tuple(None if column is None else column[place] for column in columns), frame)
            for place, value in enumerate(values)
        ]
        return optree.tree_unflatten(spec, results)

    return rule


def _zeroed(tree: Any) -> Any:
    """The tree with zeros in place of its plain tensors."""
    if isinstance(tree, Tensor):
        return torch.zeros_like(tree)
    if isinstance(tree, list | tuple):
        return type(tree)([_zeroed(item) for item in tree])
    return {key: _zeroed(item) for key, item in tree.items()} if isinstance(tree, dict) else tree


def _over_rows(function: Callable[..., Any], jets: Sequence[Jet], order: int) -> tuple[Tensor, ...] | None:
    rows = filled(jets, order)
    if rows is None:
        return None
    result: tuple[Tensor, ...] = vmap(function)(*rows)
    return result


def mapped_product(x: Any, y: Any, product: Callable[[Tensor, Tensor], Tensor]) -> Jet:
    """What is linear in each of two operands, for rows by ``vmap``."""

    def full(rows: Tensor, operand: Any) -> Tensor:
        return rows.expand(rows.shape[0], *operand.shape)

    return bilinear(
        x,
        y,
        product,
        lambda rows, value: vmap(product, (0, None))(full(rows, x), value),
        lambda value, rows: vmap(product, (None, 0))(value, full(rows, y)),
        lambda left, right: vmap(product)(full(left, x), full(right, y)),
    )
