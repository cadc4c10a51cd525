"""Rules of normalisations, variances, norms and products, against nested reverse mode."""

from __future__ import annotations

import math

import pytest
import torch
from batch_cases import normal, refuse_fallback, soft, sq, with_corrections
from jet_truth import check, check_parameters
from propagated import propagated
from rule_cases import Case, complexes, parts, wave
from rule_cases import check as check_case
from torch import nn
from torch.nn import functional as F

B = normal(3, 4, seed=2)
WEIGHTS = B[0].exp()

CASES = {
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
    "rms_norm": lambda x: F.rms_norm(sq(x), (4,), WEIGHTS),
    "rms_norm-eps": lambda x: F.rms_norm(sq(x), (4,), eps=0.1),
    "layer_norm": lambda x: F.layer_norm(sq(x), (4,), WEIGHTS, B[1]),
    "group_norm": lambda x: F.group_norm(sq(x), 2, WEIGHTS, B[1]),
    "group_norm-channels": lambda x: F.group_norm(sq(x).reshape(1, 4, 3), 2),
    "batch_norm": lambda x: F.batch_norm(sq(x), B[0], WEIGHTS, B[1], B[2]),
    "batch_norm-training": lambda x: F.batch_norm(sq(x), None, None, training=True),
    "instance_norm": lambda x: F.instance_norm(sq(x)[:, None]),
    "local_response_norm": lambda x: F.local_response_norm(sq(x)[:, :, None], 2),
}
ELSEWHERE = ("local_response_norm",)
"""Goes through an average pooling, whose rule is in another family."""
ALSO = [
    Case("nansum", lambda x: torch.nansum(torch.where(x > 0, x.sin(), torch.nan), 1) + torch.where(x > 0, torch.nan, x).nansum()),
    Case("nanmean", lambda x: torch.nanmean(torch.where(x > 0, x.sin(), torch.nan), 0) + torch.nanmean(x)),
    *(
        Case(f"complex_norm_{p}", lambda x, p=p: torch.linalg.vector_norm(complexes(x), p, dim=1))
        for p in (1, 2, 2.5, 4, 6, math.inf)
    ),
    Case("complex_distance", lambda x: torch.dist(complexes(x), wave) + complexes(x).norm()),
    Case("complex_norm_of_a_zero", lambda x: torch.linalg.vector_norm(complexes(x) * torch.tensor([0.0, 1, 1, 1]), dim=1)),
    Case("complex_var", lambda x: complexes(x).var(1) + complexes(x.exp()).std(1) + torch.var_mean(complexes(x), 1)[0]),
    Case("complex_prod", lambda x: parts(complexes(x).prod(1) + complexes(x).cumprod(1)[:, -1])),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", ALSO, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check_case(case, layout)


@pytest.mark.parametrize("case", ALSO, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check_case(case.of_two_variables(), "3", 1e-9)


def _reference(name):
    return CASES["hypot"] if name == "hypot-huge" else with_corrections(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_rows(name):
    f = CASES[name]
    check(f, normal(3, 4), 2 if name in ELSEWHERE else 3, reference=_reference(name))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ELSEWHERE])
def test_no_rule_of_these_falls_back(name, monkeypatch):
    refuse_fallback(monkeypatch)
    propagated(CASES[name], normal(3, 4))


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
    check_parameters(network, normal(3, 2), list(network.parameters()), with_corrections(network))


def test_parameters_of_a_norm():
    weight = normal(4, 4, seed=9).requires_grad_()
    check_parameters(lambda x: torch.linalg.vector_norm(x @ weight, dim=1), normal(3, 4), [weight])
    check_parameters(lambda x: F.normalize((x @ weight).sin(), dim=1).std(1), normal(3, 4), [weight])
    check_parameters(lambda x: (x @ weight).cumprod(1).prod(1), normal(3, 4), [weight])
