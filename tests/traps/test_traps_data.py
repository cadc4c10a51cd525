"""Writes through ``.data``, as the adaptive solvers of torchdiffeq make them: right, or refused where they spoil a backward."""

from __future__ import annotations

import pytest
import torch
from judging import METHODS
from torch import nn
from torch.func import jvp

from jacfunc import CoupledSamplesError, UnsupportedOperationError, batch_jac, diag_jac, hess_diag, laplacian, partials

DOUBLE = torch.float64
EACH = slice(None)
ROUTES = [method for method in METHODS if method != "forward"]  # torch.func takes no function in the old style


class Put(torch.autograd.Function):
    """A value written to a part of a buffer, past the counter by which torch sees that."""

    @staticmethod
    def forward(ctx, buffer, value, place):
        ctx.place = place
        buffer.data[place] = value
        return buffer

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent, cotangent[ctx.place], None


class Copied(Put):
    @staticmethod
    def forward(ctx, buffer, value, place):
        ctx.place = place
        buffer.data[place].copy_(value)
        return buffer


class Flat(Put):
    """Through a view of the same memory."""

    @staticmethod
    def forward(ctx, buffer, value, place):
        ctx.place = place
        buffer.view(-1).data.view(buffer.shape)[place] = value
        return buffer


class Anew(Put):
    """In the style that torch.func takes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(buffer, value, place):
        buffer.data[place] = value
        return buffer

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.place = inputs[2]


class Fixed:
    """Steps of a Runge-Kutta method whose stages lie in one buffer, with ``put`` for each."""

    def __init__(self, put=Put, axis=-1, steps=1):
        self.put, self.axis, self.steps = put, axis, steps

    def place(self, stage):
        return (..., stage) if self.axis == -1 else (EACH, stage)

    def __call__(self, x, field=torch.sin):
        for _ in range(self.steps):
            shape = (*x.shape, 3) if self.axis == -1 else (x.shape[0], 3, *x.shape[1:])
            stages, step = torch.empty(shape, dtype=x.dtype), 0.4
            for stage, weights in enumerate(([], [0.5], [-1.0, 2.0])):
                before = stages.narrow(self.axis, 0, stage).movedim(self.axis, -1)
                at = x + (before * (torch.tensor(weights, dtype=x.dtype) * step)).sum(-1)
                stages = self.put.apply(stages, field(at), self.place(stage))
            x = x + stages.movedim(self.axis, -1) @ torch.tensor([1.0, 4.0, 1.0], dtype=x.dtype) * (step / 6)
        return x


def by_hand(x, field=torch.sin, steps=1):
    for _ in range(steps):
        one = field(x)
        two = field(x + 0.2 * one)
        three = field(x - 0.4 * one + 0.8 * two)
        x = x + (one + 4 * two + three) * (0.4 / 6)
    return x


class Adaptive:
    """Halves of a step until the error over the whole batch is small, as torchdiffeq has it."""

    def __init__(self, put=Put, tolerance=1e-4):
        self.put, self.tolerance = put, tolerance

    def step(self, field, x, size):
        stages = torch.empty((*x.shape, 3), dtype=x.dtype)
        for stage, weights in enumerate(([], [1.0], [0.25, 0.25])):
            before = (stages[..., :stage] * (torch.tensor(weights, dtype=x.dtype) * size)).sum(-1)
            stages = self.put.apply(stages, field(x + before), (..., stage))
        higher = x + stages @ torch.tensor([1 / 6, 1 / 6, 4 / 6], dtype=x.dtype) * size
        lower = x + stages @ torch.tensor([0.5, 0.5, 0.0], dtype=x.dtype) * size
        with torch.no_grad():
            error = (higher - lower).square().mean().sqrt() / self.tolerance
        return higher, float(error)

    def __call__(self, x, field=torch.sin):
        time, size = 0.0, 0.5
        while time < 1:
            size = min(size, 1 - time)
            following, error = self.step(field, x, size)
            if error <= 1:
                x, time = following, time + size
            size *= min(2.0, max(0.2, 0.9 * (error + 1e-12) ** (-1 / 3)))
        return x


SOLVERS = {
    "a part of a buffer": Fixed(),
    "copied to": Fixed(Copied),
    "through a view": Fixed(Flat),
    "stages in the middle": Fixed(axis=1),
    "in the new style": Fixed(Anew),
}


def batch(*shape):
    torch.manual_seed(1)
    return torch.randn(*(shape or (4, 3)), dtype=DOUBLE)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("method", ROUTES)
def test_derivatives_through_buffers(name, method):
    f, x = SOLVERS[name], batch()
    for transform in (batch_jac, hess_diag):
        torch.testing.assert_close(transform(f, method=method)(x), transform(by_hand)(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("method", ROUTES)
def test_more_derivatives_through_buffers(name, method):
    f, x = SOLVERS[name], batch()
    for transform in (diag_jac, laplacian):
        torch.testing.assert_close(transform(f, method=method)(x), transform(by_hand)(x))
    two = Fixed(steps=2)
    torch.testing.assert_close(hess_diag(two, method=method)(x), hess_diag(lambda x: by_hand(x, steps=2))(x))
    found, wanted = (partials(g, "u_ab v_cc", inputs="a b c", outputs="u v w", method=method)(x) for g in (f, by_hand))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("method", ["auto", *(pytest.param(method, marks=pytest.mark.slow) for method in ROUTES[1:])])
def test_gradients_of_what_is_solved(name, method):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double(), batch()
    weights = list(net.parameters())

    def gradients(f, transform, **keywords):
        derivative = transform(lambda x: f(x, net), **keywords)(x.requires_grad_())
        return torch.autograd.grad(derivative.square().sum(), [*weights, x], materialize_grads=True)

    for transform in (diag_jac, batch_jac, hess_diag):
        torch.testing.assert_close(gradients(SOLVERS[name], transform, method=method), gradients(by_hand, transform))


def test_the_new_style_under_torch_func():
    f, x = Fixed(Anew), batch()
    v = torch.ones_like(x)
    for derivative, truth in ((diag_jac(f, method="reverse"), diag_jac(by_hand)), (diag_jac(f), diag_jac(by_hand))):
        try:
            found = jvp(derivative, (x,), (v,))[1]
        except UnsupportedOperationError:
            continue
        torch.testing.assert_close(found, jvp(truth, (x,), (v,))[1])
    with pytest.raises(UnsupportedOperationError):
        torch.func.grad(lambda x: diag_jac(Fixed())(x).sum())(x)


def test_samples_share_the_steps_of_an_adaptive_solver():
    f, x = Adaptive(), batch()
    with pytest.raises(
        CoupledSamplesError, match=r"of its size\) .* a step size .* fixed steps \(rk4\), or check_tolerance=1e-0"
    ):
        batch_jac(f)(x)
    with pytest.raises(CoupledSamplesError, match=r"of its size, and check_tolerance=1e-08\)"):
        batch_jac(f, check_tolerance=1e-8)(x)
    exact = flow(x)
    for method in ROUTES:
        torch.testing.assert_close(
            diag_jac(f, check_tolerance=0.1, method=method)(x), x.sin().pow(-1) * exact.sin(), **LOOSELY
        )
    curvature = slopes(lambda x: x.sin().pow(-1) * flow(x).sin(), x)
    torch.testing.assert_close(
        hess_diag(f, check_tolerance=0.1, sample_chunk_size=8)(x).diagonal(dim1=1, dim2=2), curvature, **LOOSELY
    )


LOOSELY = {"rtol": 1e-2, "atol": 1e-2}
"""The error that the solver is asked for."""


def flow(x):
    """Where the solution of ``x' = sin x`` is after a time of one."""
    return 2 * ((x / 2).tan() * torch.e).atan()


def slopes(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


# ------------------------------------------------------------ what a backward needs is overwritten


class Overwriting(torch.autograd.Function):
    """An activation that saves memory: its result lies where its input was."""

    @staticmethod
    def forward(ctx, x):
        x.data.copy_(x.sigmoid())
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, cotangent):
        (y,) = ctx.saved_tensors
        return cotangent * y * (1 - y)


def written_after(x):
    kept = x.sin()
    product = kept * x
    kept.data.mul_(5.0)
    return product


def written_to_part(x):
    kept = x.exp()
    kept.data[:, 1:] = 2.0
    return kept


def written_by_view(x):
    kept = x.exp()
    kept.view(-1).data.zero_()
    return kept * 1.0 + x


SPOILED = {
    "by a function": lambda x: Overwriting.apply(x.exp()),
    "by a function, later": lambda x: Overwriting.apply(x.tanh()) * 2.0 + x,
    "after a product": written_after,
    "in part": written_to_part,
    "through a view": written_by_view,
}


@pytest.mark.parametrize("name", SPOILED)
def test_torch_is_wrong_where_a_backward_needs_what_was_overwritten(name):
    x = batch().requires_grad_()
    (found,) = torch.autograd.grad(SPOILED[name](x).sum(), x)
    assert not torch.allclose(found, torch.autograd.grad(unspoiled(name, x).sum(), x)[0])


def unspoiled(name, x):
    return {
        "by a function": lambda x: x.exp().sigmoid(),
        "by a function, later": lambda x: x.tanh().sigmoid() * 2.0 + x,
        "after a product": lambda x: x.sin() * x,
        "in part": torch.exp,
        "through a view": lambda x: x.exp() + x,
    }[name](x)


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("method", METHODS)
def test_what_was_overwritten_is_not_read(name, method):
    """Right by a route that keeps nothing, else refused."""
    x = batch()
    try:
        found = diag_jac(SPOILED[name], method=method)(x)
    except UnsupportedOperationError as error:
        assert "needs in its backward is overwritten through .data" in str(error) or "setup_context" in str(error)
    else:
        torch.testing.assert_close(found, diag_jac(lambda x: unspoiled(name, x))(x))


HARMLESS = {
    "the same values": (lambda x: same_again(x.exp()), torch.exp),
    "nothing of it is kept": (lambda x: Overwriting.apply(x * 2.0), lambda x: (x * 2.0).sigmoid()),
    "read only": (lambda x: x.exp() * x.data.cos(), lambda x: x.exp() * x.detach().cos()),
    "a constant": (lambda x: filled(torch.zeros(3, dtype=DOUBLE)) * x, lambda x: 7.0 * x),
    "infinite": (lambda x: x + filled(x.exp() * 0 + torch.inf).isinf(), lambda x: x + 1.0),
    "nothing at all": (lambda x: x.new_empty(4, 0).data.sum() + x.sin(), torch.sin),
}


def same_again(kept):
    kept.data.copy_(kept.clone())
    return kept


def filled(buffer):
    buffer.data.fill_(7.0 if buffer.isfinite().all() else torch.inf)
    return buffer


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("method", METHODS)
def test_what_spoils_nothing_is_right(name, method):
    f, truth = HARMLESS[name]
    x = batch()
    try:
        found = diag_jac(f, method=method)(x)
    except UnsupportedOperationError as error:
        assert method == "forward", error
        assert "setup_context" in str(error)
    else:
        torch.testing.assert_close(found, diag_jac(truth)(x))


def test_nothing_is_changed_by_a_refusal():
    net, x = nn.Linear(3, 3).double(), batch()
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(UnsupportedOperationError):
        diag_jac(lambda x: Overwriting.apply(net(x).exp()))(x)
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
