"""Sums and products: all that is linear in each of two operands, and quotients, products solved for a factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core.levels import compiling
from ...core.torch_private import autocasting
from ..build import Operand, aligned, bilinear, frame_of, linear
from ..frame import CannotFollowError
from ..jet import Jet
from ..registry import add, in_place_of, named, spelled

Tensor = torch.Tensor


def _value(operand: Operand) -> Any:
    return operand.value if type(operand) is Jet else operand


# -------------------------------------------------------------------- sums


def sum_of(input: Operand, other: Operand, *, alpha: float = 1) -> Jet:
    """``input + alpha other``."""
    value = torch.add(_value(input), _value(other), alpha=alpha)
    if type(other) is not Jet:
        return _widened(input, value)
    if type(input) is not Jet:
        scaled = other if alpha == 1 else difference(0.0, other, alpha=-alpha)
        return _widened(scaled, value)
    pairs = zip(_in_axes(input, value.dim()), _in_axes(other, value.dim()), strict=True)
    return _cast(value, [_summed(left, right, alpha) for left, right in pairs], input.frame)


def _in_axes(jet: Jet, dim: int) -> list[Tensor | None]:
    return [None if rows is None else aligned(rows, dim) for rows in jet.coefficients]


def _summed(left: Tensor | None, right: Tensor | None, alpha: float) -> Tensor | None:
    if right is None:
        return left
    if left is None:
        return right if alpha == 1 else right * alpha
    return torch.add(left, right, alpha=alpha)


def difference(input: Operand, other: Operand, *, alpha: float = 1) -> Jet:
    """``input - alpha other``."""
    if type(other) is not Jet:
        return _widened(input, torch.sub(_value(input), other, alpha=alpha))
    if type(input) is Jet:
        return sum_of(input, other, alpha=-alpha)
    value = torch.sub(input, other.value, alpha=alpha) if isinstance(input, Tensor) else input - alpha * other.value
    rows = [None if c is None else aligned(c * -alpha, value.dim()) for c in other.coefficients]
    return _cast(value, rows, other.frame)


def _widened(jet: Jet, value: Tensor) -> Jet:
    """The rows of a jet under another value, to whose shape they are broadcast."""
    rows = jet.coefficients
    if value.dim() != jet.dim():
        rows = tuple(None if c is None else aligned(c, value.dim()) for c in rows)
    return _cast(value, rows, jet.frame)


def _cast(value: Tensor, rows: Any, frame: Any) -> Jet:
    """Rows have the dtype of the value."""
    return Jet(value, tuple(c if c is None or c.dtype == value.dtype else c.to(value.dtype) for c in rows), frame)


# -------------------------------------------------------------------- products of elements


def _aligned_product(dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    def product(left: Tensor, right: Tensor) -> Tensor:
        return aligned(left, dim) * aligned(right, dim)

    return product


def product_of(input: Operand, other: Operand) -> Jet:
    """Element by element."""
    x, y = _value(input), _value(other)
    if type(input) is Jet and not isinstance(y, Tensor):
        return _cast(x * y, [None if c is None else c * y for c in input.coefficients], input.frame)
    if type(other) is Jet and not isinstance(x, Tensor):
        return product_of(other, input)
    dim = max(x.dim(), y.dim())
    both = _aligned_product(dim)

    def left(rows: Tensor, value: Tensor) -> Tensor:
        return aligned(rows, dim) * value

    result = bilinear(input, other, torch.mul, left, lambda value, rows: left(rows, value), both)
    return _cast(result.value, result.coefficients, result.frame)


def quotient(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Any:
    """``z = x / y`` from ``x = z y``: ``z_a = (x_a - sum_{b<a} z_b y_{a-b}) / y_0``."""
    x, y = _value(input), _value(other)
    if rounding_mode is not None:
        return torch.div(x, y, rounding_mode=rounding_mode)
    value = torch.div(x, y)
    frame, dim = frame_of(input, other), value.dim()
    order = frame.layout.order
    if type(other) is not Jet:
        return _cast(value, [None if c is None else aligned(c, dim) / y for c in input.coefficients], frame)
    xs = input.coefficients if type(input) is Jet else (None,) * order
    ys = other.coefficients
    both = _aligned_product(dim)
    found: list[Tensor | None] = []
    for n in range(1, order + 1):
        rest = None if ys[n - 1] is None else aligned(ys[n - 1], dim) * value  # type: ignore[arg-type]
        for p in range(1, n):
            term = frame.convolve(p, n - p, found[p - 1], ys[n - p - 1], both)
            rest = term if rest is None else (rest if term is None else rest + term)
        own = None if xs[n - 1] is None else aligned(xs[n - 1], dim)  # type: ignore[arg-type]
        top = own if rest is None else (-rest if own is None else own - rest)
        found.append(None if top is None else top / y)
    return _cast(value, found, frame)


def negative(input: Jet) -> Jet:
    """``-x``."""
    return Jet(-input.value, tuple(None if c is None else -c for c in input.coefficients), input.frame)


# -------------------------------------------------------------------- products of matrices


def linear_layer(input: Operand, weight: Operand, bias: Operand = None) -> Jet:
    """``x W^T + b``, multiplied out when something needs it."""
    if type(input) is not Jet and type(weight) is not Jet:
        return sum_of(F.linear(input, weight), bias)
    if type(input) is not Jet or type(weight) is Jet or type(bias) is Jet:
        result = matrix_product(input, weight.t() if weight.dim() == 2 else weight)
        return result if bias is None else sum_of(result, bias)
    if weight.dim() == 2 and multiplies(input, weight):
        return Jet.linear(input, weight, bias)
    product = F.linear if weight.dim() == 2 else torch.matmul
    result = linear(input, lambda x: F.linear(x, weight, bias), lambda rows: product(rows, weight))
    return _cast(result.value, result.coefficients, input.frame)


def multiplies(input: Jet, weight: Tensor) -> bool:
    """Whether rows times a matrix have the dtype of both."""
    value = input.value
    return value.dim() > 0 and weight.dtype == value.dtype and not _autocasting()


def _autocasting() -> bool:
    return not compiling() and autocasting()  # which Dynamo cannot trace


def matrix_product(input: Operand, other: Operand) -> Any:
    """``torch.matmul``, of vectors too."""
    x, y = _value(input), _value(other)
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return NotImplemented
    if type(other) is not Jet and y.dim() == 2 and x.dim() and not _autocasting() and x.dtype == y.dtype:
        return Jet.linear(input, y.t(), None)
    dim = max(x.dim(), y.dim(), 2)
    x_vector, y_vector = x.dim() == 1, y.dim() == 1

    def rows_of(stack: Tensor, like: Tensor, vector_axis: int | None) -> Tensor:
        full = stack.expand(stack.shape[0], *like.shape)
        if vector_axis is not None:
            full = full.unsqueeze(vector_axis)
        return aligned(full, dim)

    def squeezed(product: Tensor) -> Tensor:
        if y_vector:
            product = product.squeeze(-1)
        return product.squeeze(-1 if y_vector else -2) if x_vector else product

    def left(rows: Tensor, value: Tensor) -> Tensor:
        value = value.unsqueeze(-1) if y_vector else value
        return squeezed(torch.matmul(rows_of(rows, x, -2 if x_vector else None), value))

    def right(value: Tensor, rows: Tensor) -> Tensor:
        value = value.unsqueeze(0) if x_vector else value
        return squeezed(torch.matmul(value, rows_of(rows, y, -1 if y_vector else None)))

    def both(left_rows: Tensor, right_rows: Tensor) -> Tensor:
        one, two = rows_of(left_rows, x, -2 if x_vector else None), rows_of(right_rows, y, -1 if y_vector else None)
        return squeezed(torch.matmul(one, two))

    result = bilinear(input, other, torch.matmul, left, right, both)
    return _cast(result.value, result.coefficients, result.frame)


def _summed_over_batch(one: Operand, two: Operand) -> Any:
    return torch.sum(torch.matmul(one, two), 0)


def _added_product(product: Callable[[Operand, Operand], Any]) -> Callable[..., Any]:
    """``beta input + alpha product``."""

    def rule(input: Operand, one: Operand, two: Operand, *, beta: float = 1, alpha: float = 1) -> Any:
        result = product(one, two)
        if alpha != 1:
            result = result * alpha
        if beta == 0:
            return result
        return torch.add(result, input if beta == 1 else input * beta)

    return rule


def addcmul(input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Any:
    """``input + value tensor1 tensor2``."""
    return torch.add(input, torch.mul(tensor1, tensor2), alpha=value)


def addcdiv(input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Any:
    """``input + value tensor1 / tensor2``."""
    return torch.add(input, torch.div(tensor1, tensor2), alpha=value)


def lerp(input: Operand, end: Operand, weight: Operand) -> Any:
    """``input + weight (end - input)``."""
    return torch.add(input, torch.mul(torch.sub(end, input), weight))


def einsum(equation: Any, *operands: Any) -> Any:
    """Any product of one or two jets with constants; of more, two at a time."""
    if not isinstance(equation, str):
        raise CannotFollowError("einsum with sublists")
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    terms, result = _parsed(equation, operands)
    places = [place for place, operand in enumerate(operands) if type(operand) is Jet]
    if len(places) > 2:
        return _one_by_one(terms, result, operands)
    row = next(letter for letter in LETTERS if letter not in equation)

    def product(with_rows: tuple[int, ...]) -> Callable[..., Tensor]:
        spelled = ",".join(f"{row}{term}" if place in with_rows else term for place, term in enumerate(terms))

        def multiply(*jet_parts: Tensor) -> Tensor:
            values = list(operands)
            for place, part in zip(places, jet_parts, strict=True):
                shape = operands[place].shape
                values[place] = part.expand(part.shape[0], *shape) if place in with_rows else part
            return torch.einsum(f"{spelled}->{row if with_rows else ''}{result}", *values)

        return multiply

    if len(places) == 1:
        return linear(operands[places[0]], product(()), product((places[0],)))
    one, two = places
    return bilinear(operands[one], operands[two], product(()), product((one,)), product((two,)), product((one, two)))


LETTERS = "zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA"


def _parsed(equation: str, operands: Any) -> tuple[list[str], str]:
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted({letter for letter in left if letter.isalpha()})
        result = ("..." if "..." in left else "") + "".join(c for c in letters if left.count(c) == 1)
    return terms, result


def _one_by_one(terms: list[str], result: str, operands: Any) -> Any:
    """The first two operands, keeping every letter that is still needed, then the rest."""
    if any("..." in term for term in terms):
        raise CannotFollowError("einsum of three differentiated tensors with an ellipsis")
    later = set("".join(terms[2:]) + result)
    kept = "".join(dict.fromkeys(letter for letter in terms[0] + terms[1] if letter in later))
    first = torch.einsum(f"{terms[0]},{terms[1]}->{kept}", operands[0], operands[1])
    return torch.einsum(f"{','.join([kept, *terms[2:]])}->{result}", first, *operands[2:])


def install() -> None:
    """Enter the rules of this file."""
    method = torch.Tensor
    named(sum_of, "add", keeps_frame=True)
    add(sum_of, method.__add__, method.__radd__, keeps_frame=True)
    named(difference, "sub", "subtract", keeps_frame=True)
    add(difference, method.__sub__, keeps_frame=True)
    reverse_difference = lambda x, other, alpha=1: difference(other, x, alpha=alpha)  # noqa: E731
    add(reverse_difference, method.__rsub__, torch.rsub, keeps_frame=True)
    named(product_of, "mul", "multiply", keeps_frame=True)
    add(product_of, method.__mul__, method.__rmul__, keeps_frame=True)
    for rule, written in (
        (sum_of, method.__iadd__),
        (difference, method.__isub__),
        (product_of, method.__imul__),
        (quotient, method.__itruediv__),
        (quotient, method.__idiv__),
    ):
        add(in_place_of(rule), written, keeps_frame=True)
    named(quotient, "div", "divide", "true_divide", keeps_frame=True)
    add(quotient, method.__truediv__, method.__div__, keeps_frame=True)
    add(lambda x, other: quotient(other, x), method.__rtruediv__, method.__rdiv__, keeps_frame=True)
    named(negative, "neg", "negative", keeps_frame=True)
    add(negative, method.__neg__, keeps_frame=True)
    add(linear_layer, F.linear, keeps_frame=True)
    named(matrix_product, "matmul", "vdot")
    for name, second in (("mm", "mat2"), ("bmm", "mat2"), ("mv", "vec"), ("dot", "tensor")):
        named(spelled(matrix_product, **{second: "other"}), name)
    add(matrix_product, method.__matmul__)
    add(lambda x, other: matrix_product(other, x), method.__rmatmul__)
    added = _added_product(torch.matmul)
    for name, one, two in (("addmm", "mat1", "mat2"), ("addmv", "mat", "vec"), ("baddbmm", "batch1", "batch2")):
        named(spelled(added, **{one: "one", two: "two"}), name)
    named(spelled(_added_product(_summed_over_batch), batch1="one", batch2="two"), "addbmm")
    named(addcmul, "addcmul")
    named(addcdiv, "addcdiv")
    named(lerp, "lerp")
    add(einsum, torch.einsum)
