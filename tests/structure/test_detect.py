"""``structure/detect.py``: one pattern for all samples, of first and second order, and what it belongs to."""

from __future__ import annotations

import pytest
import torch
from patterns import found_of
from torch import nn

from jacfunc import ShapeError, UnsupportedOperationError, sparse_jac, sparsity

DOUBLE = torch.float64
x = torch.randn(4, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def test_one_pattern_for_all_samples():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = True
    found = sparsity(lambda x: torch.where(mask, x, 0.0), check=False)(x)
    assert found.to_dense().nonzero().tolist() == [[2, 2], [5, 5]]
    assert (found.output_shape, found.input_shape) == ((6,), (6,))


@pytest.mark.parametrize("batch_dims", [0, 1, 2])
def test_sample_axes(batch_dims):
    y = x.reshape(2, 2, 6)
    found = sparsity(lambda x: x * x.roll(1, -1), batch_dims=batch_dims)(y)
    assert found.input_shape == tuple(y.shape[batch_dims:])
    assert found.nnz == 2 * found.shape[0]


ENERGIES = {
    "chain": (lambda x: (x[:, 1:] * x[:, :-1]).sin().sum(1), 6 + 2 * 5),
    "apart": (lambda x: (x**3).sum(1), 6),
    "linear": (lambda x: x.sum(1), 0),
    "constant": (lambda x: torch.ones(len(x), dtype=DOUBLE), 0),
    "all": (lambda x: x.sum(1) ** 2, 36),
    "several": (lambda x: x**2 * x[:, :1], 6 + 2 * 5),
    "written": (lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1).clone().mul_(2).sum(1), 2),
    "linear layer": (nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1)).double(), 36),
    "convolved": (
        lambda x: nn.functional.conv1d(x[:, None], torch.ones(1, 1, 2).double()).sin().sum((1, 2)),
        6 + 2 * 5,
    ),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_second_order(name):
    f, count = ENERGIES[name]
    found = sparsity(f, order=2)(x)
    assert found.nnz == count
    assert torch.equal(found.to_dense(), found.to_dense().T)
    want = [torch.autograd.functional.hessian(lambda x: f(x[None]).sum(), each) for each in x]
    nonzero = torch.stack(want).ne(0).any(0)
    assert not (nonzero & ~found.to_dense()).any()


def test_parameters_are_not_looked_at():
    layer = nn.Linear(6, 6, bias=False).double()
    nn.init.zeros_(layer.weight)
    assert sparsity(layer)(x).nnz == 36
    layer.requires_grad_(False)  # it may be trained later
    assert sparsity(layer)(x).nnz == 36
    zeros = layer.weight.detach().clone()
    assert sparsity(lambda x: nn.functional.linear(x, zeros))(x).nnz == 0


def test_arguments_are_not_looked_at_unless_they_are_masks_or_indices():
    zeros = torch.zeros(6, dtype=DOUBLE)
    assert sparsity(lambda w, x: w * x)(zeros, x).nnz == 6
    assert sparsity(lambda w, x: w * x)(zeros.bool(), x).nnz == 0
    assert sparsity(lambda i, x: x[:, i])(torch.tensor([1, 1]), x).to_dense().nonzero().tolist() == [[0, 1], [1, 1]]


def test_what_a_pattern_belongs_to():
    index = torch.tensor([0, 2, 1, 5, 4, 3])
    found = found_of(lambda x: x[:, index], x)
    assert found.holds
    index.copy_(index.flip(0))
    assert not found.holds
    assert found.now().holds


def test_what_has_no_rule_is_dense_and_named():
    found = found_of(lambda x: torch.linalg.inv(x[:, :4]), x)
    assert found.dense == ("aten.linalg_inv_ex",)
    assert found.pattern.to_dense().reshape(16, 4, 6)[:, :, :4].all()
    assert not found.pattern.to_dense().reshape(16, 4, 6)[:, :, 4:].any()


def test_random_numbers_are_no_constants():
    found = found_of(lambda x: nn.functional.dropout(x, 0.5) + (torch.rand(4, 6) < 0.5) * x.roll(1, 1), x)
    assert found.pattern.nnz == 2 * x.numel()


def test_nothing_is_touched():
    batch = nn.BatchNorm1d(6).double()
    batch(x)
    before, point = batch.running_mean.clone(), x.clone()
    batch.eval()
    sparsity(batch)(x)
    assert torch.equal(batch.running_mean, before) and torch.equal(x, point)
    assert all(parameter.grad is None for parameter in batch.parameters())


def test_what_is_refused():
    with pytest.raises(ShapeError, match="returns 2 tensors"):
        sparsity(lambda x: (x, x))(x)
    with pytest.raises(UnsupportedOperationError, match=r"torch\.sparse_coo"):
        sparsity(lambda x: (x.to_sparse() * 2).to_dense())(x)
    with pytest.raises(UnsupportedOperationError, match="find it before"):
        torch.vmap(lambda x: sparsity(torch.sin, batch_dims=0)(x).col)(x)


def test_values_that_python_looks_at():
    f = lambda x: x * 2 if float(x.sum()) > -1e9 else x.flip(1)
    assert sparsity(f)(x).nnz == 6
    assert sparse_jac(f)(x).pattern.nnz == 6
