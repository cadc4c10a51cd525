"""``jacfunc/evaluation/linear.py``: pullbacks and pushforwards against the Jacobian matrix written down."""

from __future__ import annotations

import pytest
import torch

from jacfunc.evaluation.linear import graph_gradients, pullback, pushforward

X, Y = torch.tensor([0.5, 2.0], dtype=torch.double), torch.tensor([3.0], dtype=torch.double)
UNUSED = torch.ones(2, dtype=torch.double)
U = torch.tensor([1.0, -2.0, 0.5], dtype=torch.double)
V, W = torch.tensor([0.3, -1.0], dtype=torch.double), torch.tensor([2.0], dtype=torch.double)


def f(x: torch.Tensor, y: torch.Tensor, *_: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """``(x0 x1, x0^2 y, y^3)`` and what does not depend on anything."""
    return (torch.stack([x[0] * x[1], x[0] ** 2 * y[0], y[0] ** 3]), torch.ones(2, dtype=x.dtype)), 2 * x


BY_X = torch.tensor([[2.0, 0.5], [3.0, 0.0], [0.0, 0.0]], dtype=torch.double)
BY_Y = torch.tensor([[0.0], [0.25], [27.0]], dtype=torch.double)


def test_a_pullback_is_the_transposed_matrix() -> None:
    outputs, pull, aux = pullback(f, X, Y, UNUSED)
    torch.testing.assert_close(outputs[0], torch.tensor([1.0, 0.75, 27.0], dtype=torch.double))
    assert torch.equal(aux, 2 * X) and torch.equal(outputs[1], torch.ones(2))
    for cotangent in (U, -3 * U):  # as often as is wanted
        by_x, by_y, by_nothing = pull(cotangent, UNUSED)
        torch.testing.assert_close(by_x, BY_X.T @ cotangent)
        torch.testing.assert_close(by_y, BY_Y.T @ cotangent)
        assert torch.equal(by_nothing, torch.zeros(2))


def test_a_pushforward_is_the_matrix() -> None:
    outputs, pull, _ = pullback(f, X, Y, UNUSED)
    push = pushforward(pull, outputs)
    for factor in (1, -3):
        pushed, constant = push(factor * V, factor * W, UNUSED)
        torch.testing.assert_close(pushed, factor * (BY_X @ V + BY_Y @ W))
        assert torch.equal(constant, torch.zeros(2))


def test_nothing_is_evaluated_again_by_pulling_or_pushing() -> None:
    calls = []

    def counted(*leaves: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        calls.append(1)
        return f(*leaves)

    outputs, pull, _ = pullback(counted, X, Y)
    push = pushforward(pull, outputs)
    pull(U, UNUSED), push(V, W), push(V, W)
    assert calls == [1]


def test_a_function_that_depends_on_nothing() -> None:
    outputs, pull, _ = pullback(lambda x: ((torch.ones(2, dtype=torch.double),), ()), X)
    assert torch.equal(pull(V)[0], torch.zeros(2))
    assert torch.equal(pushforward(pull, outputs)(V)[0], torch.zeros(2))


def test_leaves_come_out_as_they_went_in() -> None:
    x = X.clone()
    outputs, pull, aux = pullback(lambda x: ((x.sin(),), x), x)
    pull(V)
    assert not outputs[0].requires_grad and not aux.requires_grad and x.grad is None
    with_graph, pull, _ = pullback(lambda x: ((x.sin(),), ()), x.requires_grad_())
    assert with_graph[0].requires_grad and pull(V)[0].requires_grad
    with torch.no_grad():
        assert not pull(V)[0].requires_grad


def test_pulled_back_twice_it_is_the_second_derivative() -> None:
    """Of ``u . f``, by x and y: ``u0 x0 x1 + u1 x0^2 y + u2 y^3``."""

    def gradient(x: torch.Tensor, y: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[()]]:
        _, pull, _ = pullback(f, x, y)
        return pull(U, UNUSED), ()

    _, pull, _ = pullback(gradient, X, Y)
    by_x, by_y = pull(V, torch.zeros(1, dtype=torch.double))
    hessian = torch.tensor([[2 * U[1] * 3, U[0], 2 * U[1] * 0.5], [U[0], 0, 0]], dtype=torch.double)
    torch.testing.assert_close(torch.cat([by_x, by_y]), V @ hessian)


def test_under_vmap_rows_go_together() -> None:
    _, pull, _ = pullback(f, X, Y)
    rows = torch.eye(3, dtype=torch.double)
    by_x, by_y = torch.func.vmap(lambda row: pull(row, UNUSED))(rows)
    torch.testing.assert_close(by_x, BY_X)
    torch.testing.assert_close(by_y, BY_Y)


# -------------------------------------------------------------------- along a graph


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_gradients_along_a_graph_in_whatever_mode(recorded: bool, mode: bool) -> None:
    leaves = tuple(leaf.clone().requires_grad_() for leaf in (X, Y, UNUSED))
    outputs, _ = f(*leaves)
    with torch.set_grad_enabled(mode):
        found = graph_gradients(outputs, leaves, (U, UNUSED), recorded)
    torch.testing.assert_close(found[0], BY_X.T @ U)
    torch.testing.assert_close(found[1], BY_Y.T @ U)
    assert torch.equal(found[2], torch.zeros(2))
    assert [gradient.requires_grad for gradient in found] == [recorded] * 3
    assert all(leaf.grad is None for leaf in leaves)
    if recorded:
        (second,) = torch.autograd.grad(found[1], leaves[1])
        torch.testing.assert_close(second, 6 * Y * U[2])


def test_without_any_graph_there_are_zeros_that_ask_for_none() -> None:
    outputs = (torch.ones(2, dtype=torch.double),)
    (found,) = graph_gradients(outputs, (X,), (V,), True)
    assert torch.equal(found, torch.zeros(2)) and not found.requires_grad
