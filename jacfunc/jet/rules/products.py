"""Sums and products: all that is linear in each of two operands, and quotients, products solved for a factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ...core.levels import compiling
from ...core.torch_private import autocasting
from ..build import Operand, aligned, bilinear, frame_of, linear, of_windows
from ..dotted import dotted
from ..frame import CannotFollowError
from ..jet import Jet
from ..layout import SummedProduct
from ..registry import in_place_of, spelled
from ..windows import windows_of
from .shared import enter, lower_orders, minus, reflected, rows_of, several

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
    one, two = windows_of(input), windows_of(other)
    if one is not None and two is not None and input.shape == other.shape and input.dtype == other.dtype:
        return of_windows(one.plus(two, alpha), value, input.frame)
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
    windows = windows_of(jet)
    if windows is not None and value.shape == jet.shape and value.dtype == jet.dtype:
        return of_windows(windows, value, jet.frame)
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

    return SummedProduct(product, lambda left, right: dotted(aligned(left, dim), aligned(right, dim)))


def product_of(input: Operand, other: Operand) -> Jet:
    """Element by element."""
    x, y = _value(input), _value(other)
    windows = windows_of(input) if type(input) is Jet and type(other) is not Jet else None
    if windows is not None:
        value = x * y
        if value.shape == x.shape and value.dtype == x.dtype:
            return of_windows(windows.then(lambda rows: rows * y, given=(y,)), value, input.frame)
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
    if type(other) is not Jet:
        return _cast(value, [None if c is None else aligned(c, dim) / y for c in input.coefficients], frame)
    both = _aligned_product(dim)
    found: list[Tensor | None] = []
    for n, (above, below) in enumerate(zip(rows_of(input, frame), other.coefficients, strict=True), start=1):
        first = None if below is None else aligned(below, dim) * value
        rest = lower_orders(frame, n, found, other.coefficients, both, first)
        top = minus(None if above is None else aligned(above, dim), rest)
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
    x_matrix, y_matrix = x.unsqueeze(0) if x_vector else x, y.unsqueeze(-1) if y_vector else y

    def x_rows(stack: Tensor) -> Tensor:
        full = stack.expand(stack.shape[0], *x.shape)
        return aligned(full.unsqueeze(-2) if x_vector else full, dim)

    def y_rows(stack: Tensor) -> Tensor:
        full = stack.expand(stack.shape[0], *y.shape)
        return aligned(full.unsqueeze(-1) if y_vector else full, dim)

    def squeezed(product: Tensor) -> Tensor:
        if y_vector:
            product = product.squeeze(-1)
        return product.squeeze(-1 if y_vector else -2) if x_vector else product

    stacked = rows_above if dim > 2 else torch.matmul
    beside = rows_beside if dim > 2 else torch.matmul
    result = bilinear(
        input,
        other,
        torch.matmul,
        lambda rows, _: squeezed(stacked(x_rows(rows), y_matrix)),
        lambda _, rows: squeezed(beside(x_matrix, y_rows(rows))),
        SummedProduct(
            lambda left, right: squeezed(torch.matmul(x_rows(left), y_rows(right))),
            lambda left, right: squeezed(rows_added_up(x_rows(left), y_rows(right))),
        ),
    )
    return _cast(result.value, result.coefficients, result.frame)


def rows_above(rows: Tensor, matrix: Tensor) -> Tensor:
    """``(R, *, m, k)`` times ``(*, k, n)``, all rows one above the other: few large products for many small ones."""
    product = torch.matmul(rows.movedim(0, -3).flatten(-3, -2), matrix)
    return product.reshape(*product.shape[:-2], rows.shape[0], rows.shape[-2], matrix.shape[-1]).movedim(-3, 0)


def rows_beside(matrix: Tensor, rows: Tensor) -> Tensor:
    """``(*, m, k)`` times ``(R, *, k, n)``, all rows side by side."""
    product = torch.matmul(matrix, rows.mT.movedim(0, -3).flatten(-3, -2).mT)
    return product.reshape(*product.shape[:-1], rows.shape[0], rows.shape[-1]).movedim(-2, 0)


def rows_added_up(left: Tensor, right: Tensor) -> Tensor:
    """The sum over rows of ``(R, *, m, k)`` times ``(R, *, k, n)``, ``(1, *, m, n)``, as one product over rows too."""
    return torch.matmul(left.movedim(0, -2).flatten(-2), right.movedim(0, -3).flatten(-3, -2)).unsqueeze(0)


def _summed_over_batch(one: Operand, two: Operand) -> Any:
    return torch.sum(torch.matmul(one, two), 0)


def added_product(product: Callable[[Operand, Operand], Any]) -> Callable[..., Any]:
    """The rule of ``beta input + alpha product``."""

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
    operands = several(operands)
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
    less, over = reflected(difference), reflected(quotient)
    enter(
        {
            "add": sum_of,
            method.__add__: sum_of,
            method.__radd__: sum_of,
            method.__iadd__: in_place_of(sum_of),
            "sub": difference,
            "subtract": difference,
            method.__sub__: difference,
            method.__isub__: in_place_of(difference),
            method.__rsub__: less,
            torch.rsub: less,
            "mul": product_of,
            "multiply": product_of,
            method.__mul__: product_of,
            method.__rmul__: product_of,
            method.__imul__: in_place_of(product_of),
            "div": quotient,
            "divide": quotient,
            "true_divide": quotient,
            method.__truediv__: quotient,
            method.__div__: quotient,
            method.__itruediv__: in_place_of(quotient),
            method.__idiv__: in_place_of(quotient),
            method.__rtruediv__: over,
            method.__rdiv__: over,
            "neg": negative,
            "negative": negative,
            method.__neg__: negative,
            F.linear: linear_layer,
        },
        keeps_frame=True,
    )
    added = added_product(torch.matmul)
    enter(
        {
            "matmul": matrix_product,
            "vdot": matrix_product,
            method.__matmul__: matrix_product,
            method.__rmatmul__: reflected(matrix_product),
            "mm": spelled(matrix_product, mat2="other"),
            "bmm": spelled(matrix_product, mat2="other"),
            "mv": spelled(matrix_product, vec="other"),
            "dot": spelled(matrix_product, tensor="other"),
            "addmm": spelled(added, mat1="one", mat2="two"),
            "addmv": spelled(added, mat="one", vec="two"),
            "baddbmm": spelled(added, batch1="one", batch2="two"),
            "addbmm": spelled(added_product(_summed_over_batch), batch1="one", batch2="two"),
            "addcmul": addcmul,
            "addcdiv": addcdiv,
            "lerp": lerp,
            torch.einsum: einsum,
        }
    )
