"""What rules of several families are made of: torch's own value, rows order by order, axes; how they are entered."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...core.levels import differentiated_again, grad_mode
from ...evaluation.corrections.expansion import exactly_where_finite
from ..build import Operand, aligned, frame_of, linear
from ..frame import Frame, plus
from ..jet import Coefficients, Jet
from ..layout import Product
from ..registry import add, forms
from ..root import with_value
from ..values import plain

Tensor = torch.Tensor
Rule = Callable[..., Any]
Operation = Any
"""A function that torch hands over, or the name of every form of one."""
Rows = Sequence[Tensor | None]
"""By order, from the first; None for zero."""


# -------------------------------------------------------------------- entered


def enter(rules: Mapping[Operation, Rule], keeps_frame: bool = False) -> None:
    """Let each rule stand for its operation."""
    for operation, rule in rules.items():
        add(rule, *functions_of(operation), keeps_frame=keeps_frame)


def enter_valued(bodies: Mapping[Operation, Rule], keeps_frame: bool = False) -> None:
    """Let each body, with torch's own value, stand for its operation."""
    enter({operation: valued(functions_of(operation)[0], body) for operation, body in bodies.items()}, keeps_frame)


def enter_each(rule_of: Callable[[Any], Rule], *operations: Operation, keeps_frame: bool = False) -> None:
    """Let the rule that is made of it stand for every function of these operations."""
    for function in functions_of(*operations):
        add(rule_of(function), function, keeps_frame=keeps_frame)


def functions_of(*operations: Operation) -> list[Any]:
    """Every function of these operations."""
    every = [forms(operation) if isinstance(operation, str) else [operation] for operation in operations]
    return list(itertools.chain.from_iterable(every))


def reflected(rule: Rule) -> Rule:
    """The rule of an operator whose tensor stands on the right."""

    def swapped(input: Any, other: Any, **options: Any) -> Any:
        return rule(other, input, **options)

    return swapped


# -------------------------------------------------------------------- values


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
    return with_value(value, result)


# -------------------------------------------------------------------- rows of several operands


def rows_of(operand: Operand, frame: Frame) -> Coefficients:
    """The rows of each order; those of a constant are zero."""
    return operand.coefficients if type(operand) is Jet else (None,) * frame.layout.order


def full_rows_of(operand: Operand, frame: Frame) -> Coefficients:
    """The rows of each order in full shape."""
    orders = range(1, frame.layout.order + 1)
    return tuple([operand.full(order) for order in orders]) if type(operand) is Jet else (None,) * len(orders)


def order_by_order(
    value: Tensor,
    operands: Sequence[Operand],
    on_rows: Callable[..., Tensor],
    rows: Callable[..., Coefficients] = rows_of,
) -> Jet:
    """A jet whose rows of each order are made of those of the operands, of which None is zero; of zeros alone, zero."""
    frame = frame_of(*operands)
    found: list[Tensor | None] = []
    for stacks in zip(*[rows(operand, frame) for operand in operands], strict=True):
        zero = all([stack is None for stack in stacks])  # noqa: C419  # Dynamo traces lists better
        found.append(None if zero else on_rows(*stacks))
    return Jet(value, tuple(found), frame)


def jointly(value: Tensor, operands: Sequence[Operand], on_rows: Callable[..., Tensor]) -> Jet:
    """A map that is linear in several tensors together; ``on_rows`` takes the rows of each, zeros for a constant."""

    def on_all(*stacks: Tensor | None) -> Tensor:
        count = next(len(stack) for stack in stacks if stack is not None)
        pairs = zip(stacks, operands, strict=True)
        return on_rows(
            *[
                value.new_zeros(()).expand(count, *getattr(operand, "shape", ()))
                if stack is None
                else stack.to(value.dtype)
                for stack, operand in pairs
            ]
        )

    return order_by_order(value, operands, on_all, full_rows_of)


def row_by_row(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What acts on stacked rows as an operation that has no axis in front to spare."""
    return lambda *stacks: torch.stack([operation(*rows) for rows in zip(*stacks, strict=True)])


def merged(value: Tensor, *parts: tuple[Tensor, Operand]) -> Jet:
    """The sum of the rows of operands, each where its mask says or times its weight."""
    weights, operands = zip(*parts, strict=True)

    def total(*stacks: Tensor | None) -> Tensor:
        found: Tensor | None = None
        for weight, rows in zip(weights, stacks, strict=True):
            if rows is not None:
                wide = aligned(rows, value.dim()).to(value.dtype)
                found = plus(found, torch.where(weight, wide, 0.0) if weight.dtype == torch.bool else wide * weight)
        assert found is not None
        return found

    return order_by_order(value, operands, total)


def switched(value: Tensor, mask: Tensor, one: Operand, other: Operand) -> Jet:
    """The rows of ``one`` where the mask holds, those of ``other`` elsewhere."""

    def chosen(*stacks: Tensor | None) -> Tensor:
        yes, no = (0.0 if stack is None else aligned(stack, value.dim()).to(value.dtype) for stack in stacks)
        return torch.where(mask, yes, no)

    return order_by_order(value, (one, other), chosen)


def gathered(input: Jet, value: Tensor, dim: int, index: Tensor) -> Jet:
    """The elements at an index along an axis, whose values are known."""
    if not input.dim():  # the only axis of its rows is theirs
        return linear(input, lambda _: value, lambda rows: aligned(rows, value.dim()).expand(len(rows), *value.shape))
    at = from_end(dim, input.dim())
    return linear(input, lambda _: value, lambda rows: rows.gather(at, index.expand(len(rows), *index.shape)))


# -------------------------------------------------------------------- recursions from order to order


def lower_orders(
    frame: Frame, n: int, left: Rows, right: Rows, product: Product = torch.matmul, start: Tensor | None = None
) -> Tensor | None:
    """``start + sum_{0<p<n} left_p right_{n-p}``; None for zero."""
    total = start
    for p in range(1, n):
        total = plus(total, frame.convolve(p, n - p, left[p - 1], right[n - p - 1], product))
    return total


def minus(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """The difference of rows, of which None is zero."""
    if right is None:
        return left
    return -right if left is None else left - right


def moved_in_both(x: Any, y: Any) -> Coefficients:
    """Rows above the first order which, where both are zero, are not zero if both move along their directions."""
    total = power = x * y
    for _ in range(2, x.frame.layout.order):
        power = power * x
        total = total + power
    coefficients: Coefficients = total.coefficients
    return (None, *coefficients[1:])


# -------------------------------------------------------------------- shapes and axes


def broadcast(*operands: Any) -> tuple[int, ...]:
    """The shape that operands have together."""
    shape: tuple[int, ...] = torch.broadcast_shapes(*(operand.shape for operand in operands))  # type: ignore[no-untyped-call]
    return shape


def several(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes, axes or tensors that were given one by one, or as one sequence."""
    return tuple(items[0]) if len(items) == 1 and isinstance(items[0], list | tuple) else items


def from_end(dim: int, ndim: int) -> int:
    """An axis counted from the end, where rows have as many."""
    return dim if dim < 0 else dim - max(ndim, 1)


def all_dims(dim: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from the end; all of them for None or none."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return tuple(range(-ndim, 0))
    return tuple(from_end(d, ndim) for d in dim) if isinstance(dim, list | tuple) else (from_end(dim, ndim),)
