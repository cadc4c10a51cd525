"""What rules of several families are made of: torch's own value, rows chosen by masks, maps linear in several jets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...core.levels import differentiated_again, grad_mode
from ...evaluation.corrections.expansion import exactly_where_finite
from ..build import Operand, aligned, frame_of, linear
from ..jet import Jet
from ..values import plain
from .structure import from_end

Tensor = torch.Tensor
Rule = Callable[..., Any]


def valued(native: Callable[..., Any], body: Rule) -> Rule:
    """The rule that takes the rows of ``body``, which is written in operations on jets, and torch's own value."""

    def rule(*args: Any, **kwargs: Any) -> Any:
        result = body(*args, **kwargs)
        if type(result) is not Jet:
            return native(*plain(args), **plain(kwargs))
        with grad_mode(False):
            value = native(*plain(args), **plain(kwargs))
        return exact_value(value, result)

    return rule


def exact_value(value: Tensor, result: Jet) -> Jet:
    """A jet with torch's own value, of which the expansion is recorded: its derivatives of any order are right."""
    if differentiated_again():
        value = exactly_where_finite(value, result.value)
    return Jet(value, result.coefficients, result.frame)


def jointly(value: Tensor, operands: tuple[Operand, ...], on_rows: Callable[..., Tensor]) -> Jet:
    """A map that is linear in several tensors together; ``on_rows`` takes the rows of each, zeros for a constant."""
    frame = frame_of(*operands)
    found: list[Tensor | None] = []
    for order, size in enumerate(frame.layout.sizes, start=1):
        stacks = [operand.full(order) if type(operand) is Jet else None for operand in operands]
        if all(stack is None for stack in stacks):
            found.append(None)
            continue
        rows = [
            value.new_zeros(()).expand(size, *getattr(operand, "shape", ())) if stack is None else stack.to(value.dtype)
            for stack, operand in zip(stacks, operands, strict=True)
        ]
        found.append(on_rows(*rows))
    return Jet(value, tuple(found), frame)


def row_by_row(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What acts on stacked rows as an operation that has no axis in front to spare."""
    return lambda *stacks: torch.stack([operation(*rows) for rows in zip(*stacks, strict=True)])


def merged(value: Tensor, *parts: tuple[Tensor, Operand]) -> Jet:
    """The sum of the rows of operands, each where its mask says or times its weight."""
    frame = frame_of(*(operand for _, operand in parts))
    found: list[Tensor | None] = []
    for order in range(frame.layout.order):
        total: Tensor | None = None
        for weight, operand in parts:
            rows = operand.coefficients[order] if type(operand) is Jet else None
            if rows is None:
                continue
            rows = aligned(rows, value.dim()).to(value.dtype)
            rows = torch.where(weight, rows, 0.0) if weight.dtype == torch.bool else rows * weight
            total = rows if total is None else total + rows
        found.append(total)
    return Jet(value, tuple(found), frame)


def switched(value: Tensor, mask: Tensor, one: Operand, other: Operand) -> Jet:
    """The rows of ``one`` where the mask holds, those of ``other`` elsewhere."""
    frame = frame_of(one, other)
    found: list[Tensor | None] = []
    for order in range(frame.layout.order):
        stacks = [operand.coefficients[order] if type(operand) is Jet else None for operand in (one, other)]
        if all(stack is None for stack in stacks):
            found.append(None)
            continue
        yes, no = (0.0 if stack is None else aligned(stack, value.dim()).to(value.dtype) for stack in stacks)
        found.append(torch.where(mask, yes, no))
    return Jet(value, tuple(found), frame)


def gathered(input: Jet, value: Tensor, dim: int, index: Tensor) -> Jet:
    """The elements at an index along an axis, whose values are known."""
    if not input.dim():  # the only axis of its rows is theirs
        shape = value.shape
        return linear(
            input, lambda _: value, lambda rows: rows.reshape(-1, *(1 for _ in shape)).expand(len(rows), *shape)
        )
    at = from_end(dim, input.dim())
    return linear(input, lambda _: value, lambda rows: rows.gather(at, index.expand(len(rows), *index.shape)))


def broadcast(*operands: Any) -> tuple[int, ...]:
    """The shape that operands have together."""
    shape: tuple[int, ...] = torch.broadcast_shapes(*(operand.shape for operand in operands))  # type: ignore[no-untyped-call]
    return shape


def all_dims(dim: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from the end; all of them for None or none."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return tuple(range(-ndim, 0))
    return tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else (from_end(dim, ndim),)
