"""Rows of blocks as tensors: spread over all parts, and added up over the axis of the parts."""

from __future__ import annotations

import pytest
import torch

from jacfunc.jet.blocks import Blocks, first_blocks


def explicit(blocks, rows):
    """Row by row and entry by entry."""
    at = rows.dim() + blocks.axis
    found = rows.new_zeros(blocks.parts, *rows.shape)
    for entry, owner in enumerate(blocks.owners):
        found[owner].select(at, entry).copy_(rows.select(at, entry))
    return found.flatten(0, 1)


CASES = [
    Blocks(-1, (0, 1, 2), 3, 2),
    Blocks(-2, (0, 1, 2), 3, 2),
    Blocks(-3, (0, 1, 2), 3, 2),
    Blocks(-2, (2, 0, 1), 3, 2),
    Blocks(-2, (1, 1, 4), 6, 2),
    Blocks(-1, (5, 3, 0), 6, 2),
]


@pytest.mark.parametrize("blocks", CASES)
def test_rows_are_spread_and_added_up(blocks):
    shape = [2, 4, 5, 6]
    shape[blocks.axis] = 3
    rows = torch.randn(shape)
    wide = explicit(blocks, rows)
    assert torch.equal(blocks.spread(rows), wide)
    assert torch.allclose(blocks.by_part(rows), wide.sum(rows.dim() + blocks.axis))


def test_rows_that_are_the_same_for_all_parts_are_spread_too():
    blocks = Blocks(-2, (0, 1, 2), 3, 2)
    rows = torch.randn(2, 4, 1, 5)
    assert torch.equal(blocks.spread(rows), explicit(blocks, rows.expand(2, 4, 3, 5)))


def test_what_is_infinite_stays_with_its_part():
    blocks = Blocks(-1, (1, 0), 2, 1)
    assert blocks.spread(torch.tensor([[torch.inf, torch.nan]])).isfinite().sum() == 2


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        ((3,), None),
        ((1, 3), None),
        ((), None),
        ((3, 2), (-2, 3, 2)),
        ((1, 3, 2), (-2, 3, 2)),
        ((3, 1), (-2, 3, 1)),
        ((2, 3, 4), (-3, 2, 12)),
    ],
)
def test_parts_of_a_sample(sample, found):
    blocks = first_blocks(sample)
    assert (blocks and (blocks.axis, blocks.parts, blocks.each)) == found
    assert blocks is None or blocks.all_in_order
