"""``tests/draws.py``: the joint test that says whether an estimator is unbiased sees what is not."""

from __future__ import annotations

import torch
from draws import DRAWS, SEED, p_value


def draws() -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(DRAWS, 5, dtype=torch.float64, generator=generator) @ torch.randn(
        5, 5, dtype=torch.float64, generator=generator
    )


def test_the_right_mean_passes_and_another_does_not() -> None:
    found, truth = draws(), torch.zeros(5, dtype=torch.float64)
    assert p_value(found, truth) > 1e-3
    off = truth.clone()
    off[2] = 6 * found[:, 2].std() / DRAWS**0.5
    assert p_value(found, off) < 1e-6


def test_a_forgotten_division_is_seen() -> None:
    assert p_value(1 + draws(), torch.full((5,), 1.1, dtype=torch.float64)) < 1e-6


def test_what_does_not_vary_is_compared() -> None:
    found = torch.cat([draws(), torch.ones(DRAWS, 1, dtype=torch.float64)], 1)
    truth = torch.zeros(6, dtype=torch.float64)
    assert p_value(found, truth) == 0
    truth[5] = 1
    assert p_value(found, truth) > 1e-3


def test_entries_that_depend_on_each_other_count_once() -> None:
    found = draws()
    twice = torch.cat([found, found.sum(1, keepdim=True)], 1)
    assert abs(p_value(twice, torch.zeros(6).double()) - p_value(found, torch.zeros(5).double())) < 1e-6


def test_all_of_one_value_are_the_truth() -> None:
    assert p_value(torch.ones(DRAWS, 2).double(), torch.ones(2).double()) == 1
