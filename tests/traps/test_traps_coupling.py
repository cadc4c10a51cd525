"""Traps of samples and masks: coupled samples, one tangent of ones, dropout; shown in torch, right or refused here."""

from __future__ import annotations

import dense
import pytest
import torch
from differences import stencil
from judging import CURED, METHODS, fails, far, first_difference
from torch import nn
from torch.func import jacfwd, jacrev, jvp, vmap

from jacfunc import CoupledSamplesError, batch_jac, check_independent, diag_jac, divergence, laplacian

DOUBLE = torch.float64
TRANSFORMS = [diag_jac, batch_jac, divergence, laplacian]


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (6, 3)), dtype=DOUBLE)


torch.manual_seed(0)
# Without statistics, which no torch.func transform could write to.
NORM = nn.BatchNorm1d(3, track_running_stats=False).double()
ATTENTION = nn.MultiheadAttention(3, 1).double()
COUPLED = {
    "training BatchNorm": lambda x: NORM(x) ** 3,
    "mean": lambda x: x.sin() - x.mean(0),
    "max": lambda x: x.sin() * x.amax(0),
    "softmax": lambda x: x.softmax(0),
    "cumsum": lambda x: x.sin().cumsum(0),
    "sort": lambda x: x.sin().sort(0).values,
    # Without batch_first: the batch is taken for the sequence.
    "attention": lambda x: ATTENTION(x[:, None], x[:, None], x[:, None])[0][:, 0],
    "Gram matrix": lambda x: (x @ x.T) @ x,
}


@pytest.mark.parametrize("name", COUPLED)
def test_torch_gives_nonsense_for_coupled_samples_by_the_sum_trick_and_by_one_batched_jvp(name):
    f, x = COUPLED[name], batch()
    truth = dense.jacobian(f, x)  # of each sample by itself, the others fixed
    z = x.clone().requires_grad_()
    y = f(z)
    summed = torch.stack([torch.autograd.grad(y[:, o].sum(), z, retain_graph=True)[0] for o in range(3)], 1)
    assert far(summed, truth), CURED
    rows = [jvp(f, (x,), (row.expand_as(x),))[1] for row in torch.eye(3, dtype=DOUBLE)]
    assert far(torch.stack(rows, -1), truth), CURED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", COUPLED)
def test_coupled_samples_are_refused(name, method):
    f, x = COUPLED[name], batch()
    for transform in TRANSFORMS:
        with pytest.raises(CoupledSamplesError, match=r"^output\[\d+\] changed by .* check=False if this is meant"):
            transform(f, method=method)(x)
    z = x.clone().requires_grad_()
    with pytest.raises(CoupledSamplesError):
        diag_jac(f, method=method)(z).sum().backward()
    with pytest.raises(CoupledSamplesError):
        torch.func.grad(lambda x: diag_jac(f, method=method)(x).sum())(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [name for name in COUPLED if name != "sort"])
def test_the_whole_jacobian_of_coupled_samples_is_that_of_one_sample(name, method):
    f, x = COUPLED[name], batch(4, 3)
    found = batch_jac(f, method=method, batch_dims=0)(x)
    truth = torch.stack(
        [stencil(lambda h, e=e: f(x + h * e.reshape(4, 3)), 1e-3).detach() for e in torch.eye(12, dtype=DOUBLE)], -1
    ).reshape(4, 3, 4, 3)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-7)


LAYERS = nn.ModuleDict(
    {
        "BatchNorm in eval": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh()),
        "LayerNorm": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        "attention within a sample": nn.TransformerEncoderLayer(
            3, 1, 4, batch_first=True, dropout=0.0, activation="gelu"
        ),
    }
).double()
LAYERS.eval()
INDEPENDENT = {
    "BatchNorm in eval": LAYERS["BatchNorm in eval"],
    "LayerNorm": LAYERS["LayerNorm"],
    "attention within a sample": lambda x: LAYERS["attention within a sample"](x[:, None] * x[:, :, None]).sum(1),
    "softmax of a sample": lambda x: x.softmax(1),
    "mean of a sample": lambda x: x - x.mean(1, keepdim=True),
    "sorted sample": lambda x: x.sin().sort(1).values,
    "cumsum of a sample": lambda x: x.sin().cumsum(1),
    "Gram matrix of a sample": lambda x: (x[:, :, None] * x[:, None, :]) @ x[:, :, None].sin() @ torch.ones(1, dtype=DOUBLE),
    "mean that falls out": lambda x: x.sin() + (x.mean(0) - x.mean(0)),
    "loop": lambda x: torch.stack([row.sin() for row in x]),
}  # fmt: skip


# Each gives the sine where there are so many samples, and no larger batch its own samples.
RETURNING = {
    "flipped and rolled": (2, lambda x: x.sin().flip(0).roll(1, 0)),
    "rolled thrice": (3, lambda x: x.roll(1, 0).sin().roll(1, 0).roll(1, 0)),
    "rolled by an index": (2, lambda x: x.flip(0)[(torch.arange(len(x)) + torch.tensor(1)) % len(x)].sin()),
    "flipped but for the ends": (3, lambda x: torch.cat([x[:1], x[1:-1].flip(0), x[-1:]]).sin()),
    "halves exchanged twice": (2, lambda x: x.sin().roll(len(x) // 2, 0).flip(0)),
}


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", RETURNING)
def test_few_samples_that_are_where_they_were_tell_nothing_of_more(name, compile):
    few, f = RETURNING[name]
    for transform in (diag_jac, laplacian):
        asked, x = transform(f, compile=compile), batch(9, 3)
        for _ in range(2):
            torch.testing.assert_close(asked(x[:few]), transform(torch.sin)(x[:few]))
            for samples in (4, 5, 7, 9):
                with pytest.raises(CoupledSamplesError):
                    asked(x[:samples])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", INDEPENDENT)
def test_what_looks_coupled_and_is_not_is_no_false_alarm(name, method):
    f, x = INDEPENDENT[name], batch()
    assert check_independent(f)(x)
    torch.testing.assert_close(batch_jac(f, method=method)(x), dense.jacobian(f, x))


# ------------------------------------------------------------ one tangent of ones


def test_torch_gives_a_row_sum_for_one_jvp_with_a_tangent_of_ones():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double(), batch()
    ones = (torch.ones_like(x),)
    assert far(jvp(net, (x,), ones)[1], dense.diagonal(net, x)), CURED
    torch.testing.assert_close(jvp(net, (x,), ones)[1], dense.jacobian(net, x).sum(2))
    torch.testing.assert_close(jvp(torch.sin, (x,), ones)[1], dense.diagonal(torch.sin, x))  # a diagonal map


@pytest.mark.parametrize("method", METHODS)
def test_the_diagonal_is_that_of_the_jacobian(method):
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double(), batch()
    direction = batch()
    for f in (net, torch.sin):
        torch.testing.assert_close(diag_jac(f, method=method)(x), dense.diagonal(f, x))
        slope = stencil(lambda h, f=f: dense.diagonal(f, x + h * direction).detach().square().sum(), 1e-3).item()
        z = x.clone().requires_grad_()
        diag_jac(f, method=method)(z).square().sum().backward()
        gradient = torch.func.grad(lambda x, f=f: diag_jac(f, method=method)(x).square().sum())(x)
        for found in (z.grad, gradient):
            assert (found * direction).sum().item() == pytest.approx(slope, rel=1e-6)


# ------------------------------------------------------------ dropout


DROP = nn.Dropout(0.5)
WIDE = 64


def dropped(x):
    """A mask on the sine of each of many features."""
    return DROP(x.sin())


def test_torch_has_no_or_a_wrong_mask_under_vmap():
    x = torch.ones(5, WIDE, dtype=DOUBLE)
    words = "random operation while in randomness error mode"
    assert fails(lambda: vmap(jacrev(dropped))(x), words), CURED
    assert fails(lambda: jacfwd(dropped)(x[0]), words), CURED
    # randomness="same": all samples have one mask.
    same = vmap(jacrev(dropped), randomness="same")(x).diagonal(dim1=1, dim2=2)
    assert (same == same[0]).all(), CURED


def test_torch_has_two_masks_in_two_passes():
    x = torch.ones(5, WIDE, dtype=DOUBLE)
    value = dropped(x)
    tangent = jvp(dropped, (x,), (torch.ones_like(x),))[1]
    assert ((value == 0) != (tangent == 0)).any(), CURED


def test_torch_draws_another_mask_for_every_column():
    # One scalar times a mask: every column of its Jacobian is the same, whatever the mask.
    f = lambda x: x.sum() * DROP(torch.ones(WIDE, dtype=DOUBLE))
    columns = jacfwd(f, randomness="different")(torch.ones(6, dtype=DOUBLE))
    assert (columns != columns[:, :1]).any(), CURED


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("method", METHODS)
def test_a_value_and_all_its_derivatives_have_one_mask(method, chunk_size):
    x = torch.rand(5, WIDE, dtype=DOUBLE) + 0.1
    for transform in (diag_jac, batch_jac):
        derivative, value = transform(dropped, method=method, return_value=True, chunk_size=chunk_size)(x)
        mask = value / x.sin()
        assert set(mask.round().unique().tolist()) == {0.0, 2.0}
        truth = first_difference(torch.sin, x) * mask
        found = derivative if transform is diag_jac else derivative.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(found, truth)
        assert (mask[1:] != mask[:1]).any()  # each sample has its own


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_and_gradients_have_the_mask_of_the_value(method):
    x = torch.rand(5, 8, dtype=DOUBLE) + 0.1
    derivative, value = laplacian(dropped, method=method, return_value=True)(x)
    torch.testing.assert_close(derivative, -value)  # the second derivative of the sine
    z = x.clone().requires_grad_()
    first, value = diag_jac(dropped, method=method, return_value=True)(z)
    first.sum().backward()
    torch.testing.assert_close(z.grad, -value.detach())

    def loss(x):
        first, value = diag_jac(dropped, method=method, return_value=True)(x)
        return first.sum(), value

    gradient, value = torch.func.grad(loss, has_aux=True)(x)
    torch.testing.assert_close(gradient, -value)


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_does_not_depend_on_the_column(method):
    f = lambda x: x.sum(1, keepdim=True) * DROP(torch.ones(len(x), WIDE, dtype=DOUBLE))
    found = batch_jac(f, method=method)(batch(4, 6))
    assert (found == found[:, :, :1]).all()
    assert set(found.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("method", METHODS)
def test_the_mask_is_that_of_a_plain_forward(method):
    x = batch(5, WIDE)
    torch.manual_seed(3)
    plain = [dropped(x) for _ in range(2)]
    torch.manual_seed(3)
    for expected in plain:
        _, value = diag_jac(dropped, method=method, return_value=True)(x)
        assert torch.equal(value, expected)
