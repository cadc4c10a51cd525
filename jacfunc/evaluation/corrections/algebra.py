"""Determinants and distances: det by a polynomial or by its logarithm, distances from differences."""

from __future__ import annotations

import torch

from ...core.torch_private import native_det
from .expansion import Tensor, exactly
from .zero_norms import refuse_where

POLYNOMIAL = 8
"""Up to this size the determinant of a singular matrix is expanded as a polynomial."""


def det(*args: Tensor, **named: Tensor) -> Tensor:
    """For ``torch.linalg.det``, whose third derivative is NaN; so is this one's for singular matrices above 8 by 8."""
    (matrix,) = (*args, *named.values())
    value = torch.linalg.det(matrix.detach())
    if matrix.shape[-1] > POLYNOMIAL:
        return exactly(value, _by_logarithm(matrix))
    # The polynomial cancels where a matrix is merely ill-conditioned; the logarithm has no derivative at singular ones.
    singular = value == 0
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    chosen = singular[..., None, None]
    regular = _by_logarithm(torch.where(chosen, identity, matrix))
    return exactly(value, torch.where(singular, _polynomial_det(torch.where(chosen, matrix, identity)), regular))


def private_det(*args: Tensor, **named: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For ``torch._linalg_det``, which also returns the constant factors."""
    (matrix,) = (*args, *named.values())
    _, factors, pivots = native_det(matrix.detach())
    return det(matrix), factors, pivots


def _by_logarithm(matrix: Tensor) -> Tensor:
    sign, logarithm = torch.linalg.slogdet(matrix)
    result: Tensor = (sign if matrix.is_complex() else sign.detach()) * logarithm.exp()
    return result


def _polynomial_det(matrix: Tensor) -> Tensor:
    """Faddeev and Le Verrier: the coefficients of the characteristic polynomial by matrix products alone."""
    size = matrix.shape[-1]
    if not size:
        return matrix.new_ones(matrix.shape[:-2])
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    product, coefficient = matrix, -_trace(matrix)
    for k in range(2, size + 1):
        product = matrix @ (product + coefficient[..., None, None] * identity)
        coefficient = -_trace(product) / k
    return coefficient if size % 2 == 0 else -coefficient


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


MODES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
"""As ``torch.ops.aten`` numbers them."""


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | int | None = None) -> Tensor:
    """For ``torch.cdist``, which has no second derivative, and whose first is wrong under vmap."""
    mode = compute_mode if isinstance(compute_mode, str) else MODES[compute_mode or 0]
    value = torch.cdist(x1.detach(), x2.detach(), p, mode)
    return exactly(value, _distance(x1[..., :, None, :] - x2[..., None, :, :], p))


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """For ``torch.pdist``, which has no second derivative."""
    value = torch.pdist(input.detach(), p)
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return exactly(value, _distance(input[first] - input[second], p))


def _distance(difference: Tensor, p: float) -> Tensor:
    """The norm over the last axis; constant where the difference is zero, as torch has it."""
    zero = (difference == 0).all(-1)
    if p == 2:
        refuse_where(zero, difference, "cdist")
    safe = torch.where(zero[..., None], 1.0, difference)
    return torch.where(zero, 0.0, torch.linalg.vector_norm(safe, p, dim=-1))
