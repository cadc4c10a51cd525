"""Decompositions, by the recursion that their equation gives: ``A = L L^H``, ``A = L U``, ``A = Q R``, ``A V = V D``.

In each, the terms of an order n that are not known yet stand with the values alone: ``A_n`` less the products of lower
orders, in the basis of the value, falls apart in a triangular, symmetric or diagonal part and the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..fallback import pushed
from ..frame import plus
from ..jet import Jet
from ..values import plain
from .algebra import cholesky_solve, inverse_if_any, inverse_with, solution_if_any, solve_by
from .shared import enter, enter_each, enter_valued, full_rows_of, lower_orders, minus

Tensor = torch.Tensor
Found = list[Tensor | None]


# -------------------------------------------------------------------- triangles


def _cholesky(A: Jet, value: Tensor, upper: bool) -> Any:  # noqa: N803
    """Of the Hermitian part, as torch has it: ``L_0^-1 (..) L_0^-H`` is its lower triangle plus the adjoint of that."""
    factor = value.mH if upper else value
    found: Found = []
    for n, rows in enumerate(full_rows_of(A, A.frame), start=1):
        hermitian = None if rows is None else (rows + rows.mH) / 2
        rest = minus(hermitian, lower_orders(A.frame, n, found, found, lambda x, y: x @ y.mH))
        if rest is None:
            found.append(None)
            continue
        half = torch.linalg.solve_triangular(factor, rest, upper=False)
        inner = torch.linalg.solve_triangular(factor, half.mH, upper=False).mH
        found.append(factor @ (inner.tril() - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)) / 2))
    return A.like(value, tuple(rows if rows is None or not upper else rows.mH for rows in found))


def cholesky(A: Jet, upper: bool = False) -> Any:  # noqa: N803
    """``A = L L^H``."""
    return _cholesky(A, torch.linalg.cholesky(A.value, upper=upper), upper)


def cholesky_ex(A: Jet, *, upper: bool = False, check_errors: bool = False) -> Any:  # noqa: N803
    """``A = L L^H``, and instead of an error a number that says where there is no such L."""
    values = torch.linalg.cholesky_ex(A.value, upper=upper, check_errors=check_errors)
    return type(values)((_cholesky(A, values[0], upper), values[1]))


def cholesky_inverse(L: Any, upper: bool = False) -> Any:  # noqa: N803
    """The inverse of what a factor is of."""
    return cholesky_solve(torch.eye(L.shape[-1], dtype=L.dtype, device=L.device), L, upper)


def _lu_factor(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of ``lu_factor`` and its kin: both triangles in one matrix, and what does not vary."""

    def rule(A: Jet, *, pivot: bool = True, **options: Any) -> Any:  # noqa: N803
        if A.shape[-1] != A.shape[-2]:
            return pushed(function, (A,), {"pivot": pivot, **options})
        values = function(A.value, pivot=pivot, **options)
        permutation, lower, upper = torch.lu_unpack(*values[:2])
        lowers: Found = []
        uppers: Found = []
        for n, rows in enumerate(full_rows_of(A, A.frame), start=1):
            rest = minus(None if rows is None else permutation.mT @ rows, lower_orders(A.frame, n, lowers, uppers))
            if rest is None:
                lowers.append(None)
                uppers.append(None)
                continue
            inner = torch.linalg.solve_triangular(lower, rest, upper=False, unitriangular=True)
            inner = torch.linalg.solve_triangular(upper, inner, upper=True, left=False)
            lowers.append(lower @ inner.tril(-1))
            uppers.append(inner.triu() @ upper)
        both = [plus(one, other) for one, other in zip(lowers, uppers, strict=True)]
        return type(values)((A.like(values[0], tuple(both)), *values[1:]))

    return rule


def lu_unpack(LU_data: Any, LU_pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:  # noqa: N803
    """The two triangles apart."""
    values = torch.lu_unpack(plain(LU_data), LU_pivots, unpack_data, unpack_pivots)
    if not unpack_data or LU_data.shape[-1] != LU_data.shape[-2]:
        return pushed(torch.lu_unpack, (LU_data, LU_pivots, unpack_data, unpack_pivots), {})
    one = torch.eye(LU_data.shape[-1], dtype=LU_data.dtype, device=LU_data.device)
    return type(values)((values[0], torch.tril(LU_data, -1) + one, torch.triu(LU_data)))


def lu(A: Any, *, pivot: bool = True) -> Any:  # noqa: N803
    """``A = P L U``."""
    if A.shape[-1] != A.shape[-2]:
        return pushed(torch.linalg.lu, (A,), {"pivot": pivot})
    return lu_unpack(*torch.linalg.lu_factor(A, pivot=pivot))


def qr(A: Any, mode: str = "reduced") -> Any:  # noqa: N803
    """``Q_0^T (..) R_0^-1`` is antisymmetric, but for what lower orders of ``Q^T Q = 1`` leave, plus a triangle."""
    m, n = A.shape[-2:]
    if mode not in ("reduced", "complete") or (mode == "complete" and m > n) or A.dtype.is_complex:
        return pushed(torch.linalg.qr, (A, mode), {})
    values = torch.linalg.qr(A.value, mode)
    if m < n:
        left, right = qr(A[..., :m])
        return type(values)((left, torch.cat([right, torch.matmul(torch.transpose(left, -1, -2), A[..., m:])], -1)))
    left, right = values
    lefts: Found = []
    rights: Found = []
    for order, rows in enumerate(full_rows_of(A, A.frame), start=1):
        rest = minus(rows, lower_orders(A.frame, order, lefts, rights))
        if rest is None:
            lefts.append(None)
            rights.append(None)
            continue
        solved = torch.linalg.solve_triangular(right, rest, upper=True, left=False)
        inner = left.mT @ solved
        turn = inner.tril(-1) - inner.tril(-1).mT
        gram = lower_orders(A.frame, order, lefts, lefts, lambda x, y: x.mT @ y)
        if gram is not None:
            turn = turn - gram.triu(1) - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1)) / 2
        rights.append((inner - turn) @ right)
        lefts.append(solved - left @ (inner - turn))
    return type(values)((A.like(left, tuple(lefts)), A.like(right, tuple(rights))))


def torch_qr(input: Any, some: bool = True) -> Any:
    """The older name."""
    return qr(input, "reduced" if some else "complete")


# -------------------------------------------------------------------- eigenvalues


def _eigen(A: Jet, values: Tensor, vectors: Tensor, all_orders: bool) -> tuple[Found, Found]:  # noqa: N803
    """Rows of the eigenvalues, and of the eigenvectors in their own basis; ``all_orders`` of the latter or one less.

    With ``V = V_0 U``: ``(d_j - d_i) U_n = V_0^H A_n V_0 + sum_{0<p<n} (V_0^H A_p V_0 U_{n-p} - U_p D_{n-p})`` off the
    diagonal, on which that is ``D_n``, while ``U^H U = 1`` gives the diagonal of ``U_n``.
    """
    order = A.frame.layout.order
    gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
    same = torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    gaps = torch.where(same, 1.0, gaps)
    inner: Found = [None if rows is None else vectors.mH @ rows @ vectors for rows in full_rows_of(A, A.frame)]
    found: Found = []
    turns: Found = []
    for n in range(1, order + 1):
        rest = plus(inner[n - 1], lower_orders(A.frame, n, inner, turns))
        rest = minus(rest, lower_orders(A.frame, n, turns, found, lambda x, y: x * y.unsqueeze(-2)))
        if rest is None:
            found.append(None)
            turns.append(None)
            continue
        diagonal = rest.diagonal(dim1=-2, dim2=-1)
        found.append(diagonal.real if rest.is_complex() else diagonal)
        if n == order and not all_orders:
            break
        gram = lower_orders(A.frame, n, turns, turns, lambda x, y: x.mH @ y)
        turns.append(torch.where(same, 0.0 if gram is None else -gram / 2, rest / gaps))
    return found, turns


def eigh(A: Jet, UPLO: str = "L") -> Any:  # noqa: N803
    """``A V = V D``, of a Hermitian matrix."""
    result = torch.linalg.eigh(A.value, UPLO)
    values, vectors = result
    found, turns = _eigen(A, values, vectors, True)
    rows: Found = [None if turn is None else vectors @ turn for turn in turns]
    return type(result)((A.like(values, tuple(found)), A.like(vectors, tuple(rows))))


def eigvalsh(A: Jet, UPLO: str = "L") -> Any:  # noqa: N803
    """Its eigenvalues alone, whose first derivatives exist where some are equal as well."""
    values, vectors = torch.linalg.eigh(A.value, UPLO)
    return A.like(values, tuple(_eigen(A, values, vectors, False)[0]))


def svdvals(A: Any, *, driver: str | None = None) -> Any:  # noqa: N803
    """They are the upper half of the eigenvalues of ``[[0, A], [A^H, 0]]``."""
    m, n = A.shape[-2:]
    if m != n:  # else zero would be an eigenvalue several times
        A = qr(A if m > n else torch.adjoint(A)).R  # noqa: N806
    zero = torch.zeros_like(plain(A))
    whole = torch.cat([torch.cat([zero, A], -1), torch.cat([torch.adjoint(A), zero], -1)], -2)
    return torch.flip(torch.linalg.eigvalsh(whole)[..., min(m, n) :], (-1,))


# -------------------------------------------------------------------- solves under other names


def with_value(jet: Jet, value: Tensor) -> Jet:
    """With torch's own value, which is something also where there is no derivative."""
    return jet.like(value, jet.coefficients)


def inv_ex(A: Any, *, check_errors: bool = False) -> Any:  # noqa: N803
    """The inverse, and whether there is one."""
    values = torch.linalg.inv_ex(A.value, check_errors=check_errors)
    return type(values)((with_value(inverse_with(A, inverse_if_any(A.value)), values[0]), values[1]))


def solve_ex(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> Any:  # noqa: N803
    """The solution, and whether there is one."""
    values = torch.linalg.solve_ex(plain(A), plain(B), left=left, check_errors=check_errors)
    return type(values)((with_value(solve_by(solution_if_any, A, B, left), values[0]), values[1]))


def tensorinv(A: Any, ind: int = 2) -> Any:  # noqa: N803
    """Of the matrix that the first axes and the others make."""
    before, after = A.shape[:ind], A.shape[ind:]
    return torch.reshape(torch.linalg.inv(torch.reshape(A, (math.prod(before), -1))), (*after, *before))


def tensorsolve(A: Any, B: Any, dims: Any = None) -> Any:  # noqa: N803
    """The solution of a system whose matrix is made of the first axes and the others."""
    if dims is not None:
        A = torch.movedim(A, tuple(dims), tuple(range(-len(dims), 0)))  # noqa: N806
    shape = A.shape[B.dim() :]
    matrix = torch.reshape(A, (-1, math.prod(shape)))
    return torch.reshape(torch.linalg.solve(matrix, torch.reshape(B, (-1,))), tuple(shape))


def install() -> None:
    """Enter the rules of this file."""
    linalg = torch.linalg
    enter(
        {
            linalg.cholesky: cholesky,
            "cholesky": cholesky,
            linalg.cholesky_ex: cholesky_ex,
            linalg.lu: lu,
            "lu_unpack": lu_unpack,
            linalg.qr: qr,
            "qr": torch_qr,
            linalg.eigh: eigh,
            linalg.eigvalsh: eigvalsh,
            linalg.inv_ex: inv_ex,
            linalg.solve_ex: solve_ex,
        }
    )
    enter_each(_lu_factor, linalg.lu_factor, linalg.lu_factor_ex)
    enter_valued(
        {
            "cholesky_inverse": cholesky_inverse,
            linalg.svdvals: svdvals,
            linalg.tensorinv: tensorinv,
            linalg.tensorsolve: tensorsolve,
        }
    )
