"""``api/gradients.py``: a Hessian is known to be one, nothing else is taken for one, and it takes fewer passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacfunc import (
    ShapeError,
    SparsityPattern,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    divergence,
    explain,
    hessian,
    make_functional,
    sparse_jac,
    sparsity,
)

X = torch.rand(3, 12, dtype=torch.float64)


def arrow(x: Tensor) -> Tensor:
    """Each coordinate meets the first one."""
    return (x[..., :1] * x[..., 1:]).sin().sum(-1)


def assert_hessian(found: Any, energy: Any = arrow, x: Tensor = X) -> None:
    assert found.pattern.symmetric
    torch.testing.assert_close(found.to_dense(), hessian(energy)(x))


@pytest.mark.parametrize("method", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("gradient", [diag_jac, batch_jac])
def test_a_hessian_takes_the_passes_of_a_symmetric_matrix(gradient: Any, method: Any) -> None:
    transform = sparse_jac(gradient(arrow), method=method)
    found = transform(X)
    assert_hessian(found)
    assert found.pattern.is_of(sparsity(arrow, order=2)(X)) and sparsity(gradient(arrow))(X).symmetric
    side = "rows" if method == "reverse" else "columns"
    assert f"of all, symmetric), in 2 colours of {side}" in str(explain(transform)(X))


def test_one_number_with_an_axis_of_its_own() -> None:
    found = sparse_jac(batch_jac(lambda x: arrow(x)[:, None]))(X)
    assert found.pattern.symmetric and found.pattern.output_shape == (1, 12)
    torch.testing.assert_close(found.to_dense(), hessian(arrow)(X))


def test_parameters_aux_and_one_big_map() -> None:
    net = nn.Sequential(nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    f, params = make_functional(net)

    def energy(params: Any, x: Tensor) -> Tensor:
        return arrow(x) + f(params, x[:, :3] @ torch.ones(3, 12, dtype=x.dtype))[:, 0]

    found = sparse_jac(diag_jac(energy))(params, X)
    assert found.pattern.symmetric
    torch.testing.assert_close(found.to_dense(), hessian(energy)(params, X))
    found.values.square().sum().backward()
    grads = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    hessian(energy)(params, X).square().sum().backward()
    for grad, parameter in zip(grads, net.parameters(), strict=True):
        if parameter.grad is not None and parameter.grad.any():
            torch.testing.assert_close(grad, parameter.grad)
    kept, value = sparse_jac(diag_jac(arrow, return_value=True), has_aux=True)(X)
    assert_hessian(kept)
    torch.testing.assert_close(value, arrow(X))
    whole = sparse_jac(diag_jac(arrow, batch_dims=0), batch_dims=0)(X[0])
    torch.testing.assert_close(whole.to_dense(), hessian(arrow, batch_dims=0)(X[0]))


@pytest.mark.parametrize("compile", [False, True])
def test_a_pattern_that_is_passed(compile: bool) -> None:
    pattern = sparsity(arrow, order=2)(X)
    transform = sparse_jac(diag_jac(arrow), sparsity=pattern, compile=compile)
    assert_hessian(transform(X))
    own = SparsityPattern.of(torch.tril(pattern.to_dense()), symmetric=True)
    assert own.is_of(pattern)
    assert_hessian(sparse_jac(lambda x: torch.func.grad(lambda x: arrow(x).sum())(x), sparsity=own)(X))


NOT_SYMMETRIC = {
    "the diagonal of a map": diag_jac(lambda x: (x * x.cumsum(-1)).sin()),
    "a divergence": divergence(lambda x: (x * x.roll(1, -1)).sin()),
    "two numbers": batch_jac(lambda x: torch.stack([arrow(x), x.sum(-1)], -1)),
    "by another argument": lambda x: diag_jac(lambda x, y: arrow(x * y))(X, x),
    "no transform": lambda x: x * x[:, :1],
}


@pytest.mark.parametrize("name", NOT_SYMMETRIC)
def test_nothing_else_is_taken_for_one(name: str) -> None:
    f: Any = NOT_SYMMETRIC[name]
    found = sparse_jac(f)(X)
    assert not found.pattern.symmetric
    truth = torch.func.vmap(torch.func.jacrev(lambda x: f(x[None])[0]))(X) if name != "by another argument" else None
    if truth is not None:
        torch.testing.assert_close(found.to_dense(), truth.reshape(found.to_dense().shape))


def test_the_gradient_by_another_argument_is_none() -> None:
    def energy(y: Tensor, x: Tensor) -> Tensor:
        return (x * y.cumsum(-1)).sin().sum(-1)

    y = torch.rand_like(X)
    by_first = diag_jac(energy, argnums=0)
    assert sparse_jac(by_first, argnums=0)(y, X).pattern.symmetric
    mixed = sparse_jac(by_first)(y, X)
    assert not mixed.pattern.symmetric
    whole = torch.func.vmap(torch.func.jacrev(torch.func.grad(energy, argnums=0), argnums=1))(y, X)
    torch.testing.assert_close(mixed.to_dense(), whole)


@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_a_mixed_derivative_at_equal_arguments_is_no_hessian(method: Any) -> None:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, :1] * x[:, 1:] * y[:, :1] * y[:, 1:]).sum(1)

    one, other = torch.randn(2, 3, 12, dtype=torch.float64)
    mixed = sparse_jac(diag_jac(kernel, argnums=0), argnums=1, method=method)
    for y in (one, one, other, other, one, other):
        found = mixed(one, y)
        assert not found.pattern.symmetric
        torch.testing.assert_close(found.to_dense(), batch_jac(diag_jac(kernel, argnums=0), argnums=1)(one, y))


class Halved(torch.autograd.Function):
    """A product whose backward is no gradient: the second factor has none."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(other)
        return one * other

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


def test_a_gradient_of_a_backward_that_is_none_is_not_mirrored() -> None:
    gradient = diag_jac(lambda x: Halved.apply(x[:, :1], x[:, 1:]).sum(1), method="reverse")
    found = sparse_jac(gradient, method="reverse")(X)
    torch.testing.assert_close(found.to_dense(), batch_jac(gradient, method="reverse")(X))


def test_patterns_are_made_symmetric_as_they_are_asked_to() -> None:
    one_sided = SparsityPattern.of(torch.eye(4).roll(1, 0))
    both = SparsityPattern.of(one_sided, symmetric=True)
    assert both.symmetric and both.nnz == 8 and SparsityPattern.of(both) is both
    shaped = SparsityPattern.of(one_sided, (2, 2), (4, 1))
    assert shaped.output_shape == (2, 2) and shaped.input_shape == (4, 1) and not shaped.symmetric
    assert SparsityPattern.of(both, (2, 2)).symmetric
    assert (both | both).symmetric and not (both | one_sided).symmetric
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = both | torch.eye(4)  # type: ignore[operator]


def test_a_map_that_is_not_symmetric_is_refused_with_such_a_pattern() -> None:
    pattern = SparsityPattern.of(torch.tril(torch.ones(12, 12)), symmetric=True)
    arrows = sparsity(arrow, order=2)(X)
    one_sided = sparse_jac(
        lambda x: torch.cat([(x[:, :1] * x[:, 1:]).sum(1)[:, None], x[:, 1:] ** 2], 1), sparsity=arrows
    )
    with pytest.raises(UnsupportedOperationError, match="sparsity lacks entries"):
        one_sided(X)
    assert sparse_jac(lambda x: x.cumsum(-1), sparsity=pattern)(X).pattern.nnz == 144  # dense: no entry is mirrored
    with pytest.raises(ShapeError, match="only a square one is symmetric"):
        SparsityPattern.of(torch.ones(3, 4), symmetric=True)
