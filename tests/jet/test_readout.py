"""What is read off a jet: rows relative to the input, of nobody else's memory, and diagonals without a last layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from jacfunc import diag_jac
from jacfunc.jet import Frame, Jet, Propagation
from jacfunc.jet.layout import diagonal, first_order
from jacfunc.jet.pending import PendingLayer
from jacfunc.jet.readout import diagonal_of, rows_of

DOUBLE = torch.float64
X = torch.randn(3, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def layer(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(inputs * 10 + outputs)
    return nn.Linear(inputs, outputs, dtype=DOUBLE)


NARROW, BACK, SQUARE, SMALL = layer(6, 2), layer(2, 6), layer(6, 6), layer(2, 2)
SCALES = torch.linspace(-1, 2, 6, dtype=DOUBLE)
FUNCTIONS = {
    "linear": SQUARE,
    "two layers": lambda x: SQUARE(SQUARE(x)),
    "activation": lambda x: SQUARE(x.tanh()),
    "narrow": lambda x: BACK(NARROW(x)),
    "narrow activation": lambda x: BACK(NARROW(x).tanh()),
    "narrow softmax": lambda x: BACK(NARROW(x).softmax(1)),
    "narrow per sample": lambda x: BACK(NARROW(x.sin()).tanh()),
    "narrow activation of another per sample": lambda x: BACK(SMALL(NARROW(x.sin()).tanh()).sin()),
    "scaled by constants": lambda x: SQUARE(x * SCALES[None]),
    "narrow scaled by constants": lambda x: BACK(NARROW(x) * SCALES[None, :2]),
    "narrow and scaled for all": lambda x: BACK(NARROW(x) * SCALES[:2]),
    "general": lambda x: SQUARE(x * x.sum(1, keepdim=True)),
}


def run(f: Any, layout: Any = None) -> Any:
    propagation = Propagation((3,))
    layout = layout or first_order(6)
    jet = Jet(X, (propagation.identity(6, X), *(None,) * (layout.order - 1)), Frame(propagation, layout))
    return f(jet)


def jacobian(f: Any) -> torch.Tensor:
    """``(R, N, d)``."""
    return vmap(jacrev(lambda row: f(row[None])[0]))(X).permute(2, 0, 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_are_those_of_the_input(name: str) -> None:
    output = run(FUNCTIONS[name])
    assert type(output.pending) is PendingLayer
    rows = rows_of(output, 1, 6, X)
    torch.testing.assert_close(rows, jacobian(FUNCTIONS[name]).detach())
    assert rows.shape == (6, 3, 6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_diagonal_is_read_off_without_the_last_layer(name: str) -> None:
    output = run(FUNCTIONS[name])
    found = diagonal_of(output)
    wanted = jacobian(FUNCTIONS[name]).permute(1, 0, 2).diagonal(0, 1, 2)
    torch.testing.assert_close(found, wanted)
    assert type(output.pending) is PendingLayer
    assert output._value is None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_diagonal_has_a_row_for_each_sample(name: str) -> None:
    """Also where it is the same for all."""
    found = diag_jac(FUNCTIONS[name], method="taylor")(X)
    torch.testing.assert_close(found, diag_jac(FUNCTIONS[name], method="reverse")(X))


def test_a_diagonal_of_an_unchanged_weight_only() -> None:
    weight = SQUARE.weight.detach().clone()
    output = run(lambda x: F.linear(x.tanh(), weight))
    weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place after its linear layer"):
        diagonal_of(output)


def test_what_has_no_diagonal_to_read() -> None:
    assert diagonal_of(X) is None
    assert diagonal_of(run(torch.tanh)) is None  # nothing is pending
    zero = run(lambda x: SQUARE(torch.zeros_like(x)))
    assert diagonal_of(zero) is None


def test_the_rows_of_a_constant_are_zeros() -> None:
    assert torch.equal(rows_of(X, 1, 4, X), torch.zeros(4, 3, 6, dtype=DOUBLE))
    zeros = run(lambda x: torch.zeros_like(x) + 1)
    assert torch.equal(rows_of(zeros, 1, 6, X), torch.zeros(6, 3, 6, dtype=DOUBLE))
    assert torch.equal(rows_of(run(SQUARE, diagonal(6)), 2, 6, X), torch.zeros(6, 3, 6, dtype=DOUBLE))


@pytest.mark.parametrize("f", [lambda x: x, lambda x: x + 1, SQUARE, lambda x: x.expand(2, 3, 6), lambda x: 2 * x])
def test_rows_are_nobody_elses_memory(f: Any) -> None:
    output = run(f)
    weight = SQUARE.weight.detach().clone()
    with torch.no_grad():
        rows = rows_of(output, 1, 6, X)
        rows.add_(5)
    assert 0 not in rows.stride()
    torch.testing.assert_close(SQUARE.weight.detach(), weight)
    eye = output.propagation.identity(6, X)
    assert torch.equal(eye[:, 0], torch.eye(6, dtype=DOUBLE))


def test_second_rows_through_a_pending_layer() -> None:
    f = lambda x: SQUARE(x.exp())
    found = rows_of(run(f, diagonal(6)), 2, 6, X)
    wanted = X.exp().T[:, :, None] * SQUARE.weight.T[:, None, :] / 2
    torch.testing.assert_close(found, wanted)
