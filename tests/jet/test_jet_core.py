"""What holds for jets whatever the operation: axes of scalars, refusals of the table, frames."""

from __future__ import annotations

import pytest
import torch
from jet_truth import filled
from propagated import propagated
from torch import nn
from torch.nn import functional as F

from jacfunc.errors import RefusedOperationError
from jacfunc.jet import CannotFollowError, Frame, Jet, Propagation
from jacfunc.jet.layout import first_order, summed


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


def _narrowed(f, x):
    """First-order rows of a propagation in which narrow layers begin frames."""
    size = x.shape[1]
    propagation = Propagation((len(x),))
    y = f(Jet(x, (propagation.identity(size, x),), Frame(propagation, first_order(size))))
    while y.frame.parent is not None:
        y = Jet(y.value, (y.frame.contracted(y.coefficients[0]),), y.frame.parent)
    return y.value, y.full(1)


WIDE, TWO, BACK = nn.Linear(8, 2).double(), nn.Linear(8, 2).double(), nn.Linear(2, 8).double()
FACTORS = torch.randn(3, 1, 1, dtype=torch.double)
NARROW = {
    "pending-twice": lambda x: BACK(WIDE(x)),
    "pending-sum": lambda x: WIDE(x) + TWO(x),
    "pending-product": lambda x: WIDE(x) * TWO(x).exp(),
    "pending-softmax": lambda x: BACK(WIDE(x).softmax(1)),
    "pending-where": lambda x: torch.where(WIDE(x) > 0, WIDE(x), TWO(x).exp()),
    "residual": lambda x: x + BACK(WIDE(x).tanh()),
    "added-axis": lambda x: (WIDE(x).tanh() * FACTORS).sin().sum(0),
    "quotient-axis": lambda x: (FACTORS / (WIDE(x).tanh() + 3)).sin().sum(0),
    "reshaped": lambda x: WIDE(x).reshape(4, 2, 1).sin().flatten(1),
    "clamp": lambda x: BACK(WIDE(x).clamp(-0.3, 0.3)),
    "prelu": lambda x: BACK(F.prelu(WIDE(x), FACTORS[:2, 0, 0])),
    "dropout": lambda x: BACK(F.alpha_dropout(F.dropout(WIDE(x), 0.0), 0.0)),
    "layer_norm": lambda x: BACK(F.layer_norm(WIDE(x), (2,))),
    "clamp-axis": lambda x: torch.clamp(WIDE(x).tanh(), max=FACTORS).sin().sum(0),
    "where-axis": lambda x: torch.where(FACTORS > 0, WIDE(x).tanh(), 0.5).sin().sum(0),
    "where-both": lambda x: BACK(torch.where(WIDE(x) > 0, WIDE(x).sin(), 0.3)),
    "maximum": lambda x: torch.maximum(WIDE(x), TWO(x)),
    "lerp": lambda x: torch.lerp(WIDE(x), TWO(x), 0.3),
    "cat": lambda x: torch.cat([x, WIDE(x)], 1),
}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("shared", [True, False])
def test_narrow_layers(name, shared):
    f = NARROW[name] if shared else lambda x: NARROW[name](x.sin())  # then the factor differs between samples
    x = torch.randn(4, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    value, rows = _narrowed(f, x)
    jacobian = torch.func.jacrev(f)(x).sum(-2)  # of the other samples nothing
    torch.testing.assert_close(value, f(x))
    torch.testing.assert_close(rows, jacobian.movedim(-1, 0))


@pytest.mark.parametrize("name", [name for name in NARROW if name not in ("residual", "cat")])
def test_narrow_layers_of_a_laplacian(name):
    f, x = NARROW[name], torch.randn(4, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    propagation = Propagation((4,))
    jet = Jet(x, (propagation.identity(8, x), None), Frame(propagation, summed((8,))))
    try:
        y = f(jet)
    except CannotFollowError:
        assert "TWO" in f.__code__.co_names  # two changes of variables
        return
    _, truth = propagated(f, x, "summed")
    pair = (filled(rows, y.value, 1) for rows in (y.full(2), truth[1]))
    torch.testing.assert_close(*pair)
