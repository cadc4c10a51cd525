"""Samples in blocks: the same numbers as all at once, no more memory than a block takes, and nothing is guessed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacfunc import batch_jac, diag_jac, divergence, explain, hess_diag, hessian, laplacian, make_functional, partials
from jacfunc.call import sample_chunks
from jacfunc.errors import ArgumentError, CoupledSamplesError, ShapeError

double = torch.float64
TRANSFORMS = [diag_jac, batch_jac, divergence, hess_diag, laplacian]
METHODS = ["auto", "taylor", "forward", "reverse"]


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 3)).double()


def scaled(x, w):
    return (x * w).sin()


# -------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("size", [1, 5, 36, 37, 100, "auto"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_blocks_are_exact(net, transform, method, size):
    f, params = make_functional(net)
    x = torch.randn(37, 3, dtype=double)
    whole = transform(f, method=method, return_value=True)(params, x)
    cut = transform(f, method=method, return_value=True, sample_chunk_size=size)(params, x)
    for one, other in zip(cut, whole, strict=True):
        torch.testing.assert_close(one, other)
    gradients = [
        torch.autograd.grad(result[0].square().sum(), params.values(), allow_unused=True, materialize_grads=True)
        for result in (cut, whole)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_one_backward_for_each_block_is_the_gradient_of_the_whole(net):
    f, params = make_functional(net)
    x = torch.randn(37, 3, dtype=double)
    laplacian(f)(params, x).square().mean().backward()
    whole = {name: parameter.grad for name, parameter in params.items()}
    net.zero_grad()
    for part in x.split(10):
        (laplacian(f)(params, part).square().mean() * len(part) / len(x)).backward()
    for name, gradient in whole.items():
        torch.testing.assert_close(params[name].grad, gradient)


@pytest.mark.parametrize("in_dims", [0, (0, 0)])
def test_other_arguments_are_cut_where_in_dims_says_so(in_dims):
    x, w = torch.randn(2, 23, 4, dtype=double)
    cut = diag_jac(scaled, argnums=0, sample_chunk_size=5, in_dims=in_dims)(x, w)
    torch.testing.assert_close(cut, diag_jac(scaled, argnums=0)(x, w))


def test_other_arguments_are_shared_where_in_dims_says_so():
    x, w = torch.randn(5, 4, dtype=double), torch.randn(5, 4, dtype=double)
    f = lambda x, w: x @ w.t() @ w  # as many rows as a batch has samples
    cut = diag_jac(f, argnums=0, sample_chunk_size=5, in_dims=(0, None))
    x = torch.randn(12, 4, dtype=double)
    torch.testing.assert_close(cut(x, w), diag_jac(f, argnums=0)(x, w))


def test_keyword_arguments_and_parameters_are_shared(net):
    f, params = make_functional(net)
    x, w = torch.randn(2, 3, dtype=double), torch.randn(3, dtype=double)
    for in_dims in (None, 0, (None, 0)):
        torch.testing.assert_close(diag_jac(f, sample_chunk_size=1, in_dims=in_dims)(params, x), diag_jac(f)(params, x))
    torch.testing.assert_close(diag_jac(scaled, sample_chunk_size=1)(x, w=w), (x * w).cos() * w)


def test_trees_and_several_arguments():
    f = lambda a, b: {"sum": (a["x"] * b).sin(), "y": a["y"].square()}
    a = {"x": torch.randn(7, 2, dtype=double), "y": torch.randn(7, 2, dtype=double)}
    b = torch.randn(7, 2, dtype=double)
    cut = batch_jac(f, argnums=(0, 1), sample_chunk_size=3, return_value=True)(a, b)
    whole = batch_jac(f, argnums=(0, 1), return_value=True)(a, b)
    torch.testing.assert_close(cut, whole)


def test_two_sample_axes_are_cut_along_the_first():
    x = torch.randn(7, 5, 3, dtype=double)
    torch.testing.assert_close(diag_jac(torch.sin, batch_dims=2, sample_chunk_size=2)(x), x.cos())


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("size", [1, 4, "auto"])
def test_few_samples_or_none(count, size):
    x = torch.randn(count, 3)
    derivative, value = diag_jac(torch.sin, sample_chunk_size=size, return_value=True)(x)
    assert derivative.shape == value.shape == (count, 3)


def test_aux_is_joined_along_its_samples():
    f = lambda x: (x.sin(), {"square": x * x, "name": "f"})
    x = torch.randn(11, 2, dtype=double)
    derivative, aux = diag_jac(f, has_aux=True, sample_chunk_size=4)(x)
    torch.testing.assert_close(derivative, x.cos())
    torch.testing.assert_close(aux["square"], x * x)
    assert aux["name"] == "f"
    _, value, _ = diag_jac(f, has_aux=True, return_value=True, sample_chunk_size=4)(x)
    torch.testing.assert_close(value, x.sin())


def test_they_nest_and_work_under_torch_func(net):
    f, params = make_functional(net)
    x = torch.randn(9, 3, dtype=double)
    cut = lambda transform, f: transform(f, sample_chunk_size=4)
    torch.testing.assert_close(cut(batch_jac, cut(laplacian, f))(params, x), batch_jac(laplacian(f))(params, x))
    loss = lambda transform: lambda params: transform(params, x).square().sum()
    torch.testing.assert_close(
        torch.func.grad(loss(cut(diag_jac, f)))(params), torch.func.grad(loss(diag_jac(f)))(params)
    )
    xs = torch.randn(2, 9, 3, dtype=double)
    over = lambda transform: torch.func.vmap(lambda x: transform(params, x))(xs)
    torch.testing.assert_close(over(cut(diag_jac, f)), over(diag_jac(f)))


@pytest.mark.parametrize("size", [4, "auto"])
def test_under_compile(net, size):
    f, params = make_functional(net)
    x = torch.randn(9, 3, dtype=double)
    compiled = torch.compile(diag_jac(f, sample_chunk_size=size), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(params, x), diag_jac(f)(params, x))


def test_in_inference_mode(net):
    with torch.inference_mode():
        x = torch.randn(9, 3, dtype=double)
        torch.testing.assert_close(diag_jac(net, sample_chunk_size=4)(x), diag_jac(net)(x))


def test_each_block_draws_for_itself():
    noisy = lambda x: x * torch.rand_like(x)
    x = torch.ones(8, 3, dtype=double)
    torch.manual_seed(0)
    parts = torch.cat([torch.rand(4, 3, dtype=double) for _ in range(2)])
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.testing.assert_close(diag_jac(noisy, sample_chunk_size=4, check=False)(x), parts)
    assert torch.equal(torch.get_rng_state(), after)


# -------------------------------------------------------------------- what it is for


class Largest(TorchDispatchMode):
    """The largest number of elements that any result has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("method", METHODS)
def test_no_result_is_larger_than_a_block(method):
    net = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 1))
    largest = {}
    for count in (64, 512):
        with torch.no_grad(), Largest() as mode:
            laplacian(net, method=method, sample_chunk_size=32)(torch.randn(count, 3))
        largest[count] = mode.elements
    assert largest[512] == largest[64] <= 4 * 32 * 50 * 3  # the check of independence takes no more


def test_automatic_blocks_fill_the_caches(monkeypatch):
    net = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 1))
    monkeypatch.setattr(sample_chunks, "cache_bytes", lambda: 100 * 50 * 4 * (2 + 3))
    explained = explain(laplacian(net, sample_chunk_size="auto"))(torch.randn(1000, 3))
    assert explained.blocks.size == 100
    assert "1000 in 10 blocks of 100" in str(explained)
    assert explained.samples == 1000


@pytest.mark.parametrize(
    ("transform", "rows"),
    [
        (diag_jac, 1 + 3),
        (hessian, 1 + 3 + 6),
        (lambda f, **k: partials(f, "u_xyz", inputs="x y z", outputs="u", **k), 1 + 7),
        (lambda f, **k: partials(f, "u_xyz", inputs="x y z", outputs="u", chunk_size=2, **k), 3 + 2),
    ],
    ids=["diagonal", "hessian", "partials", "in chunks"],
)
def test_automatic_blocks_count_every_row_that_travels(monkeypatch, transform, rows):
    net = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 1))
    monkeypatch.setattr(sample_chunks, "cache_bytes", lambda: 100 * 50 * 4 * rows)
    assert explain(transform(net, sample_chunk_size="auto"))(torch.randn(1000, 3)).blocks.size == 100


def test_automatic_blocks_are_no_larger_than_the_batch_and_not_tiny(monkeypatch):
    monkeypatch.setattr(sample_chunks, "cache_bytes", lambda: 1)
    assert (
        explain(diag_jac(torch.sin, sample_chunk_size="auto"))(torch.randn(100, 3)).blocks.size == sample_chunks.LEAST
    )
    monkeypatch.setattr(sample_chunks, "cache_bytes", lambda: 10**9)
    assert explain(diag_jac(torch.sin, sample_chunk_size="auto"))(torch.randn(100, 3)).blocks.size == 100


def test_the_caches_of_a_system_that_does_not_say(monkeypatch):
    monkeypatch.delattr("os.sysconf", raising=False)
    assert sample_chunks.cache_bytes() == 2**20 * torch.get_num_threads()


# -------------------------------------------------------------------- what is refused


def test_coupled_samples_are_found_in_blocks_of_one():
    with pytest.raises(CoupledSamplesError):
        diag_jac(lambda x: x - x.mean(0), sample_chunk_size=1)(torch.randn(30, 2))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, r"args\[1\] has tensors, and whether they carry samples is not known; say so with in_dims=\(0, 0\)"),
        ({"in_dims": (0,)}, "1 entries for 2 positional arguments"),
        ({"in_dims": (None, 0)}, r"shares args\[0\], which is differentiated"),
        ({"sample_chunk_size": None, "in_dims": (None, 0)}, r"shares args\[0\], which is differentiated"),
        ({"batch_dims": 0}, "batch_dims=0, where no samples can be cut"),
    ],
)
def test_nothing_is_guessed(keywords, message):
    x, w = torch.randn(2, 6, 3)
    with pytest.raises(ArgumentError, match=message):
        diag_jac(scaled, argnums=0, **{"sample_chunk_size": 2, **keywords})(x, w)


def test_what_has_fewer_rows_is_proposed_as_shared():
    with pytest.raises(ArgumentError, match=r"say so with in_dims=\(0, None\)"):
        diag_jac(scaled, argnums=0, sample_chunk_size=2)(torch.randn(6, 3), torch.randn(3))


def test_a_number_is_shared_without_being_told(net):
    """As the time that an ODE solver hands over."""
    x, t = torch.randn(6, 3, dtype=double), torch.tensor(0.3, dtype=double)

    def field(x, t):
        return net(x) * t.cos()

    found = divergence(field, argnums=0, sample_chunk_size=2)(x, t)
    torch.testing.assert_close(found, divergence(field, argnums=0)(x, t))


def test_what_is_cut_has_samples(net):
    with pytest.raises(
        ShapeError, match=r"args\[1\]\['w'\] has shape \(3,\), and in_dims says that it carries samples"
    ):
        diag_jac(lambda x, p: x * p["w"], argnums=0, sample_chunk_size=2, in_dims=0)(
            torch.randn(6, 3), {"w": torch.randn(3)}
        )
    f, params = make_functional(net)
    with pytest.raises(ArgumentError, match=r"in_dims cuts args\[0\], the parameters"):
        diag_jac(f, sample_chunk_size=2, in_dims=(0, 0))(params, torch.randn(6, 3, dtype=double))


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "all"])
def test_a_size_is_a_number_of_samples(size):
    with pytest.raises(ArgumentError, match="sample_chunk_size=.* is not a number of samples"):
        diag_jac(torch.sin, sample_chunk_size=size)


@pytest.mark.parametrize("in_dims", [1, (0, 1), [0], True, "x", (None, False)])
def test_samples_are_in_front(in_dims):
    with pytest.raises(ArgumentError, match=r"in_dims=.* is not 0 \(samples in front\)"):
        diag_jac(torch.sin, in_dims=in_dims)


@pytest.mark.parametrize(
    ("aux", "message"),
    [
        (lambda x: x.sum(), r"aux has shape \(\) for a block of 4 samples"),
        (lambda x: [x, x[0]], r"aux\[1\] has shape \(2,\) for a block of 4 samples"),
        (lambda x: len(x), "aux is 4 for one block of samples and not for another"),
        (lambda x: [x] * len(x), "aux is built in another way for one block"),
    ],
)
def test_aux_that_cannot_be_joined(aux, message):
    with pytest.raises(ShapeError, match=message):
        diag_jac(lambda x: (x.sin(), aux(x)), has_aux=True, sample_chunk_size=4)(torch.randn(6, 2))
