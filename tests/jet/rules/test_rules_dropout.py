"""Rules of dropout: one mask for the value and all rows, of the draw of a plain forward."""

from __future__ import annotations

import pytest
import torch
from batch_cases import check_one_draw, sq
from jet_truth import Function
from propagated import propagated
from torch.nn import functional as F

RANDOM = [
    ("dropout", lambda x: F.dropout(sq(x), 0.4), (3, 4)),
    ("dropout-eval", lambda x: F.dropout(sq(x), 0.4, training=False), (3, 4)),
    ("dropout-all", lambda x: F.dropout(sq(x), 1.0), (3, 4)),
    ("dropout-transposed", lambda x: F.dropout(sq(x).transpose(0, 1), 0.4), (3, 4)),
    ("dropout2d", lambda x: F.dropout2d(sq(x), 0.4), (2, 3, 2, 1)),
    ("native_dropout", lambda x: torch.native_dropout(sq(x), 0.4, True)[0], (3, 4)),
    ("alpha_dropout", lambda x: F.alpha_dropout(sq(x), 0.4, True), (3, 4)),
    ("alpha_dropout-all", lambda x: F.alpha_dropout(sq(x), 1.0, True), (3, 4)),
    ("feature_alpha_dropout", lambda x: F.feature_alpha_dropout(sq(x), 0.4, True), (2, 3, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "f", "shape"), RANDOM, ids=[name for name, *_ in RANDOM])
def test_one_draw_which_is_that_of_a_plain_forward(name: str, f: Function, shape: tuple[int, ...]) -> None:
    check_one_draw(f, shape)


X = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def test_what_is_kept_is_scaled_and_what_is_not_has_no_rows() -> None:
    value, (rows, second) = propagated(lambda x: F.dropout(x.exp(), 0.25), X, "diagonal")
    kept = value != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(value, torch.where(kept, X.exp() / 0.75, 0.0))
    slope = torch.diag_embed(torch.where(kept, X.exp() / 0.75, 0.0)).movedim(1, 0)
    torch.testing.assert_close(rows, slope)
    torch.testing.assert_close(second, slope / 2)


def test_channels_are_left_out_as_a_whole() -> None:
    f = lambda x: F.dropout1d(x.exp()[:, :, None] * torch.ones(5, dtype=x.dtype), 0.5)
    value, (rows,) = propagated(f, X)
    kept = value != 0
    assert torch.equal(kept.any(2), kept.all(2))
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(rows.sum(0), torch.where(kept, 2 * X.exp()[:, :, None], 0.0))


def test_the_mask_of_what_is_kept_is_plain() -> None:
    torch.manual_seed(1)
    wanted = torch.native_dropout(X, 0.5, True)[1]
    torch.manual_seed(1)
    mask, rows = propagated(lambda x: torch.native_dropout(x, 0.5, True)[1], X)
    assert torch.equal(mask, wanted)
    assert not rows


def test_alpha_dropout_has_the_slope_of_its_noise() -> None:
    """``a (x mask + saturated (1 - mask)) + b``: what is left out is at one number, and has no slope."""
    value, (rows,) = propagated(lambda x: F.alpha_dropout(x, 0.3, training=True), X)
    saturated = -1.7580993408473766
    scale = 1 / (0.7 * (1 + 0.3 * saturated**2)) ** 0.5
    own = rows.sum(0)
    kept = own != 0
    assert 0 < kept.sum() < kept.numel()
    shift = -scale * saturated * 0.3
    torch.testing.assert_close(own[kept], torch.full_like(own[kept], scale), rtol=1e-7, atol=0)
    torch.testing.assert_close(value, scale * torch.where(kept, X, saturated) + shift, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("f", [F.dropout, F.dropout1d, F.alpha_dropout, F.feature_alpha_dropout])
def test_outside_of_training_nothing_is_left_out(f: Function) -> None:
    value, (rows,) = propagated(lambda x: f(x[..., None] * 1, 0.5, training=False), X)
    assert torch.equal(value[..., 0], X)
    assert torch.equal(rows[..., 0].expand(3, 40, 3), torch.eye(3, dtype=X.dtype)[:, None].expand(3, 40, 3))
