"""Functions that differentiate, map or compile inside: patterns against dense derivatives."""

from __future__ import annotations

import pytest
import torch
from patterns import Cases, assert_found, derivative, differences

DOUBLE = torch.float64
case = Cases()


class Own(torch.autograd.Function):
    """A function of a user's, with its derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.roll(1, 0) * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.roll(1, 0) + (g * x).roll(-1, 0)


@case
def grad_inside(x):
    with torch.enable_grad():
        y = x.detach().requires_grad_() if not x.requires_grad else x
        e = (y[1:] * y[:-1]).sin().sum()
        return torch.autograd.grad(e, y, create_graph=True)[0] + 0 * x


@case
def jacrev_inside(x):
    return torch.func.jacrev(lambda r: r * r.roll(1, 0))(x[0])


@case
def jacfwd_inside(x):
    return torch.func.jacfwd(lambda r: r * r.roll(1, 0))(x[0])


@case
def vmap_grad(x):
    return torch.vmap(torch.func.grad(lambda r: (r[1:] * r[:-1].sin()).sum()))(x)


@case
def vmap_in_dims(x):
    return torch.vmap(lambda a, b: a.roll(1, 0) * b, (1, None))(x, x[:, 0])


@case
def vjp(x):
    _, f = torch.func.vjp(lambda r: r * r.roll(1, 0), x)
    return f(x.roll(1, 1))[0]


@case
def functionalize(x):
    def g(x):
        y = x.clone()
        y[0] = x[1]
        return y

    return torch.func.functionalize(g)(x)


@case
def jacfunc_inside(x):
    from jacfunc import diag_jac

    return diag_jac(lambda z: z**3)(x)


@case
def jacfunc_batch_inside(x):
    from jacfunc import batch_jac

    return batch_jac(lambda z: z * z.roll(1, 1))(x)


@case
def jacfunc_laplacian_inside(x):
    from jacfunc import laplacian

    return laplacian(lambda z: (z**2 * z.roll(1, 1)).sum(1))(x)


@case
def checkpoint(x):
    from torch.utils.checkpoint import checkpoint

    return checkpoint(lambda z: z.roll(1, 0) * z, x, use_reentrant=False)


@case
def own_function(x):
    return Own.apply(x)


@case
def compile_disable(x):
    return torch.compiler.disable(lambda z: z.roll(1, 0))(x)


@case
def script(x):
    return torch.jit.trace(lambda z: z.roll(1, 0) * z, torch.zeros(3, 4).to(DOUBLE))(x)


BY_DIFFERENCES = ["functionalize"]
"""What torch cannot differentiate, or gets wrong."""


@pytest.mark.parametrize("name", case)
def test_no_entry_is_missing(name):
    x = torch.randn(3, 4, dtype=DOUBLE)
    f = lambda x: case[name](x.clone())
    assert_found(f, x, True, differences if name in BY_DIFFERENCES else derivative)
