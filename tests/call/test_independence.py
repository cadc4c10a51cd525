"""Coupled samples are all refused, independent ones that merely look odd are none; the check costs two forwards, once."""

from __future__ import annotations

import gc
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jacfunc import (
    ArgumentError,
    CoupledSamplesError,
    IndependenceWarning,
    batch_jac,
    check_independent,
    diag_jac,
    explain,
    laplacian,
    make_functional,
)
from jacfunc.call.independence import Independence
from jacfunc.core import caches


def module(make):
    torch.manual_seed(0)
    return make().double()


LSTM = module(lambda: nn.LSTM(3, 3))
GRU = module(lambda: nn.GRU(3, 3))
ATTENTION = module(lambda: nn.MultiheadAttention(3, 1))
ENCODER = module(lambda: nn.TransformerEncoderLayer(3, 1, 4))
NORM = module(lambda: nn.BatchNorm1d(3))
NORM_IN_NET = module(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)))
NORM_WITHOUT_STATISTICS = module(lambda: nn.BatchNorm1d(3, track_running_stats=False)).eval()


def previous(x):
    return x + torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def shuffled(x):
    return x * x[torch.randperm(len(x), generator=torch.Generator().manual_seed(5))]


def paired(x):
    return (x.reshape(-1, 2, 3) - x.reshape(-1, 2, 3).mean(1, keepdim=True)).reshape(-1, 3)


def running(x):
    total, rows = 0, []
    for row in x:
        total = 0.9 * total + row
        rows.append(total)
    return torch.stack(rows)


COUPLED = {
    "mean": lambda x: x - x.mean(0),
    "one mean": lambda x: x * x.mean(),
    "tiny mean": lambda x: x + 1e-6 * x.mean(0),
    "std": lambda x: x / x.std(0),
    "max": lambda x: x - x.amax(0),
    "min": lambda x: x - x.amin(0),
    "median": lambda x: x - x.median(0).values,
    "softmax": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(0),
    "cummax": lambda x: x.cummax(0).values,
    "sort": lambda x: x.sort(0).values,
    "rank": lambda x: x * x[:, 0].argsort().argsort()[:, None],
    "flip": lambda x: x + x.flip(0),
    "roll": lambda x: x * x.roll(1, 0),
    "previous": previous,
    "shuffled": shuffled,
    "paired": paired,
    "running": running,
    "gram": lambda x: (x @ x.T) @ x,
    "cdist": lambda x: torch.cdist(x, x).sum(1, keepdim=True) * x,
    "normalised": lambda x: F.normalize(x, dim=0),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "module in training": NORM,
    "module inside": NORM_IN_NET,
    "no statistics": NORM_WITHOUT_STATISTICS,
    "whole layer norm": lambda x: F.layer_norm(x, x.shape),
    "first sample": lambda x: x - x[:1],
    "last sample": lambda x: x * x[-1:],
    "outer kernel": lambda x: F.conv1d(x.T[None], torch.ones(3, 3, 3, dtype=x.dtype), padding=1)[0].T,
    "lstm": lambda x: LSTM(x[:, None])[0][:, 0],
    "gru": lambda x: GRU(x[:, None])[0][:, 0],
    "attention": lambda x: ATTENTION(x[:, None], x[:, None], x[:, None])[0][:, 0],
    "encoder": lambda x: ENCODER(x[:, None])[:, 0],
    "fft": lambda x: torch.fft.fft(x, dim=0).real,
    "clipped at the mean": lambda x: x.clamp(max=x.abs().mean()),
}

TABLE = torch.arange(10.0, dtype=torch.float64)


def fragile(x):
    if not bool((x.abs() < 50).all()):
        raise ValueError("only small numbers")
    return x.sin()


def tiny_branch(x):
    return x * (2 if len(x) > 3 else 1)


def with_numpy_noise(x):
    return x * torch.from_numpy(np.random.standard_normal(x.shape))


def with_python_noise(x):
    return x * random.random()


INDEPENDENT = {
    "elementwise": torch.tanh,
    "batch size": lambda x: x * len(x),
    "divided by the batch size": lambda x: x.sin() / x.shape[0],
    "branch on the batch size": tiny_branch,
    "softmax of a sample": lambda x: x.softmax(1),
    "sorted sample": lambda x: x.sort(1).values,
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: F.group_norm(x, 1),
    "batch norm in eval": lambda x: F.batch_norm(x, torch.ones(3).to(x), torch.ones(3).to(x)),
    "dropout": lambda x: F.dropout(x, 0.5),
    "noise": lambda x: x + torch.randn_like(x),
    "numpy noise": with_numpy_noise,
    "python noise": with_python_noise,
    "mean subtracted and added": lambda x: x + (x.mean(0) - x.mean(0)),
    "position": lambda x: x * torch.arange(len(x), dtype=x.dtype)[:, None],
    "loop over samples": lambda x: torch.stack([row.sin() for row in x]),
    "flip twice": lambda x: x.flip(0).exp().flip(0),
    "transposed twice": lambda x: (x.T * 2).T,
    "gather": lambda x: x[:, [2, 0, 1]],
    "lookup": lambda x: x * TABLE[x.detach().abs().long()],
    "huge": lambda x: x * 1e200,
    "sqrt of some negatives": torch.sqrt,
    "constant": torch.ones_like,
    "random constant": lambda x: torch.rand_like(x),
    "solve": lambda x: torch.linalg.solve(torch.eye(3).to(x) + x[:, :, None] * x[:, None, :], x),
    "fails on outliers": fragile,
    "chunks": lambda x: torch.cat([part.sin() for part in x.split(2)]),
    "scatter": lambda x: torch.zeros_like(x).index_add_(0, torch.arange(len(x)), x.sin()),
    "half precision inside": lambda x: x.half().sin().to(x.dtype),
}


def batch(size: int = 8) -> torch.Tensor:
    return torch.randn(size, 3, dtype=torch.float64)


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("size", [4, 6, 8, 32])
def test_coupled_samples_are_refused(name, size):
    with pytest.raises(CoupledSamplesError, match=r"^output\[\d+\] changed by .* check=False if this is meant$"):
        batch_jac(COUPLED[name])(batch(size))


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("size", [2, 3, 8, 32])
def test_independent_samples_are_not_refused(name, size):
    assert check_independent(INDEPENDENT[name])(batch(size))
    assert batch_jac(INDEPENDENT[name])(batch(size)).shape == (size, 3, 3)


@pytest.mark.parametrize("name", ["mean", "max", "min", "cumsum", "flip", "previous", "first sample", "last sample"])
@pytest.mark.parametrize("size", [2, 3])
def test_two_or_three_samples_are_enough(name, size):
    with pytest.raises(CoupledSamplesError):
        diag_jac(COUPLED[name])(batch(size))


@pytest.mark.parametrize("size", range(2, 13))
def test_no_shift_is_missed(size):
    for shift in range(1, size):
        with pytest.raises(CoupledSamplesError):
            check_independent(lambda x, shift=shift: x + x.roll(shift, 0))(batch(size))
    with pytest.raises(CoupledSamplesError):
        check_independent(lambda x: x + x.flip(0))(batch(size))


@pytest.mark.parametrize(
    ("layer", "hint"),
    [(NORM_IN_NET, "BatchNorm1d '1' .*eval"), (LSTM, "LSTM with batch_first=False"), (ENCODER, "batch_first")],
)
def test_the_message_names_the_layer(layer, hint):
    def f(x):
        y = layer(x if layer is NORM_IN_NET else x[:, None])
        return y[0][:, 0] if isinstance(y, tuple) else y.reshape(x.shape)

    with pytest.raises(CoupledSamplesError, match=hint):
        diag_jac(f)(batch())


def test_coupling_along_a_second_sample_axis():
    x = torch.randn(3, 4, 2)
    assert check_independent(torch.sin, batch_dims=2)(x)
    assert check_independent(lambda x: x - x.mean(1, keepdim=True))(x)
    with pytest.raises(CoupledSamplesError, match=r"output\[\d, \d\]"):
        check_independent(lambda x: x - x.mean(1, keepdim=True), batch_dims=2)(x)


def test_coupling_through_any_selected_argument():
    x, y = batch(), batch()
    f = lambda x, y: x + y.mean(0)
    assert check_independent(f, argnums=0)(x, y)
    with pytest.raises(CoupledSamplesError):
        check_independent(f, argnums=(0, 1))(x, y)


def test_other_outputs_are_named_by_their_path():
    with pytest.raises(CoupledSamplesError, match=r"^output\['b'\]\[1\]\["):
        diag_jac(lambda x: {"a": x, "b": (x, x - x.mean(0))})(batch())


def test_aux_may_couple_samples():
    derivative, mean = diag_jac(lambda x: (x.sin(), x.mean(0)), has_aux=True)(x := batch())
    torch.testing.assert_close(derivative, x.cos())
    torch.testing.assert_close(mean, x.mean(0))


def test_unchecked_coupling_is_the_users_own_affair():
    assert diag_jac(COUPLED["mean"], check=False)(batch()).shape == (8, 3)


def test_irreproducible_functions_warn():
    calls = iter(range(1000))
    with pytest.warns(IndependenceWarning, match="evaluated again"):
        diag_jac(lambda x: x + next(calls))(batch())


@pytest.mark.parametrize("f", [nn.RReLU(), lambda x: F.rrelu(x, training=True).sin()], ids=["module", "function"])
def test_functions_that_draw_more_numbers_for_some_values_warn(f):
    with pytest.warns(IndependenceWarning, match="draws more random numbers for some values"):
        derivative = diag_jac(f)(batch())
    assert bool((derivative != 0).all())


@pytest.mark.filterwarnings("ignore:f draws more random numbers")
def test_equally_many_numbers_by_chance_are_no_coupling():
    for seed in range(60):
        torch.manual_seed(seed)
        diag_jac(nn.RReLU())(batch())  # another function for every seed


def test_without_a_finite_output_nothing_is_decided_or_remembered():
    f = lambda x: x / x.sum(0, keepdim=True)
    blind = torch.full((4, 3), torch.nan, dtype=torch.float64)
    assert not check_independent(f)(blind)
    assert diag_jac(f)(blind).isnan().all()
    with pytest.raises(CoupledSamplesError):
        diag_jac(f)(batch(4))


def test_functions_that_refuse_every_replacement_warn():
    x = batch()

    def f(y):
        if not torch.equal(y.detach(), x):
            raise ValueError("only this batch")
        return y.sin()

    with pytest.warns(IndependenceWarning, match="only this batch"):
        diag_jac(f)(x)


class Counted:
    """Counts evaluations; one object, so one function."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x.sin()


def evaluations(f, call) -> int:
    before = f.calls
    call()
    return f.calls - before


def test_the_check_costs_two_forwards_once():
    unchecked, f = Counted(), Counted()
    first = evaluations(unchecked, lambda: diag_jac(unchecked, check=False)(batch()))
    assert evaluations(f, lambda: diag_jac(f)(batch())) == first + 2
    assert evaluations(f, lambda: diag_jac(f)(batch())) == 1
    assert evaluations(f, lambda: diag_jac(f)(batch(5))) == 1  # another number of samples is no other function


def test_lambdas_made_anew_at_every_step_are_checked_once():
    net = nn.Linear(3, 3).double()
    f, params = make_functional(net)
    seen = []
    net.register_forward_hook(lambda *_: seen.append(1))
    for step in range(5):
        t = torch.rand(8, 1, dtype=torch.float64)
        diag_jac(lambda x, t=t: f(params, x) * t)(batch())
        # At first a look, two probes, and twice to hold jets against reverse mode; then once.
        assert len(seen) == (6 if step == 0 else 1)
        seen.clear()


def test_what_a_lambda_closes_over_makes_it_another_function():
    for scale, refused in ((0.0, False), (1.0, True)):
        f = lambda x, scale=scale: x + scale * x.mean(0)
        if refused:
            with pytest.raises(CoupledSamplesError):
                diag_jac(f)(batch())
        else:
            diag_jac(f)(batch())


def test_switching_to_training_is_checked_again():
    net = module(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))).eval()
    f, params = make_functional(net)
    for transform in (diag_jac(f), diag_jac(lambda params, x: net(x))):
        net.eval()
        transform(params, batch())
        net.train()
        with pytest.raises(CoupledSamplesError):
            transform(params, batch())


def test_one_sample_is_not_remembered():
    f = lambda x: x - x.mean(0)
    diag_jac(f)(batch(1))
    with pytest.raises(CoupledSamplesError):
        diag_jac(f)(batch(2))


def test_memories_go_with_the_function():
    net = nn.Linear(3, 3).double()
    diag_jac(net)(batch())
    assert len(caches.PLANS) == len(caches.INDEPENDENT) == 1
    del net
    gc.collect()
    assert len(caches.PLANS) == len(caches.INDEPENDENT) == 0


def test_under_vmap_the_first_one_is_checked():
    x, rng = torch.randn(2, 4, 3), torch.get_rng_state()
    with pytest.raises(CoupledSamplesError, match="drop the torch.vmap around this call"):
        torch.func.vmap(diag_jac(lambda x: x - x.mean(0)))(x)
    with pytest.raises(CoupledSamplesError):
        torch.func.vmap(torch.func.grad(lambda x: laplacian(lambda x: x - x.mean(0))(x).sum()))(x)
    scaled = diag_jac(lambda w, x: w * (x - x.mean(0)))
    with pytest.raises(CoupledSamplesError):
        torch.func.vmap(torch.func.vmap(scaled, in_dims=(0, None)), in_dims=(None, 0))(torch.ones(3), x)
    assert torch.equal(torch.get_rng_state(), rng)
    plans = []
    f = lambda x: x.sin()
    torch.func.vmap(lambda x: plans.append(explain(diag_jac(f))(x)) or x)(x)
    assert plans[0].plan.findings.independence is Independence.CHECKED


def test_a_vmap_around_what_takes_the_batch_by_itself_is_refused():
    """A square network would give row sums of Jacobians, of the shape that the diagonals have."""
    net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 3)
    f, params = make_functional(net)
    for transform in (diag_jac, batch_jac, laplacian):
        with pytest.raises(CoupledSamplesError, match="drop the torch.vmap"):
            torch.func.vmap(transform(net))(x)
        with pytest.raises(CoupledSamplesError, match="drop the torch.vmap"):
            torch.func.vmap(transform(f), in_dims=(None, 0))(params, x)
    one = torch.func.vmap(batch_jac(net, batch_dims=0))(x)
    assert torch.allclose(one, batch_jac(net)(x), atol=1e-6)


def test_under_vmap_what_closes_over_the_mapped_is_not_checked():
    plans = []

    def scaled(w):
        transform = diag_jac(lambda x: w * x.sin())
        plans.append(explain(transform)(x))
        return transform(x)

    x, weights = torch.randn(4, 3), torch.randn(2, 3)
    found = torch.func.vmap(scaled)(weights)
    assert plans[0].plan.findings.independence is Independence.UNSEEN
    assert torch.allclose(found, weights[:, None] * x.cos())


def test_under_grad_it_is_checked():
    with pytest.raises(CoupledSamplesError):
        torch.func.grad(lambda x: laplacian(lambda x: x - x.mean(0))(x).sum())(batch())


@pytest.mark.parametrize("name", ["module in training", "module inside"])
def test_a_refusal_leaves_the_running_statistics_alone(name):
    net = COUPLED[name]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for f in (net, lambda x: net(x)):
        with pytest.raises(CoupledSamplesError):
            diag_jac(f)(batch())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_another_submodule_is_checked_again():
    net = module(lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)))
    calls = [lambda: diag_jac(net)(batch()), lambda: diag_jac(lambda x: net(x))(batch())]
    for call in calls:
        call()
    net[1] = nn.BatchNorm1d(3).double()
    for call in calls:
        with pytest.raises(CoupledSamplesError, match="BatchNorm1d '1'"):
            call()


def test_a_hook_is_checked_again():
    net = module(lambda: nn.Sequential(nn.Linear(3, 3)))
    diag_jac(net)(batch())
    net[0].register_forward_hook(lambda _, args, y: y - y.mean(0))
    with pytest.raises(CoupledSamplesError):
        diag_jac(net)(batch())


def test_one_sample_given_as_a_batch_is_told_of_batch_dims():
    with pytest.raises(CoupledSamplesError, match="pass batch_dims=0 if the input is one sample, or check=False"):
        diag_jac(nn.Linear(6, 6))(torch.randn(6))


class Counter:
    calls = 0


def test_what_no_finite_output_left_open_is_found_out_once():
    counter = Counter()

    def f(x):
        counter.calls += 1
        return x.log()

    derivative = diag_jac(f, method="reverse")
    x = torch.rand(6, 3, dtype=torch.float64) + 0.5
    derivative(-x)
    derivative(x)  # which is checked
    counter.calls = 0
    derivative(x)
    assert counter.calls == 1


def test_a_coupling_is_found_behind_outputs_that_were_not_finite():
    coupled = diag_jac(lambda x: x - x.mean(0))
    x = torch.rand(6, 3, dtype=torch.float64)
    coupled(x * float("nan"))
    with pytest.raises(CoupledSamplesError):
        coupled(x)


# -------------------------------------------------------------------- rounding is no influence


def posterior_mean(seed, dtype, noise):
    """Of a Gaussian process whose kernel subtracts the mean of the batch, as gpytorch's does, and points for it."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(30, 2, generator=generator, dtype=dtype)

    def kernel(a, b):
        a, b = a - a.mean(-2, keepdim=True), b - a.mean(-2, keepdim=True)
        squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1)[None] - 2 * a @ b.T
        return torch.exp(-squares.clamp(min=0) / 0.18)

    covariance = kernel(known, known) + noise * torch.eye(30, dtype=dtype)
    weights = torch.linalg.solve(covariance.double(), torch.sin(3 * known.double()).sum(1)).to(dtype)
    return lambda x: (kernel(x, known) @ weights)[:, None], torch.rand(100, 2, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 3, 5, 20, 100])
def test_kernels_that_subtract_the_mean_of_the_batch_are_not_refused(count, dtype):
    for seed in range(10):
        for noise in (1e-2, 1e-4, 1e-8):
            f, x = posterior_mean(seed, dtype, noise)
            assert diag_jac(f)(x[:count]).isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize(
    "part",
    [
        lambda x: x.mean(0),
        lambda x: x.amax(0),
        lambda x: x.flip(0),
        lambda x: torch.relu(x.mean(0) - 1),
        lambda x: torch.sign(x.mean(0)),
        lambda x: torch.sin(1e4 * x.mean(0)),
        lambda x: x * x.norm(),
        lambda x: torch.exp(-x.square().mean(0)),
    ],
)
def test_however_small_an_influence_is_it_is_no_rounding(part, scale):
    for count in (2, 5, 30):
        x = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
        with pytest.raises(CoupledSamplesError):
            diag_jac(lambda x: x.sin() + scale * part(x))(x)


def little(scale):
    return lambda x: x.sin() + scale * torch.tanh(x.mean(0))


def test_an_influence_within_the_tolerance_is_none():
    x = torch.randn(12, 3, dtype=torch.float64)
    with pytest.raises(CoupledSamplesError, match=r"of its size\) when .* or check_tolerance=1e-0[34] for") as told:
        diag_jac(little(1e-6))(x)
    tolerance = float(re.search("check_tolerance=([0-9e.-]+)", str(told.value))[1])  # as it is told to
    found = diag_jac(little(1e-6), check_tolerance=tolerance)(x)
    torch.testing.assert_close(found, x.cos(), rtol=1e-4, atol=1e-4)
    assert check_independent(little(1e-6), check_tolerance=tolerance)(x)
    for scale in (1e-2, 1.0):  # the same program, and another verdict
        with pytest.raises(CoupledSamplesError):
            diag_jac(little(scale), check_tolerance=tolerance)(x)
    with pytest.raises(CoupledSamplesError):  # what was found with a tolerance holds with this alone
        diag_jac(little(1e-6))(x)


BESIDE_LARGE = {
    "a component": lambda x: torch.stack([1e3 * x[:, 0].sin(), x[:, 1].sin() + x[:, 1].mean().sin()], 1),
    "a time": lambda x: torch.stack([1e3 * x, x.sin() + x.mean(0).sin()], 1),
    "a sample": lambda x: x * torch.ones(len(x), 1).index_fill(0, torch.tensor([0]), 1e3) + torch.sin(x.mean(0)),
}


@pytest.mark.parametrize("name", BESIDE_LARGE)
def test_the_tolerance_is_of_each_numbers_own_size(name):
    for seed in range(10):
        x = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))
        with pytest.raises(CoupledSamplesError):
            batch_jac(BESIDE_LARGE[name], check_tolerance=1e-2)(x)


def test_blocks_are_compared_within_the_tolerance_as_well():
    x = torch.randn(32, 3, dtype=torch.float64)
    steps = lambda x: x.sin() * (1 + 1e-6 * torch.tanh(x.square().mean()))
    found = diag_jac(steps, check_tolerance=1e-4, sample_chunk_size=8)(x)
    torch.testing.assert_close(found, x.cos(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ArgumentError, match="f gives other values for samples alone"):
        diag_jac(lambda x: x.sin() / len(x), check_tolerance=1e-4, sample_chunk_size=8)(x)
