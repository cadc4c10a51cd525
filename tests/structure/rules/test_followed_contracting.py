"""``structure/rules/contracting.py`` against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, derivative, differences

DOUBLE = torch.float64
case = Cases()


@case
def addmm_in_place(x):
    y = x[:, :3].clone()
    y.addmm_(x, x.T.sin())
    return y


@case
def addmv_in_place(x):
    y = x[0].clone()
    y.addmv_(x.T, x[:, 0])
    return y


@case
def addr_in_place(x):
    y = x.clone()
    y.addr_(x[:, 0], x[0])
    return y


@case
def addbmm_in_place(x):
    y = x[:, :3].clone()
    y.addbmm_(x[None], x.T[None])
    return y


@case
def baddbmm_in_place(x):
    y = x[None, :, :3].clone()
    y.baddbmm_(x[None], x.T[None])
    return y


@case
def kron(x):
    return torch.kron(x[:2, :2], x[1:, 2:])


@case
def tensordot(x):
    return torch.tensordot(x, x, dims=([0], [0]))


@case
def einsum_ellipsis(x):
    return torch.einsum("...i,...j->...ij", x, x)


@case
def einsum_trace(x):
    return torch.einsum("ii->i", x[:, :3])


@case
def outer(x):
    return torch.outer(x[0], x[1])


@case
def cdist(x):
    return torch.cdist(x, x.sin() + 3)


@case
def cross(x):
    return torch.linalg.cross(x[:, :3], x[:, 1:])


@case
def vander(x):
    return torch.vander(x[0])


@case
def cov(x):
    return torch.cov(x)


@case
def matmul_with_zeros(x):
    return x @ torch.tensor([[1.0, 0], [0, 2], [0, 0], [3, 0]], dtype=DOUBLE)


@case
def bmm(x):
    return torch.bmm(x[None], x.mT[None])


@case
def bmm_with_zeros(x):
    return torch.bmm(x[None], torch.eye(4, dtype=DOUBLE)[None])


@case
def mv(x):
    return torch.mv(x, x[0])


@case
def mv_with_zeros(x):
    return torch.mv(x, torch.tensor([1.0, 0, 0, 2], dtype=DOUBLE))


@case
def dot(x):
    return torch.dot(x[0], torch.tensor([1.0, 0, 0, 2], dtype=DOUBLE)) + torch.vdot(x[1], x[2])


@case
def baddbmm(x):
    return torch.baddbmm(x[None, :, :3], x[None], x.mT[None])


@case
def sums_of_products(x):
    return torch.einsum("ij,jk->k", x, torch.eye(4, dtype=DOUBLE))


@case
def infinite_times_zero(x):
    return (x[:, :2] @ torch.zeros(2, 2, dtype=DOUBLE)) + x[:, :2]


BY_DIFFERENCES = ["vander"]
"""What torch cannot differentiate, or gets wrong."""
LOOSE = ["addbmm_in_place"]
"""Where more counts as possible than is nonzero: an index that depends on ``x``, a choice, no rule."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, name not in LOOSE, differences if name in BY_DIFFERENCES else derivative)
