"""How rules are made: of derivatives, of a linear map, of a bilinear product.  Knows the layout's tables, no operation.

A rule takes the arguments of its operation, jets among them, and returns jets.  None of these knows an order by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core.levels import compiling
from . import fused
from .activated import Activated
from .frame import Frame, plus
from .jet import Coefficients, Jet
from .windows import Windows, windows_of

Tensor = torch.Tensor
Operand = Any
"""A jet, a tensor or a number."""
Derivatives = Callable[..., Sequence[Tensor | float | None]]
"""``(x, y, order)`` to ``g'(x), g''(x), ...`` up to ``order``, where ``y = g(x)``; None for one that is zero."""


def _times(factor: Tensor | float, rows: Tensor, frame: Frame) -> Tensor:
    """A boolean factor keeps rows, or makes them zero where they are not finite too."""
    if not isinstance(factor, Tensor):
        return rows * factor
    if factor.dtype == torch.bool:
        return torch.where(factor, rows, 0.0)
    return frame.propagation.times(factor, rows)


def composed(jet: Jet, derivatives: Sequence[Tensor | float | None]) -> Coefficients:
    """The rows of ``g(x)``: ``z_a = sum_k g^(k)(x_0)/k! sum_{b_1+..+b_k=a} x_{b_1} .. x_{b_k}`` (Faa di Bruno)."""
    frame, x = jet.frame, jet.coefficients
    order = frame.layout.order
    if order == 1:
        slope = derivatives[0] if derivatives else None
        return (None if slope is None or x[0] is None else _times(slope, x[0], frame),)
    last = min(order, len(derivatives))
    while last and derivatives[last - 1] is None:
        last -= 1
    powers: list[Power] = [[None if rows is None else (rows, 1.0) for rows in x]]
    for k in range(2, last + 1):
        if k % 2 == 0:
            powers.append(_square(frame, powers[k // 2 - 1]))
        else:
            powers.append(_product(frame, powers[k - 2], powers[0]))
    return tuple([_sum_of_powers(frame, [power[n] for power in powers], derivatives) for n in range(order)])


Power = list[tuple[Tensor, float] | None]
"""Of a power of the part without the value, by order: rows, and a number that they are still to be multiplied by."""


def _square(frame: Frame, power: Power) -> Power:
    """A power times itself, by order: of two equal factors half of the products are needed."""
    order = len(power)
    result: Power = [None] * order
    for n in range(2, order + 1):
        for p in range(1, n // 2 + 1):
            one, two = power[p - 1], power[n - p - 1]
            if one is None or two is None:
                continue
            if 2 * p == n:
                rows, times = frame.squared(p, one[0]), 1.0
            else:
                rows, times = frame.convolve(p, n - p, one[0], two[0], torch.mul), 2.0
            if rows is not None:
                result[n - 1] = _added(result[n - 1], (rows, times * one[1] * two[1]))
    return result


def _product(frame: Frame, left: Power, right: Power) -> Power:
    """The product of two powers, by order."""
    order = len(left)
    result: Power = [None] * order
    for n in range(2, order + 1):
        for p in range(1, n):
            one, two = left[p - 1], right[n - p - 1]
            if one is not None and two is not None:
                rows = frame.convolve(p, n - p, one[0], two[0], torch.mul)
                if rows is not None:
                    result[n - 1] = _added(result[n - 1], (rows, one[1] * two[1]))
    return result


def _added(left: tuple[Tensor, float] | None, right: tuple[Tensor, float]) -> tuple[Tensor, float]:
    if left is None:
        return right
    if left[1] == right[1]:
        return left[0] + right[0], left[1]
    return torch.add(right[0], left[0], alpha=left[1] / right[1]), right[1]


def _sum_of_powers(
    frame: Frame, powers: Sequence[tuple[Tensor, float] | None], derivatives: Sequence[Tensor | float | None]
) -> Tensor | None:
    """The rows of one order."""
    total: Tensor | None = None
    for k, power in enumerate(powers, start=1):
        factor = derivatives[k - 1] if k <= len(derivatives) else None
        if factor is not None and power is not None:
            rows, times = power
            total = plus(total, _times(_scaled(factor, times / math.factorial(k)), rows, frame))
    return total


def _scaled(factor: Tensor | float, number: float) -> Tensor | float:
    return factor if number == 1 else factor * number


def _multiplied(x: Jet, y: Jet) -> Jet:
    """Two jets of one shape, element by element."""
    return bilinear(x, y, torch.mul, torch.mul, torch.mul, torch.mul)


def elementwise(
    function: Callable[..., Tensor],
    derivatives: Derivatives,
    kernel: Callable[[Tensor, Tensor], Tensor] | None = None,
    quadratic: fused.Quadratic | None = None,
    smooth: bool = False,
    inner: Callable[[Tensor], Tensor] | None = None,
) -> Callable[..., Any]:
    """The rule of an elementwise function of one tensor; ``kernel(rows, y)`` does the first order at once.

    ``smooth``: its derivatives are tensors of its dtype, however high the order that is asked for, so that its rows may
    be one node of a graph, which needs one order more; ``quadratic`` are a and b where ``g' = a + b g - g^2``;
    ``inner`` is what all derivatives share.
    """
    whole = fused.Elementwise(function, derivatives, composed, _multiplied, quadratic, inner)

    def rule(input: Jet) -> Jet:
        value, frame = input.value, input.frame
        windows = windows_of(input)
        if windows is not None:
            return _on_image(function, derivatives, kernel, input, windows)
        if smooth and fused.fits(input):
            return fused.applied(whole, input)
        y = function(value)
        order = frame.layout.order
        if kernel is not None and order == 1 and not y.is_complex():  # whose kernels conjugate
            rows = input.coefficients[0]
            if rows is not None and frame.propagation.is_identity(rows):
                rows = frame.propagation.times(kernel(torch.ones_like(y), y), rows)
            elif rows is not None:
                rows = kernel(rows, y)
            result = Jet(y, (rows,), frame)
        elif smooth and fused.unrecorded(input):
            result = Jet(y, tuple(fused.rows_of(whole, frame, value, y, input.coefficients)), frame)
        else:
            result = Jet(y, composed(input, derivatives(value, y, order)), frame)
        if smooth and frame.propagation.traced and compiling() and frame.metric is None and not y.is_complex():
            # Not the jet itself, which may change in place.
            result.activated = Activated(whole, Jet(value, input.coefficients, frame), y, fused.recorded(input))
        return result

    rule.whole = whole if smooth else None  # type: ignore[attr-defined]  # for ``stacked.py``
    return rule


def _on_image(
    function: Callable[..., Tensor], derivatives: Derivatives, kernel: Any, input: Jet, windows: Windows
) -> Jet:
    """An elementwise function of an image whose rows nobody has looked at, which are first-order ones."""
    value = input.value
    y = function(value)
    if kernel is not None and not y.is_complex():
        return of_windows(windows.then(lambda rows: kernel(rows, y), reads=(y,)), y, input.frame)
    slope = (*derivatives(value, y, 1), None)[0]
    if slope is None:
        return constant_rows(input, y)
    return of_windows(windows.then(lambda rows: _times(slope, rows, input.frame), reads=(slope,)), y, input.frame)


def of_windows(windows: Windows, value: Tensor, frame: Frame) -> Jet:
    """A jet whose rows are those of an image until somebody looks at them."""
    jet = Jet(value, (), frame)
    jet._coefficients = (windows,)
    return jet


def frame_of(*operands: Operand) -> Frame:
    """The frame of the first jet among them."""
    return next(operand.frame for operand in operands if type(operand) is Jet)


def filled(jets: Sequence[Jet], order: int) -> list[Tensor] | None:
    """The full rows of an order of several jets, zeros where one has none; None where all have none."""
    stacks = [jet.full(order) for jet in jets]
    if all(stack is None for stack in stacks):
        return None
    count = jets[0].frame.layout.sizes[order - 1]
    return [
        jet.value.new_zeros((count, *jet.shape)) if stack is None else stack
        for stack, jet in zip(stacks, jets, strict=True)
    ]


def linear(x: Jet, on_value: Callable[[Tensor], Tensor], on_rows: Callable[[Tensor], Tensor]) -> Jet:
    """A linear map of one jet: the same for the value and for stacked rows, ``(rows, *S)``."""
    orders = range(1, x.frame.layout.order + 1)
    full = [x.full(order) for order in orders]
    return Jet(on_value(x.value), tuple(None if rows is None else on_rows(rows) for rows in full), x.frame)


def constant_rows(x: Jet, value: Tensor) -> Jet:
    """A jet that does not depend on the input, to be written to."""
    return Jet(value, (None,) * x.frame.layout.order, x.frame)


def aligned(rows: Tensor, dim: int) -> Tensor:
    """Rows of a value with fewer axes, as broadcasting with one of ``dim`` axes takes them."""
    missing = dim + 1 - rows.dim()
    return rows if missing <= 0 else rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:])


def bilinear(
    x: Operand,
    y: Operand,
    product: Callable[[Tensor, Tensor], Tensor],
    left: Callable[[Tensor, Tensor], Tensor],
    right: Callable[[Tensor, Tensor], Tensor],
    both: Callable[[Tensor, Tensor], Tensor],
) -> Jet:
    """``z_a = sum_{b+c=a} x_b y_c`` of a product that is linear in each operand.

    ``product`` takes the values, ``left`` rows of x and the value of y, ``right`` the value of x and rows of y, and
    ``both`` rows of both, row by row.
    """
    frame = frame_of(x, y)
    order = frame.layout.order
    xs = x.coefficients if type(x) is Jet else (None,) * order
    ys = y.coefficients if type(y) is Jet else (None,) * order
    x_value, y_value = (operand.value if type(operand) is Jet else operand for operand in (x, y))
    result: list[Tensor | None] = []
    for n in range(1, order + 1):
        rows = None if xs[n - 1] is None else left(xs[n - 1], y_value)  # type: ignore[arg-type]
        if ys[n - 1] is not None:
            rows = plus(rows, right(x_value, ys[n - 1]))  # type: ignore[arg-type]
        for p in range(1, n):
            rows = plus(rows, frame.convolve(p, n - p, xs[p - 1], ys[n - p - 1], both))
        result.append(rows)
    return Jet(product(x_value, y_value), tuple(result), frame)
