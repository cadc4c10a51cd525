"""Softmax, norms, variances, losses: composed rules, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from jet_truth import along, check, check_parameters
from propagated import propagated
from torch import nn
from torch.nn import functional as F

from jacfunc.evaluation.corrections import corrected
from jacfunc.jet import fallback


def _normal(*shape, seed=1):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


B = _normal(3, 4, seed=2)
LABELS = torch.tensor([2, 0, -100])
WEIGHTS = B[0].exp()
SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.double)


def sq(x):
    return x * x.sin()


def soft(x):
    return (x.sin() + 1.2) / 3


CASES = {
    "softmax": lambda x: torch.softmax(sq(x), 1),
    "softmax-method": lambda x: sq(x).softmax(-1),
    "softmax-functional": lambda x: F.softmax(sq(x), dim=1),
    "softmax-large": lambda x: torch.softmax(20 * sq(x) + 1000, 1),
    "softmax-masked": lambda x: sq(x).masked_fill(B > 0.5, -torch.inf).softmax(1),
    "softmin": lambda x: F.softmin(sq(x), dim=1),
    "log_softmax": lambda x: F.log_softmax(sq(x), 1),
    "logsumexp": lambda x: torch.logsumexp(sq(x), 1),
    "logsumexp-all": lambda x: sq(x).logsumexp((0, 1), keepdim=True),
    "logsumexp-infinite": lambda x: sq(x).masked_fill(B > -9, -torch.inf).logsumexp(1).exp() + x.sum(1),
    "logaddexp": lambda x: torch.logaddexp(sq(x), x.cos()),
    "logaddexp2": lambda x: torch.logaddexp2(sq(x), x.cos()),
    "var": lambda x: sq(x).var(1),
    "var-all": lambda x: torch.var(sq(x)),
    "var-biased": lambda x: torch.var(sq(x), 1, False),
    "var-unbiased-all": lambda x: torch.var(sq(x), False),
    "std": lambda x: sq(x).std((0, 1), correction=0, keepdim=True),
    "std-zero": lambda x: torch.std(x[:, :1].expand(3, 4), 1) + sq(x).sum(1),
    "var_mean": lambda x: torch.cat(torch.var_mean(sq(x), 1)),
    "std_mean": lambda x: torch.stack(torch.std_mean(sq(x))),
    "var_mean-biased": lambda x: torch.cat(torch.var_mean(sq(x), 1, unbiased=False, keepdim=True)),
    "norm": lambda x: sq(x).norm(dim=1),
    "norm-1": lambda x: sq(x).norm(1, 1),
    "norm-3": lambda x: torch.norm(sq(x), 3, 1, keepdim=True),
    "norm-all": lambda x: torch.norm(sq(x)),
    "vector_norm": lambda x: torch.linalg.vector_norm(sq(x), dim=1),
    "vector_norm-inf": lambda x: torch.linalg.vector_norm(sq(x), torch.inf, 1),
    "vector_norm-minus-inf": lambda x: torch.linalg.vector_norm(sq(x), -torch.inf, (0, 1)),
    "vector_norm-4": lambda x: torch.linalg.vector_norm(sq(x), 4, 1),
    "vector_norm-half": lambda x: torch.linalg.vector_norm(sq(x), 0.5, 1),
    "matrix_norm": lambda x: torch.linalg.matrix_norm(sq(x)) + torch.linalg.matrix_norm(sq(x), 1, (1, 0)),
    "matrix_norm-rows": lambda x: torch.linalg.matrix_norm(sq(x)[None], torch.inf, keepdim=True),
    "matrix_norm-singular": lambda x: sum(torch.linalg.matrix_norm(sq(x), ord) for ord in ("nuc", 2, -2)),
    "norm-of-matrices": lambda x: torch.linalg.norm(sq(x)) + torch.linalg.norm(sq(x), "fro") + torch.linalg.norm(x, -1),
    "norm-of-vectors": lambda x: torch.linalg.norm(sq(x), 3, 1) + torch.linalg.norm(sq(x)[:, 0], 1),
    "renorm": lambda x: torch.renorm(sq(x), 2, 1, 0.8),
    "cov": lambda x: torch.cov(sq(x)) + sq(x)[0].cov(),
    "cov-weighted": lambda x: torch.cov(sq(x), fweights=torch.tensor([1, 2, 3, 1]), aweights=soft(B[0])),
    "cov-aweights": lambda x: torch.cov(sq(x), correction=0, aweights=soft(B[0])),
    "corrcoef": lambda x: torch.corrcoef(sq(x)),
    "dist": lambda x: torch.dist(sq(x), B, 3),
    "normalize": lambda x: F.normalize(sq(x), dim=1),
    "cosine_similarity": lambda x: F.cosine_similarity(sq(x), x.cos()),
    "cosine_similarity-constant": lambda x: F.cosine_similarity(sq(x)[:, None], B[None], -1),
    "pairwise_distance": lambda x: F.pairwise_distance(sq(x), B, 2.0, keepdim=True),
    "prod": lambda x: sq(x).prod(1),
    "prod-all": lambda x: torch.prod(sq(x)),
    "prod-zeros": lambda x: torch.where(B > 0.6, x - x, sq(x)).prod(1, keepdim=True),
    "cumprod": lambda x: torch.cumprod(sq(x), 1),
    "atan2": lambda x: torch.atan2(sq(x), x.cos()),
    "atan2-constant": lambda x: torch.atan2(B, sq(x)),
    "hypot": lambda x: torch.hypot(sq(x), x.cos()),
    "hypot-huge": lambda x: torch.hypot(1e200 * sq(x), 1e200 * x.cos()) / 1e200,
    "hypot-constant": lambda x: sq(x).hypot(B),
    "xlogy": lambda x: torch.xlogy(sq(x), soft(x)),
    "xlogy-constant": lambda x: torch.special.xlogy(2.0, soft(x)),
    "xlog1py": lambda x: torch.special.xlog1py(sq(x), soft(x)),
    "glu": lambda x: F.glu(sq(x), 1),
    "rms_norm": lambda x: F.rms_norm(sq(x), (4,), WEIGHTS),
    "rms_norm-eps": lambda x: F.rms_norm(sq(x), (4,), eps=0.1),
    "layer_norm": lambda x: F.layer_norm(sq(x), (4,), WEIGHTS, B[1]),
    "group_norm": lambda x: F.group_norm(sq(x), 2, WEIGHTS, B[1]),
    "group_norm-channels": lambda x: F.group_norm(sq(x).reshape(1, 4, 3), 2),
    "batch_norm": lambda x: F.batch_norm(sq(x), B[0], WEIGHTS, B[1], B[2]),
    "batch_norm-training": lambda x: F.batch_norm(sq(x), None, None, training=True),
    "instance_norm": lambda x: F.instance_norm(sq(x)[:, None]),
    "local_response_norm": lambda x: F.local_response_norm(sq(x)[:, :, None], 2),
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
ELSEWHERE = ("local_response_norm",)
"""Goes through an average pooling, whose rule is in another family."""


def _corrected(f):
    def run(x):
        with corrected():
            return f(x)

    return run


def _reference(name):
    return CASES["hypot"] if name == "hypot-huge" else _corrected(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_rows(name):
    f = CASES[name]
    check(f, _normal(3, 4), 2 if name in ELSEWHERE else 3, reference=_reference(name))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ELSEWHERE])
def test_no_rule_of_these_falls_back(name, monkeypatch):
    def refuse(function, *_):
        raise AssertionError(fallback.name_of(function))

    monkeypatch.setattr("jacfunc.jet.dispatch.pushed", refuse)
    propagated(CASES[name], _normal(3, 4))


def test_zero_is_constant_for_norms_as_torch_has_it():
    zero = torch.zeros(2, 3, dtype=torch.double)
    for f in (
        lambda x: x.norm(dim=1),
        lambda x: torch.linalg.vector_norm(x, 3, 1),
        lambda x: torch.linalg.vector_norm(x, 1, 1),
        lambda x: x.std(1),
        lambda x: torch.atan2(x[:, 0], x[:, 1]),
    ):
        value, rows = propagated(f, zero)
        assert not value.any()
        assert not rows[0].any()


def test_softmax_of_a_row_that_is_masked_out_is_nan_as_in_torch():
    value, _ = propagated(lambda x: (x - torch.inf).softmax(1), torch.zeros(1, 2).double())
    assert value.isnan().all()


def test_fourth_order_along_a_direction():
    x, direction = torch.full((1, 1), 0.3).double(), torch.ones(1, 1).double()
    f = lambda x: torch.softmax(torch.cat([x, x.sin(), x.exp()], 1), 1).cumprod(1)
    got = along(f, x, direction, 4)
    for k, column in enumerate(_nested(f, x, 4)):
        torch.testing.assert_close(got[k], column, rtol=1e-9, atol=1e-9)


def _nested(f, x, order):
    found, derivative = [], lambda t: f(t.reshape(1, 1))
    for _ in range(order):
        derivative = torch.func.jacrev(derivative)
        found.append(derivative(x.reshape(())))
    return found


LAYERS = {
    "layer": lambda: nn.LayerNorm(4),
    "group": lambda: nn.GroupNorm(2, 4),
    "rms": lambda: nn.RMSNorm(4),
    "batch": lambda: nn.BatchNorm1d(4).eval(),
    "softmax": lambda: nn.Softmax(1),
    "prelu": lambda: nn.PReLU(4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_parameters(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), LAYERS[name](), nn.Tanh(), nn.Linear(4, 2)).double()
    check_parameters(network, _normal(3, 2), list(network.parameters()), _corrected(network))


def test_parameters_of_a_norm():
    weight = _normal(4, 4, seed=9).requires_grad_()
    check_parameters(lambda x: torch.linalg.vector_norm(x @ weight, dim=1), _normal(3, 4), [weight])
    check_parameters(lambda x: F.normalize((x @ weight).sin(), dim=1).std(1), _normal(3, 4), [weight])
    check_parameters(lambda x: (x @ weight).cumprod(1).prod(1), _normal(3, 4), [weight])
