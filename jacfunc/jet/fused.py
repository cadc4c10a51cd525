"""The rows of an elementwise function as one node of autograd's graph, where nothing else will differentiate them.

With ``z = g(x)`` in truncated Taylor arithmetic, ``dz = g'(x) dx``: backward, the gradient of row b is ``sum_a zbar_a
h_{a-b}`` with the coefficients ``h`` of ``g'(x)``.  Where g' is a quadratic of the result (tanh), so is h, and of rows
only the result's are kept, which a linear layer keeps anyway; for other functions those of the argument are.  The rows
``h`` are computed in the backward, at second order without being written down (``second.py``).  Recorded operation by
operation, the same takes about twice as many passes over memory.  A gradient that is differentiated again goes by the
formula of Faa di Bruno (``build.py``) instead, as does whatever runs in a transform of ``torch.func`` or is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..core.levels import inside_transform
from ..core.torch_private import dual_level
from . import second
from .frame import Frame
from .jet import Coefficients, Jet
from .layout import Layout

Tensor = torch.Tensor
Rows = list[Tensor | None]
Quadratic = tuple[int, int]
Composed = Callable[[Jet, Sequence[Any]], Coefficients]


@dataclass(frozen=True)
class Elementwise:
    """An elementwise function: itself, its derivatives, the formula that its rows have otherwise, and products of jets.

    ``quadratic`` are a and b where ``g' = a + b g - g^2``, 0 or 1, which Dynamo takes for constants.  ``inner`` is what
    all derivatives share, where it is worth keeping for the backward; they take it as their last argument.
    """

    function: Callable[..., Tensor]
    derivatives: Callable[..., Sequence[Any]]
    composed: Composed
    product: Callable[[Jet, Jet], Jet]
    quadratic: Quadratic | None = None
    inner: Callable[[Tensor], Tensor] | None = None

    def derived(self, x: Tensor, y: Tensor, order: int, inner: Tensor | None) -> Sequence[Any]:
        """The derivatives up to an order, from what they share if that is known."""
        return self.derivatives(x, y, order) if inner is None else self.derivatives(x, y, order, inner)


def fits(jet: Jet) -> bool:
    """Whether a graph is recorded of this jet by autograd and by nothing else."""
    frame = jet.frame
    return frame.layout.order > 1 and not frame.propagation.traced and recorded(jet)


def unrecorded(jet: Jet) -> bool:
    """Whether nothing records or transforms the rows of this jet, of second order and in a frame without a metric."""
    frame = jet.frame
    if frame.layout.order != second.ORDER or frame.metric is not None or frame.propagation.traced:
        return False
    if jet.value.is_complex() or (torch.is_grad_enabled() and _requires_grad(jet)):
        return False
    if inside_transform() or dual_level() >= 0:
        return False
    firsts = jet.coefficients[0]
    return firsts is None or not frame.propagation.is_identity(firsts)


def recorded(jet: Jet) -> bool:
    """Whether a graph is recorded of this jet by autograd and by nothing else, whatever its order."""
    if jet.frame.metric is not None or jet.value.is_complex() or not torch.is_grad_enabled():
        return False
    if inside_transform() or dual_level() >= 0:
        return False
    return _requires_grad(jet)


def _requires_grad(jet: Jet) -> bool:
    return jet.value.requires_grad or any(rows is not None and rows.requires_grad for rows in jet.coefficients)


def applied(elementwise: Elementwise, jet: Jet) -> Jet:
    """The function of a jet that fits."""
    y, *rows = _Fused.apply(elementwise, jet.frame, jet.value, *jet.coefficients)  # type: ignore[no-untyped-call]
    return Jet(y, tuple(rows), jet.frame)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, elementwise: Elementwise, frame: Frame, value: Tensor, *x: Tensor | None) -> Any:
        y = elementwise.function(value)
        # What is saved is what a gradient of the gradient depends on.
        if elementwise.quadratic is None:
            inner = None if elementwise.inner is None else elementwise.inner(value)
            squares = second.squared(frame.layout, x[0]) if second.summing(frame.layout) else None
            z = list(rows_of(elementwise, frame, value, y, x, inner, squares))
            ctx.save_for_backward(value, *x, y, inner, squares)
        else:
            z = _quadratic_series(_Quadratic.of(elementwise.quadratic, y), frame.layout, x)
            ctx.save_for_backward(y, *z)
        ctx.elementwise, ctx.frame = elementwise, frame
        ctx.shapes = [None if rows is None else rows.shape for rows in (value, *x)]
        ctx.set_materialize_grads(False)
        return (y, *z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        frame: Frame = ctx.frame
        count = frame.layout.order + 1
        saved = ctx.saved_tensors  # once: a checkpoint gives it a single time
        kept, quadratic = saved[:count], ctx.elementwise.quadratic
        if not torch.is_grad_enabled():
            if quadratic is None:
                found = _by_argument(ctx.elementwise, frame, ctx.shapes, saved, gradients)
            else:
                slopes = _slopes_of_result(quadratic, frame.layout, kept)
                found = _transposed(frame.layout, ctx.shapes, slopes, gradients)
        elif quadratic is None:
            found = _differentiably(ctx.elementwise, frame, kept, gradients)
        else:
            found = _by_result(ctx.elementwise, frame, ctx.shapes, kept, gradients)
        return (None, None, *found)


class Slopes(NamedTuple):
    """The rows of ``g'(x)``, the value in front; those of all other orders are to be multiplied by ``scale``."""

    rows: Sequence[Tensor | None]
    scale: float = 1.0


def rows_of(
    elementwise: Elementwise,
    frame: Frame,
    value: Tensor,
    y: Tensor,
    x: Sequence[Tensor | None],
    inner: Tensor | None = None,
    squares: Tensor | None = None,
) -> Sequence[Tensor | None]:
    """The rows of ``g(x)`` where autograd records nothing, in a frame without a metric."""
    derivatives = elementwise.derived(value, y, frame.layout.order, inner)
    if frame.layout.order == second.ORDER:
        return second.forward(frame.layout, derivatives, x, squares)
    return elementwise.composed(Jet(value, tuple(x), frame), derivatives)


def _by_argument(
    elementwise: Elementwise,
    frame: Frame,
    shapes: Sequence[torch.Size | None],
    saved: Sequence[Any],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients from the rows of x."""
    value, *x, y, inner, squares = saved
    first, *others = elementwise.derived(value, y, frame.layout.order + 1, inner)
    if frame.layout.order == second.ORDER:
        return second.backward(frame.layout, shapes, (first, *others), x, gradients, squares)
    h = Slopes([first, *elementwise.composed(Jet(value, tuple(x), frame), others)])
    return _transposed(frame.layout, shapes, h, gradients)


@dataclass(frozen=True)
class _Quadratic:
    """``g' = a + b g - g^2`` at a value: itself, and its own slope ``b - 2 g`` as ``scale * factor``."""

    slope: Tensor
    factor: Tensor
    scale: float

    @classmethod
    def of(cls, quadratic: Quadratic, y: Tensor) -> _Quadratic:
        a, b = quadratic
        constant = y.new_full((), a)
        if b == 0:
            return cls(torch.addcmul(constant, y, y, value=-1), y, -2.0)
        return cls(torch.addcmul(constant, y, (-y).add_(b)), (-2 * y).add_(b), 1.0)

    def rows(self, layout: Layout, z: Sequence[Tensor | None], n: int) -> Tensor | None:
        """Those of order n of ``g'(x)``, without the scale."""
        own = z[n - 1]
        total = None if own is None else own * self.factor
        for p in range(1, (n - 1) // 2 + 1):
            total = _accumulated(layout, p, n - p, total, z[p - 1], z[n - p - 1], -2 / self.scale)
        if n % 2 == 0:
            half = z[n // 2 - 1]
            total = _accumulated(layout, n // 2, n // 2, total, half, half, -1 / self.scale)
        return total


def _quadratic_series(quadratic: _Quadratic, layout: Layout, x: Sequence[Tensor | None]) -> Rows:
    """The rows of ``g(x)``, which take turns with those of ``g'(x)``."""
    z: Rows = []
    h: Rows = [quadratic.slope]
    for n in range(1, layout.order + 1):
        z.append(_next(layout, x, Slopes(h, quadratic.scale), n))
        if n < layout.order:
            h.append(quadratic.rows(layout, z, n))
    return z


def _slopes_of_result(quadratic: Quadratic, layout: Layout, result: Sequence[Tensor | None]) -> Slopes:
    """From the rows of ``g(x)``."""
    y, *z = result
    assert y is not None
    at = _Quadratic.of(quadratic, y)
    return Slopes([at.slope, *[at.rows(layout, z, n) for n in range(1, layout.order + 1)]], at.scale)


def _next(layout: Layout, x: Sequence[Tensor | None], h: Slopes, n: int) -> Tensor | None:
    """``z_n = sum_p p/n x_p h_{n-p}``."""
    own, slope = x[n - 1], h.rows[0]
    assert slope is not None
    total = None if own is None else own * slope
    for p in range(1, n):
        total = _accumulated(layout, p, n - p, total, x[p - 1], h.rows[n - p], p / n * h.scale)
    return total


def _accumulated(
    layout: Layout, p: int, q: int, total: Tensor | None, left: Tensor | None, right: Tensor | None, scale: float
) -> Tensor | None:
    """``total + scale * (left convolved with right)``, in place."""
    table = layout.table(p, q)
    if table is None or left is None or right is None:
        return total
    if total is None:
        return table.convolve(left, right, torch.mul) * scale
    return table.accumulate(total, left, right, scale)


def _transposed(
    layout: Layout, shapes: Sequence[torch.Size | None], h: Slopes, gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradient of row b: ``sum_a zbar_a h_{a-b}``."""
    slope = h.rows[0]
    assert slope is not None
    found: list[Tensor | None] = [_of_value(slope, h, gradients)]
    like = next(gradient for gradient in gradients if gradient is not None)  # batched where vmap runs around this
    for p in range(1, layout.order + 1):
        shape = shapes[p]
        if shape is None:
            found.append(None)
            continue
        own = gradients[p]
        total = like.new_zeros((layout.sizes[p - 1], *slope.shape)) if own is None else own * slope
        for q in range(1, layout.order - p + 1):
            table, above, factor = layout.table(p, q), gradients[p + q], h.rows[q]
            if table is not None and above is not None and factor is not None:
                table.accumulate_left(total, above, factor, h.scale)
        found.append(total if total.shape == shape else total.sum_to_size(shape))
    return found


def _of_value(slope: Tensor, h: Slopes, gradients: Sequence[Tensor | None]) -> Tensor | None:
    first = gradients[0]
    total = None if first is None else first * slope
    for gradient, factor in zip(gradients[1:], h.rows[1:], strict=True):
        if gradient is None or factor is None:
            continue
        for own, other in zip(gradient.unbind(0), factor.unbind(0), strict=True):
            total = h.scale * own * other if total is None else total.addcmul_(own, other, value=h.scale)
    return total


def _differentiably(
    elementwise: Elementwise, frame: Frame, x: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients with a graph of their own, for derivatives of one order more."""
    # By views: rows may be computed of the value, as those of a softmax are, and would be counted with it.
    x = [None if tensor is None else tensor.view_as(tensor) for tensor in x]
    value, *rows = x
    assert value is not None
    y = elementwise.function(value)
    derivatives = elementwise.derivatives(value, y, frame.layout.order)
    results = (y, *elementwise.composed(Jet(value, tuple(rows), frame), derivatives))
    places = [place for place, tensor in enumerate(x) if tensor is not None and tensor.requires_grad]
    return gradients_at(results, gradients, x, places)


def gradients_at(
    results: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    given: Sequence[Any],
    places: Sequence[int],
    recorded: bool = True,
) -> list[Tensor | None]:
    """The gradients by what was ``given``, at these places, of results that autograd recorded of it; else None."""
    pairs = [(z, g) for z, g in zip(results, gradients, strict=True) if z is not None and g is not None]
    pairs = [(z, g) for z, g in pairs if z.requires_grad]
    found: list[Tensor | None] = [None] * len(given)
    if pairs and places:
        by = [given[place] for place in places]
        outputs, cotangents = zip(*pairs, strict=True)
        computed = torch.autograd.grad(outputs, by, cotangents, create_graph=recorded, allow_unused=True)
        for place, gradient in zip(places, computed, strict=True):
            found[place] = gradient
    return found


def _by_result(
    elementwise: Elementwise,
    frame: Frame,
    shapes: Sequence[torch.Size | None],
    z: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients where ``g'`` is a quadratic of the result: the transpose of ``dz = g'(x) dx``, by its own gradient."""
    assert elementwise.quadratic is not None
    a, b = elementwise.quadratic
    y, *rows = z
    assert y is not None
    square = elementwise.product(Jet(y, tuple(rows), frame), Jet(y, tuple(rows), frame))
    pairs = zip(rows, square.coefficients, strict=True)
    slope_rows = [None if one is None else b * one - (0 if two is None else two) for one, two in pairs]
    slope = Jet(a + b * y - square.value, tuple(slope_rows), frame)
    moved = [None if shape is None else y.new_zeros(shape).requires_grad_() for shape in shapes]
    assert moved[0] is not None
    result = elementwise.product(slope, Jet(moved[0], tuple(moved[1:]), frame))
    outputs = zip((result.value, *result.coefficients), gradients, strict=True)
    known = [(output, gradient) for output, gradient in outputs if output is not None and gradient is not None]
    given = [tensor for tensor in moved if tensor is not None]
    tensors, cotangents = zip(*known, strict=True)
    found = iter(torch.autograd.grad(tensors, given, cotangents, create_graph=True, allow_unused=True))
    return [None if tensor is None else next(found) for tensor in moved]
