"""``jacfunc/call/positions.py``: what depends on where a sample is or on how many there are is not cut into blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jacfunc import ArgumentError, CoupledSamplesError, diag_jac, laplacian, make_functional
from jacfunc.call.evaluator import Evaluator
from jacfunc.call.positions import refuse_positions
from jacfunc.call.request import Request
from jacfunc.options import Options

Function = Callable[[Any], Any]
DOUBLE = torch.float64
N, SIZE = 40, 13
X = torch.randn(N, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
S = torch.linspace(-1, 1, N, dtype=DOUBLE)[:, None]
LATE = torch.where(torch.arange(N) < 30, 1.0, 5.0).double()[:, None]
"""The same for all samples of the first two blocks."""
WIDE = torch.rand(N, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
MASK = torch.rand(N, N, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)) > 0.5


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3).double()
        self.register_buffer("entries", S.clone())

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.layer(x)) * self.entries[: len(x)]


class Weighted(nn.Module):
    """With a parameter for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(S.clone())

    def forward(self, x: Any) -> Any:
        return x.sin() * self.weights[: x.shape[0]]


def alternating(x: Any) -> Any:
    return torch.cat([x[::2].sin(), x[1::2].cos()])[
        torch.argsort(torch.cat([torch.arange(0, len(x), 2), torch.arange(1, len(x), 2)]))
    ]


def looped(x: Any) -> Any:
    return torch.stack([row.sin() * (1 + place) for place, row in enumerate(x)])


def halves(x: Any) -> Any:
    return torch.cat([x[: len(x) // 2].sin(), x[len(x) // 2 :].cos()])


BY_POSITION: dict[str, Function] = {
    "a slice": lambda x: x.sin() * S[: len(x)],
    "a slice of what is equal at first": lambda x: x.sin() * LATE[: len(x)],
    "a slice by shape": lambda x: x.sin() + S[: x.shape[0]],
    "a slice by size": lambda x: x.sin() + S[0 : x.size(0)],
    "narrow": lambda x: x.sin() * S.narrow(0, 0, len(x)),
    "narrow of what is equal at first": lambda x: x.sin() * torch.narrow(LATE, 0, 0, len(x)),
    "a slice of two axes": lambda x: x * WIDE[: len(x), :3],
    "a slice of columns": lambda x: x * WIDE[: len(x), 1:2],
    "the last ones": lambda x: x.sin() * S[-len(x) :],
    "an index": lambda x: x.sin() * S[torch.arange(len(x))],
    "index_select": lambda x: x.sin() * S.index_select(0, torch.arange(len(x))),
    "a gather": lambda x: x * WIDE.gather(0, torch.arange(len(x))[:, None].expand(-1, 3)),
    "split": lambda x: x * WIDE.split(len(x))[0],
    "a diagonal of a mask": lambda x: x * MASK.diagonal()[: len(x), None],
    "a mask of pairs": lambda x: torch.where(MASK[: len(x), : len(x)].any(1, keepdim=True), x.sin(), x.cos()) * S[: len(x)],
    "sums of a mask": lambda x: x * MASK[: len(x), : len(x)].sum(1, keepdim=True),
    "causal attention of constants": lambda x: x * torch.ones(len(x), len(x), dtype=DOUBLE).tril().mean(1, keepdim=True),
    "linspace": lambda x: x * torch.linspace(0, 1, len(x), dtype=DOUBLE)[:, None],
    "logspace": lambda x: x * torch.logspace(0, 1, len(x), dtype=DOUBLE)[:, None],
    "arange": lambda x: x * torch.arange(len(x))[:, None],
    "arange from one": lambda x: x / torch.arange(1, 1 + len(x))[:, None],
    "a range as a list": lambda x: x * torch.tensor(range(len(x)), dtype=DOUBLE)[:, None],
    "the count": lambda x: x.sin() / len(x),
    "the count by shape": lambda x: x.sin() * x.shape[0],
    "the root of the count": lambda x: x / math.sqrt(x.size(0)),
    "the count of elements": lambda x: x.sin() / x.numel(),
    "the logarithm of the count": lambda x: x + math.log(len(x)) * x.cos(),
    "a mean of ones": lambda x: x * torch.ones(len(x), dtype=DOUBLE).sum(),
    "a bias by count": lambda x: x.sin() + 1.0 / len(x),
    "a power of the count": lambda x: x.sin() * 0.9 ** len(x),
    "a branch by count": lambda x: x.sin() if len(x) > 7 else x.cos(),
    "even counts": lambda x: x.sin() * (1 + len(x) % 2),
    "a cumulative sum of ones": lambda x: x * torch.ones_like(x).cumsum(0),
    "a cumulative product": lambda x: x * torch.full_like(x, 0.9).cumprod(0),
    "eye": lambda x: torch.eye(len(x), dtype=DOUBLE).cumsum(0).sum(1, keepdim=True) * x,
    "one-hot": lambda x: x * F.one_hot(torch.arange(len(x)) % 3, 3),
    "sines of the place": lambda x: x + torch.sin(torch.arange(len(x), dtype=DOUBLE))[:, None] * x.cos(),
    "rotary": lambda x: x * torch.cos(torch.arange(len(x), dtype=DOUBLE)[:, None] * torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE)),
    "an embedding": lambda x: x * F.embedding(torch.arange(len(x)), WIDE),
    "alternating signs": lambda x: x * torch.tensor([(-1.0) ** k for k in range(len(x))], dtype=DOUBLE)[:, None],
    "every second": alternating,
    "a loop": looped,
    "halves": halves,
    "the first is another": lambda x: torch.cat([x[:1].cos(), x[1:].sin()]),
    "the last is another": lambda x: torch.cat([x[:-1].sin(), x[-1:].cos()]),
    "a window": lambda x: x * torch.hann_window(len(x), dtype=DOUBLE)[:, None],
    "a padded tensor": lambda x: x * F.pad(S, (0, 0, 0, 7))[: len(x)],
    "a turned tensor": lambda x: x * S.flip(0)[: len(x)],
    "a rolled tensor": lambda x: x * S.roll(1, 0)[: len(x)],
    "a sorted tensor": lambda x: x * WIDE.sort(0).values[: len(x)],
    "a repeated tensor": lambda x: x * torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(len(x))[: len(x), None],
    "a list": lambda x: x * torch.stack([S[k] for k in range(len(x))]),
    "masked": lambda x: x.masked_fill((torch.arange(len(x)) < 3)[:, None], 0.0),
    "where": lambda x: torch.where((torch.arange(len(x)) % 2 == 0)[:, None], x.sin(), x.cos()),
    "a scatter": lambda x: x * torch.zeros(len(x), 1, dtype=DOUBLE).scatter(0, torch.tensor([[0]]), 2.0).add(1),
    "index_add": lambda x: x * torch.ones(len(x), 1, dtype=DOUBLE).index_add(0, torch.tensor([0]), torch.ones(1, 1, dtype=DOUBLE)),
    "boundaries by count": lambda x: x * torch.linspace(-1, 1, len(x), dtype=DOUBLE).abs()[:, None],
    "a schedule": lambda x: x * torch.linspace(1, 0, len(x) + 1, dtype=DOUBLE)[:-1, None],
    "a buffer": Buffered(),
    "a parameter of each": Weighted(),
    "meshgrid": lambda x: x * torch.meshgrid(torch.arange(len(x)), torch.arange(1), indexing="ij")[0],
}  # fmt: skip


@pytest.mark.parametrize("name", BY_POSITION)
def test_what_depends_on_its_position_is_refused_in_blocks(name: str) -> None:
    f = BY_POSITION[name]
    assert diag_jac(f, check=False)(X).isfinite().all()
    for size in (SIZE, 1):
        derivative = diag_jac(f, sample_chunk_size=size)
        for _ in range(3):
            with pytest.raises((ArgumentError, CoupledSamplesError), match="among others|only other samples"):
                derivative(X)
    assert diag_jac(f, check=False, sample_chunk_size=SIZE)(X).shape == X.shape


def test_there_are_sixty() -> None:
    assert len(BY_POSITION) >= 60


def test_by_keyword_and_named() -> None:
    f = lambda x, s: x.sin() * s[: len(x)]
    for s in (S, LATE):
        with pytest.raises(ArgumentError, match=r"may carry samples: the keyword s of shape \(40, 1\); pass"):
            diag_jac(f, sample_chunk_size=SIZE)(X, s=s)
    right = diag_jac(f, sample_chunk_size=SIZE, argnums=0, in_dims=(0, 0))(X, S)
    torch.testing.assert_close(right, diag_jac(f, argnums=0)(X, S))
    with pytest.raises(ArgumentError, match=r"S of shape \(40, 1\)"):
        diag_jac(BY_POSITION["a slice"], sample_chunk_size=SIZE)(X)
    with pytest.raises(ArgumentError, match=r"entries of shape \(40, 1\)"):
        laplacian(BY_POSITION["a buffer"], sample_chunk_size=SIZE)(X)


CENTRES = torch.randn(N, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
"""As many as there are samples, by chance."""
NORM = nn.BatchNorm1d(3).double().eval()
NORM.running_mean.copy_(torch.tensor([0.1, 0.2, 0.3]))  # type: ignore[union-attr,operator]
LAYERS = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double()
GRU = nn.GRU(1, 3, batch_first=True).double()
WITHOUT: dict[str, Function] = {
    "a network": LAYERS,
    "a kernel with as many centres": lambda x: torch.exp(-torch.cdist(x, CENTRES)) @ CENTRES,
    "a kernel without its mean": lambda x: torch.exp(-torch.cdist(x - CENTRES.mean(0), CENTRES - CENTRES.mean(0)) ** 2) @ WIDE,
    "a mean of weights": lambda x: x * WIDE.mean(0),
    "a norm of weights": lambda x: x * WIDE.norm(),
    "a slice of weights": lambda x: x @ CENTRES[:3],
    "a slice of features": lambda x: torch.cat([x[:, :1].sin(), x[:, 1:]], 1),
    "BatchNorm in eval": NORM,
    "a mask of features": lambda x: torch.where(torch.tensor([True, False, True]), x.sin(), x),
    "a mask by value": lambda x: torch.where(x > 0, x.sin(), x.cos()),
    "softmax": lambda x: x.softmax(1),
    "layer norm": lambda x: F.layer_norm(x, (3,)),
    "a recurrent network": lambda x: GRU(x[:, :, None])[0][:, -1],
    "attention in a sample": lambda x: F.scaled_dot_product_attention(x[:, :, None], x[:, :, None], x[:, :, None])[:, :, 0],
    "a convolution": lambda x: F.conv1d(x[:, None], torch.ones(1, 1, 3, dtype=DOUBLE), padding=1)[:, 0],
    "a count of features": lambda x: x / x.shape[1],
    "zeros of the batch": lambda x: x.sin() + torch.zeros(len(x), 3, dtype=DOUBLE),
    "ones of the batch": lambda x: x.sin() * torch.ones(len(x), 1, dtype=DOUBLE),
    "expanded to the batch": lambda x: x * WIDE[:1].expand(len(x), -1),
    "repeated for the batch": lambda x: x * torch.tensor([[1.0, 2.0, 3.0]], dtype=DOUBLE).repeat(len(x), 1),
    "a new tensor": lambda x: x + x.new_full((x.shape[0], 1), 0.5),
    "reshaped by the batch": lambda x: x.reshape(len(x), 3, 1).sin().view(x.shape[0], 3),
    "an assertion": lambda x: x.sin() if len(x) >= 0 else x,
    "a loop": lambda x: torch.stack([row.sin() for row in x]),
    "a list of rows": lambda x: torch.cat([row[None].sin() for row in x.unbind(0)]),
    "sorted features": lambda x: x.sort(1).values,
    "the largest feature": lambda x: x.amax(1, keepdim=True) * x,
    "cumulative over features": lambda x: x.cumsum(1),
    "einsum": lambda x: torch.einsum("ni,ij->nj", x, CENTRES[:3]),
    "solve": lambda x: torch.linalg.solve(torch.eye(3, dtype=DOUBLE) * 2 + x[:, :, None] * x[:, None], x),
    "detached": lambda x: x * x.detach(),
    "rounding": lambda x: x.round() + x.sin(),
    "a spline": lambda x: torch.bucketize(x.detach(), torch.linspace(-2, 2, 9, dtype=DOUBLE)) * x,
    "a lookup": lambda x: x * WIDE[x.detach()[:, 0].abs().long().clamp(max=3)],
    "float32 inside": lambda x: x.float().sin().double(),
    "complex inside": lambda x: torch.fft.ifft(torch.fft.fft(x, dim=1) * 2, dim=1).real,
    "a determinant": lambda x: x * torch.det(torch.eye(3, dtype=DOUBLE) + x[:, :, None] * 0.1)[:, None],
    "an integral": lambda x: x * torch.trapezoid(torch.linspace(0, 1, N, dtype=DOUBLE)),
    "a jitter of none": lambda x: F.dropout(x, 0.0).sin(),
    "a list of constants": lambda x: sum(c * x.sin() for c in (0.1, 0.2, 0.3)),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT)
def test_what_does_not_depend_on_it_is_cut(name: str) -> None:
    f = WITHOUT[name]
    for size in (SIZE, 1, 20):
        torch.testing.assert_close(diag_jac(f, sample_chunk_size=size)(X), diag_jac(f)(X))


COUPLED: dict[str, Function] = {
    "a mean": lambda x: x - x.mean(0),
    "a sum": lambda x: x * x.sum(),
    "softmax": lambda x: x.softmax(0),
    "a cumulative sum": lambda x: x.cumsum(0),
    "sorted": lambda x: x.sort(0).values,
    "a turn": lambda x: x.flip(0),
    "a neighbour": lambda x: x + x.roll(1, 0),
    "BatchNorm": nn.BatchNorm1d(3).double(),
    "attention": lambda x: (x @ x.T).softmax(-1) @ x,
    "the first": lambda x: x * x[:1],
    "the last": lambda x: x * x[-1:],
    "the largest": lambda x: x / x.amax(),
    "a norm": lambda x: x / x.norm(),
    "distances": lambda x: torch.cdist(x, x).sum(1, keepdim=True) * x,
    "a median": lambda x: x - x.median(0).values,
    "a recurrent network": lambda x: nn.functional.tanh(x).cumsum(0),
    "a product": lambda x: x.cumprod(0),
    "differences": lambda x: x - torch.cat([x[1:], x[:1]]),
    "a matrix of the batch": lambda x: torch.ones(len(x), len(x), dtype=DOUBLE) @ x,
    "logsumexp": lambda x: x - x.logsumexp(0),
    "standardised": lambda x: (x - x.mean(0)) / x.std(0),
    "a covariance": lambda x: x @ torch.cov(x.T),
    "a rank": lambda x: x * x.argsort(0).argsort(0),
    "a maximum so far": lambda x: x.cummax(0).values,
    "a convolution over samples": lambda x: F.conv1d(x.T[None], torch.ones(3, 3, 3, dtype=DOUBLE), padding=1)[0].T,
    "a pool over samples": lambda x: F.max_pool1d(x.T[None], 3, 1, 1)[0].T,
    "a swap": lambda x: torch.cat([x[1:2], x[:1], x[2:]]),
    "a group": lambda x: F.group_norm(x.T[None], 3)[0].T,
    "an outer product": lambda x: x * (x @ x.T).mean(1, keepdim=True),
    "a variance": lambda x: x * x.var(0),
    "the mean of a network": lambda x: LAYERS(x) - LAYERS(x).mean(0),
    "a mean of squares": lambda x: x * x.square().mean(0, keepdim=True).sqrt(),
    "a sum of others": lambda x: x.sum(0) - x,
    "its place among all": lambda x: (x[:, None] > x[None]).sum(1) * x,
    "a soft rank": lambda x: torch.sigmoid(x[:, None] - x[None]).sum(1),
    "an eigenvector": lambda x: x @ torch.linalg.eigh(x.T @ x)[1],
    "clipped by all": lambda x: x * (3 / x.norm()).clamp(max=1.0),
    "a histogram": lambda x: x * (x.round()[:, None] == x.round()[None]).sum(1),
    "shifted by one": lambda x: torch.cat([x[:1], x[:-1]]),
    "a Gram matrix": lambda x: torch.linalg.solve(torch.eye(len(x), dtype=DOUBLE) * 99 + x @ x.T, x),
}  # fmt: skip


@pytest.mark.parametrize("name", COUPLED)
def test_what_couples_samples_is_refused_in_blocks(name: str) -> None:
    for size in (SIZE, 1):
        with pytest.raises((CoupledSamplesError, ArgumentError)):
            diag_jac(COUPLED[name], sample_chunk_size=size)(X)


def test_it_is_asked_seldom_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = [], Evaluator.look
    monkeypatch.setattr(Evaluator, "look", lambda self, state: (looks.append(1), look(self, state))[1])
    held = {"place": False}
    derivative = diag_jac(lambda x: x.sin() * (S[: len(x)] if held["place"] else 1.0), sample_chunk_size=30)
    before = 0
    for _ in range(7):
        before = len(looks)
        derivative(X)
    assert len(looks) == before
    held["place"] = True
    with pytest.raises(ArgumentError, match="among others"):  # at the eighth call
        derivative(X)


@pytest.mark.parametrize("size", [30, 64, 100, 300])
@pytest.mark.parametrize("count", [300, 301, 320, 349, 350, 499])
def test_it_costs_no_more_than_two_forwards_of_a_block(count: int, size: int) -> None:
    f, x = lambda x: x.sin() if seen.append(len(x)) is None else x, torch.rand(count, 2)
    seen: list[int] = []
    options = Options(sample_chunk_size=size)
    whole = Request(f, options, (x,), {})
    refuse_positions(whole, size, lambda start, stop: Request(f, options, (x[start:stop],), {}))
    assert (len(seen) >= 3 or size >= count) and sum(seen) <= 2 * size


def test_what_draws_and_modules_with_parameters() -> None:
    torch.manual_seed(0)
    drawing = diag_jac(lambda x: x.sin() + torch.randn_like(x), sample_chunk_size=SIZE)
    torch.testing.assert_close(drawing(X), X.cos())
    f, params = make_functional(LAYERS)
    torch.testing.assert_close(diag_jac(f, sample_chunk_size=SIZE)(params, X), diag_jac(f)(params, X))
    f, params = make_functional(Weighted())
    with pytest.raises(ArgumentError, match="among others"):
        diag_jac(f, sample_chunk_size=SIZE)(params, X)
    trees = diag_jac(lambda x: {"y": x["a"] * S[: len(x["a"])]}, sample_chunk_size=SIZE)
    with pytest.raises(ArgumentError, match="among others"):
        trees({"a": X})
