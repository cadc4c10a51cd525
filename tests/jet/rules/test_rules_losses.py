"""Rules of losses and gates, also of targets that vary, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import normal, refuse_fallback, soft, sq, with_corrections
from jet_truth import check
from propagated import propagated
from torch.nn import functional as F

B = normal(3, 4, seed=2)
LABELS = torch.tensor([2, 0, -100])
WEIGHTS = B[0].exp()
SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.double)
CASES = {
    "glu": lambda x: F.glu(sq(x), 1),
    "mse": lambda x: F.mse_loss(sq(x), B),
    "mse-target": lambda x: F.mse_loss(B, sq(x), reduction="none"),
    "l1": lambda x: F.l1_loss(sq(x), B, reduction="sum"),
    "smooth_l1": lambda x: F.smooth_l1_loss(sq(x), B, beta=0.6, reduction="none"),
    "smooth_l1-zero": lambda x: F.smooth_l1_loss(sq(x), B, beta=0.0),
    "huber": lambda x: F.huber_loss(sq(x), B, reduction="none", delta=0.6),
    "soft_margin": lambda x: F.soft_margin_loss(sq(x), B.sign(), reduction="none"),
    "bce": lambda x: F.binary_cross_entropy(soft(x), soft(B), WEIGHTS, reduction="none"),
    "bce-target": lambda x: F.binary_cross_entropy(soft(B), soft(x)),
    "bce-logits": lambda x: F.binary_cross_entropy_with_logits(sq(x), soft(B), WEIGHTS, pos_weight=WEIGHTS + 1),
    "kl_div": lambda x: F.kl_div(sq(x), soft(B), reduction="batchmean"),
    "kl_div-target": lambda x: F.kl_div(B, soft(x), reduction="none"),
    "kl_div-log": lambda x: F.kl_div(sq(x), x.cos(), log_target=True, reduction="sum"),
    "poisson": lambda x: F.poisson_nll_loss(sq(x), 4 * soft(B), full=True, reduction="none"),
    "poisson-plain": lambda x: F.poisson_nll_loss(soft(x), soft(B), log_input=False),
    "gaussian": lambda x: F.gaussian_nll_loss(sq(x), B, soft(x), full=True, reduction="none"),
    "hinge_embedding": lambda x: F.hinge_embedding_loss(sq(x), B.sign(), 1.5, reduction="none"),
    "margin_ranking": lambda x: F.margin_ranking_loss(sq(x), B, B.sign(), 0.1, reduction="none"),
    "cosine_embedding": lambda x: F.cosine_embedding_loss(sq(x), B, SIGNS, -0.5, reduction="none"),
    "triplet": lambda x: F.triplet_margin_loss(sq(x), B, x.cos(), 2.0, swap=True, reduction="none"),
    "multilabel_soft_margin": lambda x: F.multilabel_soft_margin_loss(sq(x), soft(B), reduction="none"),
    "nll": lambda x: F.nll_loss(sq(x), LABELS),
    "nll-weighted": lambda x: F.nll_loss(sq(x), LABELS, WEIGHTS),
    "nll-images": lambda x: F.nll_loss(sq(x).reshape(1, 4, 3), LABELS[None] % 4, reduction="none"),
    "nll-sample": lambda x: F.nll_loss(sq(x)[0], LABELS[0], reduction="none"),
    "cross_entropy": lambda x: F.cross_entropy(sq(x), LABELS),
    "cross_entropy-none": lambda x: F.cross_entropy(sq(x), LABELS, reduction="none"),
    "cross_entropy-smooth": lambda x: F.cross_entropy(sq(x), LABELS, WEIGHTS, label_smoothing=0.2),
    "cross_entropy-smooth-sum": lambda x: F.cross_entropy(sq(x), LABELS, label_smoothing=0.2, reduction="sum"),
    "cross_entropy-soft": lambda x: F.cross_entropy(sq(x), soft(B), WEIGHTS, label_smoothing=0.1),
    "cross_entropy-target": lambda x: F.cross_entropy(B, soft(x), reduction="none"),
    "multi_margin": lambda x: F.multi_margin_loss(sq(x), LABELS % 4, reduction="none"),
}


@pytest.mark.parametrize("name", CASES)
def test_rows(name: str) -> None:
    check(CASES[name], normal(3, 4), reference=with_corrections(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_no_rule_of_these_falls_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(CASES[name], normal(3, 4))
