"""Products of vectors and matrices, and solves, inverses and determinants by what defines them.

From ``A Z = B`` follows ``A_0 Z_a = B_a - sum_{b > 0} A_b Z_{a-b}``, one solve with the value for every order; from
``d log det A = tr(A^-1 dA)``, with order for derivative, ``n l_n = sum_{p=1..n} p tr(A_p (A^-1)_{n-p})``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...core.torch_private import c_torch
from ..build import Operand, aligned, frame_of
from ..frame import CannotFollowError, plus
from ..jet import Jet
from ..registry import spelled
from ..values import plain
from .products import added_product
from .shared import enter, enter_valued, from_end, full_rows_of, lower_orders, minus, several

Tensor = torch.Tensor
Solver = Callable[[Tensor], Tensor]
"""From the right-hand side to the solution, for the value of the matrix."""


# -------------------------------------------------------------------- products


def outer(input: Any, vec2: Any) -> Any:
    """All products of elements of two vectors."""
    return torch.mul(torch.unsqueeze(input, 1), vec2)


def inner(input: Any, other: Any) -> Any:
    """The sum over the last axis of both."""
    if not input.dim() or not other.dim():
        return torch.mul(input, other)
    return tensordot(input, other, ([-1], [-1]))


def tensordot(a: Any, b: Any, dims: Any = 2, out: None = None) -> Any:
    """The sum over pairs of axes, as a product of matrices."""
    if isinstance(plain(dims), Tensor):
        dims = dims.item() if dims.numel() == 1 else dims.tolist()
    if isinstance(dims, int):
        dims = (list(range(a.dim() - dims, a.dim())), list(range(dims)))
    ones, twos = ([dims[0]], [dims[1]]) if isinstance(dims[0], int) else dims
    ones, twos = [d % a.dim() for d in ones], [d % b.dim() for d in twos]
    for one, two in zip(ones, twos, strict=True):  # where one has a single element, it is that of all of the other's
        if a.shape[one] != b.shape[two]:
            a, b = (torch.sum(t, d, keepdim=True) for t, d in ((a, one), (b, two)))
    kept_a, kept_b = ([d for d in range(t.dim()) if d not in gone] for t, gone in ((a, ones), (b, twos)))
    shape = (*(a.shape[d] for d in kept_a), *(b.shape[d] for d in kept_b))
    size = torch.Size([a.shape[d] for d in ones]).numel()
    left = torch.reshape(torch.permute(a, (*kept_a, *ones)), (torch.Size([a.shape[d] for d in kept_a]).numel(), size))
    right = torch.reshape(torch.permute(b, (*twos, *kept_b)), (size, torch.Size([b.shape[d] for d in kept_b]).numel()))
    return torch.reshape(torch.matmul(left, right), shape)


def kron(input: Any, other: Any) -> Any:
    """Each element of the first times the whole second."""
    ndim = max(input.dim(), other.dim())
    one, two = ((1,) * (ndim - t.dim()) + tuple(t.shape) for t in (input, other))
    left = torch.reshape(input, [size for pair in zip(one, (1,) * ndim, strict=True) for size in pair])
    right = torch.reshape(other, [size for pair in zip((1,) * ndim, two, strict=True) for size in pair])
    return torch.reshape(torch.mul(left, right), [a * b for a, b in zip(one, two, strict=True)])


def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """The product of vectors of three elements, along the first axis that has three."""
    if dim is None:
        dim = next(place for place, size in enumerate(input.shape) if size == 3)
    return linalg_cross(input, other, dim=dim)


def linalg_cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """The product of vectors of three elements along an axis, broadcast."""
    at = from_end(dim, max(input.dim(), other.dim()))

    def turned(x: Any, shift: int) -> Any:
        return torch.roll(x, shift, at)

    return torch.mul(turned(input, -1), turned(other, 1)) - torch.mul(turned(input, 1), turned(other, -1))


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:  # noqa: N803  # torch's own name
    """Powers of the elements as columns."""
    columns = _powers(x, x.shape[-1] if N is None else N)
    return torch.stack(columns if increasing else columns[::-1], -1) if columns else x[..., None][..., :0]


def linalg_vander(x: Any, *, N: int | None = None) -> Any:  # noqa: N803
    """Growing powers of the elements as columns."""
    return vander(x, N, True)


def _powers(x: Any, count: int) -> list[Any]:
    powers = [torch.ones_like(x)]
    while len(powers) < count:
        powers.append(x if len(powers) == 1 else torch.mul(powers[-1], x))
    return powers[:count]


def multi_dot(tensors: Sequence[Any]) -> Any:
    """A chain of matrices, from the end that is cheaper."""
    sizes = [tensors[0].shape[0] if tensors[0].dim() > 1 else 1, *(tensor.shape[-1] for tensor in tensors)]
    if tensors[-1].dim() == 1:
        sizes[-1] = 1
    inner = list(itertools.pairwise(sizes))
    forwards = sum(sizes[0] * k * n for k, n in inner[1:])
    backwards = sum(sizes[-1] * k * n for k, n in inner[:-1])
    if forwards <= backwards:
        return functools.reduce(torch.matmul, tensors)
    return functools.reduce(lambda done, tensor: torch.matmul(tensor, done), reversed(tensors))


def chain_matmul(*matrices: Any, out: None = None) -> Any:
    """The product of several matrices, given one by one."""
    return multi_dot(several(matrices))


def matrix_power(input: Any, n: int) -> Any:
    """By repeated squares."""
    if n < 0:
        return matrix_power(inverse(input), -n)
    if n == 0:
        return torch.matmul(input, torch.zeros_like(plain(input))) + torch.eye(input.shape[-1], dtype=input.dtype)
    result, square = None, input
    while n:
        if n % 2:
            result = square if result is None else torch.matmul(result, square)
        n //= 2
        square = torch.matmul(square, square) if n else square
    return result


def bilinear_layer(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """``x W y + b`` for each output."""
    half = torch.einsum("...i,oij->...oj", input1, weight)
    result = torch.sum(torch.mul(half, torch.unsqueeze(input2, -2)), -1)
    return result if bias is None else torch.add(result, bias)


# -------------------------------------------------------------------- solves


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Of two stacks of rows, whose matrices broadcast."""
    dim = max(left.dim(), right.dim()) - 1
    return torch.matmul(aligned(left, dim), aligned(right, dim))


def _side_by_side(solver: Solver, rows: Tensor) -> Tensor:
    """One solve for all rows, ``(R, *, n, k)``: they are further columns."""
    columns = rows.movedim(0, -2)
    solved = solver(columns.flatten(-2))
    return solved.reshape(*solved.shape[:-1], *columns.shape[-2:]).movedim(-2, 0)


def solved(a: Operand, b: Operand, value: Tensor, solver: Solver) -> Jet:
    """``Z`` with ``A Z = B``, whose value is known; of the matrix nothing but the rows is used."""
    frame = frame_of(a, b)
    rows = full_rows_of(a, frame)
    found: list[Tensor | None] = []
    for n, (own, right) in enumerate(zip(rows, full_rows_of(b, frame), strict=True), start=1):
        first = None if own is None else _product(own, value[None])
        rest = minus(right, lower_orders(frame, n, rows, found, _product, first))
        found.append(None if rest is None else _side_by_side(solver, aligned(rest, value.dim())))
    return Jet(value, tuple(found), frame)


def solve(A: Any, B: Any, *, left: bool = True) -> Any:  # noqa: N803  # torch's own names
    """``torch.linalg.solve``, of a vector or of columns, from either side."""
    return solve_by(torch.linalg.solve, A, B, left)


def solve_by(solution: Callable[[Any, Any], Any], A: Any, B: Any, left: bool) -> Any:  # noqa: N803
    """The solution of ``A Z = B``, or ``Z A = B``, where ``solution`` gives that of columns of numbers."""
    vector = B.dim() == 1 or (A.dim() - 1 == B.dim() and tuple(B.shape) == tuple(A.shape[:-1]))
    if vector:
        return torch.squeeze(solve_by(solution, A, torch.unsqueeze(B, -1), True), -1)
    if not left:
        flipped = solve_by(solution, torch.transpose(A, -1, -2), torch.transpose(B, -1, -2), True)
        return torch.transpose(flipped, -1, -2)
    solver = functools.partial(solution, plain(A))
    return solved(A, B, solver(plain(B)), solver)


def inverse(A: Any) -> Any:  # noqa: N803
    """``A Z = 1``."""
    return inverse_with(A, torch.linalg.inv(A.value))


def inverse_with(A: Any, value: Tensor) -> Any:  # noqa: N803
    """The inverse, whose value is known."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return solved(A, identity, value, lambda right: torch.matmul(value, right))


def inverse_if_any(matrices: Tensor) -> Tensor:
    """The inverse of each matrix, NaN where it has none: other samples keep their derivatives."""
    found, info = torch.linalg.inv_ex(matrices)
    return torch.where((info == 0)[..., None, None], found, math.nan)


def solution_if_any(matrices: Tensor, right: Tensor) -> Tensor:
    """The solution of each system, NaN where there is none."""
    found, info = torch.linalg.solve_ex(matrices, right)
    return torch.where((info == 0)[..., None, None], found, math.nan)


def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:  # noqa: N803
    """``torch.linalg.solve_triangular``, which looks at one triangle only."""
    if not left:
        flipped = solve_triangular(
            torch.transpose(A, -1, -2), torch.transpose(B, -1, -2), upper=not upper, unitriangular=unitriangular
        )
        return torch.transpose(flipped, -1, -2)
    solver = functools.partial(torch.linalg.solve_triangular, plain(A), upper=upper, unitriangular=unitriangular)
    triangle = torch.triu(A, int(unitriangular)) if upper else torch.tril(A, -int(unitriangular))
    return solved(triangle, B, solver(plain(B)), solver)


def cholesky_solve(B: Any, L: Any, upper: bool = False) -> Any:  # noqa: N803
    """Two triangles, one after the other."""
    turned = torch.adjoint(L)
    first, second = (turned, L) if upper else (L, turned)
    return torch.linalg.solve_triangular(second, torch.linalg.solve_triangular(first, B, upper=False), upper=True)


def lu_solve(LU: Any, pivots: Any, B: Any, *, left: bool = True, adjoint: bool = False) -> Any:  # noqa: N803
    """``P L U Z = B``, of the two triangles in one matrix."""
    if not left:
        return torch.adjoint(lu_solve(LU, pivots, torch.adjoint(B), adjoint=not adjoint))
    permutation, _, _ = torch.lu_unpack(plain(LU), pivots, unpack_data=False)
    if adjoint:
        flipped = torch.adjoint(LU)
        middle = torch.linalg.solve_triangular(flipped, B, upper=False)
        right = torch.linalg.solve_triangular(flipped, middle, upper=True, unitriangular=True)
        return torch.matmul(permutation, right)
    shuffled = torch.matmul(permutation.mT, B)
    middle = torch.linalg.solve_triangular(LU, shuffled, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(LU, middle, upper=True)


def torch_lu_solve(b: Any, LU_data: Any, LU_pivots: Any) -> Any:  # noqa: N803
    """The older order of the arguments."""
    return lu_solve(LU_data, LU_pivots, b)


# -------------------------------------------------------------------- determinants


def _log_determinant(A: Jet) -> list[Tensor | None]:  # noqa: N803
    """The rows of ``log |det A|``, from one inverse.

    They are those of ``log det (1 + B)`` with ``B = A A_0^-1``, whose inverse C is ``C_n = -sum_{p=1..n} B_p C_{n-p}``:
    the highest order of neither is needed but for traces.
    """
    frame, inverted = A.frame, inverse_if_any(A.value)
    order = frame.layout.order
    found: list[Tensor | None] = []
    relative: list[Tensor | None] = []
    inverse_rows: list[Tensor | None] = []
    for n, own in enumerate(full_rows_of(A, frame), start=1):
        total = None if own is None else _traces(own, inverted) * n
        for p in range(1, n):
            term = frame.convolve(p, n - p, relative[p - 1], inverse_rows[n - p - 1], _traces)
            total = plus(total, None if term is None else term * p)
        found.append(None if total is None else total / n)
        if n < order:
            relative.append(None if own is None else _one_above_another(own, inverted))
            rest = plus(relative[-1], lower_orders(frame, n, relative, inverse_rows))
            inverse_rows.append(None if rest is None else -rest)
    return found


def _traces(left: Tensor, right: Tensor) -> Tensor:
    return (left * right.mT).sum((-2, -1))


def _one_above_another(rows: Tensor, matrix: Tensor) -> Tensor:
    """One product for all rows, ``(R, *, n, n)``, times a matrix ``(*, n, n)``."""
    columns = rows.movedim(0, -3)
    product = torch.matmul(columns.flatten(-3, -2), matrix)
    return product.reshape(columns.shape).movedim(-3, 0)


def slogdet(A: Jet) -> Any:  # noqa: N803
    """Sign and logarithm; the sign is constant."""
    if A.dtype.is_complex:
        raise CannotFollowError("the determinant of complex matrices")
    values = torch.linalg.slogdet(A.value)
    return type(values)((values[0], Jet(values[1], tuple(_log_determinant(A)), A.frame)))


def logdet(input: Jet) -> Jet:
    """NaN where the determinant is negative."""
    return Jet(torch.logdet(input.value), tuple(_log_determinant(input)), input.frame)


def install() -> None:
    """Enter the rules of this file."""
    linalg = torch.linalg
    enter(
        {
            "outer": outer,
            "ger": outer,
            c_torch.tensordot: lambda a, b, ones, twos: torch.tensordot(a, b, (ones, twos)),
            "kron": kron,
            "cross": cross,
            linalg.cross: linalg_cross,
            torch.vander: vander,
            linalg.vander: linalg_vander,
            torch.chain_matmul: chain_matmul,
            linalg.solve: solve,
            linalg.inv: inverse,
            "inverse": inverse,
            linalg.solve_triangular: solve_triangular,
            linalg.slogdet: slogdet,
            "slogdet": slogdet,
            "logdet": logdet,
        }
    )
    enter_valued(
        {
            "addr": spelled(added_product(outer), vec1="one", vec2="two"),
            "inner": inner,
            torch.tensordot: tensordot,
            linalg.multi_dot: multi_dot,
            "matrix_power": matrix_power,
            linalg.matrix_power: matrix_power,
            "bilinear": bilinear_layer,
            "cholesky_solve": spelled(cholesky_solve, input2="L"),
            linalg.lu_solve: lu_solve,
            "lu_solve": torch_lu_solve,
        }
    )
