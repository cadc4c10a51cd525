"""``structure/jacobian.py``: what a ``SparseJacobian`` gives, against the dense matrix."""

from __future__ import annotations

import pytest
import torch

from jacfunc import ArgumentError, ShapeError, SparsityPattern
from jacfunc.structure.jacobian import SparseJacobian

DENSE = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()
PATTERN = SparsityPattern.of(DENSE, (3, 2), (2, 2))


def made(*batch):
    values = torch.randn(*batch, PATTERN.nnz, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(*batch, 6, 4, dtype=torch.float64)
    dense[..., PATTERN.row, PATTERN.col] = values
    return SparseJacobian(values, PATTERN), dense


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_products(batch):
    jac, dense = made(*batch)
    assert jac.shape == (*batch, 6, 4)
    v, u = torch.randn(*batch, 2, 2, dtype=torch.float64), torch.randn(*batch, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(jac.to_dense(), dense)
    want = (dense @ v.reshape(*batch, 4, 1)).reshape(*batch, 3, 2)
    torch.testing.assert_close(jac.matvec(v), want)
    torch.testing.assert_close(jac.matvec(v.reshape(*batch, 4)), want)
    want = (dense.mT @ u.reshape(*batch, 6, 1)).reshape(*batch, 2, 2)
    torch.testing.assert_close(jac.rmatvec(u), want)
    torch.testing.assert_close(jac.rmatvec(u.reshape(*batch, 6)), want)
    torch.testing.assert_close(jac.diagonal(), dense.diagonal(dim1=-2, dim2=-1))


def test_gradients_pass():
    jac, _ = made(2)
    v = torch.randn(2, 4, dtype=torch.float64)
    for result in (jac.to_dense(), jac.matvec(v), jac.diagonal(), jac.to_torch(1).to_dense()):
        (found,) = torch.autograd.grad(result.sin().sum(), jac.values)
        assert found.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda values: SparseJacobian(values, PATTERN).matvec(v), jac.values)
    u = torch.randn(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: SparseJacobian(values, PATTERN).rmatvec(u), jac.values)


def test_one_sample():
    jac, dense = made(3)
    for n in (0, 2, -1):
        assert torch.equal(jac.to_torch(n).to_dense(), dense[n])
    alone, dense = made()
    assert torch.equal(alone.to_torch().to_dense(), dense)
    jac, dense = made(2, 2)
    assert torch.equal(jac.to_torch(3).to_dense(), dense[1, 1])
    for n in (None, 4, -5):
        with pytest.raises(ArgumentError, match=f"n={n} names none of the 4 samples"):
            jac.to_torch(n)


def test_scipy_has_a_copy():
    pytest.importorskip("scipy.sparse", reason="scipy is no dependency")
    jac, dense = made(2)
    found = jac.to_scipy(1)
    assert (found.toarray() == dense[1].detach().numpy()).all()
    found.data[:] = 0
    assert torch.equal(jac.to_dense(), dense)


def test_wrong_shapes_are_refused():
    jac, _ = made(3)
    with pytest.raises(ShapeError, match=r"v has shape \(3, 6\), but \(3, 2, 2\) was expected"):
        jac.matvec(torch.ones(3, 6))
    with pytest.raises(ShapeError, match=r"u has shape \(4,\), but \(3, 3, 2\) was expected"):
        jac.rmatvec(torch.ones(4))


def test_repr():
    assert repr(made(3)[0]) == f"SparseJacobian((3, 6, 4), {PATTERN.nnz} entries a sample, torch.float64)"
