"""``core/graphs.py``: nodes of autograd's graph, each once, and its leaves."""

from __future__ import annotations

import torch

from jacfunc.core.graphs import leaves, nodes


def test_a_node_that_several_ways_lead_to_is_there_once() -> None:
    a = torch.ones(2, requires_grad=True)
    b = a.sin()
    found = list(nodes([b * b, b]))
    assert len(found) == len(set(found)) == 3
    assert b.grad_fn in found


def test_what_was_seen_is_passed_over_with_all_behind_it() -> None:
    a, c = (torch.ones(2, requires_grad=True) for _ in range(2))
    b, seen = a.sin(), set()
    list(nodes([b], seen))
    assert [id(leaf) for leaf in leaves([b * c], seen)] == [id(c)]


def test_leaves() -> None:
    a, c = (torch.ones(2, requires_grad=True) for _ in range(2))
    constant = torch.ones(2)
    assert {id(leaf) for leaf in leaves([a * c, (a * constant).detach(), constant])} == {id(a), id(c)}
    assert [id(leaf) for leaf in leaves([a, a + constant])] == [id(a)], "itself, and once"
