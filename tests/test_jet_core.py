"""What holds for jets whatever the operation: axes of scalars, refusals of the table, frames."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated
from torch.nn import functional as F

from jacfunc.errors import RefusedOperationError


@pytest.mark.parametrize("f", [lambda t: t.sum(0), lambda t: t.mean(-1), lambda t: t.cumsum(0), lambda t: t.softmax(0)])
def test_an_axis_of_a_scalar_is_not_that_of_its_rows(f):
    x = torch.arange(4.0, dtype=torch.double).reshape(1, 4)
    scalar = lambda x: x[0, 0] * x[0, 1] + x[0, 2]
    value, rows = propagated(lambda x: f(scalar(x)), x)
    jacobian = torch.func.jacrev(lambda x: f(scalar(x)))(x)
    assert torch.equal(value, f(scalar(x)))
    assert torch.equal(rows[0], jacobian.reshape(-1))


def test_what_the_table_refuses_is_refused_for_jets():
    logits = torch.randn(5, 1, 4, dtype=torch.double)
    labels, lengths = torch.tensor([[1, 2]]), (torch.tensor([5]), torch.tensor([2]))
    with pytest.raises(RefusedOperationError, match="ctc_loss"):
        propagated(lambda x: F.ctc_loss(x.log_softmax(2), labels, *lengths), logits)
