"""Rules of parts of a tensor, read and written, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from propagated import propagated, seeded
from rule_cases import Case, check

from jacfunc.jet import CannotFollowError
from jacfunc.jet.layout import first_order

CASES = [
    Case("getitem", lambda x: x.sin()[1:, ::2] + x[0, [0, 2]] + x[..., None, 1] + x[torch.tensor([True, False]), 1:3]),
    Case("unbind", lambda x: x.sin().unbind(1)[2] + torch.unbind(x)[1].sum()),
    Case("select", lambda x: x.sin().select(1, -1) + x.select(0, 1).sum()),
    Case("narrow", lambda x: x.sin().narrow(1, 1, 2) + torch.narrow(x, -1, 0, 2)),
    Case("split", lambda x: x.sin().split([1, 3], 1)[1] * torch.split(x, 1)[0][:, 1:] + x.tensor_split(2, -1)[0][:, :1]),
    Case("chunk", lambda x: x.sin().chunk(2, dim=1)[0] + torch.chunk(x, 2, 1)[1] + x.split_with_sizes([2, 2], 1)[0]),
    Case("pieces_by_name", lambda x: x.sin().split(split_size=2, dim=1)[1] + x.tensor_split(sections=2, dim=1)[0] + x.tensor_split(indices=(2,), dim=1)[1]),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_reverse_mode(case: Case, layout: str) -> None:
    check(case, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mixed_third_order(case: Case) -> None:
    check(case.of_two_variables(), "3", 1e-9)


def written(*steps):
    """A function of a copy of its input, each step of which writes into it."""

    def f(x):
        y = x.sin()
        for step in steps:
            step(y, x)
        return y * x

    return f


def scale_a_column(y, x):
    y[:, 1] *= x[:, 0]
    y[0] += 2


WRITTEN = [
    Case("an element", written(lambda y, x: y.__setitem__((0, 1), x[1, 2].exp()))),
    Case("a number", written(lambda y, x: y.__setitem__((slice(None), 1), 3.0))),
    Case("a column", written(lambda y, x: y.__setitem__((slice(None), 1), x[:, 0].exp()))),
    Case("a range", written(lambda y, x: y.__setitem__((..., slice(1, 3)), x[:, :2].exp()))),
    Case("broadcast", written(lambda y, x: y.__setitem__(slice(None), x[0].exp()))),
    Case("by tensors", written(lambda y, x: y.__setitem__((torch.tensor([0, 1]), torch.tensor([3, 0])), x[:, 1].exp()))),
    Case("by a mask", written(lambda y, x: y.__setitem__(x > 0, x.exp().sum()))),
    Case("twice", written(lambda y, x: y.__setitem__(0, x[1]), lambda y, x: y.__setitem__((slice(None), 0), y[:, 1].exp()))),
    Case("in place", written(scale_a_column)),
    Case("copy_", written(lambda y, x: y.copy_(x.exp()))),
    Case("fill_", written(lambda y, x: y.fill_(x[0, 0].exp()))),
    Case("zero_", written(lambda y, x: y.zero_(), lambda y, x: y.add_(x))),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["first", "diagonal", "summed", "3"])
@pytest.mark.parametrize("case", WRITTEN, ids=str)
def test_what_is_written(case: Case, layout: str) -> None:
    check(case.of_two_variables() if layout == "3" else case, layout)


def test_an_index_that_moves_axes_is_refused() -> None:
    """With tensors on both sides of a slice torch puts their axis in front."""
    places = torch.tensor([0, 1])
    with pytest.raises(CannotFollowError, match="tensors on both sides of a slice"):
        propagated(lambda x: x.reshape(2, 2, 2)[places, :, places], torch.rand(2, 4))

    def writes(x):
        y = x.reshape(2, 2, 2).sin()
        y[places, :, 0] = 1.0
        return y

    with pytest.raises(CannotFollowError, match="tensors on both sides of a slice"):
        propagated(writes, torch.rand(2, 4))


def test_writing_into_a_plain_tensor_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="written into another one"):
        propagated(lambda x: torch.zeros(2, 4).__setitem__(0, x[0]), torch.rand(2, 4))


def test_a_view_is_told_and_a_copy_is_not() -> None:
    jet, _ = seeded(torch.rand(2, 4), first_order(4))
    for part in (
        jet[0],
        jet[:, 1:3],
        jet[None],
        jet.narrow(1, 0, 2),
        jet.select(0, 1),
        *jet.unbind(1),
        *jet.split(2, 1),
    ):
        assert part.kin is jet.kin
        assert part.kin is not None
    for copy in (jet[[0, 1]], jet[jet > 0], jet[torch.tensor([0])]):
        assert copy.kin is None


def test_an_index_may_vary_and_is_a_constant() -> None:
    x = torch.rand(2, 4, dtype=torch.float64)
    value, (rows,) = propagated(lambda x: x.exp()[0, x.argmax(1)], x)
    assert torch.equal(value, x.exp()[0, x.argmax(1)])
    assert torch.equal(rows.sum(0), value)
    plain, found = propagated(lambda x: torch.arange(4)[x.argmax(1)], x)
    assert torch.equal(plain, x.argmax(1))
    assert not found
