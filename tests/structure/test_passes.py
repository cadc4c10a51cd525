"""``structure/compressed.py``: few columns or rows hold all entries that are wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jacfunc.errors import ShapeError
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
    stack = passes.seeds @ (jac.T if passes.columns else jac)
    found = passes.picked(torch.stack([stack, 2 * stack]))
    want = jac[pattern.row, pattern.col]
    assert torch.equal(found, torch.stack([want, 2 * want]))
    assert passes.count <= min(shape[1] if passes.columns else shape[0], 20)


@pytest.mark.parametrize("seed", range(4))
def test_the_diagonal_is_picked(seed):
    jac = random_matrix(seed, 12, 12)
    passes = Passes.of_diagonal(SparsityPattern.of(jac != 0)).to(jac)
    assert torch.equal(passes.picked(passes.seeds @ jac.T), jac.diagonal())


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
        stack = torch.zeros(2, passes.count, 3 if passes.columns else 4)
        assert passes.picked(stack).shape == (2, 0)


def test_a_stack_of_another_size_is_refused():
    passes = Passes.of_all(SparsityPattern.of(torch.eye(3)), "auto").to(torch.ones(()))
    with pytest.raises(ShapeError, match="sparsity has 3 rows, but a sample of the output has 4 elements"):
        passes.picked(torch.zeros(1, 4))


def test_only_a_square_jacobian_has_a_diagonal():
    with pytest.raises(ShapeError, match="2 rows and 3 columns"):
        Passes.of_diagonal(SparsityPattern.of(torch.ones(2, 3)))


def test_seeds_are_one_where_a_column_has_the_colour():
    passes = Passes.of_all(SparsityPattern.of(torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])), "taylor")
    assert passes.seeds.sum(0).eq(1).all()
    assert passes.to(torch.ones(1, dtype=torch.float64)).seeds.dtype == torch.float64
