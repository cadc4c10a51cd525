"""Rules of the softmax and its kin, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from batch_cases import normal, refuse_fallback, sq, with_corrections
from jet_truth import along, check
from propagated import propagated
from torch.nn import functional as F

B = normal(3, 4, seed=2)
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
}


@pytest.mark.parametrize("name", CASES)
def test_rows(name: str) -> None:
    check(CASES[name], normal(3, 4), reference=with_corrections(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_no_rule_of_these_falls_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_fallback(monkeypatch)
    propagated(CASES[name], normal(3, 4))


def test_softmax_of_a_row_that_is_masked_out_is_nan_as_in_torch() -> None:
    value, _ = propagated(lambda x: (x - torch.inf).softmax(1), torch.zeros(1, 2).double())
    assert value.isnan().all()


def test_fourth_order_along_a_direction() -> None:
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
