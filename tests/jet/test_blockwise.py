"""Rows of blocks beside the dense Jacobian: random programs, zero norms, writes, transforms around, users' rules."""

from __future__ import annotations

import pytest
import torch
from block_programs import Program
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from jacfunc import batch_jac, laplacian, register_rule
from jacfunc.core import caches
from jacfunc.jet import Jet, dispatch, linear
from jacfunc.routes import followed


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples, which are cheap to judge, have blocks too."""
    monkeypatch.setattr(followed, "FEWEST_ROWS", 6)


pytestmark = pytest.mark.filterwarnings("ignore::jacfunc.ZeroDerivativeWarning")

SAMPLES = [(3, 2), (6,), (2, 3), (1, 3, 2), (4, 2), (2, 2, 2), (6, 1)]


def dense(f, params, x, second):
    """The Jacobian of each sample, or the sum of its second derivatives, by reverse mode."""
    x = x.detach().requires_grad_()
    value = f(params, x)
    options = {"create_graph": True, "materialize_grads": True}
    found = []
    for output in value.reshape(len(value), -1).unbind(1):
        (slopes,) = torch.autograd.grad(output.sum(), x, **options)
        flat = slopes.reshape(len(x), -1)
        if second and flat.requires_grad:
            seconds = [torch.autograd.grad(one.sum(), x, **options)[0] for one in flat.unbind(1)]
            found.append(sum(one.reshape(len(x), -1)[:, place] for place, one in enumerate(seconds)))
        else:
            found.append(torch.zeros_like(output) if second else slopes)
    shape = value.shape if second else (*value.shape, *x.shape[1:])
    return torch.stack(found, 1).reshape(shape)


def gradients(value, params):
    if not value.requires_grad:
        return [torch.zeros_like(param) for param in params]
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    return torch.autograd.grad((value * weights).sum(), params, materialize_grads=True)


def assert_equal(found, true):
    torch.testing.assert_close(found, true, rtol=1e-8, atol=1e-9 * (1 + float(true.detach().abs().max())))


def in_full(monkeypatch, call):
    """What a call gives where all rows are carried."""
    with monkeypatch.context() as patched:
        patched.setattr(dispatch, "blockwise", lambda *_: None)
        return call()


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed, second):
    sample = SAMPLES[seed % len(SAMPLES)]
    program = Program(seed, sample, norms=False)
    x = program.tensor(2, *sample)
    transform = laplacian if second else batch_jac
    found = transform(program, method="taylor", check=False)(program.weights, x)
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        true = dense(program, program.weights, x, second)
    assert_equal(found, true)
    if program.weights:
        for one, other in zip(gradients(found, program.weights), gradients(true, program.weights), strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_random_programs_with_norms_beside_all_rows(seed, monkeypatch):
    program = Program(seed, (3, 2))
    x = program.tensor(2, 3, 2)
    transform = laplacian(program, method="taylor", check=False)
    found = transform(program.weights, x)
    assert_equal(found, in_full(monkeypatch, lambda: transform(program.weights, x)))


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_under_vmap_and_with_the_gradient(seed):
    program = Program(seed, (3, 2), norms=False)
    x = program.tensor(2, 2, 3, 2)
    transform = laplacian(program, method="taylor", check=False, return_gradient=True)
    apart = [transform(program.weights, one) for one in x]
    together = torch.vmap(lambda one: transform(program.weights, one))(x)
    for found, *each in zip(together, *apart, strict=True):
        assert_equal(found, torch.stack(each))
    for one, (_, gradient) in zip(x, apart, strict=True):
        assert_equal(gradient, dense(program, program.weights, one, False))


def layers(weights, x):
    hidden = torch.tanh(F.linear(x, weights[0]))
    orbitals = F.linear(hidden + hidden.mean(-1, keepdim=True), weights[1])
    return torch.linalg.slogdet(orbitals * torch.exp(-x.square().sum(-1, keepdim=True)))[1]


def test_a_determinant_carries_the_rows_of_one_part():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((5, 3), (4, 5))]
    seen = []

    def f(weights, x):
        hidden = F.linear(x, weights[0])
        if type(hidden) is Jet:
            seen.append(len(hidden.coefficients[0]))
        return layers(weights, x)

    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    assert_equal(laplacian(f)(weights, x), dense(layers, weights, x, True))
    assert set(seen[1:]) == {3}


def test_a_compiled_determinant():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((5, 3), (4, 5))]
    weights = [weight.requires_grad_() for weight in weights]
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    compiled = torch.compile(laplacian(layers, method="taylor", check=False), fullgraph=True, backend="aot_eager")
    found, true = compiled(weights, x), dense(layers, weights, x, True)
    assert_equal(found, true)
    for one, other in zip(gradients(found, weights), gradients(true, weights), strict=True):
        assert_equal(one, other)


def energies(x):
    """Smooth in positions, of a norm that is zero where a particle is at the origin or two are at one place."""
    alone = torch.exp(-torch.linalg.vector_norm(x, dim=-1).square()).sum(-1)
    first, second = torch.triu_indices(3, 3, 1)
    together = torch.cosh(torch.linalg.vector_norm(x[:, first] - x[:, second], dim=-1)).sum(-1)
    return alone + together + torch.tanh(x.norm(dim=-1) ** 2).sum(-1)


def squares(x):
    alone = torch.exp(-x.square().sum(-1)).sum(-1)
    differences = (x[:, :, None] - x[:, None]).square().sum(-1)
    pairs = [differences[:, i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    series = [1 + r / 2 + r**2 / 24 + r**3 / 720 + r**4 / 40320 + r**5 / 3628800 for r in pairs]
    return alone + sum(series) + torch.tanh(x.square().sum(-1)).sum(-1)


def test_norms_that_are_zero():
    x = 0.1 * torch.randn(3, 3, 2, dtype=torch.float64)
    x[0, 1] = 0
    x[1, 2] = x[1, 0]
    assert_equal(laplacian(energies)(x), dense(lambda _, x: squares(x), None, x, True))


def test_an_input_that_is_written_to():
    def f(x):
        y = x.clone()
        y[:, 0] *= 2
        x.mul_(3)
        x += y
        return (x * y).sin().sum((1, 2))

    x = torch.randn(2, 3, 2, dtype=torch.float64)
    found = laplacian(lambda x: f(x.clone()), method="taylor")(x)
    assert_equal(found, dense(lambda _, x: f(x.clone()), None, x, True))


def test_the_rule_of_a_user_gets_all_rows():
    before = caches.RULES[torch.sum]
    try:
        register_rule(torch.sum, lambda x, dim: linear(x, lambda value: value.sum(dim), lambda rows: rows.sum(dim + 1)))

        def f(x):
            return torch.sum(x.sin(), 1).cos()

        x = torch.randn(2, 3, 2, dtype=torch.float64)
        assert_equal(laplacian(f, method="taylor")(x), dense(lambda _, x: f(x), None, x, True))
    finally:
        caches.RULES[torch.sum] = before
        caches.USER_RULES.pop(torch.sum)
