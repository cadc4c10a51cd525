"""``structure/colouring.py``: every colouring is one, with as few colours as the pattern is known to need."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from patterns import found_of
from torch.nn import functional as F

from jacfunc import sparsity
from jacfunc.structure import colouring
from jacfunc.structure.colouring import by_columns, for_diagonal, number_of
from jacfunc.structure.pattern import SparsityPattern


def conflicts(pattern: SparsityPattern, diagonal: bool) -> nx.Graph:
    """Columns joined where they may not share a colour, pair by pair."""
    graph = nx.Graph()
    graph.add_nodes_from(range(pattern.shape[1]))
    entries = [(int(i), int(j)) for i, j in zip(pattern.row, pattern.col, strict=True)]
    if diagonal:
        graph.add_edges_from([pair for pair in entries if pair[0] != pair[1]])
        return graph
    by_row: dict[int, list[int]] = {}
    for i, j in entries:
        by_row.setdefault(i, []).append(j)
    for columns in by_row.values():
        graph.add_edges_from([(a, b) for a in columns for b in columns if a < b])
    return graph


def assert_valid(pattern: SparsityPattern, colours: np.ndarray, diagonal: bool) -> None:
    assert colours.shape == (pattern.shape[1],)
    assert set(colours.tolist()) == set(range(number_of(colours)))  # none is left out
    entries = zip(pattern.row.tolist(), pattern.col.tolist(), strict=True)
    if diagonal:
        assert all(i == j or colours[i] != colours[j] for i, j in entries)
        return
    seen = [(i, int(colours[j])) for i, j in entries]
    assert len(seen) == len(set(seen))


def random_pattern(seed: int, rows: int, columns: int, part: float) -> SparsityPattern:
    return SparsityPattern.of(np.random.default_rng(seed).random((rows, columns)) < part)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_random_patterns(seed, part, diagonal):
    pattern = random_pattern(seed, 30 if diagonal else 25, 30, part)
    colours = (for_diagonal if diagonal else by_columns)(pattern)
    assert_valid(pattern, colours, diagonal)
    graph = conflicts(pattern, diagonal)
    greedy = nx.greedy_color(graph, "largest_first")
    assert number_of(colours) <= max(greedy.values()) + 1
    if not diagonal and pattern.nnz:
        assert number_of(colours) >= int(pattern.crow.diff().max())


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("part", [0.001, 0.01, 0.05])
def test_large_patterns_are_coloured_at_once(monkeypatch, part, diagonal):
    pattern = random_pattern(0, 400, 400, part)
    colour = for_diagonal if diagonal else by_columns
    in_turn = number_of(colour(pattern))
    monkeypatch.setattr(colouring, "SMALL", 0)
    colours = colour(pattern)
    assert_valid(pattern, colours, diagonal)
    assert number_of(colours) <= 1.3 * in_turn + 2


def test_more_than_64_colours_at_once(monkeypatch):
    monkeypatch.setattr(colouring, "SMALL", 0)
    monkeypatch.setattr(colouring, "TRIES", 0)
    pattern = SparsityPattern.of(np.ones((2, 150), bool))
    colours = by_columns(pattern)
    assert_valid(pattern, colours, False)
    assert number_of(colours) == 150


def line(x):
    return F.pad(x, (0, 1))[1:] + x**2 + F.pad(x, (1, 0))[:-1]


def ring(x):
    return x.roll(1, 0) + x**2 + x.roll(-1, 0)


def plane(x):
    wide = F.pad(x, (1, 1, 1, 1))
    return wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2] - 4 * x.sin()


def torus(x):
    return x.roll(1, 0) + x.roll(-1, 0) + x.roll(1, 1) + x.roll(-1, 1) - 4 * x.sin()


def cube(x):
    return sum(x.roll(s, d) for s in (1, -1) for d in range(3)) + x**2


def pair(x):
    """Two fields that react at each place and spread."""
    u, v = x
    return torch.stack([torus(u) - u * v**2, torus(v) + u * v**2])


def stack(x):
    weights = torch.ones(2, 1, 3, 3, dtype=x.dtype), torch.ones(1, 2, 3, 3, dtype=x.dtype)
    return F.conv2d(F.conv2d(x[None, None], weights[0], padding=1).tanh(), weights[1], padding=1)


# The function, the shape, how many colours all entries take, and how many the diagonal.
KNOWN = [
    (torch.tanh, (200,), 1, 1),
    (torch.tanh, (7, 9), 1, 1),
    (line, (100,), 3, 2),
    (line, (101,), 3, 2),
    (ring, (99,), 3, 3),
    (ring, (100,), 4, 2),
    (plane, (20, 20), 5, 2),
    (plane, (17, 23), 5, 2),
    (torus, (20, 20), 5, 2),
    (torus, (64, 64), 8, 2),
    (cube, (7, 7, 7), 7, 4),
    (pair, (2, 20, 20), 10, 4),
    (stack, (20, 20), 25, 9),
    (stack, (21, 19), 25, 9),
    (lambda x: x.reshape(-1, 3).cumsum(1), (60,), 3, 3),
    (lambda x: x.sum() * x, (12,), 12, 12),
    (lambda x: x[:1] * 2, (12,), 1, None),
    (lambda x: x[::2] * x[1::2], (12,), 2, None),
]


@pytest.mark.parametrize("case", range(len(KNOWN)))
def test_known_counts(case):
    f, shape, every, diagonal = KNOWN[case]
    pattern = found_of(f, torch.rand(shape, dtype=torch.float64)).pattern
    colours = by_columns(pattern)
    assert_valid(pattern, colours, False)
    assert number_of(colours) <= every
    if diagonal is not None:
        colours = for_diagonal(pattern)
        assert_valid(pattern, colours, True)
        assert number_of(colours) <= diagonal


def test_a_large_periodic_stencil():
    pattern = found_of(torus, torch.rand(256, 256, dtype=torch.float64)).pattern
    assert pattern.nnz == 5 * 256 * 256
    colours = by_columns(pattern)
    assert_valid(pattern, colours, False)
    assert number_of(colours) <= 8
    colours = for_diagonal(pattern)
    assert_valid(pattern, colours, True)
    assert number_of(colours) == 2


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_stacks_of_convolutions(channels, depth):
    weight = torch.ones(channels, channels, 3, 3, dtype=torch.float64)

    def f(x):
        for _ in range(depth):
            x = F.conv2d(x, weight, padding=1).tanh()
        return x

    pattern = found_of(f, torch.rand(1, channels, 24, 24, dtype=torch.float64)).pattern
    reach = 2 * depth + 1
    colours = by_columns(pattern)
    assert_valid(pattern, colours, False)
    assert number_of(colours) <= reach * reach * channels


@pytest.mark.parametrize(("channels", "width", "side"), [(4, 5, 32), (2, 7, 24), (3, 7, 20), (8, 5, 24), (16, 3, 24)])
def test_convolutions_take_as_many_colours_as_a_window_has_numbers(channels, width, side):
    weight = torch.randn(channels, channels, width, width)
    u = torch.randn(1, channels, side, side)
    pattern = sparsity(lambda u: F.conv2d(u, weight, padding=width // 2))(u)
    assert number_of(by_columns(pattern)) == channels * width**2


def test_full_triangles_are_coloured_one_column_after_the_other():
    colours = for_diagonal(SparsityPattern.of(np.tril(np.ones((400, 400), bool))))
    assert number_of(colours) == 400
