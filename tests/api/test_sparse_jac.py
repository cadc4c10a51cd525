"""``sparse_jac``, and ``sparsity=`` of other transforms, against the dense transforms."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from backends import compiling_by
from quick import mostly_slow
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    JacfuncError,
    ShapeError,
    SparsityPattern,
    UnsupportedOperationError,
    batch_jac,
    clear_caches,
    diag_jac,
    divergence,
    explain,
    hess_diag,
    laplacian,
    make_functional,
    sparse_jac,
    sparsity,
)
from jacfunc.structure import detect as detection

DOUBLE = torch.float64


def stencil(w, x):
    """Three points of a line, the last axis."""
    return w[0] * x.roll(1, -1) * x + w[1] * (x.roll(-1, -1)).sin() + w[2] * x**3


def upwind(w, x):
    return w[0] * x[..., 1:] * x[..., :-1] + w[1]


def pointwise(w, x):
    return w[0] * x.tanh() + w[1] * x**2 * w[2]


def blocks(w, x):
    """Pairs of neighbours."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return (w[0] * pairs.prod(-1, keepdim=True) + pairs**2).reshape(x.shape)


def written(w, x):
    y = x * w[0]
    y[..., 0] = x[..., 1] * x[..., 2]
    y[..., 1:3] += x[..., 3:5].sin() * w[1]
    return y


def arrow(w, x):
    """A full first row: rows take fewer passes the other way round."""
    y = (x * w[0]).tanh()
    return torch.cat([(x**2).sum(-1, keepdim=True) * w[2], y[..., 1:]], -1)


def hub(w, x):
    """A full first column."""
    return w[0] * x * x[..., :1].sin() + w[1]


def gathered(w, x):
    return x[..., [3, 1, 1, 5, 0, 2]] ** 2 * w[0] + x * w[1]


def convolved(w, x):
    flat = F.pad(x.reshape(-1, 1, x.shape[-1]), (1, 1), mode="circular")
    return (F.conv1d(flat, w[None, None]).tanh()).reshape(x.shape)


def to_plane(w, x):
    return (x[..., :, None] * w).sin()


FUNCTIONS = {
    f.__name__: f for f in (stencil, upwind, pointwise, blocks, written, arrow, hub, gathered, convolved, to_plane)
}
SQUARE = [name for name in FUNCTIONS if name not in ("upwind", "to_plane")]


def inputs(batch=(3,), dtype=DOUBLE, width=6):
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(3, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_()
    return w, torch.randn(*batch, width, generator=generator, dtype=DOUBLE).to(dtype)


def close(found, want, dtype=DOUBLE):
    torch.testing.assert_close(found, want, **({} if dtype is DOUBLE else {"rtol": 1e-4, "atol": 1e-4}))


def same_gradients(found, want, w, dtype=DOUBLE):
    """Both by the parameter, through a random sum."""
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE).to(dtype)
    one, other = [torch.autograd.grad((each * weights).sum(), w, allow_unused=True)[0] for each in (found, want)]
    close(one, other, dtype)


CASES = [
    (name, batch, dtype) for name in FUNCTIONS for batch in ((3,), (), (2, 2)) for dtype in (DOUBLE, torch.float32)
]
FAST = [case for case in CASES if case[2] is DOUBLE and (case[1] == (3,) or case[0] in ("written", "arrow"))]


@pytest.mark.parametrize("case", mostly_slow(CASES, FAST))
def test_values_and_gradients_are_those_of_the_dense_jacobian(case):
    name, batch, dtype = case
    f, (w, x) = FUNCTIONS[name], inputs(batch, dtype)
    want = batch_jac(f, batch_dims=len(batch))(w, x)
    rows = want.reshape(*batch, -1, x.shape[-1])
    found = sparse_jac(f, batch_dims=len(batch))(w, x)
    close(found.to_dense(), rows, dtype)
    assert found.values.shape == (*batch, found.pattern.nnz)
    assert found.pattern.nnz < rows[(0,) * len(batch)].numel()
    same_gradients(found.to_dense(), rows, w, dtype)
    dense = batch_jac(f, sparsity="auto", batch_dims=len(batch))(w, x)
    close(dense, want, dtype)


@pytest.mark.parametrize(
    "case",
    mostly_slow([case for case in CASES if case[0] in SQUARE], [case for case in FAST if case[1] == (3,)]),
)
def test_diagonals_are_those_without_a_pattern(case):
    name, batch, dtype = case
    f, (w, x) = FUNCTIONS[name], inputs(batch, dtype)
    for transform in (diag_jac, divergence):
        found = transform(f, sparsity="auto", batch_dims=len(batch))(w, x)
        want = transform(f, batch_dims=len(batch))(w, x)
        close(found, want, dtype)
        same_gradients(found, want, w, dtype)


@pytest.mark.parametrize("batch", [(3,), (), (2, 2)])
def test_laplacians_are_those_without_a_pattern(batch):
    w, x = inputs(batch)

    def energy(w, x):
        return (w[0] * x[..., 1:] * x[..., :-1] ** 2).sin().sum(-1) + (w[1] * x**4).sum(-1)

    for f in (energy, stencil):
        found, want = [laplacian(f, batch_dims=len(batch), **given)(w, x) for given in ({"sparsity": "auto"}, {})]
        close(found, want)
        same_gradients(found, want, w)


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("name", ["stencil", "arrow", "hub"])
def test_each_method(name, method):
    f, (w, x) = FUNCTIONS[name], inputs()
    found = sparse_jac(f, method=method)(w, x)
    want = batch_jac(f)(w, x)
    close(found.to_dense(), want)
    same_gradients(found.to_dense(), want, w)


KEYWORDS = [
    {"chunk_size": 1},
    {"chunk_size": 2, "method": "reverse"},
    {"sample_chunk_size": 2, "in_dims": (None, 0)},
    {"sample_chunk_size": 2, "in_dims": (None, 0), "method": "reverse"},
    {"sample_chunk_size": "auto", "in_dims": (None, 0)},
    {"check": False},
]


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
@pytest.mark.parametrize("name", ["stencil", "arrow"])
def test_keywords_change_no_number(name, keywords):
    f, (w, x) = FUNCTIONS[name], inputs((5,))
    close(sparse_jac(f, **keywords)(w, x).to_dense(), batch_jac(f)(w, x))
    close(diag_jac(f, sparsity="auto", **keywords)(w, x), diag_jac(f)(w, x))


@pytest.mark.parametrize("method", ["auto", "reverse"])
@pytest.mark.parametrize("keywords", [{}, {"sample_chunk_size": 2, "in_dims": (None, 0)}], ids=str)
def test_value_and_aux(method, keywords):
    w, x = inputs()

    def f(w, x):
        return stencil(w, x), {"sum": x.sum(-1), "twice": 2 * x}

    aux = f(w, x)[1]
    jac, value, found = sparse_jac(f, has_aux=True, return_value=True, method=method, **keywords)(w, x)
    close((jac.to_dense(), value, found), (batch_jac(stencil)(w, x), stencil(w, x), aux))
    jac, found = sparse_jac(f, has_aux=True, method=method, **keywords)(w, x)
    close((jac.to_dense(), found), (batch_jac(stencil)(w, x), aux))
    jac, value = sparse_jac(stencil, return_value=True, method=method, **keywords)(w, x)
    close((jac.to_dense(), value), (batch_jac(stencil)(w, x), stencil(w, x)))
    same_gradients(value, stencil(w, x), w)
    diagonal, value = diag_jac(stencil, return_value=True, sparsity="auto", method=method, **keywords)(w, x)
    close((diagonal, value), (diag_jac(stencil)(w, x), stencil(w, x)))


def test_another_argument_and_one_per_sample():
    w, x = inputs()
    scale = torch.arange(1.0, 4.0, dtype=DOUBLE)

    def f(x, scale, w):
        return stencil(w, x) * scale[..., None]

    want = batch_jac(f, argnums=0, in_dims=(0, 0, None))(x, scale, w)
    close(sparse_jac(f, argnums=0, in_dims=(0, 0, None))(x, scale, w).to_dense(), want)
    close(sparse_jac(f, argnums=0, in_dims=(0, 0, None), sample_chunk_size=2)(x, scale, w).to_dense(), want)


def test_keyword_arguments_reach_f():
    w, x = inputs()
    f = lambda w, x, *, power: stencil(w, x) ** power
    close(sparse_jac(f)(w, x, power=2).to_dense(), batch_jac(f)(w, x, power=2))


def test_a_module():
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Conv1d(2, 1, 3), nn.Flatten()
    ).double()
    x = torch.randn(3, 8, dtype=DOUBLE)
    f, params = make_functional(net)
    want = batch_jac(f)(params, x)
    for found in (sparse_jac(net)(x), sparse_jac(f)(params, x)):
        close(found.to_dense(), want)
        assert found.pattern.nnz == 4 * 5
    sparse_jac(net)(x).values.square().sum().backward()
    found = [parameter.grad.clone() for parameter in [*net.parameters()][:3]]  # none by the last bias
    net.zero_grad()
    batch_jac(net)(x).square().sum().backward()
    close(found, [parameter.grad for parameter in [*net.parameters()][:3]])


# -------------------------------------------------------------------- patterns that are given


def given_patterns():
    w, x = inputs()
    dense = sparsity(stencil)(w, x).to_dense()
    return {
        "pattern": sparsity(stencil)(w, x),
        "tensor": dense,
        "numbers": dense.float() * 3,
        "csr": dense.double().to_sparse_csr(),
        "coo": dense.double().to_sparse_coo(),
        "csc": dense.double().to_sparse_csc(),
        "array": dense.numpy(),
        "more": torch.ones(6, 6),
        "of another function": sparsity(convolved)(w, x),
    }


@pytest.mark.parametrize("name", given_patterns())
@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_a_given_pattern(name, method):
    w, x = inputs()
    pattern = given_patterns()[name]
    close(sparse_jac(stencil, sparsity=pattern, method=method)(w, x).to_dense(), batch_jac(stencil)(w, x))
    close(batch_jac(stencil, sparsity=pattern, method=method)(w, x), batch_jac(stencil)(w, x))
    close(diag_jac(stencil, sparsity=pattern, method=method)(w, x), diag_jac(stencil)(w, x))
    close(divergence(stencil, sparsity=pattern, method=method)(w, x), divergence(stencil)(w, x))


def test_a_scipy_matrix():
    scipy = pytest.importorskip("scipy.sparse", reason="scipy is no dependency")
    w, x = inputs()
    pattern = scipy.csr_array(sparsity(stencil)(w, x).to_dense().numpy())
    found = sparse_jac(stencil, sparsity=pattern)(w, x)
    close(found.to_dense(), batch_jac(stencil)(w, x))
    close(torch.from_numpy(found.to_scipy(1).toarray()), batch_jac(stencil)(w, x)[1].detach())


def lacking(w, x):
    pattern = sparsity(stencil)(w, x).to_dense()
    pattern[2, 3] = False
    return pattern


@pytest.mark.parametrize("transform", [sparse_jac, batch_jac])
@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_a_pattern_that_lacks_an_entry_is_refused(transform, method):
    w, x = inputs()
    with pytest.raises(
        UnsupportedOperationError, match=r"^sparsity lacks entries: .*; leave sparsity out .*or add the"
    ):
        transform(stencil, sparsity=lacking(w, x), method=method)(w, x)


def test_a_pattern_that_lacks_what_moves_a_diagonal_is_refused():
    w, x = inputs()
    for transform in (diag_jac, divergence):
        with pytest.raises(UnsupportedOperationError, match="sparsity lacks entries"):
            transform(stencil, sparsity=torch.eye(6))(w, x)
    with pytest.raises(UnsupportedOperationError, match="sparsity lacks entries"):
        laplacian(lambda w, x: (x[:, 1:] * x[:, :-1]).sum(1) * w[0], sparsity=torch.eye(6))(w, x)


def refused_calls():
    w, x = inputs()
    square = torch.ones(6, 6)
    return {
        "columns": (lambda: sparse_jac(stencil, sparsity=torch.ones(6, 5))(w, x), ShapeError, "sparsity has 5 columns"),
        "rows": (lambda: sparse_jac(stencil, sparsity=torch.ones(5, 6))(w, x), ShapeError, "5 rows"),
        "rows, reverse": (
            lambda: sparse_jac(stencil, sparsity=torch.ones(5, 6), method="reverse")(w, x),
            ShapeError,
            "5 rows",
        ),
        "diagonal of rows": (lambda: diag_jac(stencil, sparsity=torch.ones(5, 6))(w, x), ShapeError, "5 rows"),
        "no square": (lambda: diag_jac(upwind, sparsity="auto")(w, x), ShapeError, "output of the shape of the input"),
        "divergence of no square": (
            lambda: divergence(upwind, sparsity="auto")(w, x),
            ShapeError,
            "divergence with sparsity=",
        ),
        "vector": (lambda: sparse_jac(stencil, sparsity=torch.ones(36))(w, x), ShapeError, "pass a matrix"),
        "cube": (lambda: sparse_jac(stencil, sparsity=np.ones((6, 6, 6)))(w, x), ShapeError, "pass a matrix"),
        "word": (lambda: sparse_jac(stencil, sparsity="yes")(w, x), ArgumentError, "neither 'auto' nor a pattern"),
        "list": (lambda: sparse_jac(stencil, sparsity=[[1]])(w, x), ArgumentTypeError, "list"),
        "out_dims": (lambda: sparse_jac(stencil, out_dims=1)(w, x), ArgumentError, "out_dims"),
        "several inputs": (lambda: sparse_jac(stencil, argnums=(0, 1), batch_dims=0)(w, x), ShapeError, "2 tensors"),
        "several inputs, given": (
            lambda: sparse_jac(stencil, argnums=(0, 1), batch_dims=0, sparsity=square)(w, x),
            ShapeError,
            "2 tensors",
        ),
        "several outputs": (lambda: sparse_jac(lambda w, x: (x, x))(w, x), ShapeError, "returns 2 tensors"),
        "several outputs, given": (
            lambda: sparse_jac(lambda w, x: (x, x), sparsity=square)(w, x),
            ShapeError,
            "returns 2 tensors",
        ),
        "several outputs, reverse": (
            lambda: sparse_jac(lambda w, x: (x, x), sparsity=square, method="reverse")(w, x),
            ShapeError,
            "returns 2 tensors",
        ),
        "segments": (
            lambda: diag_jac(stencil, sparsity="auto", segments=torch.tensor([0, 0, 1]))(w, x),
            ArgumentError,
            "segments",
        ),
        "gradient": (
            lambda: laplacian(stencil, sparsity="auto", return_gradient=True),
            ArgumentError,
            "return_gradient",
        ),
        "which carry samples": (
            lambda: sparse_jac(stencil, sample_chunk_size=2)(w, x),
            ArgumentError,
            r"in_dims=\(0, 0\) ",
        ),
        "order": (lambda: sparsity(stencil, order=3), ArgumentError, "order=3"),
        "coupled": (lambda: sparse_jac(lambda w, x: x - x.mean(0))(w, x), CoupledSamplesError, ""),
        "whole numbers": (lambda: sparse_jac(lambda w, x: x.long())(w, x), JacfuncError, ""),
        "no tensor": (lambda: sparse_jac(lambda w, x: 3.0)(w, x), JacfuncError, ""),
        "in vmap": (
            lambda: torch.vmap(lambda x: sparse_jac(stencil, batch_dims=0)(w, x).values)(x),
            JacfuncError,
            "sparsity=",
        ),
    }


@pytest.mark.parametrize("name", refused_calls())
def test_what_is_refused(name):
    call, kind, words = refused_calls()[name]
    with pytest.raises(kind, match=words):
        call()


# -------------------------------------------------------------------- what changes between calls


def test_a_branch_that_is_met_later_adds_its_entries():
    mode = {"shift": 1}

    def f(w, x):
        return x * x.roll(mode["shift"], -1) * w[0]

    w, x = inputs()
    jac = sparse_jac(f)
    assert jac(w, x).pattern.nnz == 12
    mode["shift"] = 2
    found = jac(w, x)
    close(found.to_dense(), batch_jac(f)(w, x))
    assert found.pattern.nnz == 18
    mode["shift"] = 1
    found = jac(w, x)
    close(found.to_dense(), batch_jac(f)(w, x))
    assert found.pattern.nnz == 18


def test_a_branch_by_the_values():
    def f(w, x):
        return x * x.roll(1, -1) if x.sum() > 0 else x * x.roll(2, -1)

    w, x = inputs((1,))
    jac = sparse_jac(f, check=False)
    for point in (x.abs(), -x.abs(), x.abs(), -x.abs()):
        close(jac(w, point).to_dense(), batch_jac(f, check=False)(w, point))


@pytest.mark.parametrize("way", ["argument", "closed over", "buffer"])
@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_an_index_that_is_changed_in_place(way, method):
    _, x = inputs()
    index = torch.tensor([1, 0, 3, 2, 5, 4])
    net = nn.Module()
    net.register_buffer("index", index)
    net.forward = lambda x: x * x.index_select(-1, net.index)  # type: ignore[method-assign]
    f = {
        "argument": lambda index, x: x * x.index_select(-1, index),
        "closed over": lambda index, x: x * x.index_select(-1, net.index),
        "buffer": lambda index, x: net(x),
    }[way]
    jac = sparse_jac(f, method=method)
    other = torch.arange(6).flip(0)
    given = index if way == "argument" else None
    for k in range(6):
        close(jac(given, x).to_dense(), batch_jac(f)(given, x))
        index.copy_(index.roll(1) if k % 2 else other)


def test_another_index_of_the_same_shape():
    _, x = inputs()
    jac = sparse_jac(lambda index, x: x * x.index_select(-1, index))
    for shift in range(6):
        index = torch.arange(6).roll(shift)
        close(jac(index, x).to_dense(), batch_jac(jac.transformed)(index, x))


def test_a_mask_that_is_changed_in_place():
    w, x = inputs()
    mask = torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=DOUBLE)
    f = lambda w, x: x * (x.roll(1, -1) * mask) * w[0]
    jac = sparse_jac(f)
    for _ in range(6):
        close(jac(w, x).to_dense(), batch_jac(f)(w, x))
        mask.copy_(1 - mask)
        mask[0] += 1


def test_weights_that_were_zero():
    weight = torch.zeros(6, 6, dtype=DOUBLE, requires_grad=True)
    f = lambda weight, x: x @ weight
    _, x = inputs()
    jac = sparse_jac(f)
    close(jac(weight, x).to_dense(), batch_jac(f)(weight, x))
    with torch.no_grad():
        weight.normal_()
    close(jac(weight, x).to_dense(), batch_jac(f)(weight, x))


def test_the_pattern_is_looked_for_once(monkeypatch):
    looks = []
    detect = detection.detect
    monkeypatch.setattr("jacfunc.api.gradients.detect", lambda *args: looks.append(1) or detect(*args))
    w, x = inputs()
    jac = sparse_jac(stencil)
    for _ in range(5):
        jac(w, x)
        jac(w, x + 1)
    assert len(looks) == 1
    jac(w, x[:2])  # of another shape
    assert len(looks) == 2
    clear_caches()
    close(jac(w, x).to_dense(), batch_jac(stencil)(w, x))
    assert len(looks) == 3


# -------------------------------------------------------------------- surroundings


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return self.drop(x * x.roll(1, -1))


@pytest.mark.parametrize("keywords", [{}, {"method": "reverse"}, {"return_value": True}], ids=str)
def test_a_random_function_draws_once(keywords):
    net = Dropped()
    _, x = inputs()
    jac = sparse_jac(net, **keywords)
    for _ in range(3):
        torch.manual_seed(5)
        value = net(x)
        after = torch.random.get_rng_state()
        torch.manual_seed(5)
        found = jac(x)
        assert torch.equal(torch.random.get_rng_state(), after)
        found = found[0] if keywords.get("return_value") else found
        kept = (value != 0).to(DOUBLE)
        close(found.to_dense().sum(2), kept * (x.roll(1, -1) + x) * 2)


def test_diagonals_of_a_random_function():
    net = Dropped()
    net.forward = lambda x: net.drop(x * x)
    _, x = inputs()
    torch.manual_seed(5)
    value = net(x)
    after = torch.random.get_rng_state()
    torch.manual_seed(5)
    close(diag_jac(net, sparsity="auto")(x), (value != 0).to(DOUBLE) * 4 * x)
    assert torch.equal(torch.random.get_rng_state(), after)


def failing(w, x):
    torch.rand(2)
    if not isinstance(x, torch.Tensor) or x.numel():
        raise RuntimeError("broken by the user")
    return x


@pytest.mark.parametrize("name", ["raises", "lacking", "coupled", "rows"])
def test_nothing_is_touched_after_an_error(name):
    w, x = inputs()
    x.requires_grad_()
    before, state, grads = (w.clone(), x.clone()), torch.random.get_rng_state(), torch.is_grad_enabled()
    call = {
        "raises": lambda: sparse_jac(failing)(w, x),
        "lacking": lambda: sparse_jac(stencil, sparsity=lacking(w, x))(w, x),
        "coupled": lambda: sparse_jac(lambda w, x: x * torch.rand(()) - x.mean(0))(w, x),
        "rows": lambda: sparse_jac(stencil, sparsity=torch.ones(5, 6))(w, x),
    }[name]
    with pytest.raises((RuntimeError, JacfuncError)):
        call()
    assert torch.equal(w, before[0]) and torch.equal(x, before[1])
    assert (w.grad, x.grad, w.requires_grad, x.requires_grad) == (None, None, True, True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled() == grads


@pytest.mark.parametrize("method", ["auto", "reverse"])
def test_an_error_of_f_names_f(method):
    calls = []

    def fails_later(w, x):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("broken by the user")
        return stencil(w, x)

    jac = sparse_jac(fails_later, method=method, check=False)
    with pytest.raises(RuntimeError, match="broken by the user") as caught:
        [jac(*inputs()) for _ in range(4)]
    assert all("(fails_later) evaluated it" in note for note in getattr(caught.value, "__notes__", ()))


@pytest.mark.parametrize("surrounding", [torch.inference_mode, torch.no_grad])
def test_without_gradients(surrounding):
    w, x = inputs()
    with surrounding():
        found = sparse_jac(stencil)(w, x)
        diagonal = diag_jac(stencil, sparsity="auto")(w, x)
    assert not found.values.requires_grad
    close(found.to_dense(), batch_jac(stencil)(w, x).detach())
    close(diagonal, diag_jac(stencil)(w, x).detach())
    close(sparse_jac(stencil)(w, x).to_dense(), batch_jac(stencil)(w, x))


def test_two_threads():
    w, x = inputs()
    jac, wrong = sparse_jac(gathered), []
    want = batch_jac(gathered)(w, x)

    def calls():
        try:
            for _ in range(8):
                close(jac(w, x).to_dense(), want)
                close(jac(w, x[:2]).to_dense(), want[:2])
        except BaseException as error:  # told by the other thread
            wrong.append(error)

    threads = [threading.Thread(target=calls) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_samples():
    w, x = inputs()
    found = sparse_jac(stencil)(w, x[:0])
    assert found.values.shape[0] == 0
    assert found.to_dense().shape == (0, 6, 6)


def test_a_jacobian_without_entries():
    w, x = inputs()
    for method in ("auto", "reverse"):
        found = sparse_jac(lambda w, x: torch.zeros_like(x) + w[0], method=method)(w, x)
        assert found.values.shape == (3, 0)
        close(found.to_dense(), torch.zeros(3, 6, 6, dtype=DOUBLE))
    close(diag_jac(lambda w, x: torch.ones_like(x) * w[0], sparsity="auto")(w, x), torch.zeros(3, 6, dtype=DOUBLE))


def test_scalars_in_and_out():
    w, x = inputs()
    close(batch_jac(lambda w, x: x**3, sparsity="auto")(w, x[:, 0]), 3 * x[:, 0] ** 2)
    close(sparse_jac(lambda w, x: x**3, batch_dims=1)(w, x[:, 0]).values, 3 * x[:, :1] ** 2)
    close(sparse_jac(lambda w, x: (x**3).sum(-1))(w, x).values, 3 * x**2)
    found = sparse_jac(lambda w, x: x[:, None] ** torch.arange(1, 4))(w, x[:, 0])
    close(found.to_dense()[..., 0], torch.stack([x[:, 0] ** 0, 2 * x[:, 0], 3 * x[:, 0] ** 2], 1))


def test_large_maps_take_few_passes():
    w, x = inputs((1,), width=4000)
    assert "in 4 colours of columns" in str(explain(sparse_jac(stencil))(w, x))
    assert sparse_jac(stencil)(w, x).pattern.nnz == 3 * 4000


def test_a_function_that_computes_in_less_precision():
    w, x = inputs()
    f = lambda w, x: x.half() * x.roll(1, -1).float()
    pattern = sparsity(f)(w, x)
    for given in ("auto", pattern):
        found = sparse_jac(f, sparsity=given)(w, x).to_dense()
        torch.testing.assert_close(found, batch_jac(f)(w, x), rtol=1e-2, atol=1e-2)
        found = diag_jac(f, sparsity=given)(w, x)
        torch.testing.assert_close(found, diag_jac(f)(w, x), rtol=1e-2, atol=1e-2)


def test_gradients_by_the_input():
    w, x = inputs()
    x.requires_grad_()
    one, other = [
        torch.autograd.grad(jac.sin().sum(), (w, x))
        for jac in (sparse_jac(stencil)(w, x).to_dense(), batch_jac(stencil)(w, x))
    ]
    close(one, other)


# -------------------------------------------------------------------- compiled


COMPILED = [(transform, method) for transform in (sparse_jac, diag_jac) for method in ("auto", "reverse")]


def as_eager(case):
    transform, method = case
    w, x = inputs()
    fast = transform(stencil, sparsity="auto", compile=True, method=method)
    want = transform(stencil, sparsity="auto", method=method)(w, x)
    numbers = (lambda result: result.values) if transform is sparse_jac else (lambda result: result)
    for _ in range(2):
        found = fast(w, x)
        close(numbers(found), numbers(want))
    same_gradients(numbers(found), numbers(want), w)


@pytest.mark.parametrize("case", mostly_slow(COMPILED, COMPILED[::3]))
def test_what_is_compiled(case):
    with compiling_by(counter := CompileCounter()):
        as_eager(case)
    assert counter.frame_count > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_compiled_by_inductor(case):
    as_eager(case)


@pytest.mark.parametrize("method", mostly_slow(["auto", "reverse"], ["auto"]))
def test_inside_torch_compile_with_a_given_pattern(method):
    w, x = inputs()
    jac = sparse_jac(stencil, sparsity=sparsity(stencil)(w, x), method=method)
    compiled = torch.compile(lambda w, x: jac(w, x).values, fullgraph=True, backend="aot_eager")
    close(compiled(w, x), jac(w, x).values)
    same_gradients(compiled(w, x), jac(w, x).values, w)


def test_inside_torch_compile_without_one_it_is_refused():
    w, x = inputs()
    compiled = torch.compile(lambda w, x: sparse_jac(stencil)(w, x).values, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"pass sparsity=sparsity\(f\)"):
        compiled(w, x)


def test_under_torch_func_with_a_given_pattern():
    w, x = inputs()
    pattern = sparsity(stencil)(w, x)
    jac = lambda w, x: sparse_jac(stencil, sparsity=pattern, batch_dims=0)(w, x).values
    want = sparse_jac(stencil)(w, x).values
    close(torch.vmap(jac, (None, 0))(w, x), want)
    weights = torch.randn_like(want[0])
    found = torch.func.grad(lambda w: (jac(w, x[0]) * weights).sum())(w.detach())
    close(found, torch.autograd.grad((want[0] * weights).sum(), w)[0])


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
def test_inside_another_transform(method):
    w, x = inputs()
    pattern = sparsity(stencil)(w, x)
    want = batch_jac(batch_jac(stencil))(w, x)
    for given in ("auto", pattern)[method == "forward" :]:  # torch.func's jvp lets no pattern be looked for
        inner = sparse_jac(stencil, sparsity=given)
        close(batch_jac(lambda w, x, inner=inner: inner(w, x).to_dense(), method=method)(w, x), want)


def test_pattern_of_hessians():
    w, x = inputs()
    energy = lambda w, x: (x[:, 1:] * x[:, :-1]).sin().sum(1) * w[0]
    found = sparsity(energy, order=2)(w, x).to_dense()
    want = (torch.eye(6) + torch.ones(5).diag(1) + torch.ones(5).diag(-1)).bool()
    assert torch.equal(found, want)
    assert isinstance(sparsity(energy)(w, x), SparsityPattern)


# -------------------------------------------------------------------- what no single program tells


class Rolled(torch.nn.Module):
    by = 1

    def forward(self, x):
        return x * x.roll(self.by, 1)


@pytest.mark.parametrize("learned", [False, True], ids=["alone", "after another transform learned both"])
@pytest.mark.parametrize("kind", ["number", "index", "module"])
def test_a_number_around_that_changes_the_pattern(kind, learned):
    x, by, module = torch.rand(3, 6, dtype=DOUBLE), [1], Rolled()
    f = {
        "number": lambda x: x * x.roll(by[0], 1),
        "index": lambda x: x[:, (torch.arange(6) + by[0]) % 6] * x,
        "module": module,
    }[kind]

    def shift(number):
        by[0] = module.by = number

    if learned:
        other = diag_jac(f, sparsity="auto")
        for number in (1, 1, 2, 2):
            shift(number)
            other(x)
    jac = sparse_jac(f)
    for number in (1, 1, 2, 1, 1, 3, 3, 4, 4, 5, 2):
        shift(number)
        close(jac(x).to_dense(), batch_jac(f)(x))


# -------------------------------------------------------------------- second derivatives of one number


def chain(w, x):
    """An energy of neighbours: ``(N, 6)`` to ``(N,)``."""
    return ((x[:, 1:] - x[:, :-1]).square() * w.sin()).sum(1)


@pytest.mark.parametrize("aux", [False, True])
def test_the_diagonal_of_a_hessian(aux):
    x = torch.rand(3, 6, dtype=DOUBLE)
    w = torch.rand(5, dtype=DOUBLE, requires_grad=True)
    f = (lambda w, x: (chain(w, x), x.sum())) if aux else chain
    sparse = hess_diag(f, sparsity="auto", has_aux=aux)
    for _ in range(3):
        found = sparse(w, x)[0] if aux else sparse(w, x)
        want = hess_diag(chain)(w, x)
        close(found, want)
    (ours,) = torch.autograd.grad(found.square().sum(), w)
    (theirs,) = torch.autograd.grad(want.square().sum(), w)
    close(ours, theirs)
    assert dict(explain(sparse)(w, x).items())["passes (rows)"] == "2 in 1 chunk"


def test_the_diagonal_of_a_hessian_of_one_sample():
    w, x = torch.rand(5, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE)
    found = hess_diag(lambda w, x: chain(w, x[None])[0], sparsity="auto", batch_dims=0)(w, x)
    close(found, hess_diag(chain)(w, x[None])[0])


def test_what_has_no_such_diagonal_is_refused():
    w, x = torch.rand(5, dtype=DOUBLE), torch.rand(3, 6, dtype=DOUBLE)
    with pytest.raises(ShapeError, match=r"one number a sample, but a sample of the output has shape \(6,\)"):
        hess_diag(lambda x: x**2, sparsity="auto")(x)
    with pytest.raises(ArgumentError, match="return_value=True"):
        hess_diag(chain, sparsity="auto", return_value=True)
    with pytest.raises(UnsupportedOperationError, match="sparsity lacks entries"):
        hess_diag(chain, sparsity=torch.eye(6))(w, x)
