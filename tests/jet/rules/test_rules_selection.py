"""Rules that choose, order, move and put elements, against nested reverse mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from jet_truth import Function, check
from propagated import propagated
from torch.nn import functional as F

from jacfunc.jet import CannotFollowError, fallback


@dataclass(frozen=True)
class Case:
    """A function of a batch; ``ties``: on rounded numbers, of which some are equal (then to first order)."""

    name: str
    f: Function
    shape: tuple[int, ...] = (3, 4)
    order: int = 3
    ties: bool = False
    reference: Function | None = None

    def input(self) -> torch.Tensor:
        x = torch.randn(self.shape, dtype=torch.double, generator=torch.Generator().manual_seed(3))
        return (x * 2).round() / 2 if self.ties else x

    def __str__(self) -> str:
        return self.name


def _shift(shape: tuple[int, ...], seed: int = 11) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


B = _shift((3, 4))
MASK = _shift((3, 4), 12) > 0
INDEX = torch.tensor([[0, 2, 1, 3], [3, 3, 0, 0], [1, 2, 2, 0]])
PLACES = torch.tensor([2, 0])
MANY = torch.tensor([1, 0, 2, 3])


def sq(x):
    return x * x.sin()  # so that every order is there


def both(function: Callable, name: str | None = None, **options) -> list[Case]:
    """A function of one tensor and a parameter, on smooth input and on input with ties."""
    name = name or function.__name__
    smooth = Case(name, lambda x: function(sq(x), **options))
    return [smooth, Case(f"{name}-ties", lambda x: function(x, **options), order=1, ties=True)]


CASES = [
    Case("clamp", lambda x: sq(x).clamp(-0.4, 0.7)),
    Case("clamp-at-bound", lambda x: x.clamp(-0.5, 0.5), ties=True),
    Case("clamp-tensors", lambda x: torch.clamp(sq(x), B - 0.5, B + 0.5)),
    Case("clamp-crossed", lambda x: torch.clamp(x, x.cos() + 0.3, x.sin())),
    Case("clamp-jet-bounds", lambda x: torch.clamp(B, x, x + 0.5)),
    Case("clamp-jet-minimum", lambda x: torch.clamp(B, min=sq(x))),
    Case("clamp_min", lambda x: torch.clamp_min(sq(x), 0.1)),
    Case("clamp_max", lambda x: sq(x).clamp_max(B)),
    Case("clip", lambda x: torch.clip(sq(x), max=0.2)),
    Case("clamp_", lambda x: sq(x).clamp_(-0.4, 0.7)),
    Case("where", lambda x: torch.where(x > 0, sq(x), x.exp())),
    Case("where-scalar", lambda x: torch.where(MASK, 0.0, sq(x))),
    Case("where-broadcast", lambda x: torch.where(MASK[:, None], sq(x), B[:, None].expand(3, 2, 4)), (2, 4)),
    Case("where-method", lambda x: sq(x).where(MASK, x.exp())),
    Case("masked_fill", lambda x: sq(x).masked_fill(MASK, 2.0)),
    Case("masked_fill-jet", lambda x: torch.masked_fill(B, MASK, sq(x).sum())),
    Case("masked_fill_", lambda x: sq(x).masked_fill_(MASK, -torch.inf).exp()),
    Case("masked_select", lambda x: sq(x).masked_select(MASK)),
    Case("masked_select-broadcast", lambda x: sq(x).masked_select(MASK[:, :1])),
    *[
        case
        for name in ("maximum", "minimum", "fmax", "fmin", "max", "min")
        for case in (
            Case(f"{name}-two", lambda x, name=name: getattr(torch, name)(sq(x), x.cos())),
            Case(f"{name}-constant", lambda x, name=name: getattr(torch, name)(B, sq(x))),
            Case(f"{name}-tied", lambda x, name=name: getattr(torch, name)(x, x.flip(1)), order=1, ties=True),
        )
    ],
    *[
        case
        for name in ("max", "min", "median", "nanmedian")
        for case in (
            *both(getattr(torch, name)),
            Case(f"{name}-dim", lambda x, name=name: getattr(sq(x), name)(1)[0]),
            Case(f"{name}-keepdim", lambda x, name=name: getattr(sq(x), name)(dim=-1, keepdim=True).values),
        )
    ],
    Case("kthvalue", lambda x: torch.kthvalue(sq(x), 2, 1).values),
    Case("mode", lambda x: torch.mode(sq(x), 1).values),
    Case("sort", lambda x: sq(x).sort(1, descending=True).values),
    Case("sort-stable", lambda x: torch.sort(sq(x), stable=True, dim=-1)[0]),
    Case("msort", lambda x: torch.msort(sq(x))),
    Case("topk", lambda x: torch.topk(sq(x), 2, 1)[0]),
    Case("cummax", lambda x: sq(x).cummax(1).values),
    Case("cummin", lambda x: sq(x).cummin(-1)[0]),
    *both(torch.amax, dim=1),
    *both(torch.amin, dim=(0, 1), keepdim=True),
    *both(lambda x: torch.stack([*torch.aminmax(x)]), "aminmax"),
    *both(lambda x: torch.stack([*torch.aminmax(x, dim=1)]), "aminmax-dim"),
    Case("quantile", lambda x: torch.quantile(sq(x), torch.tensor([0.1, 0.6], dtype=torch.double), 1)),
    Case("quantile-keepdim", lambda x: torch.quantile(sq(x), 0.3, 1, True, interpolation="higher")),
    Case("quantile-all", lambda x: sq(x).quantile(0.3, interpolation="midpoint")),
    Case("nanquantile", lambda x: torch.nanquantile(torch.where(MASK, sq(x), torch.nan), 0.45, 1)),
    Case("quantile-q", lambda x: torch.quantile(B, x.sigmoid()[:, 0], 1)),
    Case("quantile-both", lambda x: torch.quantile(sq(x), x.sigmoid()[0], 0, True)),
    Case("quantile-both-nearest", lambda x: torch.nanquantile(sq(x), x.sigmoid()[0], interpolation="nearest")),
    Case(
        "no-axis",
        lambda x: x.sum().sin().roll(3) + torch.take(x.sum(), INDEX * 0) + x[0, 0].sin().gather(0, PLACES[1:]),
    ),
    Case(
        "no-axis-along",
        lambda x: torch.take_along_dim(x.sum().sin(), INDEX * 0) + torch.stack(torch.aminmax(x.sum(), dim=0)).sum(),
        reference=lambda x: (
            torch.take_along_dim(x.sum().sin(), INDEX * 0) + 2 * x.sum()
        ),  # torch 2.11 has none of aminmax
    ),
    Case("gather", lambda x: sq(x).gather(1, INDEX)),
    Case("take", lambda x: torch.take(sq(x), INDEX)),
    Case("take_along_dim", lambda x: torch.take_along_dim(sq(x), INDEX[:1], 1)),
    Case("take_along_dim-flat", lambda x: torch.take_along_dim(sq(x), INDEX)),
    Case("repeat_interleave", lambda x: sq(x).repeat_interleave(MANY, 1)),
    Case("repeat_interleave-flat", lambda x: torch.repeat_interleave(sq(x), 2)),
    Case("embedding", lambda x: F.embedding(torch.tensor([[0, 2], [1, 1]]), sq(x), padding_idx=1)),
    Case("scatter-self", lambda x: sq(x).scatter(1, INDEX[:, :2], 1.5)),
    Case("scatter-both", lambda x: sq(x).scatter(1, INDEX[:1], x.exp()[:1])),
    Case("scatter-src", lambda x: torch.scatter(B, 1, torch.arange(4).flip(0).expand(3, 4), sq(x))),
    Case("scatter_", lambda x: sq(x).scatter_(1, INDEX[:, :2], 1.5)),
    Case("scatter_add", lambda x: torch.scatter_add(sq(x), 1, INDEX, x.exp())),
    Case("scatter_add-src", lambda x: torch.scatter_add(B, 1, INDEX, sq(x))),
    Case("scatter_reduce-sum", lambda x: torch.scatter_reduce(sq(x), 1, INDEX, x.exp(), "sum")),
    Case("scatter_reduce-mean", lambda x: sq(x).scatter_reduce(1, INDEX, x.exp(), "mean", include_self=False)),
    *[
        Case(
            f"scatter_reduce-{name}-{own}",
            lambda x, n=name, o=own: sq(x).scatter_reduce(1, INDEX, x.exp(), n, include_self=o),
        )
        for name in ("amax", "amin")
        for own in (True, False)
    ],
    # Not without itself, where torch shares with what is not there.
    Case("scatter_reduce-ties", lambda x: torch.scatter_reduce(x, 1, INDEX, x.flip(0), "amax"), order=1, ties=True),
    Case("scatter_reduce-src", lambda x: torch.scatter_reduce(B, 1, INDEX[:, :2], sq(x)[:, :2], "amax")),
    *[
        Case(
            f"index_reduce-{name}",
            lambda x, n=name: (
                sq(x).index_reduce(1, PLACES, x.exp()[:, :2], n)
                + B.index_reduce(0, PLACES, x[:2], n, include_self=False)
            ),
        )
        for name in ("amax", "amin", "mean")
    ],
    Case("scatter_reduce-prod", lambda x: sq(x).scatter_reduce(1, INDEX, x.exp(), "prod"), order=1),
    Case("put", lambda x: sq(x).put(PLACES, x.exp()[0, :2]) + torch.put(B, INDEX[:1], x[:1], accumulate=True)),
    Case("fill", lambda x: torch.fill(sq(x), 2.0) * x + torch.fill(B, x.sum().sin())),
    Case("combinations", lambda x: torch.combinations(sq(x)[0], 2, with_replacement=True), (1, 4)),
    Case("index_add", lambda x: sq(x).index_add(1, PLACES, x.exp()[:, :2], alpha=0.5)),
    Case("index_add-src", lambda x: torch.index_add(B, 1, MANY, sq(x))),
    Case("index_copy", lambda x: sq(x).index_copy(1, PLACES, x.exp()[:, :2])),
    Case("index_fill", lambda x: sq(x).index_fill(1, PLACES, 3.0)),
    Case("index_put", lambda x: sq(x).index_put((torch.tensor([0, 2]), torch.tensor([1, 1])), x.exp()[:2, 0])),
    Case("index_put-accumulate", lambda x: torch.index_put(B, (MASK,), sq(x).sum(), accumulate=True)),
    Case("index_put_", lambda x: sq(x).index_put_((PLACES,), B[:2])),
    Case("masked_scatter", lambda x: sq(x).masked_scatter(MASK, x.exp())),
    Case("masked_scatter-src", lambda x: torch.masked_scatter(B, MASK, sq(x))),
    Case("select_scatter", lambda x: torch.select_scatter(sq(x), x.exp()[:, 0], 1, 2)),
    Case("slice_scatter", lambda x: torch.slice_scatter(B, sq(x)[:, :2], 1, 0, 4, 2)),
    Case("diagonal_scatter", lambda x: torch.diagonal_scatter(sq(x), x.exp()[0, :3])),
    Case("roll", lambda x: torch.roll(sq(x), 3)),
    Case("roll-dims", lambda x: sq(x).roll((1, -1), (0, 1))),
    Case("rot90", lambda x: torch.rot90(sq(x), 1, (1, 2)), (2, 2, 3)),
    Case("tril", lambda x: torch.tril(sq(x), -1), (2, 3, 3)),
    Case("triu", lambda x: sq(x).triu(), (2, 3, 3)),
    Case("diagonal", lambda x: sq(x).diagonal(1, 1, 2), (2, 3, 3)),
    Case("diag_embed", lambda x: torch.diag_embed(sq(x), 1, 0, -1)),
    Case("diag", lambda x: torch.diag(sq(x))),
    Case("diag-vector", lambda x: torch.diag(sq(x), 1), (4,)),
    Case("diagflat", lambda x: torch.diagflat(sq(x)), (2, 2)),
    Case("copysign", lambda x: torch.copysign(sq(x), B)),
    # torch 2.11 has no derivative of it.
    Case("nextafter", lambda x: torch.nextafter(sq(x), B) + torch.nextafter(B, x), reference=lambda x: sq(x) + B),
    Case("copysign-number", lambda x: sq(x).copysign(-1.0)),
    Case("fmod", lambda x: torch.fmod(3 * sq(x), 0.7)),
    Case("fmod-jets", lambda x: torch.fmod(3 * sq(x), x.exp())),
    Case("remainder", lambda x: torch.remainder(sq(x), B)),
    Case("remainder-operator", lambda x: sq(x) % 0.3),
    Case(
        "remainder-of-number",
        lambda x: 2.0 % (x.exp() + 1),
        reference=lambda x: 2 - (x.exp() + 1) * (2 / (x.exp() + 1)).floor(),
    ),
    Case("nan_to_num", lambda x: torch.where(MASK, torch.nan, sq(x)).nan_to_num(1.0)),
    Case("frac", lambda x: torch.frac(3 * sq(x))),
    Case("deg2rad", lambda x: torch.rad2deg(sq(x)).sin() + torch.deg2rad(x).exp()),
    Case("one_hot", lambda x: sq(x) * F.one_hot(x.argmax(1), 4)),
    Case("hardshrink", lambda x: F.hardshrink(sq(x))),
    Case("softshrink", lambda x: F.softshrink(sq(x), 0.2)),
    Case("hardswish", lambda x: F.hardswish(3 * sq(x))),
    Case("hardswish_", lambda x: F.hardswish(3 * sq(x), inplace=True)),
    Case("hardsigmoid", lambda x: F.hardsigmoid(3 * sq(x)), reference=lambda x: (sq(x) / 2 + 0.5).clamp(0, 1)),
    Case("hardtanh", lambda x: F.hardtanh(3 * sq(x))),
    Case("prelu", lambda x: F.prelu(sq(x), B[0])),
    Case("prelu-channels", lambda x: F.prelu(sq(x), B[0, :3]), (2, 3, 2)),
    Case("prelu-jet", lambda x: F.prelu(sq(x), x[0].exp())),
    Case("rrelu", lambda x: F.rrelu(sq(x))),
    Case("selu", lambda x: F.selu(sq(x))),
    Case("celu", lambda x: F.celu(sq(x), 0.7)),
    Case("softsign", lambda x: F.softsign(sq(x))),
    Case("tanhshrink", lambda x: F.tanhshrink(sq(x))),
    Case("mish", lambda x: F.mish(sq(x)), order=2),
    Case("max_pool1d", lambda x: F.max_pool1d(sq(x), 2), (2, 2, 5)),
    Case("max_pool2d", lambda x: F.max_pool2d(sq(x), 2, 1, 1, ceil_mode=True), (2, 1, 3, 4)),
    Case("max_pool2d-unbatched", lambda x: F.max_pool2d(sq(x), 2), (2, 3, 4)),
    Case("max_pool3d", lambda x: F.max_pool3d(sq(x), 2), (1, 1, 2, 3, 4)),
    Case("max_pool2d-indices", lambda x: F.max_pool2d(sq(x), 2, return_indices=True)[0], (2, 1, 3, 4)),
    Case("torch.max_pool1d", lambda x: torch.max_pool1d(sq(x), 2), (2, 2, 5)),
    Case("adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(sq(x), 2), (2, 2, 5)),
    Case("torch.adaptive_max_pool1d", lambda x: torch.adaptive_max_pool1d(sq(x), 2)[0], (2, 2, 5)),
    Case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(sq(x), (2, None)), (2, 1, 3, 4)),
    Case("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(sq(x), 2), (1, 1, 2, 3, 4)),
    Case("max_unpool2d", lambda x: F.max_unpool2d(*F.max_pool2d(sq(x), 2, return_indices=True), 2), (2, 1, 4, 4)),
    Case("max_unpool1d", lambda x: F.max_unpool1d(*F.max_pool1d(sq(x), 2, return_indices=True), 2), (2, 1, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_are_those_of_nested_reverse_mode(case):
    if torch.__version__ < (2, 12) and str(case).startswith("aminmax"):
        pytest.skip("the truth is missing: torch 2.11 has no derivative of aten::aminmax")
    check(case.f, case.input(), case.order, case.reference)


RANDOM = [
    ("dropout", lambda x: F.dropout(sq(x), 0.4), (3, 4)),
    ("dropout-eval", lambda x: F.dropout(sq(x), 0.4, training=False), (3, 4)),
    ("dropout-all", lambda x: F.dropout(sq(x), 1.0), (3, 4)),
    ("dropout-transposed", lambda x: F.dropout(sq(x).transpose(0, 1), 0.4), (3, 4)),
    ("dropout2d", lambda x: F.dropout2d(sq(x), 0.4), (2, 3, 2, 1)),
    ("native_dropout", lambda x: torch.native_dropout(sq(x), 0.4, True)[0], (3, 4)),
    ("alpha_dropout", lambda x: F.alpha_dropout(sq(x), 0.4, True), (3, 4)),
    ("alpha_dropout-all", lambda x: F.alpha_dropout(sq(x), 1.0, True), (3, 4)),
    ("feature_alpha_dropout", lambda x: F.feature_alpha_dropout(sq(x), 0.4, True), (2, 3, 2, 1)),
    ("rrelu", lambda x: F.rrelu(sq(x), 0.2, 0.3, training=True), (3, 4)),
    ("fractional_max_pool2d", lambda x: F.fractional_max_pool2d(sq(x), 2, output_size=2), (1, 2, 3, 4)),
]


@pytest.mark.parametrize(("name", "f", "shape"), RANDOM, ids=[name for name, *_ in RANDOM])
def test_one_draw_which_is_that_of_a_plain_forward(name, f, shape):
    x = _shift(shape)

    def seeded(x):
        torch.manual_seed(1)
        return f(x)

    check(seeded, x, 3)
    seeded(x)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    propagated(f, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_indices_are_plain():
    def f(x):
        for result in (x.max(1), x.sort(1), x.topk(2), x.cummax(1)):
            assert type(result.indices) is torch.Tensor
        return x.max(1).values

    propagated(f, B)


@pytest.mark.parametrize("case", [case for case in CASES if case.order > 1 and case.name != "mish"], ids=str)
def test_no_rule_of_these_falls_back(case, monkeypatch):
    def refuse(function, *_):
        raise AssertionError(fallback.name_of(function))

    monkeypatch.setattr("jacfunc.jet.dispatch.pushed", refuse)
    propagated(case.f, case.input())


def test_writing_into_a_plain_tensor_is_refused():
    with pytest.raises(CannotFollowError):
        propagated(lambda x: torch.zeros(3, 4).double().scatter_(1, INDEX, x), B)


def test_slopes_have_the_precision_of_the_input():
    x = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    for function in (lambda x: F.leaky_relu(x, 0.3), lambda x: F.rrelu(x, 0.2, 0.4), lambda x: F.elu(x, 0.3)):
        _, (rows,) = propagated(function, x)
        (expected,) = torch.autograd.functional.jvp(function, x, torch.ones_like(x))[1:]
        assert (rows[0] - expected).abs().max() < 1e-15
