"""Random programs against dense Jacobians: no entry is missing, and few are needless."""

from __future__ import annotations

import pytest
import torch
from patterns import found_of, nonzeros
from quick import mostly_slow
from sparse_programs import DENSE, MAKERS, program

SIZE = 60
"""So many programs in one test."""


@pytest.mark.parametrize("block", mostly_slow(range(50), [0, 1]))
def test_programs(block):
    exact, followed = 0, 0
    for seed in range(block * SIZE, (block + 1) * SIZE):
        f, x = program(seed)
        want, found = nonzeros(f, x, points=5), found_of(f, x)
        pattern = found.pattern.to_dense()
        assert not (want & ~pattern).any(), (seed, f.names)
        if not found.dense and not set(f.names) & set(DENSE):
            followed += 1
            exact += int(pattern.sum()) <= 1.1 * int(want.sum())
    assert exact >= 0.9 * followed
    assert followed > SIZE / 2


def test_every_step_is_met():
    met = {name for seed in range(500) for name in program(seed)[0].names}
    assert met == set(MAKERS)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_looked_at_where_that_is_not_asked(seed):
    f, x = program(seed)
    loose = found_of(f, x, exact=False).pattern.to_dense()
    assert not (found_of(f, x).pattern.to_dense() & ~loose).any()
    assert not (nonzeros(f, x, points=3) & ~loose).any()


@pytest.mark.parametrize("seed", range(30))
def test_samples_have_the_union_of_their_patterns(seed):
    """Rows of a batch through one program: the pattern of one sample is in that of the batch."""
    from jacfunc import sparsity

    f, x = program(seed)
    batch = torch.stack([x, x.flip(0), 2 * x])
    each = lambda xs: torch.stack([f(x) for x in xs])
    found = sparsity(each, check=False)(batch).to_dense()
    assert torch.equal(found, found_of(f, x).pattern.to_dense())
