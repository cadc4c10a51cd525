"""Which operations keep rows of blocks, and where their axis is then; that they are right is in ``test_blockwise.py``."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from jacfunc import laplacian
from jacfunc.jet import Jet
from jacfunc.routes import followed


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples, which are cheap to judge, have blocks too."""
    monkeypatch.setattr(followed, "FEWEST_ROWS", 6)


weight = torch.randn(4, 3, dtype=torch.float64)
bilinear = torch.randn(3, 3, dtype=torch.float64)

KEPT = {
    "linear": (lambda x: F.linear(x, weight), -2),
    "matmul": (lambda x: x @ weight.T, -2),
    "matmul_left": (lambda x: weight @ x.mT, -1),
    "matmul_batched": (lambda x: x.unsqueeze(-2) @ weight.T.expand(5, 3, 4), -3),
    "tanh": (torch.tanh, -2),
    "gelu": (F.gelu, -2),
    "silu_in_place": (lambda x: F.silu(x * 2, inplace=True), -2),
    "power": (lambda x: x**3, -2),
    "scaled": (lambda x: weight[:, 0][:3] * x + 1, -2),
    "by_part": (lambda x: x * torch.arange(5.0)[:, None].double(), -2),
    "two": (lambda x: x.sin() * x.cos(), -2),
    "where": (lambda x: torch.where(x > 0, x, 0.5), -2),
    "layer_norm": (lambda x: F.layer_norm(x, (3,)), -2),
    "rms_norm": (lambda x: F.rms_norm(x, (3,)), -2),
    "softmax": (lambda x: x.softmax(-1), -2),
    "logsumexp": (lambda x: x.logsumexp(-1), -1),
    "sum": (lambda x: x.sum(-1), -1),
    "sum_kept": (lambda x: x.sum(2, keepdim=True), -2),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=-1), -1),
    "unsqueeze": (lambda x: x.unsqueeze(-1), -3),
    "none": (lambda x: x[:, None, :, 1:], -2),
    "range": (lambda x: x[:, 1:4], -2),
    "transpose": (lambda x: x.mT, -1),
    "movedim": (lambda x: x.movedim(1, 0), -3),
    "reshape": (lambda x: x.reshape(2, 5, 1, 3), -3),
    "flatten": (lambda x: x.unsqueeze(-1).flatten(2), -2),
    "split": (lambda x: x.split([2, 3], 1)[1], -2),
    "cat": (lambda x: torch.cat([x, x.sin()], -1), -2),
    "stack": (lambda x: torch.stack([x, x.sin()], -1), -3),
    "heads": (lambda x: x.view(2, 5, 3, 1).transpose(1, 2), -2),
}
IN_FULL = {
    "sum_over_parts": lambda x: x.sum(1),
    "mean_over_parts": lambda x: x.sin().mean((1, 2)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "scores": lambda x: (x @ bilinear) @ x.mT,
    "weights": lambda x: torch.ones(2, 5, dtype=x.dtype) @ x,
    "over_parts": lambda x: F.linear(x.mT, torch.ones(2, 5, dtype=x.dtype)),
    "softmax_over_parts": lambda x: x.softmax(1),
    "cumsum_over_parts": lambda x: x.cumsum(1),
    "one_part": lambda x: x[:, 2],
    "order": lambda x: x[:, [4, 3, 2, 1, 0]],
    "pairs": lambda x: x[:, :, None] - x[:, None],
    "flattened": lambda x: x.flatten(1),
    "joined_parts": lambda x: torch.cat([x, x.sin()], 1),
    "rolled": lambda x: x.roll(1, 1),
}


def frames(f):
    """The blocks of what ``f`` makes of five parts of three coordinates, the result compared with nothing."""
    seen = []

    def noted(x):
        result = f(x)
        if type(result) is Jet and result.propagation.whole is not None:
            seen.append(result.frame.blocks)
        return result.movedim(1, 0) if len(result) != 2 else result

    laplacian(noted, method="taylor", check=False)(torch.randn(2, 5, 3, dtype=torch.float64))
    return seen


@pytest.mark.parametrize("name", KEPT)
def test_rows_stay_those_of_blocks(name):
    f, axis = KEPT[name]
    found = frames(f)
    assert found
    assert all(blocks is not None and blocks.axis == axis and blocks.each == 3 for blocks in found)


@pytest.mark.parametrize("name", IN_FULL)
def test_rows_are_in_full(name):
    found = frames(IN_FULL[name])
    assert found
    assert all(blocks is None for blocks in found)


def test_an_input_of_one_axis_is_cut():
    seen = []

    def f(x):
        parts = x.sin().reshape(-1, 5, 3)
        kept = x.reshape(-1, 5, 3).tanh()
        if type(kept) is Jet and kept.propagation.whole is not None:
            seen.append((parts.frame.blocks, kept.frame.blocks))
        return (parts * kept).sum((1, 2))

    laplacian(f, method="taylor")(torch.randn(2, 15, dtype=torch.float64))
    assert seen
    assert all(one is None and other.owners == tuple(range(5)) for one, other in seen)
