"""``structure/symmetric.py``: star colourings, with as few colours as known ones, and where each entry is read."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch

from jacfunc.structure import symmetric
from jacfunc.structure.colouring import by_columns, number_of
from jacfunc.structure.pattern import SparsityPattern
from jacfunc.structure.symmetric import by_symmetry, places_by_symmetry


def of_graph(graph: nx.Graph) -> SparsityPattern:
    """The pattern of a Hessian whose entries off the diagonal are the edges."""
    matrix = nx.to_numpy_array(graph) + np.eye(len(graph))
    return SparsityPattern.of(matrix, symmetric=True)


def assert_star_colouring(pattern: SparsityPattern, colours: np.ndarray) -> None:
    """No neighbours of one colour, and no path of four vertices of two: looked at path by path."""
    graph = nx.Graph([(i, j) for i, j in zip(pattern.row.tolist(), pattern.col.tolist(), strict=True) if i != j])
    for b, c in itertools.chain(graph.edges, [edge[::-1] for edge in graph.edges]):
        assert colours[b] != colours[c]
        for a, d in itertools.product(set(graph[b]) - {c}, set(graph[c]) - {b}):
            assert a == d or (colours[a], colours[b]) != (colours[c], colours[d])


def assert_read(pattern: SparsityPattern, colours: np.ndarray) -> None:
    """Every entry of a matrix of that pattern is found in its compressed columns."""
    assert set(colours.tolist()) == set(range(number_of(colours)))  # none is left out
    size = pattern.shape[0]
    matrix = np.triu(np.random.default_rng(0).random((size, size)))
    matrix = (matrix + matrix.T) * pattern.to_dense().numpy()
    compressed = matrix @ np.eye(number_of(colours))[colours]
    found = compressed.T.reshape(-1)[places_by_symmetry(pattern, colours)]
    np.testing.assert_allclose(found, matrix[pattern.arrays])


GRAPHS = {
    "path": (nx.path_graph(30), 3),
    "star": (nx.star_graph(30), 2),
    "wheel": (nx.wheel_graph(30), 5),
    "cycle": (nx.cycle_graph(30), 3),
    "plane": (nx.convert_node_labels_to_integers(nx.grid_2d_graph(8, 7)), 5),
    "tree": (nx.balanced_tree(3, 3), 3),
    "complete": (nx.complete_graph(9), 9),
    "two parts": (nx.complete_bipartite_graph(3, 20), 4),
    "alone": (nx.empty_graph(5), 1),
    "two hubs": (nx.compose(nx.star_graph(40), nx.relabel_nodes(nx.star_graph(40), {0: 1, 1: 0})), 3),
}


@pytest.mark.parametrize("first_fit", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_known_graphs(monkeypatch: pytest.MonkeyPatch, name: str, first_fit: bool) -> None:
    graph, count = GRAPHS[name]
    pattern = of_graph(graph)
    if first_fit:
        colours = by_symmetry(pattern)
        assert number_of(colours) <= count
        assert_star_colouring(pattern, colours)
    else:
        monkeypatch.setattr(symmetric, "PATHS", -1)
        colours = by_symmetry(pattern)
    assert number_of(colours) <= number_of(by_columns(pattern))
    assert_read(pattern, colours)


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_random_graphs(seed: int, part: float) -> None:
    pattern = of_graph(nx.gnp_random_graph(40, part, seed=seed))
    colours = by_symmetry(pattern)
    assert number_of(colours) <= number_of(by_columns(pattern))
    assert_star_colouring(pattern, colours)
    assert_read(pattern, colours)


def test_entries_off_the_diagonal_alone() -> None:
    pattern = SparsityPattern.of(nx.to_numpy_array(nx.path_graph(12)), symmetric=True)
    colours = by_symmetry(pattern)
    assert number_of(colours) == 2  # no two of them meet in a row
    assert_read(pattern, colours)


@pytest.mark.parametrize("hubs", [1, 3, 20, 90])
def test_large_arrows_take_a_colour_for_each_hub(hubs: int) -> None:
    size = 20_000
    ends = np.repeat(np.arange(hubs), size), np.tile(np.arange(size), hubs)
    around = np.arange(size), (np.arange(size) + 1) % size
    rows, columns = (np.concatenate(parts) for parts in zip(ends, around, strict=True))
    pattern = SparsityPattern.of_entries(rows, columns, (size,), (size,)).made_symmetric()
    colours = by_symmetry(pattern)
    assert number_of(colours) <= hubs + 4
    assert torch.equal(pattern.colours(), torch.from_numpy(colours))
    places = places_by_symmetry(pattern, colours)
    rows, columns = pattern.arrays
    alone = np.bincount(colours[columns] * size + rows, minlength=size * number_of(colours))
    assert (alone[places] == 1).all()
    right = (places == colours[columns] * size + rows) | (places == colours[rows] * size + columns)
    assert right.all()


def test_no_entries() -> None:
    pattern = SparsityPattern.of(np.zeros((4, 4)), symmetric=True)
    assert number_of(by_symmetry(pattern)) == 1
    assert places_by_symmetry(pattern, by_symmetry(pattern)).shape == (0,)
    nothing = SparsityPattern.of(np.zeros((0, 0)), symmetric=True)
    assert number_of(by_symmetry(nothing)) == 0
