"""Losses and bags that are exchanged: torch's own values in every reduction, and slopes in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jacfunc import UnsupportedOperationError, batch_jac, laplacian
from jacfunc.evaluation.corrections import losses


def test_bags_with_gradients_of_other_kinds():
    """``sparse`` is dense here; ``scale_grad_by_freq`` means what ``F.embedding`` takes it for."""
    places, x = torch.tensor([[0, 2], [1, 2]]), torch.randn(3, 3, 2, dtype=torch.float64)
    each = lambda f: lambda x: torch.stack([f(sample) for sample in x])
    sums = each(lambda w: F.embedding_bag(places, w, mode="sum"))
    expected = batch_jac(sums)(x)
    torch.testing.assert_close(
        batch_jac(each(lambda w: F.embedding_bag(places, w, mode="sum", sparse=True)))(x), expected
    )
    scaled = batch_jac(
        each(lambda w: F.embedding_bag(places, w, mode="sum", scale_grad_by_freq=True)), return_value=True
    )
    found, value = scaled(x)
    frequencies = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected / frequencies[:, None])
    assert torch.equal(value, sums(x))
    embedded = lambda x: torch.stack([F.embedding(places, w, scale_grad_by_freq=True).sum(1) for w in x])
    torch.testing.assert_close(found, batch_jac(embedded)(x))


def test_a_bag_whose_norms_are_bounded():
    places, x = torch.tensor([[0, 2], [1, 2]]), torch.randn(3, 3, 2, dtype=torch.float64)
    f = lambda x: torch.stack([F.embedding_bag(places, w.clone(), max_norm=0.5) for w in x])
    kept = x.clone()
    found, value = batch_jac(lambda x: f(x).square(), return_value=True)(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(value, f(x).square())
    mean = lambda x: torch.stack([F.embedding_bag(places, w) for w in x])
    torch.testing.assert_close(found, 2 * f(x)[..., None, None] * batch_jac(mean)(x))


def test_parameters_of_a_bag_have_gradients():
    bag = nn.EmbeddingBag(5, 3, mode="sum").double()
    places = torch.tensor([[0, 1], [2, 2], [4, 0]])
    x = torch.rand(3, 2, dtype=torch.float64)
    f = lambda x: bag(places, per_sample_weights=x).tanh()
    found = batch_jac(f)(x)
    value = f(x)
    torch.testing.assert_close(found, (1 - value.square())[..., None] * bag.weight[places].mT)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), bag.weight),
        torch.autograd.grad(((1 - value.square())[..., None] * bag.weight[places].mT).sum(), bag.weight),
    )


DOUBLE = torch.float64
ROWS = torch.tensor([[0.1, 0.7, -0.4], [0.9, 0.2, 0.6]], dtype=DOUBLE)
LABELS = torch.tensor([0, 2])
WEIGHT = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("options", [{}, {"p": 2}, {"margin": 0.5}, {"weight": WEIGHT}])
def test_margins_have_torchs_value(options: dict[str, Any], reduction: str) -> None:
    for rows, labels in ((ROWS, LABELS), (ROWS[0], LABELS[0])):
        wanted = F.multi_margin_loss(rows, labels, **options, reduction=reduction)
        assert torch.equal(losses.multi_margin_loss(rows, labels, **options, reduction=reduction), wanted)
        number = ("none", "mean", "sum").index(reduction)
        found = losses.numbered_multi_margin(rows, labels, **options, reduction=number)
        assert torch.equal(found, wanted)


def test_margins_by_hand() -> None:
    """Of the first row 0.1 is right: ``(1 - 0.1 + 0.7)^2 + (1 - 0.1 - 0.4)^2`` over three classes."""
    f = lambda row: losses.multi_margin_loss(row, LABELS[0], p=2)
    slack = torch.tensor([1.6, 0.5], dtype=DOUBLE)
    torch.testing.assert_close(f(ROWS[0]), slack.square().sum() / 3)
    slope = torch.stack([-2 * slack.sum(), 2 * slack[0], 2 * slack[1]]) / 3
    torch.testing.assert_close(torch.func.grad(f)(ROWS[0]), slope)
    hessian = torch.tensor([[4.0, -2, -2], [-2, 2, 0], [-2, 0, 2]], dtype=DOUBLE) / 3
    torch.testing.assert_close(torch.func.hessian(f)(ROWS[0]), hessian)


@pytest.mark.parametrize(
    ("size_average", "reduce", "reduction"),
    [(None, False, "none"), (False, None, "sum"), (True, None, "mean"), (None, True, "mean"), (False, True, "sum")],
)
@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_reductions_by_their_old_names(size_average: bool | None, reduce: bool | None, reduction: str) -> None:
    for loss, native, labels in (
        (losses.multi_margin_loss, F.multi_margin_loss, LABELS),
        (losses.multilabel_margin_loss, F.multilabel_margin_loss, torch.tensor([[0, -1, 1], [1, 2, -1]])),
    ):
        found = loss(ROWS, labels, size_average=size_average, reduce=reduce)
        assert torch.equal(found, native(ROWS, labels, reduction=reduction))
        assert torch.equal(loss(ROWS, labels, reduction=reduction), found)


def test_labels_end_at_the_first_negative_one() -> None:
    """Only class 0 is right in the first row: the 1 after the -1 is not read."""
    labels = torch.tensor([[0, -1, 1]])
    f = lambda row: losses.multilabel_margin_loss(row[None], labels)
    torch.testing.assert_close(f(ROWS[0]), torch.tensor((1 - 0.1 + 0.7 + 1 - 0.1 - 0.4) / 3, dtype=DOUBLE))
    assert torch.equal(f(ROWS[0]), F.multilabel_margin_loss(ROWS[:1], labels))
    torch.testing.assert_close(torch.func.grad(f)(ROWS[0]), torch.tensor([-2.0, 1, 1], dtype=DOUBLE) / 3)
    found = losses.numbered_multilabel_margin(ROWS[:1], labels, 2)
    assert torch.equal(found, F.multilabel_margin_loss(ROWS[:1], labels, reduction="sum"))


TABLE = torch.randn(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
INDICES, OFFSETS = torch.tensor([0, 4, 2, 2, 1]), torch.tensor([0, 2, 2])


def jacobian(mode: str, **options: Any) -> torch.Tensor:
    f = lambda table: losses.embedding_bag(INDICES, table, OFFSETS, mode=mode, **options)
    assert torch.equal(f(TABLE), F.embedding_bag(INDICES, TABLE, OFFSETS, mode=mode, **options))
    return torch.func.jacrev(f)(TABLE)[:, 0, :, 0]


def test_slopes_of_bags_are_how_often_each_row_is_in_each() -> None:
    """Bags ``[0, 4]``, ``[]`` and ``[2, 2, 1]``."""
    counts = torch.tensor([[1.0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 2, 0, 0]], dtype=DOUBLE)
    torch.testing.assert_close(jacobian("sum"), counts)
    sizes = torch.tensor([2.0, 1, 3], dtype=DOUBLE)[:, None]
    torch.testing.assert_close(jacobian("mean"), counts / sizes)
    torch.testing.assert_close(jacobian("sum", padding_idx=4)[0], torch.tensor([1.0, 0, 0, 0, 0], dtype=DOUBLE))
    torch.testing.assert_close(jacobian("mean", padding_idx=-1)[0], torch.tensor([1.0, 0, 0, 0, 0], dtype=DOUBLE))
    per_sample = torch.tensor([2.0, 3, 5, 7, 11], dtype=DOUBLE)
    weighted = torch.tensor([[2.0, 0, 0, 0, 3], [0, 0, 0, 0, 0], [0, 11, 12, 0, 0]], dtype=DOUBLE)
    torch.testing.assert_close(jacobian("sum", per_sample_weights=per_sample), weighted)


def test_the_largest_of_a_bag_has_all_of_its_slope() -> None:
    largest = torch.zeros(3, 5, dtype=DOUBLE)
    largest[0, [0, 4][int(TABLE[4, 0] > TABLE[0, 0])]] = 1
    largest[2, [2, 1][int(TABLE[1, 0] > TABLE[2, 0])]] = 1
    torch.testing.assert_close(jacobian("max"), largest)


def test_bags_by_their_private_names() -> None:
    wanted = torch._embedding_bag(TABLE, INDICES, OFFSETS)
    for found in (
        losses.private_embedding_bag(TABLE, INDICES, OFFSETS),
        losses.direct_embedding_bag(TABLE, INDICES, OFFSETS),
    ):
        assert torch.equal(found[0], wanted[0])
        assert len(found) == 4
    padded = losses.private_embedding_bag(TABLE, INDICES, offsets=OFFSETS, padding_idx=4)
    assert torch.equal(padded[0][0], TABLE[0])
    assert torch.equal(losses.private_embedding_bag(TABLE, INDICES, OFFSETS, padding_idx=-1)[0], wanted[0])


@pytest.mark.parametrize("transform", [batch_jac, laplacian])
def test_a_weight_that_torch_leaves_out_is_refused(transform):
    """``F.l1_loss`` hands itself over without it (a bug of torch's), so the loss would be another one."""
    x, target, weight = torch.randn(4, 3), torch.zeros(4, 3), torch.rand(4, 3)
    for given in ({"weight": weight}, {"weight": weight, "reduction": "none"}):
        with pytest.raises(UnsupportedOperationError, match="F.l1_loss with weight="):
            transform(lambda x, given=given: F.l1_loss(x, target[: len(x)], **given) + x)(x)
    found = batch_jac(lambda x: F.l1_loss(x, target, reduction="none"))(x)
    torch.testing.assert_close(found, torch.diag_embed(x.sign()))
