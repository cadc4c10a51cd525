"""What torch.compile is handed: many networks, transforms and batch sizes in one process."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from jacfunc import (
    batch_jac,
    biharmonic,
    diag_jac,
    divergence,
    hess_diag,
    laplacian,
    make_functional,
    partials,
    residual,
)
from jacfunc.call import compiled
from jacfunc.call.entrance import entrance

DOUBLE = torch.float64
NAMES = {"inputs": "t x", "outputs": "u v"}


def net(width: int) -> nn.Module:
    inner = nn.Linear(width, width + 1), nn.SiLU(), nn.Linear(width + 1, 2)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), *inner).double()


def named(f, **keywords):
    return partials(f, "u u_t v_x", **NAMES, **keywords)


def equation(f, **keywords):
    return residual(f, lambda d: d.u_t - d.v_xx, **NAMES, **keywords)


TRANSFORMS = {
    "diag_jac": diag_jac,
    "batch_jac": batch_jac,
    "divergence": divergence,
    "hess_diag": hess_diag,
    "laplacian": laplacian,
    "partials": named,
    "residual": equation,
    "biharmonic": biharmonic,
    "with value": functools.partial(laplacian, return_value=True),
    "reverse": functools.partial(diag_jac, method="reverse"),
}


def by_keyword(transform, f, params, x, counting):
    return transform(f, compile=True)(params, x)


def by_user(transform, f, params, x, counting):
    made = transform(f)
    made(params, x)  # by which a residual finds out what its equation reads
    return torch.compile(made, fullgraph=True, backend=counting)(params, x)


WAYS = {"compile=True": by_keyword, "torch.compile": by_user}


def small(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2)).double()


def compiled_in_random_order(monkeypatch, pairs, sizes, ways=WAYS, build=net):
    """How often each pair of a network and a transform was compiled, by each way."""
    counting = CompileCounter()
    monkeypatch.setattr(compiled.torch, "compile", functools.partial(torch.compile, backend=counting))
    torch._dynamo.reset()
    made = {place: make_functional(build(4 + place)) for place, _ in pairs}
    jobs = list(itertools.product(pairs, ways, sizes))
    random.Random(0).shuffle(jobs)
    counts: dict[tuple, int] = {}
    for (place, name), way, size in jobs:
        f, params = made[place]
        x = torch.randn(size, 2, dtype=DOUBLE)
        before = counting.frame_count
        found = ways[way](TRANSFORMS[name], f, params, x, counting)
        key = (place, name, way)
        counts[key] = counts.get(key, 0) + counting.frame_count - before
        truth = TRANSFORMS[name](f)(params, x)
        torch.testing.assert_close(_tensors(found), _tensors(truth))
    return counts


def _tensors(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.parametrize("number", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_networks_are_each_compiled_once(monkeypatch, number):
    pairs = [(place, "diag_jac") for place in range(number)]
    counts = compiled_in_random_order(monkeypatch, pairs, (3,), {"torch.compile": by_user}, small)
    assert list(counts.values()) == [1] * number


@pytest.mark.slow
def test_other_sizes_are_compiled_once_more(monkeypatch):
    counts = compiled_in_random_order(monkeypatch, [(0, "diag_jac")], (3, 5, 7))
    assert list(counts.values()) == [2, 2]


@pytest.mark.slow  # 300 calls and 120 compilations
def test_ten_networks_ten_transforms_and_five_sizes(monkeypatch):
    """Each network under three of the transforms, each transform of three of the networks."""
    names = list(TRANSFORMS)
    pairs = [(place, names[(place + step) % 10]) for place in range(10) for step in (0, 3, 7)]
    counts = compiled_in_random_order(monkeypatch, pairs, (3, 5, 7, 9, 11))
    assert len(counts) == 60
    assert max(counts.values()) <= 2


def test_a_function_of_a_users_own_takes_two_networks():
    counting = CompileCounter()
    torch._dynamo.reset()

    @functools.partial(torch.compile, fullgraph=True, backend=counting)
    def step(f, params, x):
        return laplacian(f)(params, x).square().mean()

    for width in (4, 7):
        f, params = make_functional(net(width))
        x = torch.randn(5, 2, dtype=DOUBLE)
        truth = laplacian(f)(params, x).square().mean()
        found = step(f, params, x)
        torch.testing.assert_close(found, truth)
        own = [torch.autograd.grad(loss, params.values(), allow_unused=True)[:4] for loss in (found, truth)]
        torch.testing.assert_close(*own)


def test_transforms_made_alike_share_code_and_others_do_not():
    f, _ = make_functional(net(4))
    g, _ = make_functional(net(4))
    same = entrance(laplacian(f)).__code__
    assert entrance(laplacian(f)).__code__ is same
    others = [laplacian(g), hess_diag(f), laplacian(f, return_value=True), biharmonic(f)]
    assert all(entrance(other).__code__ is not same for other in others)


def test_a_transform_that_is_compiled_is_still_itself():
    transform = diag_jac(torch.sin)
    assert transform._torchdynamo_wrapper_id == id(transform)
    x = torch.randn(4, 3, dtype=DOUBLE)
    torch.testing.assert_close(torch.compile(transform, backend="eager")(x), x.cos())
