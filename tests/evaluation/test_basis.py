"""``jacfunc/evaluation/basis.py``: rows counted through, cut into chunks, made one-hot and pushed through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jacfunc.evaluation.basis import Rows, Segment, flattened, through

SHAPES = ((2, 2), (), (0, 3), (3,))
"""Of 4, 1, 0 and 3 coordinates."""


def test_rows_are_the_coordinates_of_all_leaves() -> None:
    rows = Rows(SHAPES)
    assert (rows.sizes, rows.total, rows.limit) == ([4, 1, 0, 3], 8, None)
    assert rows.whole == [Segment(0, slice(0, 4), 0), Segment(1, slice(4, 5), 0), Segment(3, slice(5, 8), 0)]
    assert [segment.size for segment in rows.whole] == [4, 1, 3]


@pytest.mark.parametrize(("limit", "total"), [(0, 0), (3, 3), (8, 8), (20, 8)])
def test_a_trial_has_so_many_rows_at_most(limit: int, total: int) -> None:
    rows = Rows(SHAPES, limit)
    assert rows.total == total == sum(segment.size for segment in rows.whole)
    assert rows.sizes == [4, 1, 0, 3]
    assert sum(stop - start for start, stop in rows.chunks(2)) == total


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (None, [(0, 8)]),
        (8, [(0, 8)]),
        (100, [(0, 8)]),
        (7, [(0, 7), (7, 8)]),
        (4, [(0, 4), (4, 8)]),
        (3, [(0, 3), (3, 6), (6, 8)]),
        (1, [(place, place + 1) for place in range(8)]),
    ],
)
def test_chunks_are_of_at_most_so_many_rows(size: int | None, chunks: list[tuple[int, int]]) -> None:
    assert Rows(SHAPES).chunks(size) == chunks


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("shapes", [(), ((0,),), ((2, 0), (0,))])
def test_without_rows_there_are_no_chunks(shapes: tuple[tuple[int, ...], ...], size: int | None) -> None:
    rows = Rows(shapes)
    assert rows.chunks(size) == [] and rows.total == 0 and rows.whole == []


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (1, 3, [Segment(0, slice(0, 2), 1)]),
        (3, 6, [Segment(0, slice(0, 1), 3), Segment(1, slice(1, 2), 0), Segment(3, slice(2, 3), 0)]),
        (6, 8, [Segment(3, slice(0, 2), 1)]),
        (4, 5, [Segment(1, slice(0, 1), 0)]),
        (5, 5, []),
    ],
)
def test_segments_say_which_leaf_a_part_of_a_chunk_is_of(start: int, stop: int, expected: list[Segment]) -> None:
    assert Rows(SHAPES).segments(start, stop) == expected


@pytest.mark.parametrize("size", range(1, 9))
def test_segments_of_all_chunks_are_every_coordinate_once(size: int) -> None:
    rows, found = Rows(SHAPES), []
    for start, stop in rows.chunks(size):
        for segment in rows.segments(start, stop):
            offset = sum(rows.sizes[: segment.leaf])
            assert start + segment.where.start == offset + segment.start
            found += [(segment.leaf, segment.start + place) for place in range(segment.size)]
    assert found == [(leaf, place) for leaf, size in enumerate(rows.sizes) for place in range(size)]


LIKE = [torch.zeros(1), torch.zeros(1, dtype=torch.float32), torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (1,)])
@pytest.mark.parametrize("chunk", [(0, 8), (3, 6), (7, 8)])
def test_the_basis_is_one_hot_for_every_sample(chunk: tuple[int, int], batch: tuple[int, ...]) -> None:
    basis = Rows(SHAPES).basis(*chunk, LIKE, batch)
    start, stop = chunk
    flat = []
    for rows, shape, like in zip(basis, SHAPES, LIKE, strict=True):
        assert rows.shape == (stop - start, *batch, *shape)
        assert rows.dtype == like.dtype and rows.is_contiguous()
        flat.append(rows.reshape(stop - start, torch.Size(batch).numel(), torch.Size(shape).numel()).double())
    together = torch.cat(flat, -1)
    for sample in range(together.shape[1]):
        assert torch.equal(together[:, sample], torch.eye(8, dtype=torch.double)[start:stop])


# -------------------------------------------------------------------- pushed through

MATRIX = torch.arange(6.0).reshape(2, 3)
GIVEN = (torch.arange(12.0).reshape(4, 3), torch.arange(8.0).reshape(4, 2))


def linear(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return MATRIX @ x + y, y * 2


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_linear_function_of_each_row(count: int, vectorised: bool, verified: bool) -> None:
    rows = tuple(given[:count] for given in GIVEN)
    one, two = through(linear, rows, vectorised, verified)
    assert torch.equal(one, rows[0] @ MATRIX.T + rows[1])
    assert torch.equal(two, rows[1] * 2)


def counted(calls: list[int]) -> Callable[..., tuple[torch.Tensor, ...]]:
    def f(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(x.dim())
        return linear(x, y)

    return f


@pytest.mark.parametrize(
    ("count", "vectorised", "verified", "calls"),
    [(4, True, False, 1), (4, True, True, 2), (4, False, False, 4), (4, False, True, 4), (1, True, True, 1)],
)
def test_the_function_is_called_once_for_all_rows_under_vmap(
    count: int, vectorised: bool, verified: bool, calls: int
) -> None:
    found: list[int] = []
    through(counted(found), tuple(given[:count] for given in GIVEN), vectorised, verified)
    assert found == [1] * calls


def test_a_single_row_needs_no_vmap_and_so_may_look_at_values() -> None:
    def looking(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x * float(x.sum()),)

    (found,) = through(looking, (GIVEN[0][1:2],), True, True)
    assert torch.equal(found, GIVEN[0][1:2] * 12)
    with pytest.raises(RuntimeError, match="vmap"):
        through(looking, (GIVEN[0],), True)


class Wrong(torch.autograd.Function):
    """Under vmap each row has the result of the first."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None: ...

    @staticmethod
    def vmap(info: object, in_dims: object, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return (x[:1] * 2).expand_as(x).contiguous(), 0


def test_rows_that_vmap_confuses_are_found_out_where_they_are_verified() -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x * 3, Wrong.apply(x)

    with pytest.raises(RuntimeError, match="gives other derivatives under torch.func.vmap than by itself"):
        through(f, GIVEN[:1], True, True)
    _, wrong = through(f, GIVEN[:1], True, False)
    assert torch.equal(wrong[-1], GIVEN[0][0] * 2)
    assert torch.equal(through(f, GIVEN[:1], False, True)[1], GIVEN[0] * 2)


def test_inside_vmap_there_is_nothing_to_compare() -> None:
    found: list[int] = []
    outer = torch.func.vmap(lambda scale: through(counted(found), (GIVEN[0] * scale, GIVEN[1]), True, True)[0])
    assert torch.equal(outer(torch.tensor([1.0, 2.0]))[1], 2 * GIVEN[0] @ MATRIX.T + GIVEN[1])
    assert len(found) == 1


def test_every_row_sees_the_same_draw_under_vmap() -> None:
    (found,) = through(lambda x: (x * 0 + torch.rand(3),), GIVEN[:1], True)
    assert torch.equal(found, found[:1].expand_as(found))


def test_groups_of_results_are_joined_and_parted_again() -> None:
    one, two, three = (torch.full((2,), float(number)) for number in range(3))
    flat, grouped = flattened(lambda x: ((one, x), (), (two, three)))
    found = flat(one + 5)
    assert [int(tensor[0]) for tensor in found] == [0, 5, 1, 2]
    assert [[int(tensor[0]) for tensor in group] for group in grouped(found)] == [[0, 5], [], [1, 2]]
    stacked = through(flat, (torch.arange(6.0).reshape(3, 2),), True)
    assert [len(group) for group in grouped(stacked)] == [2, 0, 2]
