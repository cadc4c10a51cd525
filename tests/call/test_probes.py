"""``jacfunc/call/probes.py``: which samples are replaced together, and what moved."""

from __future__ import annotations

import pytest
import torch

from jacfunc.call.probes import differ, moved, replaced_in


@pytest.mark.parametrize("forwards", [2, 3, 5, 20])
@pytest.mark.parametrize("count", [2, 3, 4, 6, 7, 8, 14, 31, 100])
def test_samples_of_two_groups_are_told_apart(count, forwards):
    """Groups are as many as the choices of forwards, of even sizes but for one at most, and none is never replaced."""
    replaced = replaced_in(count, forwards)
    assert replaced.shape == (count, forwards) and replaced.any(1).all()
    groups, sizes = replaced.unique(dim=0, return_counts=True)
    assert len(groups) >= min(count, 2**forwards - 1) - 1 and (sizes % 2 == 0).sum() <= 1
    assert sizes.max() - sizes.min() <= 2


@pytest.mark.parametrize("forwards", [2, 3])
def test_a_pair_is_missed_no_more_often_than_by_chance(forwards):
    torch.manual_seed(0)
    pairs = [replaced_in(60, forwards)[:2] for _ in range(2000)]
    missed = sum(bool((one == other).all()) for one, other in pairs) / len(pairs)
    assert missed == pytest.approx(1 / (2**forwards - 1), rel=0.15)


def test_the_first_that_moved_is_told():
    x = torch.arange(8.0).reshape(4, 2)
    replaced = torch.tensor([[True, False], [False, True], [True, True], [False, True]])
    new = torch.where(replaced.T[..., None], -x, x)  # of each forward
    assert moved([(x,), (new[0],), (new[1],)], replaced) is None
    for forward, row in ((0, 1), (1, 0), (1, 2)):  # where it keeps its own, and where it has the new ones again
        found = new.clone()
        found[forward, row, 1] += 3.0
        told = moved([(x,), (found[0],), (found[1],)], replaced)
        assert told is not None and told[:3] == (0, row, 3.0) and told.relative > 0.4
        assert moved([(x,), (found[0],), (found[1],)], replaced, tolerance=1.01 * told.relative) is None


def test_rounding_is_no_difference():
    x = torch.randn(5, 3)
    assert not differ([x], [x * (1 + 3e-7)], 5) and differ([x], [x * (1 + 3e-4)], 5)
    x[0] = float("nan")
    assert not differ([x], [x.clone()], 5) and differ([x], [x.nan_to_num(1.0)], 5)
