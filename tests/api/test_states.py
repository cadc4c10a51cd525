"""``api/states.py``: what a sparsity pattern belongs to, and that nothing of it changes unseen.

Each function is called until checks by chance are rare, then something changes, and every result is compared.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from jacfunc import UnsupportedOperationError, batch_jac, diag_jac, linear_operator, sparse_jac, sparsity
from jacfunc.api.states import Content

DOUBLE = torch.float64
CALLS = 9  # 16 is the next one that is checked by itself
INDEX = torch.arange(5)


def samples():
    return torch.rand(3, 5, dtype=DOUBLE)


def run(jac, f, *args, calls=CALLS, **options):
    """Call it some times and compare each result."""
    for _ in range(calls):
        x = samples()
        found = jac(*args, x)
        want = batch_jac(f, **options)(*args, x)
        torch.testing.assert_close(found.to_dense(), want)


READERS = {
    "index": lambda i, x: x[:, i] ** 2,
    "gather": lambda i, x: x.gather(1, i.expand(len(x), 5)) ** 2,
    "scatter": lambda i, x: torch.zeros_like(x).scatter(1, i.expand(len(x), 5), x**2),
    "index_add": lambda i, x: torch.zeros_like(x).index_add(1, i, x**2),
    "mask": lambda i, x: torch.where(i > 2, x, x.roll(1, 1)) ** 2,
}


@pytest.mark.parametrize(
    "options",
    [{}, {"check": False}, {"method": "reverse"}, {"sample_chunk_size": 2, "in_dims": (None, 0)}],
    ids=["plain", "unchecked", "rows", "in blocks"],
)
@pytest.mark.parametrize("reader", READERS)
def test_another_index_as_an_argument(reader, options):
    f = READERS[reader]
    jac = sparse_jac(f, **options)
    other = INDEX.roll(1)
    run(jac, f, INDEX)
    run(jac, f, other)
    run(jac, f, INDEX, calls=2)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 0, 1], dtype=DOUBLE))

    def forward(self, x):
        return x**2 + x.roll(1, 1) * self.mask


def test_another_buffer_while_the_old_one_lives():
    module = Masked()
    before = module.mask
    jac = sparse_jac(module)
    run(jac, module)
    module.mask = 1 - before
    run(jac, module)


@pytest.mark.parametrize("size", [5, 20_000])
def test_an_index_that_is_written_to(size):
    index = torch.arange(5).repeat(size // 5)
    f = lambda x: x[:, index[:5]] ** 2
    jac = sparse_jac(f)
    run(jac, f)
    index.copy_(index.roll(1))
    run(jac, f)


def test_a_change_where_the_new_entries_are_zero():
    index = INDEX.clone()
    f = lambda x: x + x[:, index] ** 2
    jac = sparse_jac(f)
    run(jac, f)
    index.copy_(index.roll(1))
    jac(0 * samples())
    run(jac, f)


def test_a_branch_that_is_first_taken_where_its_entries_are_zero():
    taken = [False]
    f = lambda x: x + (x.roll(1, 1) ** 2 if taken[0] else 0)
    jac = sparse_jac(f)
    run(jac, f)
    taken[0] = True
    jac(0 * samples())
    run(jac, f)


def test_weights_of_zero_that_are_trained_later():
    layer = nn.Linear(5, 5, bias=False, dtype=DOUBLE).requires_grad_(False)
    layer.weight.zero_()
    f = lambda x: layer(x) + x**2
    jac, x = sparse_jac(f), samples()
    jac(x)
    layer.requires_grad_(True)
    weights = torch.rand(3, 5, 5, dtype=DOUBLE)
    (found,) = torch.autograd.grad((jac(x).to_dense() * weights).sum(), layer.weight)
    (want,) = torch.autograd.grad((batch_jac(f)(x) * weights).sum(), layer.weight)
    torch.testing.assert_close(found, want)


def branching(t, x):
    return x**2 + (x.roll(1, 1) if t > 1 else 0 * x)


def test_a_branch_in_blocks_of_samples():
    jac = sparse_jac(branching, sample_chunk_size=2, in_dims=(None, 0))
    run(jac, branching, 0.5)
    run(jac, branching, 1.5)
    run(jac, branching, 0.5, calls=2)


def test_a_branch_that_is_compiled():
    jac = sparse_jac(branching, compile=True)
    run(jac, branching, 0.5, calls=5)
    run(jac, branching, 1.5, calls=2)


def test_constants_that_are_made_inside():
    places = np.arange(5)
    f = lambda x: x.index_select(1, torch.from_numpy(places)) ** 2
    jac = sparse_jac(f)
    run(jac, f)
    places[:] = np.roll(places, 1)
    run(jac, f)
    g = lambda c, x: x**2 + torch.tensor(c) * x.roll(1, 1)
    jac = sparse_jac(g)
    run(jac, g, 0.0)
    run(jac, g, 2.0)


def test_a_pattern_that_was_passed_is_checked_when_something_changes():
    index = INDEX.clone()
    f = lambda x: x + x[:, index] ** 2
    jac = sparse_jac(f, sparsity=sparsity(f)(samples()))
    run(jac, f)
    index.copy_(index.roll(1))
    with pytest.raises(UnsupportedOperationError, match="sparsity lacks entries"):
        jac(samples())


def test_a_pattern_of_many_states_begins_anew():
    index = INDEX.clone()
    f = lambda x: x[:, index] ** 2
    jac = sparse_jac(f)
    for _ in range(5):
        index.copy_(index.roll(1))
        run(jac, f, calls=1)
    assert jac(samples()).pattern.nnz <= 10


@pytest.mark.parametrize("scale", [1e9, 1e-9])
def test_an_entry_that_is_missing_beside_large_ones(scale):
    scales = torch.tensor([scale, 1, 1, 1, 1], dtype=DOUBLE)
    with pytest.raises(UnsupportedOperationError, match="sparsity lacks entries"):
        sparse_jac(lambda x: scales * x**2 + x.roll(1, 1), sparsity=torch.eye(5))(samples())


def test_infinite_derivatives_are_no_contradiction():
    x = samples()
    x[0, 0] = 0
    found = sparse_jac(lambda x: x.sqrt() + x.roll(1, 1))(x).to_dense()
    assert found[0, 0, 0].isinf()
    assert found[0, 1, 0] == 1


def test_shapes_without_axes_or_elements():
    x = torch.rand(4, dtype=DOUBLE)
    assert sparse_jac(lambda x: (x**2).sum(), batch_dims=0)(x).shape == (1, 4)
    for transform in (diag_jac, batch_jac):
        found = transform(torch.sin, batch_dims=0, sparsity="auto")(x[0])
        torch.testing.assert_close(found, x[0].cos())
    assert sparse_jac(lambda x: x**2)(torch.rand(3, 0)).shape == (3, 0, 0)
    assert sparse_jac(lambda x: x[:, :0])(torch.rand(3, 4)).shape == (3, 0, 4)


def test_an_operator_stays_where_it_was_made():
    pytest.importorskip("scipy", reason="the operator is scipy's")
    x = samples()
    operator = linear_operator(lambda x: x**2)(x)
    before = operator @ np.ones(15)
    x.add_(1)
    assert np.array_equal(operator @ np.ones(15), before)


def test_contents():
    whole = torch.arange(20_000)
    content = Content.of(whole)
    assert content.is_now(whole)
    assert content.is_now(whole.clone())
    whole[3] = 0
    assert not content.is_now(whole)
    number = torch.tensor([0.0, 2.0, torch.inf])
    content = Content.of(number)
    assert content.is_now(torch.tensor([0.0, 3.0, torch.inf]))  # where it is zero or infinite, and no more
    assert not content.is_now(torch.tensor([1.0, 2.0, torch.inf]))
    assert Content.of(torch.ones(2, dtype=torch.bfloat16)).digest is not None
