"""``jet/rules/roots.py``: what keeps the root of a norm that is zero, and what is NaN since it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from jacfunc import hess_diag, laplacian
from jacfunc.core import caches

Function = Callable[[Any], Any]
DOUBLE = torch.float64
X = torch.tensor([[0.0, 0.0, 0.0], [0.4, -0.3, 0.9]], dtype=DOUBLE)
PLACES = torch.tensor([[1], [1]])
MASK = torch.tensor([[True, False], [True, True]])


def size(x: Any) -> Any:
    """Of all coordinates and of one less, which both are zero at zero."""
    return torch.stack([torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(x[:, 1:], dim=1)], 1)


KEEPING: dict[str, Function] = {
    "reshape": lambda r: r.reshape(-1).view(2, 2),
    "flatten": lambda r: r[:, None].flatten(1),
    "expand": lambda r: r[:, :1].expand(-1, 2),
    "expand_as": lambda r: r[:, :1].expand_as(r),
    "repeat": lambda r: r[:, :1].repeat(1, 3),
    "transpose": lambda r: r.T.contiguous().t().clone(),
    "permute": lambda r: r[:, None].permute(0, 2, 1).movedim(1, 2).squeeze(1),
    "unsqueeze": lambda r: r.unsqueeze(1).squeeze(1),
    "an index": lambda r: r[:, [1, 0]],
    "a number": lambda r: r[:, 1].unsqueeze(1),
    "gather": lambda r: r.gather(1, PLACES),
    "index_select": lambda r: r.index_select(1, PLACES[:, 0]),
    "unbind": lambda r: torch.stack(r.unbind(1), 1),
    "split": lambda r: torch.cat(r.split(1, 1), 1),
    "chunk": lambda r: torch.cat(r.chunk(2, 1)[::-1], 1),
    "narrow": lambda r: r.narrow(1, 1, 1),
    "cat with a constant": lambda r: torch.cat([r, torch.ones(2, 1, dtype=DOUBLE)], 1),
    "stack with the square": lambda r: torch.stack([r, r * r], 2).flatten(1),
    "where": lambda r: torch.where(MASK, r, 2.0),
    "where of both": lambda r: torch.where(MASK, r, 3 * r),
    "where by a method": lambda r: r.where(MASK, torch.zeros((), dtype=DOUBLE)),
    "masked_fill": lambda r: r.masked_fill(~MASK, 1.0),
    "diagonal": lambda r: r[:, None, :].expand(2, 2, 2).diagonal(dim1=1, dim2=2),
    "roll": lambda r: r.roll(1, 1),
    "flip": lambda r: r.flip(1),
    "double": lambda r: r.double().to(DOUBLE),
    "minus": lambda r: -r,
    "a sum with a constant": lambda r: 1 + r - 0.5,
    "a difference from a constant": lambda r: 2 - r,
    "a sum with itself": lambda r: r + 2 * r,
    "a quotient by a constant": lambda r: r / torch.tensor([2.0, 4.0], dtype=DOUBLE),
    "a quotient of it": lambda r: r / (3 + r),
    "one over it": lambda r: 1 / (2 + r),
    "rsub": lambda r: torch.rsub(r, 1.0),
}


@pytest.mark.parametrize("name", KEEPING)
def test_what_keeps_a_root(name: str) -> None:
    """The square of what is made of a norm by it has all derivatives that those of the norm times itself have."""
    keeping = KEEPING[name]
    even = lambda r: keeping(r) * keeping(-r) if "quotient of" in name or "one over" in name else keeping(r) ** 2
    odd = lambda r: (keeping(r) + keeping(-r)) / 2
    for f in (even, odd):
        derivative = hess_diag(lambda x, f=f: f(size(x)), method="taylor")
        near = hess_diag(lambda x, f=f: f(size(x)), method="reverse")(X + 1e-4)
        found = derivative(X)
        keeps = found.isfinite()
        assert keeps[1].all()
        if f is odd or ("sum with a constant" not in name and "from a constant" not in name and name != "rsub"):
            assert keeps.all()
            torch.testing.assert_close(found, near, atol=1e-2, rtol=1e-2)


ENDING: dict[str, Function] = {
    "a sum": lambda r: r.sum(1, keepdim=True),
    "a product with a matrix": lambda r: r @ torch.ones(2, 2, dtype=DOUBLE),
    "in place": lambda r: r.clone().mul_(2.0).add_(1.0),
    "written": lambda r: _written(r),
    "softmax": lambda r: r.softmax(1),
    "a layer": lambda r: F.linear(r, torch.ones(2, 2, dtype=DOUBLE)),
    "cumsum": lambda r: r.cumsum(1),
}


def _written(r: Any) -> Any:
    new = torch.zeros_like(r)
    new[:, 0] = r[:, 1]
    new[:, 1] = r[:, 0]
    return new


@pytest.mark.parametrize("name", ENDING)
def test_what_knows_of_none_is_nan_or_right(name: str) -> None:
    f = ENDING[name]
    assert hess_diag(lambda x: f(size(x)), method="taylor")(X)[0].isnan().any()
    smooth = laplacian(lambda x: f(size(x) ** 2), method="taylor")(X)
    true = laplacian(lambda x: f(torch.stack([x.square().sum(1), x[:, 1:].square().sum(1)], 1)), method="reverse")(X)
    torch.testing.assert_close(smooth, true)


def test_what_is_in_the_table_has_a_rule() -> None:
    assert {function for function in caches.ROOTED if function in caches.RULES} >= {torch.exp, torch.Tensor.view}
    assert len(caches.ROOTED) > 150
