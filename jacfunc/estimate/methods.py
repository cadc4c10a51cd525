r"""How a trace or a diagonal is estimated from few products with a matrix ``A`` of each sample.

A method is given ``forward``, which gives :math:`A V` for directions :math:`V`, ``backward`` for :math:`A^T V`, and
test vectors.  All are stacked as rows, ``(*batch, count, d)``.  What is found is linear in these products, with factors
that do not depend on ``A`` but through the subspace :math:`Q`, which no gradient goes through: given :math:`Q`, the
expected value over the other test vectors is the trace whatever :math:`Q` is, and so is its derivative.

- Hutchinson: M. Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989; of diagonals
  C. Bekas, E. Kokiopoulou, Y. Saad, "An estimator for the diagonal of a matrix", 2007.
- Hutch++: R. Meyer, C. Musco, C. Musco, D. Woodruff, "Hutch++: Optimal stochastic trace estimation", 2021; of diagonals
  R. Baston, Y. Nakatsukasa, "Stochastic diagonal estimation", 2022.
- XTrace, XDiag: E. Epperly, J. Tropp, R. Webber, "XTrace: Making the most of every sample in stochastic trace
  estimation", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .result import Estimate

Tensor = torch.Tensor
Product = Callable[[Tensor], Tensor]
"""Of rows ``(*batch, count, d)`` the products of the matrix with each."""


def _dots(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(-1)


class Span(NamedTuple):
    """An orthonormal ``basis`` of what rows span, as rows; no gradient goes through any of it.

    Of rows that span fewer dimensions than they are, some of the basis are zero: a direction in their place would be
    chosen by rounding, and would depend on what it is to be independent of.  ``left[i]`` is the unit vector, in the
    basis, that row i alone adds to the span, zero if it adds none; ``dimensions`` of the span without row i.
    """

    basis: Tensor
    left: Tensor
    dimensions: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Span:
        """That of rows, ``(*batch, m, d)``."""
        dtype = rows.dtype if rows.dtype in (torch.float32, torch.float64) else torch.float32  # for LAPACK
        columns, triangle = torch.linalg.qr(rows.detach().to(dtype).mT)
        left, sizes, right = torch.linalg.svd(triangle)
        eps = torch.finfo(dtype).eps
        there = sizes > 2 * eps * rows.shape[-2] * sizes.amax(-1, keepdim=True)
        basis = torch.where(there.unsqueeze(-1), torch.matmul(columns, left).mT, 0.0)
        inverse = torch.where(there, 1 / sizes, 0.0)
        right = torch.where(there.unsqueeze(-1), right[..., : sizes.shape[-1], :], 0.0).mT  # (*batch, m, r)
        alone = right.square().sum(-1, keepdim=True) > 1 - eps**0.5
        added = torch.where(alone, right * inverse.unsqueeze(-2), 0.0)
        length = torch.linalg.vector_norm(added, dim=-1, keepdim=True)
        unit = torch.where(length > 0, added / length, 0.0)
        rest = there.sum(-1, keepdim=True) - alone.squeeze(-1).to(torch.long)
        return cls(basis.to(rows.dtype), unit.to(rows.dtype), rest)


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows without their parts in the span of a basis."""
    rest: Tensor = rows - torch.matmul(torch.matmul(rows, basis.mT), basis)
    return rest


# -------------------------------------------------------------------- Hutchinson


def trace_by_hutchinson(forward: Product, tests: Tensor) -> Estimate:
    """The mean of ``v^T A v``."""
    return Estimate.of_terms(_dots(tests, forward(tests)))


def diagonal_by_hutchinson(forward: Product, tests: Tensor) -> Estimate:
    """The mean of ``v * A v``."""
    return Estimate.of_terms((tests * forward(tests)).mT)


# -------------------------------------------------------------------- Hutch++


def _thirds(count: int) -> int:
    """How many of so many products find the subspace, and as many are within it."""
    return count // 3


def trace_by_hutch(forward: Product, tests: Tensor) -> Estimate:
    """The trace in the span of ``A S`` exactly, that of the rest by Hutchinson's estimate."""
    count, part = tests.shape[-2], _thirds(tests.shape[-2])
    with torch.no_grad():
        basis = Span.of(forward(tests[..., :part, :])).basis
    rest = _without(tests[..., 2 * part :, :], basis)
    products = forward(torch.cat([basis, rest], -2))
    inside = _dots(basis, products[..., : basis.shape[-2], :]).sum(-1)
    return Estimate.of_terms(_dots(rest, products[..., basis.shape[-2] :, :]), inside, count)


def diagonal_by_hutch(forward: Product, backward: Product, tests: Tensor) -> Estimate:
    """The diagonal of ``Q Q^T A`` exactly, that of the rest by Hutchinson's estimate."""
    count, part = tests.shape[-2], _thirds(tests.shape[-2])
    with torch.no_grad():
        basis = Span.of(forward(tests[..., :part, :])).basis
    inside = (basis * backward(basis)).sum(-2)
    rest = tests[..., 2 * part :, :]
    return Estimate.of_terms((rest * _without(forward(rest), basis)).mT, inside, count)


# -------------------------------------------------------------------- leave one out


def trace_by_xtrace(forward: Product, tests: Tensor, rotated: bool = False) -> Estimate:
    """The mean over test vectors of Hutch++'s estimate with a subspace of all others, and this one for the rest.

    ``rotated``: they are distributed alike along all directions, so that the length of what is left of one in the rest
    can be that which it has on average.
    """
    tests = tests[..., : max(tests.shape[-2] // 2, 1), :]
    count, size = tests.shape[-2:]
    first = forward(tests)
    basis, left, dimensions = Span.of(first)
    second = forward(basis)
    inside = torch.matmul(basis, second.mT)  # (i, j): q_i^T A q_j
    traces = inside.diagonal(dim1=-2, dim2=-1).sum(-1).unsqueeze(-1) - _dots(torch.matmul(left, inside), left)
    own = torch.matmul(tests, basis.mT)
    own = own - left * _dots(left, own).unsqueeze(-1)
    rest = tests - torch.matmul(own, basis)
    found = _dots(rest, first - torch.matmul(own, second))
    if rotated:  # of nothing that is left nothing is made
        free = (size - dimensions).to(found.dtype)
        found = torch.where(free > 0, found * (free / rest.square().sum(-1)), 0.0)
    return Estimate.of_terms(traces + found, None, 2 * count)


def diagonal_by_xdiag(forward: Product, backward: Product, tests: Tensor) -> Estimate:
    """The mean over test vectors of the estimate of ``Q Q^T A`` and the rest, with a subspace of all others."""
    tests = tests[..., : max(tests.shape[-2] // 2, 1), :]
    count = tests.shape[-2]
    first = forward(tests)
    basis, left, _ = Span.of(first)
    second = backward(basis)
    inside = (basis * second).sum(-2).unsqueeze(-2) - torch.matmul(left, basis) * torch.matmul(left, second)
    own = torch.matmul(first, basis.mT)
    own = own - left * _dots(left, own).unsqueeze(-1)
    rest = tests * (first - torch.matmul(own, basis))
    return Estimate.of_terms((inside + rest).mT, None, 2 * count)
