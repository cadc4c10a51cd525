"""``jacfunc/jet/rules/chosen.py``: derivatives by a few coordinates through each kind of operation, and what stays apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from jacfunc import batch_jac, hess_diag, laplacian
from jacfunc.core import caches
from jacfunc.jet import chosen

SIZE = 5
PLACES = torch.tensor([3, 0])
GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(4, SIZE, dtype=torch.float64, generator=GENERATOR)
V = torch.randn(SIZE, dtype=torch.float64, generator=GENERATOR)
B = torch.randn(7, SIZE, dtype=torch.float64, generator=GENERATOR)
X = torch.randn(7, SIZE, dtype=torch.float64, generator=GENERATOR)

APART: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sin().sum(-1),
    "sum of all axes but the first": lambda x: torch.sum(x.exp(), dim=1, keepdim=True),
    "mean": lambda x: x.square().mean(-1) * x.cos().mean(dim=1),
    "a product with numbers of each place": lambda x: (x * V).tanh().sum(1),
    "a product with numbers of each sample and place": lambda x: (B * x + V - 2 / (x.square() + 1)).sum(1) ** 2,
    "a product with a number of each sample": lambda x: (x * B[:, :1]).sigmoid().sum(1),
    "a product with itself": lambda x: (x * x.exp() * x).sum(1),
    "powers": lambda x: (x**3 + 2**x + x.pow(2)).sum(1),
    "a layer": lambda x: F.linear(x, W, torch.ones(4).double()).tanh(),
    "a layer of scaled entries": lambda x: F.linear((x - V) / 2, W).tanh().prod(1),
    "a product with a matrix": lambda x: (x @ W.T).sin().sum(1),
    "a product with a vector": lambda x: (x @ V).exp(),
    "torch.matmul of what is not linear": lambda x: torch.matmul(x.cos(), W.T).square(),
    "torch.mm": lambda x: torch.mm(x, W.t()).tanh(),
    "beside constants": lambda x: torch.cat([B, x.sin(), B[:, :2]], -1).square().sum(1),
    "beside constants, then a layer": lambda x: F.linear(
        torch.cat([B[:, :1], x], dim=1), B[:, :1].new_ones(3, 6)
    ).cos(),
    "no other shape": lambda x: x.view(7, SIZE).reshape(-1, SIZE).flatten(1).tanh().sum(1),
    "choices": lambda x: torch.where(x > 0, x**2, x.sin()).sum(1),
    "activations": lambda x: (F.gelu(x) + F.softplus(x) + F.silu(x)).sum(1),
    "a boundary factor": lambda x: (1 - (x * x).sum(-1)) * F.linear(x, W).tanh().sum(-1),
}
"""What never needs a row as long as the input."""

IN_FULL: dict[str, Callable[[Any], Any]] = {
    "neighbours": lambda x: (x[:, 1:] * x[:, :-1]).sin().sum(1),
    "one entry": lambda x: x[:, 3] ** 3 * x[:, 1],
    "a softmax": lambda x: x.softmax(-1).square().sum(1),
    "a norm of layers": lambda x: F.layer_norm(x, (SIZE,)).pow(3).sum(1),
    "the largest": lambda x: x.amax(1) ** 3,
    "a prelu, whose numbers lie along another axis": lambda x: F.prelu(x, V.abs()).square().sum(1),
    "a product from the left": lambda x: (W @ x.unsqueeze(-1)).squeeze(-1).tanh(),
    "einsum": lambda x: torch.einsum("ni,oi->no", x, W).tanh(),
    "in place": lambda x: x.clone().mul_(x).sum(1),
    "two values that move elsewhere": lambda x: (x.roll(1, 1) * x).sum(1),
    "a product with what moves everywhere": lambda x: (x * x.sum(1, keepdim=True)).sin().sum(1),
    "transposed": lambda x: x.T.sin().sum(0),
    "cumulated": lambda x: x.cumsum(1).sin().sum(1),
    "a wider tensor": lambda x: (x.unsqueeze(1) * B[:, None]).sum((1, 2)).sin(),
}
"""What is right all the same."""


def spread(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often rows in full are asked for from now on."""
    asked: list[int] = []
    usual = chosen.Chosen.spread

    def counted(self: Any, value: Any) -> Any:
        asked.append(value.shape[-1])
        return usual(self, value)

    monkeypatch.setattr(chosen.Chosen, "spread", counted)
    return asked


def check(f: Callable[[Any], Any]) -> None:
    found = batch_jac(f, coordinates=PLACES, method="taylor")(X)
    torch.testing.assert_close(found, batch_jac(f, method="reverse")(X)[..., PLACES])
    second = hess_diag(f, method="reverse")(X)[..., PLACES]
    torch.testing.assert_close(hess_diag(f, coordinates=PLACES, method="taylor")(X), second)
    total = laplacian(f, coordinates=PLACES, method="taylor")(X)
    torch.testing.assert_close(total, second.sum(-1) * SIZE / 2)


@pytest.mark.parametrize("f", APART.values(), ids=APART)
def test_what_stays_apart(f: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = spread(monkeypatch)
    check(f)
    assert not asked


@pytest.mark.parametrize("f", IN_FULL.values(), ids=IN_FULL)
def test_what_needs_rows_in_full(f: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = spread(monkeypatch)
    check(f)
    assert set(asked) == {SIZE}


def test_dropout_draws_one_mask_for_value_and_rows() -> None:
    """It is no operation that may be done twice, for all entries and for those that move."""
    assert F.dropout not in caches.CHOSEN and torch.dropout not in caches.CHOSEN
    torch.manual_seed(0)
    found = hess_diag(lambda x: F.dropout(x, 0.5).pow(3).sum(1), coordinates=PLACES, method="taylor")(X)
    zero = found == 0
    assert zero.any() and not zero.all()
    torch.testing.assert_close(found[~zero], (48 * X[:, PLACES])[~zero])


def test_what_is_corrected_is_not_done_twice() -> None:
    assert F.hardsigmoid not in caches.CHOSEN and F.celu not in caches.CHOSEN
    check(lambda x: F.celu(x).square().sum(1))
