"""``api/probed.py``: a pattern that lacks an entry is not returned, and one that is right is, whatever f is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import UnsupportedOperationError, batch_jac, hessian, sparsity
from jacfunc.api import gradients
from jacfunc.structure.pattern import SparsityPattern

X = torch.rand(3, 40, dtype=torch.float64)


def stencil(x: torch.Tensor) -> torch.Tensor:
    return x.roll(1, 1) - 2 * x * x + x.roll(-1, 1)


def lacking(monkeypatch: pytest.MonkeyPatch, keep: Any, always: bool = True) -> None:
    """Patterns are found without some entries; where not ``always``, with all when zeros and masks count."""
    detect = gradients.detect

    def found(request: Any, order: int, exact: bool) -> Any:
        whole = detect(request, order, exact)
        if not exact and not always:
            return whole
        rows, columns = whole.pattern.arrays
        some = keep(rows, columns)
        pattern = whole.pattern
        part = SparsityPattern.of_entries(rows[some], columns[some], pattern.output_shape, pattern.input_shape)
        return type(whole)(part, whole.held, whole.dense, whole.coarsest)

    monkeypatch.setattr(gradients, "detect", found)


LACKS = {
    "all on one side": lambda rows, columns: rows >= columns,
    "the diagonal": lambda rows, columns: rows != columns,
    "a few rows": lambda rows, columns: (rows % 5 != 0) | (rows == columns),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", LACKS)
def test_a_pattern_that_lacks_entries_is_not_returned(monkeypatch: pytest.MonkeyPatch, name: str, order: int) -> None:
    f = stencil if order == 1 else lambda x: stencil(x).pow(3).sum(1)
    whole = sparsity(f, order=order)(X)
    lacking(monkeypatch, LACKS[name])
    with pytest.raises(
        UnsupportedOperationError, match="^the sparsity pattern of f lacks entries: an output changes along"
    ):
        sparsity(f, order=order)(X)
    monkeypatch.undo()
    lacking(monkeypatch, LACKS[name], always=False)
    assert sparsity(f, order=order)(X).is_of(whole)


def test_a_constant_of_infinities() -> None:
    far = torch.tensor([0.0, -torch.inf])
    assert sparsity(lambda x: x + far)(torch.ones(1, 2)).to_dense().equal(torch.eye(2, dtype=torch.bool))


def test_nothing_is_left_behind() -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Dropout(0.5)).double().eval()
    before, state = [tensor.clone() for tensor in net.state_dict().values()], torch.get_rng_state()
    x = X.clone().requires_grad_()
    pattern = sparsity(lambda x: net.train(False)(x[:, None]))(x)
    assert pattern.nnz == 2 * 38 * 3 and x.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_aux_outputs_of_several_axes_and_no_samples() -> None:
    pair = sparsity(lambda x: (stencil(x).reshape(-1, 8, 5), x.sum()), has_aux=True)(X)
    assert pair.output_shape == (8, 5) and pair.nnz == 120
    second = sparsity(lambda x: (stencil(x).pow(3).reshape(-1, 8, 5), x.sum()), has_aux=True, order=2)(X)
    truth = hessian(lambda x: stencil(x).pow(3).sum(1))(X).abs().amax(0) > 0
    assert not (truth & ~second.to_dense()).any()
    assert sparsity(stencil)(X[:0]).shape == (40, 40)
    whole = sparsity(lambda x: stencil(x[None])[0], batch_dims=0)(X[0])
    assert torch.equal(whole.to_dense(), batch_jac(stencil)(X).ne(0).any(0))


def test_what_has_no_derivative_of_the_second_order_is_not_probed() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad

    assert sparsity(lambda x: Once.apply(x).sum(1), order=2)(X).shape == (40, 40)
