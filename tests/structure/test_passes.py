"""``structure/compressed.py``: few columns or rows hold all entries that are wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jacfunc.structure.compressed import Passes
from jacfunc.structure.pattern import SparsityPattern

METHODS = ("auto", "taylor", "forward", "reverse")


def random_matrix(seed, rows, columns, part=0.2):
    dense = np.random.default_rng(seed).normal(size=(rows, columns))
    return torch.from_numpy(dense * (np.random.default_rng(seed + 100).random((rows, columns)) < part))


@pytest.mark.parametrize("shape", [(12, 12), (5, 20), (20, 5), (1, 6), (6, 1)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_all_entries_are_picked(seed, method, shape):
    jac = random_matrix(seed, *shape)
    pattern = SparsityPattern.of(jac != 0)
    passes = Passes.of_all(pattern, method).to(jac)
    assert method == "auto" or passes.columns == (method != "reverse")
    matrix = jac @ passes.seeds.T if passes.columns else passes.seeds @ jac
    found = passes.picked(torch.stack([matrix, 2 * matrix]), (2,))
    want = jac[pattern.row, pattern.col]
    assert torch.equal(found[:, 0], torch.stack([want, 2 * want]))
    assert passes.count <= min(shape[1] if passes.columns else shape[0], 20)


@pytest.mark.parametrize("seed", range(4))
def test_the_diagonal_is_picked(seed):
    jac = random_matrix(seed, 12, 12)
    passes = Passes.of_diagonal(SparsityPattern.of(jac != 0)).to(jac)
    assert torch.equal(passes.picked(jac @ passes.seeds.T, ())[0], jac.diagonal())


def test_the_cheaper_side_is_taken():
    wide = torch.zeros(40, 40, dtype=torch.float64)
    wide[:, 0] = wide[0, 0] = 1
    wide.fill_diagonal_(1)
    by_columns = Passes.of_all(SparsityPattern.of(wide), "auto")
    by_rows = Passes.of_all(SparsityPattern.of(wide.T), "auto")
    assert (by_columns.columns, by_columns.count) == (True, 2)
    assert (by_rows.columns, by_rows.count) == (False, 2)


def test_an_empty_pattern():
    for method in METHODS:
        passes = Passes.of_all(SparsityPattern.of(np.zeros((3, 4))), method).to(torch.ones(()))
        matrix = torch.zeros(2, 3, passes.count) if passes.columns else torch.zeros(2, passes.count, 4)
        assert passes.picked(matrix, (2,)).shape == (2, 1, 0)
