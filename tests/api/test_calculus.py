"""``curl``, ``biharmonic`` and ``directional`` against closed forms and nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from backends import by_backend, compiling_by
from partial_truth import all_indices, close, network, truth

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    ShapeError,
    biharmonic,
    curl,
    diag_jac,
    directional,
    explain,
    laplacian,
    make_functional,
)

METHODS = ["auto", "taylor", "forward", "reverse"]


@pytest.mark.parametrize("method", METHODS)
def test_curl(method):
    x = torch.randn(5, 3, dtype=torch.double)
    a, b, c = x.unbind(1)
    field = lambda x: torch.stack([x[:, 1] * x[:, 2], x[:, 0] ** 2, x[:, 0] * x[:, 1] ** 3], 1)
    close(curl(field, method=method)(x), torch.stack([3 * a * b**2, b - b**3, 2 * a - c], 1))
    plane = lambda x: torch.stack([x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1)
    found = curl(plane, method=method)(x[:, :2])
    assert found.shape == (5,)
    close(found, b - 2 * b)


def test_curl_of_a_gradient_is_nothing():
    net = network("silu", 3, 1)
    x = torch.randn(5, 3, dtype=torch.double)
    assert curl(diag_jac(net))(x).abs().max() < 1e-12


def test_curl_needs_a_field():
    x = torch.randn(5, 3)
    with pytest.raises(
        ShapeError, match=r"the curl needs .* \(2,\) or \(3,\) both, but the input has \(3,\) and the output \(2,\)"
    ):
        curl(lambda x: x[:, :2])(x)
    with pytest.raises(ShapeError, match=r"the input has \(4,\)"):
        curl(lambda x: x)(torch.randn(5, 4))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_biharmonic(dims, method):
    net = network("tanh", dims, 2)
    x = torch.randn(3, dims, dtype=torch.double, requires_grad=True)
    found = biharmonic(net, method=method)(x.detach())
    for output in range(2):
        known = truth(net(x)[:, output], x, all_indices(dims, 4))
        squares = [[2 * (k == i) + 2 * (k == j) for k in range(dims)] for i in range(dims) for j in range(dims)]
        close(found[:, output], sum(known[tuple(index)] for index in squares))


def test_biharmonic_is_the_laplacian_of_the_laplacian():
    net = network("gelu", 4, 1)
    x = torch.randn(3, 2, 2, dtype=torch.double)
    f = lambda x: net(x.flatten(1))
    close(biharmonic(f)(x), laplacian(laplacian(f))(x))
    assert explain(biharmonic(f))(x).plan.rows == 31  # 30 below the fourth order, and the sum


@pytest.mark.parametrize("dims", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
@by_backend("eager")
@pytest.mark.parametrize("keyword", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_biharmonic_compiled(keyword, dims, backend):
    """Whose multi-indices are found while Dynamo traces, as the number of coordinates is known only then."""
    f, params = make_functional(network("tanh", dims, 2))
    x = torch.randn(3, dims, dtype=torch.double)
    want = biharmonic(f)(params, x)
    with compiling_by(backend):
        whole = torch.compile(lambda params, x: biharmonic(f)(params, x), fullgraph=True)
        close((biharmonic(f, compile=True) if keyword else whole)(params, x), want)


def test_biharmonic_by_argument():
    x, y = torch.randn(3, 2, dtype=torch.double), torch.randn(3, 1, dtype=torch.double)
    f = lambda x, y: x[:, 0] ** 2 * x[:, 1] ** 2 * y[:, 0] ** 4
    one, two = biharmonic(f, argnums=(0, 1))(x, y)
    close(one, 8 * y[:, 0] ** 4)
    close(two, 24 * x.square().prod(1))
    with pytest.raises(ShapeError, match=r"args\[0\] has no coordinate"):
        biharmonic(lambda x: x.sum(1))(torch.randn(3, 0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("own", [True, False])
def test_directional(method, order, own):
    net = network("tanh", 3, 2)
    f, params = make_functional(net)
    x = torch.randn(4, 3, dtype=torch.double)
    v = torch.randn(*((4, 3) if own else (3,)), dtype=torch.double)
    s = torch.zeros(4, 1, dtype=torch.double, requires_grad=True)
    found = directional(f, order, method=method)(params, x, v)
    for output in range(2):
        known = truth(net(x + s * v)[:, output], s, [(k,) for k in range(order + 1)])
        close(found[:, output], known[(order,)])


def test_directional_of_trees_and_other_arguments():
    f = lambda scale, point: {"a": scale * point["x"] ** 2 * point["y"][:, 0], "b": point["x"]}
    point = {"x": torch.randn(4, dtype=torch.double), "y": torch.randn(4, 1, dtype=torch.double)}
    v = {"x": torch.ones((), dtype=torch.double), "y": torch.ones(1, dtype=torch.double)}
    found = directional(f, 2)(2.0, point, v)
    close(found["a"], 4 * point["y"][:, 0] + 8 * point["x"])
    assert torch.equal(found["b"], torch.zeros(4, dtype=torch.double))
    g = lambda x, scale: scale * x**3
    close(directional(g, 3, argnums=0)(point["y"], 2.0, v["y"]), torch.full((4, 1), 12.0, dtype=torch.double))


def test_directional_keeps_no_direction():
    net = network("tanh", 3, 1)
    along = directional(net, 2, compile=True)
    x, v, w = torch.randn(4, 3, dtype=torch.double), *torch.randn(2, 3, dtype=torch.double)
    with compiling_by("aot_eager"):
        for direction in (v, w):
            close(along(x, direction), directional(net, 2)(x, direction))
    assert repr(along) == "directional(Sequential, order=2, compile=True)"
    assert explain(along)(x, v).plan.rows == 2


def test_directional_refuses():
    x = torch.randn(4, 3)
    with pytest.raises(ArgumentError, match=r"^order is a Tensor, which is not .*; call what it returns, as in dir"):
        directional(torch.sin, torch.ones(2, 3))  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match="order=0 is not the order"):
        directional(torch.sin, 0)
    with pytest.raises(ArgumentError, match="takes no sample_chunk_size"):
        directional(torch.sin, sample_chunk_size=2)
    with pytest.raises(ArgumentError, match="a direction is that of one"):
        directional(torch.sin, argnums=(0, 1))
    with pytest.raises(ShapeError, match=r"the direction has shape \(2,\) for args\[0\] of shape \(4, 3\)"):
        directional(torch.sin)(x, torch.ones(2))
    with pytest.raises(ArgumentTypeError, match="the direction has dtype torch.float64"):
        directional(torch.sin)(x, torch.ones(3, dtype=torch.double))
    with pytest.raises(ArgumentTypeError, match="the direction, the last argument, is built as"):
        directional(torch.sin)(x, {"v": torch.ones(3)})
    with pytest.raises(
        ArgumentError, match="the last positional argument is the direction, and no other came in; pass"
    ):
        directional(torch.sin)(x)
    with pytest.raises(ArgumentError, match=r"the direction by position too, as in directional\(f\)\(x, v\)$"):
        directional(torch.sin)(x, v=x)
    f, params = make_functional(torch.nn.Linear(3, 1))
    with pytest.raises(ArgumentError, match="^the last of the 2 positional arguments is the direction, so no input is"):
        directional(f)(params, x)
    with pytest.raises(ArgumentError, match="^argnums=0 selects the parameters"):
        directional(f, argnums=0)(params, x, x)
