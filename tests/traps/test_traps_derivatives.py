"""Traps in torch's own derivative formulas and modes: each shown in torch, and right or refused in jacfunc.

The judge is finite differences, or the dense first-order Jacobian: never a second derivative of torch's.
"""

from __future__ import annotations

import copy
import functools

import dense
import pytest
import torch
from differences import OUTER, TRUTH, along_parameters, stencil
from functions import Detaching, Dual, OnlyOnce, Saving
from judging import (
    AGAIN,
    CURED,
    METHODS,
    fails,
    far,
    first_difference,
    second_difference,
    slope,
    third_difference,
)
from quick import mostly_slow
from torch import nn
from torch.func import hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jacfunc import (
    JacfuncError,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    explain,
    hess_diag,
    laplacian,
    make_functional,
)
from jacfunc.core.levels import TIES_SHARED

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
DOUBLE = torch.float64


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (4, 3)), dtype=DOUBLE)


def forward_mode_diagonal(f, x):
    """The diagonal by torch's forward mode, one jvp for each coordinate."""
    rows = torch.eye(x.shape[1], dtype=x.dtype)
    return sum(jvp(f, (x,), (row.expand_as(x),))[1] * row for row in rows)


def one(f):
    """``f`` of one sample, as it is written for torch.func.vmap."""
    return lambda x: f(x[None])[0]


# ------------------------------------------------------------ norms: 198017, 196700 (layer_norm), 196699 (batch_norm)


NORMS = {
    # Measured once: 13.02 by forward mode, 15.23 by reverse mode and finite differences.
    "LayerNorm": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)),
    # Measured once: -0.18 against -0.65.
    "InstanceNorm1d": lambda: nn.Sequential(
        nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ),
}


def normed(name):
    f, params = make_functional(NORMS[name]().double())
    directions = {key: torch.randn_like(p) for key, p in params.items()}
    return f, params, directions, batch()


def by_autograd(loss, params):
    gradients = torch.autograd.grad(loss(params), list(params.values()), materialize_grads=True)
    return dict(zip(params, gradients, strict=True))


def by_backward(loss, params):
    loss(params).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in params.items()}


def by_torch_func(loss, params):
    return torch.func.grad(loss)({name: p.detach() for name, p in params.items()})


def slope_of_squares(f, params, directions, x):
    """By finite differences: how the sum of the squared diagonal changes along the directions."""

    def moved(h):
        there = {name: (p + h * directions[name]).detach() for name, p in params.items()}
        return TRUTH["diag_jac"](f, there, x).square().sum()

    return stencil(moved, OUTER).item()


@pytest.mark.parametrize("name", NORMS)
def test_torch_has_wrong_parameter_gradients_of_forward_diagonals_through_norms(name):
    f, params, directions, x = normed(name)
    expected = slope_of_squares(f, params, directions, x)
    for diagonal in (
        forward_mode_diagonal,
        lambda f, x: vmap(jacfwd(one(f)))(x).diagonal(dim1=1, dim2=2),
    ):
        value = diagonal(lambda x: f(params, x), x)
        torch.testing.assert_close(value, TRUTH["diag_jac"](f, params, x))  # nothing is wrong to be seen
        loss = lambda params, diagonal=diagonal: diagonal(lambda x: f(params, x), x).square().sum()
        found = slope(by_autograd(loss, params), directions)
        assert abs(found - expected) > 0.01 * abs(expected), CURED


@pytest.mark.parametrize("outside", [by_autograd, by_backward, by_torch_func])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NORMS)
def test_parameter_gradients_of_diagonals_through_norms(name, method, outside):
    f, params, directions, x = normed(name)
    expected = slope_of_squares(f, params, directions, x)
    found = outside(lambda params: diag_jac(f, method=method)(params, x).square().sum(), params)
    assert slope(found, directions) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_torch_has_wrong_nested_diagonals_through_norms(name):
    f, params, _, x = normed(name)
    g = lambda x: f(params, x)
    found = forward_mode_diagonal(lambda x: forward_mode_diagonal(g, x), x)
    assert far(found, TRUTH["nested"](f, params, x)), CURED


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NORMS)
def test_derivatives_of_diagonals_through_norms(name, method, again):
    f, params, _, x = normed(name)
    if again == "nested":
        truth = TRUTH["nested"](f, params, x)
    else:  # the gradient of the sum of the diagonal
        moves = torch.eye(3, dtype=DOUBLE)
        truth = torch.stack([stencil(lambda h, e=e: TRUTH["divergence"](f, params, x + h * e), 1e-3) for e in moves], 1)
    found = AGAIN[again](lambda x: f(params, x), x, method)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------ a matrix for every sample


MIXING = torch.randn(3, 3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def matrix(x):
    return 2 * torch.eye(3, dtype=DOUBLE) + torch.tanh(torch.einsum("...i,ijk->...jk", x, MIXING))


MATRICES = {
    "solve": lambda x: torch.linalg.solve(matrix(x), x),
    "det": lambda x: x * torch.linalg.det(matrix(x))[..., None],
    "slogdet": lambda x: x * torch.linalg.slogdet(matrix(x))[1][..., None],
}


@pytest.mark.parametrize("name", MATRICES)
def test_torch_has_wrong_vmap_of_forward_mode_through_a_matrix_per_sample(name):
    f, x = MATRICES[name], batch(5, 3)
    truth = TRUTH["batch_jac"](lambda _, x: f(x), {}, x)
    errors = (vmap(jacfwd(f))(x) - truth).abs().amax((1, 2))
    assert errors[0] < 1e-10  # the first sample is right, which hides it in a test of one
    assert errors[1:].max() > 1, CURED
    torch.testing.assert_close(vmap(jacrev(f))(x), truth)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MATRICES)
def test_derivatives_through_a_matrix_per_sample(name, method):
    f, x = MATRICES[name], batch(5, 3)
    by_values = torch.stack([stencil(lambda h, e=e: f(x + h * e), 1e-3) for e in torch.eye(3, dtype=DOUBLE)], -1)
    torch.testing.assert_close(batch_jac(f, method=method)(x), by_values, rtol=1e-8, atol=1e-8)
    seconds = TRUTH["hess_diag"](lambda _, x: f(x), {}, x)
    torch.testing.assert_close(hess_diag(f, method=method)(x), seconds, rtol=1e-7, atol=1e-7)
    # One sample at a time under torch's own vmap, which is where its formula goes wrong.
    alone = batch_jac(f, method=method, batch_dims=0, check=False)
    torch.testing.assert_close(vmap(alone)(x), by_values, rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------ higher derivatives: 192540, 196701, 197867


class Square(Saving):
    """With a rule for everything that torch asks for."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx, t):
        return 2 * ctx.saved_tensors[0] * t


def growing(t):
    """A regular 2 by 2 matrix for every number."""
    return torch.stack((t * t + 2, torch.ones_like(t), torch.ones_like(t), 2 * t + 3), -1).reshape(*t.shape, 2, 2)


def factors(t):
    """Six factors of which one is zero at t = 1, where nothing is special about the products."""
    rows = torch.stack((t, t + 1, 2 - t, t - 1, 2 * t + 1, t + 3), -1).reshape(*t.shape, 2, 3)
    return (torch.cumprod(rows, -1) * torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=DOUBLE)).sum((-1, -2))


HIGHER = {
    "linalg.det": lambda t: torch.linalg.det(growing(t)),
    "det": lambda t: growing(t).det(),
    "slogdet": lambda t: torch.linalg.slogdet(growing(t))[1],
    "logdet": lambda t: torch.logdet(growing(t)),
    "solve": lambda t: torch.linalg.solve(growing(t), torch.stack([t, t * t], -1)).sum(-1),
    "cumprod at a zero": factors,
    "autograd.Function": lambda t: Square.apply(Square.apply(t)),
}
TIMES = torch.tensor([0.7, 1.0, -0.4], dtype=DOUBLE)


@pytest.mark.parametrize("name", HIGHER)
def test_torch_has_wrong_second_forward_derivatives(name):
    f = HIGHER[name]
    truth = second_difference(f, TIMES)
    found = vmap(jacfwd(jacfwd(f)))(TIMES)
    along = lambda g: lambda t: jvp(g, (t,), (torch.ones_like(t),))[1]
    assert far(found, truth), CURED
    assert far(along(along(f))(TIMES), truth), CURED
    if name == "autograd.Function":
        assert not found.any()  # zeros without a word


@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("name", HIGHER)
def test_second_and_third_derivatives(name, method):
    f = HIGHER[name]
    truth = second_difference(f, TIMES)
    torch.testing.assert_close(diag_jac(f, method=method)(TIMES), first_difference(f, TIMES), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(hess_diag(f, method=method)(TIMES), truth, rtol=1e-6, atol=1e-6)
    for again in AGAIN.values():
        torch.testing.assert_close(again(f, TIMES, method), truth, rtol=1e-6, atol=1e-6)
    for again in AGAIN.values():
        third = again(diag_jac(f, method=method), TIMES, method)
        torch.testing.assert_close(third, third_difference(f, TIMES), rtol=1e-4, atol=1e-4)


ONCE = {"once_differentiable": OnlyOnce, "a detached backward": Detaching, "once, with a jvp": Dual}


@pytest.mark.parametrize("name", ONCE)
def test_torch_has_zeros_for_the_second_derivative_of_a_function_that_has_one_only(name):
    f = lambda x: ONCE[name].apply(x)
    assert not vmap(jacrev(jacrev(f)))(batch()).any(), CURED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ONCE)
def test_second_derivatives_of_a_function_that_has_one_only_are_right_or_refused(name, method):
    f, x = (lambda x: ONCE[name].apply(x)), batch()
    try:
        found = hess_diag(f, method=method)(x)
    except JacfuncError:
        return
    torch.testing.assert_close(found, TRUTH["hess_diag"](lambda _, x: x.sin(), {}, x), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------ the dtype of a tangent


def shifted(t):
    return torch.sin(t + 1.0)


def test_torch_gives_a_tangent_of_a_wider_dtype_than_its_primal():
    for f in (shifted, lambda t: t + 1.0):
        t = torch.tensor(0.5)
        assert jvp(f, (t,), (torch.tensor(1.0),))[1].dtype == torch.float64, CURED
        assert vmap(jacfwd(f))(torch.rand(3)).dtype == torch.float64, CURED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_derivative_has_the_dtype_of_its_input(method, dtype):
    t = torch.tensor([0.25, 0.5, -0.75], dtype=dtype)
    for f in (shifted, lambda t: 2.0 * t + 1.0):
        truth = first_difference(f, t.double())
        batched = diag_jac(f, method=method)
        alone = diag_jac(f, method=method, batch_dims=0)
        found = [batched(t), vmap(alone)(t), torch.stack([alone(s) for s in t])]
        found += [vmap(torch.func.grad(alone))(t), AGAIN["nested"](f, t, method)]
        for derivative in found:
            assert derivative.dtype == dtype
        for derivative in found[:3]:
            torch.testing.assert_close(derivative.double(), truth, rtol=2e-2, atol=1e-2)


# ------------------------------------------------------------ what leaves the propagation


def without_gradients(x):
    with torch.no_grad():
        return x.sin()


LEAVING = {
    "no_grad": without_gradients,
    "detach": lambda x: x.detach().sin(),
    ".data": lambda x: x.data.sin(),
    "round": lambda x: torch.round(3 * x),
    "item": lambda x: torch.stack([torch.full_like(row, row[0].item()) for row in x]),
    "float": lambda x: torch.stack([torch.full_like(row, float(row[0])) for row in x]),
    "tensor": lambda x: torch.tensor(x).sin(),
    "tolist": lambda x: torch.tensor(x.tolist(), dtype=x.dtype),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "detach and numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "asarray": lambda x: torch.from_numpy(x.__array__()),
}
FIGURES = pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:Converting a tensor")


def partly(name):
    """A function with one factor that should follow and one that leaves."""
    return lambda x: x.sin() * LEAVING[name](x)


def constant(name, x):
    """What the factor that left is."""
    return LEAVING[name](x.detach()).detach()


@FIGURES
def test_torch_follows_no_grad_in_forward_mode_and_not_in_reverse():
    f, x = partly("no_grad"), batch()
    forward = jvp(f, (x,), (torch.ones_like(x),))[1]
    reverse = vjp(f, x)[1](torch.ones_like(x))[0]
    assert far(forward, reverse), CURED
    torch.testing.assert_close(forward, first_difference(f, x))


@FIGURES
@pytest.mark.parametrize("name", ["detach", ".data", "item", "float", "tensor", "tolist"])
def test_torch_takes_what_leaves_for_a_constant_without_a_word(name):
    x = batch()
    f = LEAVING[name]  # without a factor that would follow: whole zeros, no error
    assert not jvp(f, (x,), (torch.ones_like(x),))[1].any(), CURED
    gradient = torch.autograd.grad((z := x.clone().requires_grad_()).sum() * 0 + f(z).sum(), z)[0]
    assert not gradient.any()


def test_torch_has_zeros_for_the_derivative_of_round():
    x = batch()
    assert not jvp(torch.round, (x,), (torch.ones_like(x),))[1].any(), CURED
    assert not vjp(torch.round, x)[1](torch.ones_like(x))[0].any(), CURED


@FIGURES
@pytest.mark.parametrize(
    ("name", "words"), [("item", "calling .item()"), ("float", ".item()"), ("numpy", "numpy"), ("tolist", "storage")]
)
def test_torch_fails_under_vmap_where_something_leaves(name, words):
    x = batch()
    assert fails(lambda: vmap(jacrev(one(partly(name))))(x), words), CURED


def test_torch_goes_through_data_when_it_differentiates_again():
    f, x = partly(".data"), batch()
    z = x.clone().requires_grad_()
    first = torch.autograd.grad(f(z).sum(), z, create_graph=True)[0]
    plain = torch.autograd.grad(first.sum(), z)[0]  # plain autograd: .data is a constant
    both = vmap(torch.func.grad(torch.func.grad(lambda s: s.sin() * s.data.sin())))(x.flatten()).reshape(x.shape)
    torch.testing.assert_close(plain, -x.sin() * x.sin())
    assert far(both, plain), CURED


@FIGURES
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LEAVING)
def test_what_leaves_is_a_constant_or_refused(name, method):
    x = batch()
    try:
        found = diag_jac(partly(name), method=method)(x)
    except UnsupportedOperationError as error:
        assert name in ("numpy", "asarray", "detach and numpy")
        assert "numpy" in str(error) or "storage" in str(error)
        return
    torch.testing.assert_close(found, x.cos() * constant(name, x))


@FIGURES
@pytest.mark.parametrize("transform", [diag_jac, hess_diag])
@pytest.mark.parametrize("name", [name for name in LEAVING if name != "detach and numpy"])
def test_what_leaves_does_the_same_with_every_method(name, transform):
    x, found = batch(), []
    for method in METHODS:
        try:
            found.append(transform(partly(name), method=method)(x))
        except JacfuncError:
            found.append(None)
    if found[0] is None:
        assert found == [None] * len(METHODS)
    else:
        assert all(derivative is not None for derivative in found)
        for derivative in found:
            torch.testing.assert_close(derivative, found[0])


@pytest.mark.parametrize("transform", [diag_jac, hess_diag])
def test_values_for_numpy_are_constant_row_by_row_and_refused_where_they_cannot_be_read(transform):
    x, f = batch(), partly("detach and numpy")
    torch.testing.assert_close(transform(f)(x), transform(f, method="reverse")(x))
    with pytest.raises(UnsupportedOperationError, match="storage"):
        transform(f, method="forward")(x)


@FIGURES
@pytest.mark.parametrize("again", [*AGAIN, "hess_diag"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name", ["no_grad", "detach", ".data", "round", "item", "float", "tensor", "tolist", "numpy", "asarray"]
)
def test_what_leaves_stays_a_constant_when_differentiated_again(name, method, again):
    f, x = partly(name), batch()
    try:
        if again == "hess_diag":
            found = hess_diag(f, method=method)(x).diagonal(dim1=1, dim2=2)
        else:
            found = AGAIN[again](f, x, method)
    except JacfuncError:
        assert name not in ("no_grad", "detach", "round", "tensor")
        return
    torch.testing.assert_close(found, -x.sin() * constant(name, x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name",
    [
        "detach",
        "tensor",
        "round",
        "no_grad",
        ".data",
    ],
)
@FIGURES
def test_what_leaves_stays_a_constant_under_jvp_from_outside(name, method):
    f, x = partly(name), batch()
    found = jvp(diag_jac(f, method=method), (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(found, -x.sin() * constant(name, x))


@pytest.mark.parametrize(
    "method",
    [
        "auto",
        "reverse",
        "forward",
    ],
)
def test_no_grad_is_a_constant_on_the_dual_route_too(method):
    # A user's Function without a second derivative sends method="forward" to the dual route.
    f, x = (lambda x: Dual.apply(x) * without_gradients(x)), batch()
    torch.testing.assert_close(diag_jac(f, method=method)(x), x.cos() * x.sin())


@pytest.mark.parametrize("name", ["detach", ".data", "tensor"])
@FIGURES
def test_other_constants_are_constants_on_the_dual_route_too(name):
    f, x = (lambda x: Dual.apply(x) * LEAVING[name](x)), batch()
    derivative = diag_jac(f, method="forward")
    assert explain(derivative)(x).plan.route == "dual"
    torch.testing.assert_close(derivative(x), x.cos() * x.sin())


# ------------------------------------------------------------ writing into tensors


def item_assigned(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    out[:, 0] = x[:, 0].sin()
    out[:, 1:] = x[:, 1:] ** 3
    return out


def copied(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    return out.copy_(x.sin())


def index_put(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    return out.index_put_((torch.arange(len(x))[:, None], torch.arange(3)), x.sin())


def added(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    out.add_(x.sin())
    out[:, 1].mul_(x[:, 1])
    return out


def scattered(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    return out.scatter_(1, torch.tensor([[0, 1, 2]]).expand(len(x), 3), x.sin())


def masked(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    out[x > 0] = x[x > 0] ** 3
    return out


WRITING = [item_assigned, copied, index_put, added, scattered, masked]


@pytest.mark.parametrize("f", WRITING)
def test_torch_cannot_write_into_a_plain_tensor_under_vmap(f):
    words = "dynamic shape" if f is masked else ("broadcast shape" if f is added else "is not possible because")
    for transform in (jacfwd, jacrev):
        assert fails(lambda transform=transform: vmap(transform(one(f)))(batch()), words), CURED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("f", WRITING)
def test_what_is_written_into_a_plain_tensor_is_followed(f, method):
    x = batch()
    x = torch.where(x.abs() < 0.1, x.sign() * 0.1 + x, x)  # away from the mask's edge
    torch.testing.assert_close(diag_jac(f, method=method)(x), first_difference(f, x), rtol=1e-8, atol=1e-8)
    seconds = second_difference(f, x)
    torch.testing.assert_close(hess_diag(f, method=method)(x).diagonal(dim1=1, dim2=2), seconds, rtol=1e-6, atol=1e-6)
    for again in AGAIN.values():
        torch.testing.assert_close(again(f, x, method), seconds, rtol=1e-6, atol=1e-6)


def written_out(x):
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    torch.sin(x, out=out)
    return out


def test_torch_has_no_derivative_of_out():
    x = batch()
    assert fails(lambda: jvp(written_out, (x,), (torch.ones_like(x),)), "out= function"), CURED
    assert fails(lambda: vjp(written_out, x), "out=... arguments"), CURED


@pytest.mark.parametrize("method", METHODS)
def test_out_is_refused_by_name(method):
    with pytest.raises(UnsupportedOperationError, match=r"sin\(\): functions with out="):
        diag_jac(written_out, method=method)(batch())


class Keeping(nn.Module):
    """Keeps its features, and adds their derivative (times nothing of their value) to the next call's."""

    last = None

    def forward(self, x):
        y = x.sin()
        kept = 0 if self.last is None else self.last - self.last.detach()
        self.last = y
        return y + kept


def test_torch_leaves_a_tensor_behind_that_poisons_the_next_call():
    net, x = Keeping(), batch()
    vmap(jacrev(net))(x)
    assert fails(lambda: net(x), "escaped"), CURED
    net = Keeping()
    vjp(net, x)
    net.last = net.last * 1  # usable, while its level is gone


@pytest.mark.parametrize(
    ("transform", "method"),
    [
        *((diag_jac, method) for method in METHODS),
        *((hess_diag, method) for method in METHODS),
    ],
)
def test_what_outlives_a_call_does_not_poison_the_next(transform, method):
    net, x = Keeping(), batch()
    truth = TRUTH["diag_jac" if transform is diag_jac else "hess_diag"](lambda _, x: x.sin(), {}, x)
    for _ in range(3):
        torch.testing.assert_close(transform(net, method=method)(x), truth, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(net(x), x.sin())
        torch.testing.assert_close(net.last + 1, x.sin() + 1)


@pytest.mark.parametrize("method", METHODS)
def test_aux_can_be_used_in_the_next_call(method):
    x, kept = batch(), None

    def f(x):
        y = x.sin()
        return (y if kept is None else y + (kept - kept.detach())), y

    for _ in range(3):
        found, kept = diag_jac(f, has_aux=True, method=method)(x)
        torch.testing.assert_close(found, first_difference(torch.sin, x))
        torch.testing.assert_close(kept + 1, x.sin() + 1)


# ------------------------------------------------------------ operations without a forward mode or vmap


def attention():
    return lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


def multihead():
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    return lambda x: layer(x, x, x, need_weights=False)[0]


def encoder():
    return nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True, activation="gelu").double()


def recurrent(kind, **keywords):
    def make():
        layer = kind(4, 4, batch_first=True, **keywords).double()
        return lambda x: layer(x)[0]

    return make


def cell(kind):
    def make():
        layer = kind(4, 4).double()
        return lambda x: layer(x)[0] if kind is nn.LSTMCell else layer(x)

    return make


def prelu():
    return nn.Sequential(nn.Linear(4, 4), nn.PReLU(4), nn.Tanh()).double()


def batch_norm():
    norm = nn.BatchNorm1d(4)
    norm.running_var.uniform_(0.5, 2)
    norm.running_mean.uniform_(-1, 1)
    return nn.Sequential(norm, nn.Tanh()).double().eval()


def distances():
    other = batch(5, 4)
    return lambda x: torch.cdist(x, other)


def checkpointed():
    layer = nn.Linear(4, 4).double()
    return lambda x: checkpoint(lambda x: layer(x).tanh(), x, use_reentrant=False)


def jvp_of(f, x):
    return jvp(f, (x,), (torch.ones_like(x),))


def vmap_of(f, x):
    return vmap(f)(x)


def vmap_one(f, x):
    """The Jacobian of each sample as a batch of one."""
    return vmap(jacrev(one(f)))(x)


def vmap_alone(f, x):
    """``f`` on one sample without a batch in front, as it is written under vmap where the layer takes both."""
    return vmap(jacrev(f))(x)


def reverse_of(f, x):
    return vjp(f, x)


def double_backward(f, x):
    x = x.clone().requires_grad_()
    gradient = torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
    return torch.autograd.grad(gradient.square().sum(), x)


TOKENS, ROW = (2, 2, 4), (3, 4)
FLASH, FLASH_TWICE = "flash_attention_for_cpu that does not support it", "flash_attention_for_cpu_backward"
BATCHED = ("doesn't match the broadcast shape", "Batching rule not implemented")
OPERATIONS = {
    "scaled_dot_product_attention": (attention, TOKENS, [(jvp_of, FLASH), (double_backward, FLASH_TWICE)]),
    "MultiheadAttention": (multihead, TOKENS, [(jvp_of, FLASH), (double_backward, FLASH_TWICE)]),
    "TransformerEncoderLayer": (encoder, TOKENS, [(jvp_of, FLASH), (double_backward, FLASH_TWICE)]),
    "GRU": (recurrent(nn.GRU), TOKENS, [(vmap_one, BATCHED), (vmap_alone, BATCHED)]),
    "RNN": (recurrent(nn.RNN), TOKENS, [(vmap_one, BATCHED), (vmap_alone, BATCHED)]),
    "GRUCell": (cell(nn.GRUCell), ROW, [(vmap_one, BATCHED)]),
    "RNNCell": (cell(nn.RNNCell), ROW, [(vmap_one, BATCHED)]),
    "LSTMCell": (cell(nn.LSTMCell), ROW, [(vmap_one, BATCHED), (vmap_alone, BATCHED)]),
    "PReLU": (prelu, ROW, [(vmap_of, "Mismatch of parameter numbers"), (vmap_alone, "Mismatch of parameter numbers")]),
    "BatchNorm1d in eval mode": (batch_norm, ROW, [(vmap_of, "expected 2D"), (vmap_alone, "expected 2D")]),
    "cdist": (distances, ROW, [(jvp_of, "_cdist_forward that does not support it"), (double_backward, "_cdist_backward")]),
    "checkpoint": (
        checkpointed,
        ROW,
        [(reverse_of, "saved tensor hooks"), (vmap_alone, ("saved tensor hooks", "_NoopSaveInputs"))],  # 2.13, 2.11
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_cannot_differentiate_the_operation(name):
    make, shape, trials = OPERATIONS[name]
    f, x = make(), batch(*shape)
    for trial, words in trials:
        if name == "cdist" and trial is double_backward and TIES_SHARED:
            continue  # which is right there, and wrong under vmap: the next test
        several = (words,) if isinstance(words, str) else words
        assert fails(lambda trial=trial: trial(f, x), *several), CURED


def test_the_second_derivative_of_cdist_is_right_where_torch_vmaps_its_rows():
    x, others = batch(4, 3), torch.randn(5, 3, dtype=torch.float64)
    if TIES_SHARED:  # before, torch has none
        slope = torch.func.grad(lambda x: torch.cdist(x[None], others).sum())
        rows = [jacrev(slope, chunk_size=size)(x[0]) for size in (None, 1)]
        assert (rows[0] - rows[1]).abs().max() > 0.01, CURED
    apart = x[:, None] - others
    distance = apart.square().sum(-1, keepdim=True).sqrt()
    truth = ((1 - (apart / distance).square()) / distance).sum(1)
    torch.testing.assert_close(hess_diag(lambda x: torch.cdist(x, others).sum(1))(x), truth)


@functools.cache
def judged(name):
    """The function, a batch, its first and second derivatives, and how the squares of the first grow somewhere."""
    make, shape, _ = OPERATIONS[name]
    f, x, direction = make(), batch(*shape), batch(*shape)
    seconds = TRUTH["laplacian"](lambda _, x: f(x), {}, x)
    growth = stencil(lambda h: dense.jacobian(f, x + h * direction).square().sum(), 1e-3).item()
    return f, x, dense.jacobian(f, x).detach(), seconds, direction, growth


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operation_has_first_and_second_derivatives(name, method):
    f, x, firsts, seconds, _, _ = judged(name)
    if name == "checkpoint" and method == "forward":
        for transform in (batch_jac, laplacian):
            with pytest.raises(UnsupportedOperationError, match="use method='auto'.*(checkpoint|saved tensor hooks)"):
                transform(f, method=method)(x)
        return
    torch.testing.assert_close(batch_jac(f, method=method)(x), firsts)
    torch.testing.assert_close(laplacian(f, method=method)(x), seconds, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_derivative_can_be_differentiated_from_outside(name, method):
    f, x, _, _, direction, truth = judged(name)
    if name == "checkpoint" and method == "forward":
        return
    z = x.clone().requires_grad_()
    batch_jac(f, method=method)(z).square().sum().backward()
    assert (z.grad * direction).sum().item() == pytest.approx(truth, rel=1e-6)
    loss = torch.func.grad(lambda x: batch_jac(f, method=method)(x).square().sum())
    if name == "checkpoint":  # saved tensor hooks have no place in torch.func: the way out is backward
        with pytest.raises(UnsupportedOperationError, match="outside"):
            loss(x)
        return
    assert (loss(x) * direction).sum().item() == pytest.approx(truth, rel=1e-6)


# A processor without the instructions for bfloat16 runs the LSTM by operations that have a forward mode.
ON_ONEDNN = [torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])]


@pytest.mark.parametrize("dtype", ON_ONEDNN)
def test_torch_has_no_forward_mode_of_an_lstm(dtype):
    layer, x = nn.LSTM(4, 4, batch_first=True).to(dtype), batch(*TOKENS).to(dtype)
    for call in (jvp_of, lambda f, x: jacfwd(f)(x), lambda f, x: vmap(jacfwd(one(f)))(x)):
        assert fails(lambda call=call: call(lambda x: layer(x)[0], x), "mkldnn_rnn_layer"), CURED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_an_lstm_in_single_and_half_precision(method, dtype):
    layer, x = nn.LSTM(4, 4, batch_first=True).to(dtype), batch(*TOKENS).to(dtype)
    exact = copy.deepcopy(layer).double()
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.1, 0.05)
    f = lambda x: layer(x)[0]
    g = lambda x: exact(x)[0]
    found = batch_jac(f, method=method)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), dense.jacobian(g, x.double()), rtol=rtol, atol=atol)
    seconds = TRUTH["laplacian"](lambda _, x: g(x), {}, x.double())
    torch.testing.assert_close(laplacian(f, method=method)(x).double(), seconds, rtol=10 * rtol, atol=4 * atol)
    direction = batch(*TOKENS)
    truth = stencil(lambda h: dense.jacobian(g, x.double() + h * direction).square().sum(), 1e-3).item()
    z = x.clone().requires_grad_()
    batch_jac(f, method=method)(z).square().sum().backward()
    assert (z.grad.double() * direction).sum().item() == pytest.approx(truth, rel=100 * rtol, abs=10 * atol)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="only CUDA shows it: cuDNN RNNs have no double backward in torch"
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_cudnn_rnns_have_second_derivatives_or_are_refused(kind, method):
    layer, x = kind(4, 4, batch_first=True).cuda(), torch.randn(*TOKENS, device="cuda")
    f = lambda x: layer(x)[0]
    assert fails(lambda: double_backward(f, x), "_cudnn_rnn_backward"), CURED
    exact = copy.deepcopy(layer).cpu().double()
    g = lambda x: exact(x)[0]
    first = dense.jacobian(g, x.cpu().double())
    torch.testing.assert_close(batch_jac(f)(x).cpu().double(), first, rtol=1e-3, atol=1e-4)
    try:
        found = laplacian(f, method=method)(x)
    except UnsupportedOperationError as error:
        assert "cudnn" in str(error).lower() or "rnn" in str(error).lower()
        return
    seconds = TRUTH["laplacian"](lambda _, x: g(x), {}, x.cpu().double())
    torch.testing.assert_close(found.cpu().double(), seconds, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["TransformerEncoderLayer", "GRU", "PReLU", "BatchNorm1d in eval mode"])
def test_parameter_gradients_through_such_layers(name, method):
    make, shape = {
        "TransformerEncoderLayer": (encoder, TOKENS),
        "GRU": (lambda: nn.GRU(4, 4, batch_first=True).double(), TOKENS),
        "PReLU": (prelu, ROW),
        "BatchNorm1d in eval mode": (batch_norm, ROW),
    }[name]
    g, params = make_functional(make())
    f = (lambda params, x: g(params, x)[0]) if name == "GRU" else g
    x = batch(*shape)
    directions = {key: torch.randn_like(p) / p.numel() ** 0.5 for key, p in params.items()}
    weights = torch.randn_like(TRUTH["batch_jac"](f, params, x))
    expected = along_parameters(TRUTH["batch_jac"], f, params, directions, x, weights)
    loss = lambda params: (weights * batch_jac(f, method=method)(params, x)).sum()
    for outside in (by_autograd, by_torch_func, by_backward):
        assert slope(outside(loss, params), directions) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_torch_has_a_wrong_or_no_hessian_through_attention_and_distances():
    for name in ("scaled_dot_product_attention", "cdist"):
        make, shape, _ = OPERATIONS[name]
        f = make()
        words = FLASH if name != "cdist" else "_cdist_forward"
        assert fails(lambda f=f, shape=shape: vmap(hessian(one(f)))(batch(*shape)), words.split(" ")[0]), CURED
