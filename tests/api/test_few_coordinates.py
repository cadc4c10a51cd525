"""``jacfunc/api/coordinates.py``: derivatives by a few coordinates, sums estimated by them, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    ShapeError,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    divergence,
    explain,
    hess_diag,
    laplacian,
    make_functional,
)

SIZE = 40
PLACES = torch.tensor([7, 30, 2, 11])


def network(outputs: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), nn.Linear(16, outputs)).double()


def points(count: int = 6) -> torch.Tensor:
    return torch.randn(count, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_each_transform(method):
    x, f, v = points(), network(), network(SIZE)
    second = hess_diag(f)(x)
    torch.testing.assert_close(hess_diag(f, coordinates=PLACES, method=method)(x), second[..., PLACES])
    torch.testing.assert_close(laplacian(f, coordinates=PLACES, method=method)(x), second[..., PLACES].sum(-1) * 10)
    torch.testing.assert_close(diag_jac(f, coordinates=PLACES, method=method)(x), diag_jac(f)(x)[:, PLACES])
    torch.testing.assert_close(diag_jac(v, coordinates=PLACES, method=method)(x), diag_jac(v)(x)[:, PLACES])
    torch.testing.assert_close(batch_jac(v, coordinates=PLACES, method=method)(x), batch_jac(v)(x)[..., PLACES])
    total = divergence(v, coordinates=PLACES, method=method)(x)
    torch.testing.assert_close(total, diag_jac(v)(x)[:, PLACES].sum(1) * 10)


def test_parameter_gradients():
    f, params = make_functional(network())
    x = points()
    leaves = list(params.values())
    found = torch.autograd.grad(laplacian(f, coordinates=PLACES)(params, x).square().sum(), leaves, allow_unused=True)
    exact = hess_diag(f)(params, x)[..., PLACES].sum(-1) * 10
    expected = torch.autograd.grad(exact.square().sum(), leaves, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None or not one.any()) if other is None else torch.allclose(one, other)


def test_all_of_them_are_exact():
    x = points()
    every = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(laplacian(network(), coordinates=every)(x), laplacian(network())(x))
    torch.testing.assert_close(laplacian(network(), coordinates=SIZE)(x), laplacian(network())(x))


def test_value_and_aux():
    x, v = points(), network(SIZE)
    total, value = divergence(v, coordinates=PLACES, return_value=True)(x)
    assert torch.allclose(value, v(x)) and torch.allclose(total, divergence(v, coordinates=PLACES)(x))
    f = lambda x: (v(x), x.sum())
    for transform in (divergence, diag_jac, batch_jac):
        found = transform(f, coordinates=PLACES, return_value=True, has_aux=True)(x)
        assert len(found) == 3 and torch.allclose(found[1], v(x)) and found[2] == x.sum()
        assert torch.equal(transform(f, coordinates=PLACES, has_aux=True)(x)[0], found[0])
    found, value = laplacian(network(), coordinates=PLACES, return_value=True)(x)
    assert torch.allclose(value, network()(x)) and found.shape == (6, 1)


def test_drawn_ones_are_drawn_anew_and_by_the_generator():
    x, own = points(), torch.Generator().manual_seed(5)
    made = laplacian(network(), coordinates=3, generator=own)
    first, second = made(x), made(x)
    assert not torch.equal(first, second)
    own.manual_seed(5)
    assert torch.equal(made(x), first)
    places = torch.randperm(SIZE, generator=torch.Generator().manual_seed(5))[:3]
    assert torch.equal(laplacian(network(), coordinates=places)(x), first)


def test_a_known_function_is_evaluated_once_a_call():
    evaluations = []

    class Counted(nn.Tanh):
        def forward(self, input):
            evaluations.append(1)
            return super().forward(input)

    net = network()
    net[1] = Counted()
    f, params = make_functional(net)
    big = torch.randn(3000, SIZE, dtype=torch.float64)  # more than is compared by what it holds
    for made in (laplacian(f, coordinates=3), laplacian(lambda p, x: f(p, x).squeeze(-1), coordinates=3)):
        made(params, big)
        evaluations.clear()
        for _ in range(9):
            made(params, big)
        assert len(evaluations) == 9


def test_blocks_chunks_one_sample_and_more_axes():
    x = points()
    expected = laplacian(network(), coordinates=PLACES)(x)
    torch.testing.assert_close(laplacian(network(), coordinates=PLACES, sample_chunk_size=4)(x), expected)
    torch.testing.assert_close(laplacian(network(), coordinates=PLACES, chunk_size=1)(x), expected)
    torch.testing.assert_close(laplacian(network(), coordinates=PLACES, batch_dims=0)(x[0]), expected[0])
    two = laplacian(network(), coordinates=PLACES, batch_dims=2)(x.reshape(2, 3, SIZE))
    torch.testing.assert_close(two.reshape(6, 1), expected)
    f, params = make_functional(network())
    torch.testing.assert_close(laplacian(f, coordinates=PLACES, sample_chunk_size=4)(params, x), expected)


def test_by_an_earlier_argument():
    x, t = points(), torch.ones(6, 1, dtype=torch.float64)
    net = network()
    f = lambda x, t: net(x) * t
    found = laplacian(f, argnums=0, coordinates=PLACES)(x, t)
    torch.testing.assert_close(found, laplacian(net, coordinates=PLACES)(x))


def test_as_many_coordinates_as_samples():
    """Which ones is no argument that carries samples, though it is as long."""
    x = points(4)
    torch.testing.assert_close(
        laplacian(network(), coordinates=PLACES)(x), hess_diag(network())(x)[..., PLACES].sum(-1) * 10
    )


def test_compiled_and_inside_of_torch_func():
    f, params = make_functional(network())
    x = points()
    expected = laplacian(f, coordinates=PLACES)(params, x)
    made = laplacian(f, coordinates=PLACES, compile=True)
    for _ in range(2):
        torch.testing.assert_close(made(params, x), expected)
    drawn = laplacian(f, coordinates=4, generator=torch.Generator().manual_seed(0), compile=True)
    eager = laplacian(f, coordinates=4, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        torch.testing.assert_close(drawn(params, x), eager(params, x))
    around = torch.compile(lambda p, x: laplacian(f, coordinates=PLACES)(p, x), backend="eager")
    torch.testing.assert_close(around(params, x), expected)
    net = network()
    inductor = torch.compile(lambda x: batch_jac(torch.sin, coordinates=PLACES, method="forward")(x))
    torch.testing.assert_close(inductor(x), batch_jac(torch.sin, coordinates=PLACES)(x))
    gradient = torch.func.grad(lambda x: laplacian(net, coordinates=PLACES)(x).sum())(x)
    assert gradient.shape == x.shape and gradient.abs().sum() > 0


def test_explain():
    told = dict(explain(laplacian(network(), coordinates=PLACES))(points()).items())
    assert (
        told["passes (rows)"] == "4 in 1 chunk"
        and told["transform"] == "laplacian(Sequential, coordinates=<4 of them>)"
    )
    state = torch.get_rng_state()
    explain(laplacian(network(), coordinates=4))(points())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: laplacian(f, coordinates=torch.tensor([40])), ArgumentError, "coordinates has 40, but a sample"),
        (lambda f: laplacian(f, coordinates=torch.tensor([-1])), ArgumentError, "pass numbers from 0 to 39"),
        (lambda f: laplacian(f, coordinates=41), ArgumentError, "ask for at most as many"),
        (lambda f: laplacian(f, coordinates=0), ArgumentTypeError, "coordinates=0 is neither"),
        (lambda f: laplacian(f, coordinates=True), ArgumentTypeError, "neither a tensor of coordinates"),
        (lambda f: laplacian(f, coordinates=[1, 2]), ArgumentTypeError, "coordinates=a list is neither"),
        (lambda f: laplacian(f, coordinates=torch.tensor([0.5])), ArgumentTypeError, "int64 of shape (k,)"),
        (lambda f: laplacian(f, coordinates=torch.tensor([[1]])), ArgumentTypeError, "int64 of shape (k,)"),
        (lambda f: laplacian(f, coordinates=PLACES[:0]), ShapeError, "coordinates has no elements"),
        (lambda f: laplacian(f, coordinates=PLACES, generator=torch.Generator()), ArgumentError, "nothing to draw"),
        (lambda f: laplacian(f, generator=torch.Generator()), ArgumentError, "without coordinates="),
        (lambda f: laplacian(f, coordinates=3, generator=5), ArgumentTypeError, "pass a torch.Generator"),
        (lambda f: hess_diag(f, coordinates=3), ArgumentTypeError, "torch.randperm(d)[:3]"),
        (lambda f: laplacian(f, coordinates=3, sparsity="auto"), ArgumentError, "leave one of them out"),
        (lambda f: laplacian(f, coordinates=3, return_gradient=True), ArgumentError, "return_gradient=True"),
        (lambda f: laplacian(f, coordinates=3, argnums=(0, 1)), ArgumentError, "selects several"),
        (lambda f: laplacian(f, coordinates=3, out_dims=1), ArgumentError, "out_dims"),
        (lambda f: divergence(f, coordinates=PLACES), ShapeError, ""),
        (lambda f: diag_jac(network(3), coordinates=PLACES), ShapeError, "take batch_jac, or leave coordinates out"),
    ],
)
def test_refused(call, error, words):
    with pytest.raises(error, match=re.escape(words)) as caught:
        call(network())(points())
    assert "\n" not in str(caught.value)


def test_no_samples():
    none = points()[:0]
    for transform, f in (
        (laplacian, network()),
        (hess_diag, network()),
        (diag_jac, network(SIZE)),
        (batch_jac, network()),
    ):
        assert len(transform(f, coordinates=PLACES)(none)) == 0
    assert divergence(network(SIZE), coordinates=PLACES)(none).shape == (0,)


def test_draws_that_cannot_be_are_refused():
    drawn = laplacian(network(), coordinates=2)
    with pytest.raises(UnsupportedOperationError, match="inside of torch.func.vmap; pass the coordinates as a tensor"):
        torch.func.vmap(drawn, randomness="different")(points()[None])
    with pytest.raises(torch._dynamo.exc.Unsupported, match="or compile=True in place of torch.compile"):
        torch.compile(drawn, backend="eager", fullgraph=True)(points())
    several, f = torch.stack([PLACES, PLACES]), network()
    with pytest.raises(UnsupportedOperationError, match="that torch.func.vmap maps over cannot be looked at"):
        torch.func.vmap(lambda x, places: laplacian(f, coordinates=places)(x))(torch.stack([points()] * 2), several)
    with pytest.raises(ArgumentError, match="pass numbers from 0 to 39"):
        torch.func.grad(lambda x: laplacian(f, coordinates=torch.tensor([40]))(x).sum())(points())
    given = torch.func.vmap(laplacian(network(), coordinates=PLACES))(points()[None])
    torch.testing.assert_close(given[0], laplacian(network(), coordinates=PLACES)(points()))


def test_trees_are_refused():
    with pytest.raises(ArgumentTypeError, match="joined into one tensor"):
        laplacian(lambda x: x["a"].sum(1), coordinates=2)({"a": points()})
