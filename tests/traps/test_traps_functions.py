"""Traps in ``autograd.Function``: what its own backward says is the derivative, whatever its forward touches."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, explain, laplacian

DOUBLE = torch.float64
WEIGHT = torch.randn(3, 3, dtype=DOUBLE)


class Straight(Function):
    """Another tensor forward, the gradient straight through: its forward never touches what is differentiated."""

    @staticmethod
    def forward(ctx, x, y):
        return y.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent, None


class Reversed(Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return -cotangent


class ReversedInNewStyle(Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        return -cotangent


class Sine(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * ctx.saved_tensors[0].cos()


class SineAfresh(Function):
    """Whose forward switches gradients on again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        with torch.enable_grad():
            return (x * 1.0).sin().detach()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * ctx.saved_tensors[0].cos()


class SineWithoutGradients(Function):
    """Whose forward switches gradients off itself."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        with torch.no_grad():
            return (x * 1.0).sin()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * ctx.saved_tensors[0].cos()


class Clipped(Function):
    """Reads a number off what is differentiated, which its gradient does not know."""

    @staticmethod
    def forward(ctx, x, bound):
        return x.detach().clamp(-bound, bound)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent, None


def rounded(x):
    return Straight.apply(x, x.detach().round())


kept = Straight.apply  # by which a Function is often called

FUNCTIONS = {
    "straight through": rounded,
    "straight through, used further": lambda x: torch.sin(rounded(x)) * x,
    "straight through a product": lambda x: rounded(x @ WEIGHT),
    "straight through, kept": lambda x: kept(x * 2, x.detach().sign()),
    "two of them": lambda x: rounded(rounded(x) * x),
    "reversed": lambda x: Reversed.apply(x * x),
    "reversed in new style": lambda x: ReversedInNewStyle.apply(x * x),
    "sine": lambda x: Sine.apply(x * x),
    "sine with gradients": lambda x: SineAfresh.apply(x * x),
    "sine without gradients": lambda x: SineWithoutGradients.apply(x * x),
    "clipped": lambda x: Clipped.apply(x * x, 0.1) + x,
    "constant": lambda x: Sine.apply(torch.ones_like(x)) * x,
    "checkpointed": lambda x: checkpoint(lambda x: rounded(x) * x, x, use_reentrant=False),
    "under no_grad": lambda x: with_constant(x),
}


def with_constant(x):
    with torch.no_grad():
        constant = Sine.apply(x)
    return constant * x


def dense(f, x):
    x = x.clone().requires_grad_()
    y = f(x)
    rows = [torch.autograd.grad(y[:, place].sum(), x, retain_graph=True, materialize_grads=True) for place in range(3)]
    return torch.stack([row for (row,) in rows], dim=1)


@pytest.mark.parametrize("method", ["auto", "taylor", "reverse"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_derivative_is_that_of_the_backward(name, method):
    f = FUNCTIONS[name]
    for _ in range(2):  # found out, and as it is remembered
        x = torch.randn(4, 3, dtype=DOUBLE)
        torch.testing.assert_close(batch_jac(f, method=method)(x), dense(f, x))


@pytest.mark.parametrize(
    "name", ["straight through", "straight through, used further", "reversed", "sine", "two of them"]
)
def test_the_gradient_of_a_parameter(name):
    f = FUNCTIONS[name]
    weight = torch.randn(3, 3, dtype=DOUBLE, requires_grad=True)
    x = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)
    by_weight = lambda x: f(x @ weight)
    found = diag_jac(by_weight)(x).square().sum()
    y = by_weight(x)
    rows = [torch.autograd.grad(y[:, place].sum(), x, create_graph=True)[0][:, place] for place in range(3)]
    truth = torch.stack(rows, dim=1).square().sum()
    torch.testing.assert_close(found, truth)
    own = [torch.autograd.grad(loss, weight, allow_unused=True, materialize_grads=True) for loss in (found, truth)]
    torch.testing.assert_close(*own)


@pytest.mark.parametrize("name", ["straight through, used further", "reversed", "sine", "sine without gradients"])
def test_second_derivatives_are_those_of_the_backward(name):
    f = FUNCTIONS[name]
    x = torch.randn(4, 3, dtype=DOUBLE)
    leaf = x.clone().requires_grad_()
    y, total = f(leaf), torch.zeros(4, 3, dtype=DOUBLE)
    for place in range(3):
        (gradient,) = torch.autograd.grad(y[:, place].sum(), leaf, create_graph=True)
        for by in range(3):
            (second,) = torch.autograd.grad(gradient[:, by].sum(), leaf, retain_graph=True)
            total[:, place] += second[:, by]
    torch.testing.assert_close(laplacian(f)(x), total)


def test_it_is_told():
    told = str(explain(diag_jac(FUNCTIONS["reversed"]))(torch.randn(4, 3, dtype=DOUBLE)))
    assert "an autograd.Function" in told


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_is_refused():
    with pytest.raises(UnsupportedOperationError, match="use_reentrant=True"):
        diag_jac(lambda x: checkpoint(lambda x: x.sin() * x, x, use_reentrant=True))(torch.randn(4, 3, dtype=DOUBLE))


@pytest.mark.parametrize("method", ["auto", "taylor", "reverse"])
def test_inside_of_another_evaluation(method):
    inner = lambda x: diag_jac(FUNCTIONS["straight through, used further"], method=method)(x.detach()) * x
    x = torch.randn(4, 3, dtype=DOUBLE)
    truth = dense(FUNCTIONS["straight through, used further"], x).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diag_jac(inner)(x), truth)
