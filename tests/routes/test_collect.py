"""``jacfunc/routes/collect.py``: rows of a matrix that is written down, handed over in chunks, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from jacfunc.evaluation.basis import Rows
from jacfunc.jet.multiindices import MultiIndices, Sum
from jacfunc.routes.collect import (
    Block,
    Diagonal,
    Entries,
    HessianDiagonal,
    Laplacian,
    Pair,
    Partials,
    have_diagonal,
    joined,
    larger_shape,
    own_coordinates,
    owned,
)

Tensor = torch.Tensor
Shape = tuple[int, ...]
BATCHES = [(), (4,), (2, 3), (0,)]
SHAPES = [((), ()), ((3,), (3,)), ((2,), (3,)), ((2, 2), (3,)), ((), (3,)), ((3,), ()), ((1,), (1, 1)), ((0,), (2,))]


def whole(batch: Shape, output: Shape, input: Shape) -> Tensor:
    """A block ``(*batch, *O, *I)`` of numbers that are all different."""
    shape = (*batch, *output, *input)
    return torch.arange(1.0, 1 + math.prod(shape), dtype=torch.double).reshape(shape)


def columns_of(block: Tensor, batch: Shape, output: Shape) -> Tensor:
    """``(numel(I), *batch, *O)``"""
    axes = len(batch) + len(output)
    return block.reshape(*batch, *output, math.prod(block.shape[axes:])).movedim(-1, 0)


def rows_of(block: Tensor, batch: Shape, input: Shape) -> Tensor:
    """``(numel(O), *batch, *I)``"""
    outer = math.prod(block.shape[len(batch) : block.dim() - len(input)])
    return block.reshape(*batch, outer, *input).movedim(len(batch), 0)


def chunks(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def filled(entry: Any, parts: Tensor, take: Callable[[Any], Callable[..., None]], size: int) -> Tensor:
    for start, stop in chunks(len(parts), size):
        take(entry)(parts[start:stop], start)
    return entry.result()


def pair(batch: Shape, output: Shape, input: Shape) -> Pair:
    return Pair(batch, output, input, torch.zeros((*batch, *input), dtype=torch.double))


by_columns: Any = lambda entry: entry.columns
by_rows: Any = lambda entry: entry.rows
sizes = pytest.mark.parametrize("size", [1, 4])

# -------------------------------------------------------------------- every entry


@sizes
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("output", "input"), SHAPES)
def test_a_block_is_every_entry(output: Shape, input: Shape, batch: Shape, size: int) -> None:
    truth, given = whole(batch, output, input), pair(batch, output, input)
    found = filled(Block(given), columns_of(truth, batch, output), by_columns, size)
    assert torch.equal(found, truth) and found.dtype == truth.dtype
    assert torch.equal(filled(Block(given), rows_of(truth, batch, input), by_rows, size), truth)


# -------------------------------------------------------------------- diagonals

BROADCAST = [
    ((3,), (3,)),
    ((2, 3), (2, 3)),
    ((), (3,)),
    ((3,), ()),
    ((1,), (2, 2)),
    ((2, 2), (1, 1, 1)),
    ((1, 3), (2, 3)),
    ((2, 3), (1, 3)),
    ((2, 1), (2, 3)),
    ((2, 3), (2, 1)),
    ((2, 1, 2), (2, 3, 2)),
    ((1, 3, 1), (2, 3, 2)),
    ((), ()),
    ((1,), ()),
    ((), (1, 1)),
    ((0,), (0,)),
]


def by_index(truth: Tensor, batch: Shape, output: Shape, input: Shape) -> Tensor:
    """The diagonal place by place: an axis of size 1 has the same element everywhere."""
    larger = max(output, input, key=lambda shape: (math.prod(shape), len(shape)))
    here = lambda place, shape: (
        (0,) * len(shape)
        if math.prod(shape) == 1
        else tuple(0 if n == 1 else i for i, n in zip(place, shape, strict=True))
    )
    result = truth.new_zeros((*batch, *larger))
    for place in product(*map(range, larger)):
        result[(..., *place)] = truth[(..., *here(place, output), *here(place, input))]
    return result


@sizes
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize(("output", "input"), BROADCAST)
def test_a_diagonal_of_any_broadcast(output: Shape, input: Shape, batch: Shape, size: int) -> None:
    truth, given = whole(batch, output, input), pair(batch, output, input)
    expected = by_index(truth, batch, output, input)
    found = filled(Diagonal(given), columns_of(truth, batch, output), by_columns, size)
    assert found.shape == expected.shape and torch.equal(found, expected)
    found = filled(Diagonal(given), rows_of(truth, batch, input), by_rows, size)
    assert found.shape == expected.shape and torch.equal(found, expected)


@pytest.mark.parametrize(("output", "input"), BROADCAST)
def test_shapes_that_broadcast_have_a_diagonal_of_the_larger_shape(output: Shape, input: Shape) -> None:
    assert have_diagonal(output, input)
    size = lambda shape: (math.prod(shape), len(shape))
    assert size(larger_shape(output, input)) == max(size(output), size(input))


@pytest.mark.parametrize(
    ("output", "input"),
    [((2,), (3,)), ((3,), (2, 3)), ((2, 3), (3,)), ((1, 3), (2, 1)), ((2, 3), (3, 2)), ((2,), (2, 1)), ((0,), (2,))],
)
def test_shapes_without_a_diagonal(output: Shape, input: Shape) -> None:
    assert not have_diagonal(output, input) and not have_diagonal(input, output)


def test_of_two_single_elements_the_one_with_more_axes_is_the_shape_and_the_input_of_equals() -> None:
    assert larger_shape((1,), ()) == (1,) and larger_shape((), (1, 1)) == (1, 1)
    assert larger_shape((1, 3), (3, 1)) == (3, 1) and larger_shape((2, 3), (3,)) == (2, 3)


# -------------------------------------------------------------------- second derivatives


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("output", "input"), SHAPES)
def test_second_derivatives_and_their_sums(output: Shape, input: Shape, batch: Shape, size: int) -> None:
    truth, given = whole(batch, output, input), pair(batch, output, input)
    total = truth.sum(tuple(range(len(batch) + len(output), truth.dim()))) if input else truth
    cells = rows_of(truth, batch, input).flatten(1 + len(batch)) if input else rows_of(truth, batch, input)[..., None]
    cells = cells.movedim(-1, 1)  # (numel(O), numel(I), *batch)
    for entry, expected in ((HessianDiagonal, truth), (Laplacian, total)):
        found = filled(entry(given), columns_of(truth, batch, output), by_columns, size)
        assert found.shape == expected.shape and torch.equal(found, expected)
        by_cells = entry(given)
        for start, stop in chunks(len(cells), size):
            by_cells.cells(cells[start:stop])
        assert by_cells.result().shape == expected.shape and torch.equal(by_cells.result(), expected)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize(("shape", "start", "stop"), [((5,), 0, 5), ((5,), 1, 4), ((2, 3), 0, 6), ((2, 3), 5, 6)])
def test_own_coordinates_are_where_a_row_meets_itself(shape: Shape, start: int, stop: int, batch: Shape) -> None:
    block = whole((stop - start,), batch, shape)
    found = own_coordinates(block, batch, start)
    flat = block.reshape(stop - start, *batch, math.prod(shape))
    assert found.shape == (stop - start, *batch)
    for row in range(stop - start):
        assert torch.equal(found[row], flat[row, ..., start + row])


# -------------------------------------------------------------------- of several leaves

INPUTS, OUTPUTS, BATCH = ((2,), (0,), (3,)), ((), (2, 2)), (4,)
LEAVES = tuple(torch.zeros((*BATCH, *shape), dtype=torch.double) for shape in INPUTS)
PAIRS = [(m, k) for m in range(len(OUTPUTS)) for k in range(len(INPUTS))]
TRUTH = {(m, k): whole(BATCH, OUTPUTS[m], INPUTS[k]) + 100 * (10 * m + k) for m, k in PAIRS}


def entries(entry: Callable[[Pair], Any], pairs: list[tuple[int, int]] = PAIRS) -> Entries:
    by_pair = {(m, k): entry(Pair(BATCH, OUTPUTS[m], INPUTS[k], LEAVES[k])) for m, k in pairs}
    return Entries(by_pair, Rows(INPUTS), Rows(OUTPUTS), LEAVES)


def column_stacks(truth: dict[tuple[int, int], Tensor]) -> list[Tensor]:
    stack = lambda m: [columns_of(truth[m, k], BATCH, OUTPUTS[m]) for k in range(len(INPUTS))]
    return [torch.cat(stack(m)) for m in range(len(OUTPUTS))]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pairs", [PAIRS, [(1, 0)], [(0, 2), (1, 1)], []])
def test_rows_of_all_leaves_go_to_the_entries_that_there_are(pairs: list[tuple[int, int]], size: int) -> None:
    by_column, by_row = entries(Block, pairs), entries(Block, pairs)
    stacks = column_stacks(TRUTH)
    for start, stop in chunks(5, size):
        by_column.take_columns(start, stop, tuple(stack[start:stop] for stack in stacks))
    of = lambda k: torch.cat([rows_of(TRUTH[m, k], BATCH, INPUTS[k]) for m in range(len(OUTPUTS))])
    for start, stop in chunks(5, size):
        by_row.take_rows(start, stop, tuple(of(k)[start:stop] for k in range(len(INPUTS))))
    for found in (by_column.results(), by_row.results()):
        assert list(found) == pairs
        assert all(torch.equal(found[key], TRUTH[key]) for key in pairs)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_cells_go_to_the_entries_of_their_output(size: int) -> None:
    taken = entries(HessianDiagonal)
    for start, stop in chunks(5, size):
        stacks = []
        for k, shape in enumerate(INPUTS):
            rows = torch.cat([rows_of(TRUTH[m, k], BATCH, shape) for m in range(len(OUTPUTS))])
            stacks.append(rows[start:stop].movedim(-1, 1))
        taken.take_cells(start, stop, tuple(stacks))
    found = taken.results()
    assert all(torch.equal(found[key], TRUTH[key]) for key in PAIRS)


def test_sums_are_one_for_each_leaf_with_rows_in_the_chunk() -> None:
    taken, stacks = entries(Laplacian), column_stacks(TRUTH)
    for start, stop, parts in ((0, 1, ((0, 1),)), (1, 4, ((1, 2), (2, 4))), (4, 5, ((4, 5),))):
        sums = tuple(torch.stack([stack[a:b].sum(0) for a, b in parts]) for stack in stacks)
        taken.take_sums(start, stop, sums)
    for (m, k), found in taken.results().items():
        assert torch.equal(found, TRUTH[m, k].sum(-1))


def test_columns_have_the_dtype_of_their_input() -> None:
    leaves = (torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.bfloat16))
    by_pair = {(0, k): Block(Pair((4,), (), tuple(leaf.shape[1:]), leaf)) for k, leaf in enumerate(leaves)}
    taken = Entries(by_pair, Rows(((2,), (1,))), Rows(((),)), leaves)
    taken.take_columns(0, 3, (torch.ones(3, 4, dtype=torch.double),))
    assert [found.dtype for found in taken.results().values()] == [torch.float32, torch.bfloat16]
    sums = Entries({(0, k): Laplacian(by_pair[0, k].pair) for k in (0, 1)}, taken.inputs, taken.outputs, leaves)
    sums.take_sums(0, 3, (torch.ones(2, 4, dtype=torch.double),))
    assert [found.dtype for found in sums.results().values()] == [torch.float32, torch.bfloat16]


def test_partials_keep_what_is_handed_over_by_leaf_and_key() -> None:
    key = Sum((((2, 0), 1.0), ((0, 2), 3.0)))
    partials = Partials(MultiIndices.around([(1, 0)]), torch.float32)
    same, other = torch.ones(2), torch.ones(2, dtype=torch.double)
    partials.take(0, (1, 0), same)
    partials.take(1, (1, 0), other)
    partials.take(0, key, other)
    assert list(partials.derivatives) == [(0, (1, 0)), (1, (1, 0)), (0, key)]
    assert partials.derivatives[0, (1, 0)] is same
    assert {found.dtype for found in partials.derivatives.values()} == {torch.float32}


# -------------------------------------------------------------------- results as they leave


def test_a_result_is_contiguous_and_holds_no_more_than_itself() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    assert owned(base) is base
    for view in (base.T, base[0], base[:1].expand(3, 4), torch._efficientzerotensor(3)):
        found = owned(view)
        assert torch.equal(found, view) and found.is_contiguous()
        assert found.untyped_storage().nbytes() == found.nbytes and found.data_ptr() != base.data_ptr()
    assert owned(base, traced=True) is not base and torch.equal(owned(base.T, traced=True), base.T)


def test_one_part_is_joined_to_itself() -> None:
    one, two = torch.zeros(2, 3), torch.ones(2, 1)
    assert joined([one]) is one
    assert torch.equal(joined([one, two], -1), torch.cat([one, two], 1))
    assert joined([one, one]).shape == (4, 3)
