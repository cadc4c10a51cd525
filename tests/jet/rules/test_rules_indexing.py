"""Rules of elements taken from and put at places, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import BatchCase, normal, refuse_fallback, sq
from propagated import propagated
from rule_cases import Case, check, matrix
from torch import nn
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError

B = normal(3, 4, seed=11)
MASK = normal(3, 4, seed=12) > 0
INDEX = torch.tensor([[0, 2, 1, 3], [3, 3, 0, 0], [1, 2, 2, 0]])
PLACES = torch.tensor([2, 0])
MANY = torch.tensor([1, 0, 2, 3])
plain = torch.linspace(0.3, 2.0, 4, dtype=torch.float64)
table_ids = torch.tensor([[0, 3, 3], [2, 1, 0]])

BATCHES = [
    BatchCase("masked_select", lambda x: sq(x).masked_select(MASK)),
    BatchCase("masked_select-broadcast", lambda x: sq(x).masked_select(MASK[:, :1])),
    BatchCase(
        "no-axis",
        lambda x: x.sum().sin().roll(3) + torch.take(x.sum(), INDEX * 0) + x[0, 0].sin().gather(0, PLACES[1:]),
    ),
    BatchCase(
        "no-axis-along",
        lambda x: torch.take_along_dim(x.sum().sin(), INDEX * 0) + torch.stack(torch.aminmax(x.sum(), dim=0)).sum(),
        reference=lambda x: (
            torch.take_along_dim(x.sum().sin(), INDEX * 0) + 2 * x.sum()
        ),  # torch 2.11 has none of aminmax
    ),
    BatchCase("gather", lambda x: sq(x).gather(1, INDEX)),
    BatchCase("take", lambda x: torch.take(sq(x), INDEX)),
    BatchCase("take_along_dim", lambda x: torch.take_along_dim(sq(x), INDEX[:1], 1)),
    BatchCase("take_along_dim-flat", lambda x: torch.take_along_dim(sq(x), INDEX)),
    BatchCase("repeat_interleave", lambda x: sq(x).repeat_interleave(MANY, 1)),
    BatchCase("repeat_interleave-flat", lambda x: torch.repeat_interleave(sq(x), 2)),
    BatchCase("embedding", lambda x: F.embedding(torch.tensor([[0, 2], [1, 1]]), sq(x), padding_idx=1)),
    BatchCase("scatter-self", lambda x: sq(x).scatter(1, INDEX[:, :2], 1.5)),
    BatchCase("scatter-both", lambda x: sq(x).scatter(1, INDEX[:1], x.exp()[:1])),
    BatchCase("scatter-src", lambda x: torch.scatter(B, 1, torch.arange(4).flip(0).expand(3, 4), sq(x))),
    BatchCase("scatter_", lambda x: sq(x).scatter_(1, INDEX[:, :2], 1.5)),
    BatchCase("scatter_add", lambda x: torch.scatter_add(sq(x), 1, INDEX, x.exp())),
    BatchCase("scatter_add-src", lambda x: torch.scatter_add(B, 1, INDEX, sq(x))),
    BatchCase("scatter_reduce-sum", lambda x: torch.scatter_reduce(sq(x), 1, INDEX, x.exp(), "sum")),
    BatchCase("scatter_reduce-mean", lambda x: sq(x).scatter_reduce(1, INDEX, x.exp(), "mean", include_self=False)),
    *[
        BatchCase(
            f"scatter_reduce-{name}-{own}",
            lambda x, n=name, o=own: sq(x).scatter_reduce(1, INDEX, x.exp(), n, include_self=o),
        )
        for name in ("amax", "amin")
        for own in (True, False)
    ],
    BatchCase("scatter_reduce-ties", lambda x: torch.scatter_reduce(x, 1, INDEX, x.flip(0), "amax"), order=1, ties=True),
    BatchCase("scatter_reduce-src", lambda x: torch.scatter_reduce(B, 1, INDEX[:, :2], sq(x)[:, :2], "amax")),
    *[
        BatchCase(
            f"index_reduce-{name}",
            lambda x, n=name: (
                sq(x).index_reduce(1, PLACES, x.exp()[:, :2], n)
                + B.index_reduce(0, PLACES, x[:2], n, include_self=False)
            ),
        )
        for name in ("amax", "amin", "mean")
    ],
    BatchCase("scatter_reduce-prod", lambda x: sq(x).scatter_reduce(1, INDEX, x.exp(), "prod"), order=1),
    BatchCase("put", lambda x: sq(x).put(PLACES, x.exp()[0, :2]) + torch.put(B, INDEX[:1], x[:1], accumulate=True)),
    BatchCase("fill", lambda x: torch.fill(sq(x), 2.0) * x + torch.fill(B, x.sum().sin())),
    BatchCase("combinations", lambda x: torch.combinations(sq(x)[0], 2, with_replacement=True), (1, 4)),
    BatchCase("index_add", lambda x: sq(x).index_add(1, PLACES, x.exp()[:, :2], alpha=0.5)),
    BatchCase("index_add-src", lambda x: torch.index_add(B, 1, MANY, sq(x))),
    BatchCase("index_copy", lambda x: sq(x).index_copy(1, PLACES, x.exp()[:, :2])),
    BatchCase("index_fill", lambda x: sq(x).index_fill(1, PLACES, 3.0)),
    BatchCase("index_put", lambda x: sq(x).index_put((torch.tensor([0, 2]), torch.tensor([1, 1])), x.exp()[:2, 0])),
    BatchCase("index_put-accumulate", lambda x: torch.index_put(B, (MASK,), sq(x).sum(), accumulate=True)),
    BatchCase("index_put_", lambda x: sq(x).index_put_((PLACES,), B[:2])),
    BatchCase("masked_scatter", lambda x: sq(x).masked_scatter(MASK, x.exp())),
    BatchCase("masked_scatter-src", lambda x: torch.masked_scatter(B, MASK, sq(x))),
    BatchCase("select_scatter", lambda x: torch.select_scatter(sq(x), x.exp()[:, 0], 1, 2)),
    BatchCase("slice_scatter", lambda x: torch.slice_scatter(B, sq(x)[:, :2], 1, 0, 4, 2)),
    BatchCase("diagonal_scatter", lambda x: torch.diagonal_scatter(sq(x), x.exp()[0, :3])),
    BatchCase("roll", lambda x: torch.roll(sq(x), 3)),
    BatchCase("roll-dims", lambda x: sq(x).roll((1, -1), (0, 1))),
    BatchCase("rot90", lambda x: torch.rot90(sq(x), 1, (1, 2)), (2, 2, 3)),
    BatchCase("tril", lambda x: torch.tril(sq(x), -1), (2, 3, 3)),
    BatchCase("triu", lambda x: sq(x).triu(), (2, 3, 3)),
    BatchCase("diagonal", lambda x: sq(x).diagonal(1, 1, 2), (2, 3, 3)),
    BatchCase("diag_embed", lambda x: torch.diag_embed(sq(x), 1, 0, -1)),
    BatchCase("diag", lambda x: torch.diag(sq(x))),
    BatchCase("diag-vector", lambda x: torch.diag(sq(x), 1), (4,)),
    BatchCase("diagflat", lambda x: torch.diagflat(sq(x)), (2, 2)),
]  # fmt: skip
EMBEDDINGS = [
    Case("embedding", lambda x: F.embedding(table_ids, x.sin().reshape(4, 2))),
    Case("embedding_padding", lambda x: F.embedding(table_ids, x.sin().reshape(4, 2), padding_idx=-1)),
    *(
        Case(f"embedding_bag_{mode}", lambda x, m=mode: F.embedding_bag(table_ids, x.sin().reshape(4, 2), mode=m))
        for mode in ("sum", "mean")
    ),
]  # fmt: skip
CASES = [
    Case("broadcast_tensors", lambda x: torch.stack(torch.broadcast_tensors(x.sin(), plain, x[:, :1]))),
    Case("roll", lambda x: x.sin().roll(1) * x.roll((1, 2), (0, 1))),
    Case("diagonal", lambda x: matrix(x).diagonal(0, 1, 2) + torch.linalg.diagonal(matrix(x))),
    Case("diagonal_default", lambda x: torch.diagonal(matrix(x), 0)),
    Case("diag_embed", lambda x: torch.diag_embed(x.sin(), 1) + torch.diag_embed(x.cos(), 1, 2, 1)),
    Case("diag", lambda x: torch.diag(x[0].sin()) + torch.diagflat(x.cos()[1])),
    Case("tril_triu", lambda x: matrix(x).tril() + 2 * torch.triu(matrix(x), 1)),
    Case("rot90", lambda x: torch.rot90(matrix(x), 1, [1, 2]) + torch.fliplr(matrix(x)) + matrix(x).flipud()),
    Case("repeat_interleave", lambda x: x.sin().repeat_interleave(2, 1) + x.cos().repeat_interleave(2).reshape(2, 8)),
    Case("repeat_interleave_tensor", lambda x: torch.repeat_interleave(x.sin(), torch.tensor([1, 2, 0, 1]), dim=-1)),
]  # fmt: skip


@pytest.mark.parametrize("case", BATCHES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case: BatchCase) -> None:
    case.check()


@pytest.mark.parametrize("case", [case for case in BATCHES if case.order > 1], ids=str)
def test_no_rule_of_these_falls_back(case: BatchCase, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(case.f, case.input())


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", [*CASES, *EMBEDDINGS], ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


def test_writing_into_a_plain_tensor_is_refused() -> None:
    with pytest.raises(CannotFollowError):
        propagated(lambda x: torch.zeros(3, 4).double().scatter_(1, INDEX, x), B)


def test_an_embedding_that_changes_its_gradient_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="embedding"):
        propagated(lambda x: F.embedding(table_ids, x.reshape(4, 2), scale_grad_by_freq=True), torch.randn(2, 4))


def test_an_embedding_of_indices_is_constant() -> None:
    layer = nn.Embedding(5, 3)
    value, rows = propagated(lambda x: layer(x.argmax(1)), torch.randn(2, 4))
    assert value.shape == (2, 3)
    assert not rows
