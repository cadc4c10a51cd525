"""A small network on jets: value and all rows in one stack, all layers in one node of autograd's graph.

A small call waits for operations to be launched, not for arithmetic.  So a layer multiplies value and rows at once, an
activation is a few operations on the stack, and autograd records one node for all.  The formulas are ``fused.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from ..core.levels import inside_transform
from .frame import Frame, Propagation
from .fused import Elementwise, Quadratic, gradients_at
from .jet import Jet
from .layout import Layout, Table

Tensor = torch.Tensor
Part = Tensor | None
SECOND = 2
ONE_HOT = "one-hot"
"""What stands for the one-hot rows of the input."""
WRITING: dict[Quadratic, Callable[..., Tensor]] = {(1, 0): torch.tanh_, (0, 1): torch.sigmoid_}
"""By ``a, b`` where ``g' = a + b g - g^2``: the function itself, in place."""


class Pick(NamedTuple):
    """A result: a row of the stack, a column of it or all of them, and a number to multiply by."""

    row: int
    column: int | None
    factor: float


def recorded(value: Tensor, tensors: Sequence[Part]) -> bool:
    """Whether autograd records a graph."""
    return torch.is_grad_enabled() and (
        value.requires_grad or any(tensor is not None and tensor.requires_grad for tensor in tensors)
    )


class Network(NamedTuple):
    """What of an evaluation is no tensor to differentiate by.

    ``rows``: those of the input, by order, the same for all samples: one-hot ones by name.  ``functions``: those of the
    activations.  ``one``: a tensor of a single one.  ``picks``: what is wanted of the output; without it, value and
    rows.
    """

    layout: Layout
    rows: tuple[Any, ...]
    functions: tuple[Elementwise, ...]
    one: Tensor
    picks: tuple[Pick, ...] = ()

    def of(self, value: Tensor, tensors: Sequence[Part]) -> tuple[Tensor, ...]:
        """Value and rows of the output, or what is picked of them, as one node where autograd records."""
        if len(tensors) > 2 * len(self.functions) and self.picks and all(pick.row for pick in self.picks):
            tensors = (*tensors[:-1], None)  # the last bias, which derivatives do not have, and so nor gradients by it
        if recorded(value, tensors):
            return _Node.apply(self, value, *tensors)  # type: ignore[no-untyped-call, no-any-return]
        return self.forward(value, tensors, None)

    def forward(self, value: Tensor, tensors: Sequence[Part], kept: list[Tensor] | None) -> tuple[Tensor, ...]:
        """Value and rows of the output; what the backward needs is added to what is ``kept``."""
        sizes = [1, *self.layout.sizes]
        weights: Any = tensors[::2]
        stack = self._first(value, weights[0], sizes)
        self._activate(self.functions[0], stack, tensors[1], sizes, kept)
        for whole, weight, bias in zip(self.functions[1:], weights[1:], tensors[3::2], strict=False):
            stack = F.linear(stack, weight)
            self._activate(whole, stack, bias, sizes, kept)
        if self.picks:
            return tuple([_picked(pick, stack, weights[-1], tensors[-1]) for pick in self.picks])
        y, *z = torch.split_with_sizes(stack, sizes)
        if len(weights) == len(self.functions):
            return (y[0].detach(), *[rows.detach() for rows in z])  # views for nobody else
        return (F.linear(y[0], weights[-1], tensors[-1]), *[F.linear(rows, weights[-1]) for rows in z])

    def _first(self, value: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        """The stack of the first layer, without its bias."""
        stack = value.new_empty((sum(sizes), value.shape[0], weight.shape[0]))
        y, *z = torch.split_with_sizes(stack, sizes)
        torch.mm(value, weight.t(), out=y[0])
        for rows, part in zip(self.rows, z, strict=True):
            if rows is None:
                part.zero_()
            elif rows is ONE_HOT:
                part.copy_(weight.t().unsqueeze(1))
            else:
                part.copy_(F.linear(rows, weight))
        return stack

    def _activate(
        self, whole: Elementwise, stack: Tensor, bias: Part, sizes: list[int], kept: list[Tensor] | None
    ) -> None:
        """Put the activation of a stack, once the bias is added to its value, in its place."""
        layout = self.layout
        y, *z = torch.split_with_sizes(stack, sizes)
        if bias is not None:
            y.add_(bias)
        if whole.quadratic is None:
            self._by_formula(whole, stack, y, z, sizes, kept)
            return
        WRITING[whole.quadratic](y)
        slope = torch.addcmul(self.one if whole.quadratic[0] else y, y, y, value=-1)
        factor, scale = _factor(whole.quadratic, y)
        if layout.order == 2:  # of which no row has to be kept as it was
            moved = z[0] * factor
            stack[1:].mul_(slope)
            _accumulate(layout, 1, 1, z[1], moved, z[0], 0.5 * scale)
        elif layout.order == 1:
            z[0].mul_(slope)
        else:
            lower = torch.split_with_sizes(stack[1 : -sizes[-1]].clone(), sizes[1:-1])
            stack[1:].mul_(slope)
            h: list[Part] = []
            for n in range(2, layout.order + 1):
                h.append(_slope_rows(layout, n - 1, z, factor, scale))
                _convolve(layout, n, z, lower, h, scale)
        if kept is not None:
            kept += (stack, slope)

    def _by_formula(
        self,
        whole: Elementwise,
        stack: Tensor,
        y: Tensor,
        z: Sequence[Tensor],
        sizes: list[int],
        kept: list[Tensor] | None,
    ) -> None:
        """Put an activation in place whose g' is no quadratic of g: by the formula of Faa di Bruno for g'."""
        value, *x = torch.split_with_sizes(stack.clone(), sizes)
        y.copy_(whole.function(value))
        slope, *others = whole.derivatives(value, y, self.layout.order + 1)
        h = whole.composed(self._jet(value, x), others)
        stack[1:].mul_(slope)
        for n in range(2, self.layout.order + 1):
            _convolve(self.layout, n, z, x, h, 1.0)
        if kept is not None:
            slopes = torch.zeros_like(stack)
            for rows, part in zip((slope, *h), torch.split_with_sizes(slopes, sizes), strict=True):
                if rows is not None:
                    part.copy_(rows)
            kept += [stack, slopes]

    def backward(
        self, value: Tensor, tensors: Sequence[Part], kept: Sequence[Tensor], needed: Sequence[bool], gradients: Any
    ) -> list[Part]:
        """The gradients by the value and by the tensors, as far as they are ``needed``."""
        found: list[Part] = [None] * len(needed)
        sizes = [1, *self.layout.sizes]
        weights: Any = tensors[::2]
        cotangent = self._put_together(gradients, kept[-2], weights[-1].shape[0])
        for number in reversed(range(len(weights))):
            if number < len(self.functions):  # else that of the last layer
                cotangent = self._pulled_back(number, kept, cotangent, sizes)
            if number == 0:
                break
            place, below = 1 + 2 * number, kept[2 * number - 2]
            if needed[place]:
                found[place] = torch.mm(cotangent.view(-1, cotangent.shape[-1]).t(), below.view(-1, below.shape[-1]))
            if needed[place + 1]:
                found[place + 1] = cotangent[0].sum(0)
            if not any(needed[:place]):
                return found
            cotangent = torch.matmul(cotangent, weights[number])
        found[:3] = self._by_first(value, weights[0], cotangent, needed)
        return found

    def _pulled_back(self, number: int, kept: Sequence[Tensor], cotangent: Tensor, sizes: list[int]) -> Tensor:
        """The gradient by what an activation is of."""
        quadratic, squares = self.functions[number].quadratic, self.layout.table(1, 1)
        if quadratic is not None and self.layout.order == SECOND and squares is not None and _paired(squares):
            return _pulled_back_twice(quadratic, squares, kept[2 * number], kept[2 * number + 1], cotangent, sizes)
        scale, slope, h = self._slopes(number, kept, sizes)
        return _pulled_back(self.layout, scale, slope, h, cotangent, sizes)

    def _slopes(self, number: int, kept: Sequence[Tensor], sizes: list[int]) -> tuple[float, Tensor, Tensor]:
        """Of an activation a number, the value of ``g'``, and the rows of that without the number."""
        quadratic, (stack, slope) = self.functions[number].quadratic, kept[2 * number : 2 * number + 2]
        if quadratic is None:
            return 1.0, slope[:1], slope[1:]
        factor, scale = _factor(quadratic, stack[:1])
        h = stack[1:] * factor
        if self.layout.order > 1:
            z, rows = torch.split_with_sizes(stack, sizes)[1:], torch.split_with_sizes(h, sizes[1:])
            for n in range(2, self.layout.order + 1):
                _take_squares(self.layout, n, z, rows[n - 1], scale)
        return scale, slope, h

    def _by_first(self, value: Tensor, weight: Tensor, cotangent: Tensor, needed: Sequence[bool]) -> list[Part]:
        """The gradients by the value, the weight and the bias of the first layer."""
        by_value = torch.mm(cotangent[0], weight) if needed[0] else None
        if not any(needed[1:3]):
            return [by_value, None, None]
        by_bias, *sums = torch.split_with_sizes(cotangent.sum(1), [1, *self.layout.sizes])
        by_weight = torch.mm(cotangent[0].t(), value)
        for rows, own in zip(self.rows, sums, strict=True):
            if rows is None:
                continue
            if rows is ONE_HOT:
                by_weight += own.t()
            else:
                by_weight.addmm_(own.t(), rows[:, 0])
        return [by_value, by_weight if needed[1] else None, by_bias[0] if needed[2] else None]

    def differentiably(
        self, value: Tensor, tensors: Sequence[Part], needed: Sequence[bool], gradients: Sequence[Part]
    ) -> list[Part]:
        """The gradients with a graph of their own where one is recorded, by the formula, operation by operation."""
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            # Of their own, since one may be computed of another.
            given: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in (value, *tensors)]
            outputs = self._by_operations(given[0], given[1:])
            places = [place for place, wanted in enumerate(needed) if wanted]
            return gradients_at(outputs, gradients, given, places, recorded)

    def _by_operations(self, value: Tensor, tensors: Sequence[Any]) -> list[Part]:
        """What :meth:`forward` gives, by operations that autograd records."""
        weights, biases = tensors[::2], tensors[1::2]
        transposed = weights[0].t().unsqueeze(1)
        x: list[Part] = [F.linear(value, weights[0], biases[0])]
        x += [None if r is None else transposed if r is ONE_HOT else F.linear(r, weights[0]) for r in self.rows]
        for number, whole in enumerate(self.functions):
            if number:
                x = _multiplied(x, weights[number], biases[number])
            at: Any = x[0]
            y = whole.function(at)
            x = [y, *whole.composed(self._jet(at, x[1:]), whole.derivatives(at, y, self.layout.order))]
        if len(weights) > len(self.functions):
            x = _multiplied(x, weights[-1], biases[-1])
        if not self.picks:
            return x
        flat: list[Part] = [x[0]]
        for rows, size in zip(x[1:], self.layout.sizes, strict=True):
            flat += [None] * size if rows is None else rows.unbind()
        return [_of_part(pick, flat[pick.row]) for pick in self.picks]

    def _jet(self, value: Tensor, rows: Sequence[Part]) -> Jet:
        return Jet(value, tuple(rows), Frame(Propagation(()), self.layout))

    def _put_together(self, gradients: Sequence[Part], like: Tensor, width: int) -> Tensor:
        """The gradients by the results as a stack; not in place, for they may be batched."""
        samples = like.shape[1]
        if not self.picks:
            pairs = zip((1, *self.layout.sizes), gradients, strict=True)
            parts = [like.new_zeros((size, samples, width)) if g is None else g for size, g in pairs]
            return torch.cat([parts[0].reshape(1, samples, width), *parts[1:]])
        cells: dict[tuple[int, int | None], Tensor] = {}
        for (row, column, factor), gradient in zip(self.picks, gradients, strict=True):
            if gradient is not None:
                own, before = gradient if factor == 1 else gradient * factor, cells.get((row, column))
                cells[row, column] = own if before is None else before + own
        rows, zero = range(like.shape[0]), like.new_zeros(samples)
        if width == 1 and not any(column is None for _, column in cells):
            return torch.stack([cells.get((row, 0), zero) for row in rows]).unsqueeze(-1)
        columns = [torch.stack([cells.get((row, place), zero) for place in range(width)], -1) for row in rows]
        return torch.stack([own + cells[row, None] if (row, None) in cells else own for row, own in enumerate(columns)])


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: Network, value: Tensor, *tensors: Part) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        results = network.forward(value, tensors, kept)
        ctx.save_for_backward(value, *tensors, *kept)
        ctx.network, ctx.count = network, len(tensors)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Part) -> Any:
        network: Network = ctx.network
        value, *saved = ctx.saved_tensors
        tensors, kept, needed = saved[: ctx.count], saved[ctx.count :], ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or inside_transform():
            return (None, *network.differentiably(value, tensors, needed, gradients))
        return (None, *network.backward(value, tensors, kept, needed, gradients))


# -------------------------------------------------------------------- stacks


def _picked(pick: Pick, stack: Tensor, weight: Tensor, bias: Part) -> Tensor:
    """A result of the last layer, from the stack before it; rows of derivatives have no bias."""
    row, column, factor = pick
    if row:
        bias = None
    if column is None:
        found = F.linear(stack[row], weight, bias)
    else:
        found = torch.mv(stack[row], weight[column])
        if bias is not None:
            found += bias[column]
    return found if factor == 1 else found.mul_(factor)


def _of_part(pick: Pick, part: Part) -> Part:
    if part is None:
        return None
    found = part if pick.column is None else part[:, pick.column]
    return found if pick.factor == 1 else found * pick.factor


def _multiplied(x: Sequence[Part], weight: Tensor, bias: Part) -> list[Part]:
    """Value and rows after a linear layer."""
    value, *rows = x
    assert value is not None
    return [F.linear(value, weight, bias), *[None if part is None else F.linear(part, weight) for part in rows]]


def _factor(quadratic: Quadratic, y: Tensor) -> tuple[Tensor, float]:
    """``b - 2 y``, the slope of ``g' = a + b y - y^2``, as a tensor and a number."""
    return (1 - 2 * y, 1.0) if quadratic[1] else (y, -2.0)


def _slope_rows(layout: Layout, n: int, z: Sequence[Tensor], factor: Tensor, scale: float) -> Tensor:
    """The rows of order n of ``g' = a + b z - z z``, without the number ``scale``."""
    return _take_squares(layout, n, z, z[n - 1] * factor, scale)


def _take_squares(layout: Layout, n: int, z: Sequence[Tensor], total: Tensor, scale: float) -> Tensor:
    """``total`` without what lower orders of ``z z`` have of order n, over ``scale``; in place."""
    for p in range(1, n // 2 + 1):
        _accumulate(layout, p, n - p, total, z[p - 1], z[n - p - 1], (-1 if 2 * p == n else -2) / scale)
    return total


def _convolve(layout: Layout, n: int, z: Sequence[Tensor], x: Sequence[Part], h: Sequence[Part], scale: float) -> None:
    """Add to the rows of order n what ``n z_n = sum_p p x_p h_{n-p}`` has beside ``x_n h_0``."""
    for p in range(1, n):
        _accumulate(layout, p, n - p, z[n - 1], x[p - 1], h[n - p - 1], p / n * scale)


def _accumulate(layout: Layout, p: int, q: int, total: Tensor, left: Part, right: Part, scale: float) -> None:
    """Add to ``total`` what products of rows of the orders p and q make, times a number."""
    table = layout.table(p, q)
    if table is not None and left is not None and right is not None:
        table.accumulate(total, left, right, scale)


def _pulled_back(layout: Layout, scale: float, slope: Tensor, h: Tensor, cotangent: Tensor, sizes: list[int]) -> Tensor:
    """The gradient of row b: ``sum_a zbar_a h_{a-b}``, where rows of h are still to be multiplied by ``scale``."""
    found = cotangent * slope
    found[0].add_(torch.sum(cotangent[1:] * h, 0), alpha=scale)
    if layout.order > 1:
        above, rows = torch.split_with_sizes(cotangent, sizes)[1:], torch.split_with_sizes(h, sizes[1:])
        for p, total in enumerate(torch.split_with_sizes(found, sizes)[1:-1], start=1):
            for q in range(1, layout.order - p + 1):
                table = layout.table(p, q)
                if table is not None:
                    table.accumulate_left(total, above[p + q - 1], rows[q - 1], scale)
    return found


def _paired(squares: Table) -> bool:
    """Whether each row is multiplied with itself alone: one of them, or all that there are."""
    alone = len(squares.into) == squares.rows == 1
    return squares.left == squares.right and not squares.weights and (squares.each or squares.summed or alone)


def _pulled_back_twice(
    quadratic: Quadratic, squares: Table, stack: Tensor, slope: Tensor, cotangent: Tensor, sizes: list[int]
) -> Tensor:
    """The cotangent below an activation, to the second order, where ``g' = a + b g - g^2``: with ``q = zbar_2 z_1``.

    ``h_1 = c z_1`` and ``h_2 = c z_2 - z_1 z_1``, ``c = b - 2 z_0``, are never put together.
    """
    found = cotangent * slope
    (y, z, _), (at, below, _) = torch.split_with_sizes(stack, sizes), torch.split_with_sizes(found, sizes)
    if len(squares.into) == 1 and sizes[1] > 1:
        place = squares.left[0]
        z, below = z[place : place + 1], below[place : place + 1]
    q = cotangent[-sizes[2] :] * z
    factor, scale = _factor(quadratic, y)
    at.addcmul_(factor, torch.sum(cotangent[1:] * stack[1:], 0, keepdim=True), value=scale)
    if q.shape[0] == 1:
        at.addcmul_(q, z, value=-1)
    else:
        at.sub_(torch.sum(q * z, 0, keepdim=True))
    below.addcmul_(factor, q, value=scale)
    return found
