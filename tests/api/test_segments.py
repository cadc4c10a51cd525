"""``jacfunc/api/segments.py``: ragged samples in every transform that takes them, beside each segment by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    ShapeError,
    batch_jac,
    biharmonic,
    check_independent,
    diag_jac,
    divergence,
    explain,
    hess_diag,
    hessian,
    laplacian,
    make_functional,
    partials,
)
from jacfunc.options import METHODS

SEGMENTS = torch.tensor([0, 0, 0, 1, 2, 2, 0, 2])  # of 4, 1 and 3 rows, not in order
COUNT, LONGEST = 3, 4
X = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PARTS = [(number == SEGMENTS).nonzero().flatten() for number in range(COUNT)]
PLACE = {int(row): place for rows in PARTS for place, row in enumerate(rows)}


class Pairwise(nn.Module):
    """Interactions of all pairs of rows of a segment: an energy for each segment, or what each row feels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.rand(2, 2, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def features(self, x: Any, segments: torch.Tensor) -> Any:
        same = (segments[:, None] == segments).to(x.dtype)
        near = same * torch.exp(-self.scale * (x[:, None] - x).square().sum(-1))
        return torch.tanh(near @ torch.sin(x @ self.weight))

    def energies(self, x: Any, segments: torch.Tensor, count: int = 1) -> Any:
        own = (self.features(x, segments) * x).sum(1)
        return own.new_zeros(count).index_add(0, segments, own)


NET = Pairwise()
NODES: Callable[[Any], Any] = lambda x: NET.features(x, SEGMENTS)
GRAPHS: Callable[[Any], Any] = lambda x: NET.energies(x, SEGMENTS, COUNT)
PER_NODE: Callable[[Any], Any] = lambda x: NODES(x).square().sum(1)
VECTORS: Callable[[Any], Any] = lambda x: torch.stack([GRAPHS(x), GRAPHS(x).sin(), GRAPHS(x).cos()], 1)


def alone(number: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any], torch.Tensor]:
    """The features and the energy of a segment by itself, as one sample, and its rows."""
    own = torch.zeros(len(PARTS[number]), dtype=torch.long)
    return lambda x: NET.features(x, own), lambda x: NET.energies(x, own)[0], X[PARTS[number]]


def whole(transform: Callable[..., Any], of: int, number: int) -> torch.Tensor:
    f, x = alone(number)[of], alone(number)[2]
    found: torch.Tensor = transform(f, batch_dims=0)(x)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_forces_and_curvatures_of_each_row(method: Any) -> None:
    forces = diag_jac(GRAPHS, segments=SEGMENTS, method=method)(X)
    curvatures = hess_diag(GRAPHS, segments=SEGMENTS, method=method)(X)
    jacobian = batch_jac(GRAPHS, segments=SEGMENTS, method=method)(X)
    vectors = batch_jac(VECTORS, segments=SEGMENTS, method=method)(X)
    for number, rows in enumerate(PARTS):
        torch.testing.assert_close(forces[rows], whole(batch_jac, 1, number))
        torch.testing.assert_close(curvatures[rows], whole(hess_diag, 1, number))
    torch.testing.assert_close(jacobian, forces)
    torch.testing.assert_close(vectors[:, 0], forces)
    assert vectors.shape == (8, 3, 2)


@pytest.mark.parametrize("method", METHODS)
def test_sums_over_a_segment(method: Any) -> None:
    found, gradient = laplacian(GRAPHS, segments=SEGMENTS, method=method, return_gradient=True)(X)
    nodes = laplacian(NODES, segments=SEGMENTS, method=method)(X)
    trace = divergence(NODES, segments=SEGMENTS, method=method)(X)
    assert (found.shape, gradient.shape, nodes.shape, trace.shape) == ((3,), (8, 2), (8, 2), (3,))
    for number, rows in enumerate(PARTS):
        torch.testing.assert_close(found[number], whole(laplacian, 1, number))
        torch.testing.assert_close(gradient[rows], whole(batch_jac, 1, number))
        torch.testing.assert_close(nodes[rows], whole(laplacian, 0, number))
        torch.testing.assert_close(trace[number], whole(divergence, 0, number))


@pytest.mark.parametrize("method", METHODS)
def test_by_rows_of_the_own_segment_and_zeros(method: Any) -> None:
    jacobian = batch_jac(NODES, segments=SEGMENTS, method=method)(X)
    second = hess_diag(NODES, segments=SEGMENTS, method=method)(X)
    assert jacobian.shape == second.shape == (8, 2, LONGEST, 2)
    for number, rows in enumerate(PARTS):
        for found, transform in ((jacobian, batch_jac), (second, hess_diag)):
            torch.testing.assert_close(found[rows][:, :, : len(rows)], whole(transform, 0, number))
            assert not found[rows][:, :, len(rows) :].any()


@pytest.mark.parametrize("method", METHODS)
def test_diagonals_of_each_row(method: Any) -> None:
    vectors = diag_jac(NODES, segments=SEGMENTS, method=method)(X)
    numbers = diag_jac(PER_NODE, segments=SEGMENTS, method=method)(X)
    several = diag_jac(lambda x: NET.features(x, SEGMENTS) * x[:, :1], segments=SEGMENTS, method=method)(X)
    by_one = diag_jac(lambda s: NET.features(s[:, None] * X, SEGMENTS), segments=SEGMENTS, method=method)(X[:, 0])
    for number, rows in enumerate(PARTS):
        jacobian = whole(batch_jac, 0, number)  # (m, 2, m, 2)
        torch.testing.assert_close(vectors[rows], jacobian.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1))
        own = 2 * (NODES(X)[rows][..., None] * jacobian.diagonal(dim1=0, dim2=2).permute(2, 0, 1)).sum(1)
        torch.testing.assert_close(numbers[rows], own)
    assert several.shape == by_one.shape == (8, 2)
    step = 1e-6 * torch.eye(8, dtype=torch.float64)[5]
    moved = [NET.features((X[:, 0] + sign * step)[:, None] * X, SEGMENTS)[5] for sign in (1, -1)]
    torch.testing.assert_close(by_one[5], (moved[0] - moved[1]) / 2e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_whole_hessians_of_each_segment(method: Any) -> None:
    found = hessian(GRAPHS, segments=SEGMENTS, method=method)(X)
    nodes = hessian(PER_NODE, segments=SEGMENTS, method=method)(X)
    assert found.shape == (3, LONGEST, 2, LONGEST, 2) and nodes.shape == (8, LONGEST, 2, LONGEST, 2)
    for number, rows in enumerate(PARTS):
        size = len(rows)
        torch.testing.assert_close(found[number, :size, :, :size], whole(hessian, 1, number))
        assert not found[number, size:].any() and not found[number, :, :, size:].any()
        f, x = alone(number)[0], alone(number)[2]
        torch.testing.assert_close(
            nodes[rows][:, :size, :, :size], hessian(lambda x, f=f: f(x).square().sum(1), batch_dims=0)(x)
        )
    torch.testing.assert_close(
        biharmonic(GRAPHS, segments=SEGMENTS)(X), torch.stack([whole(biharmonic, 1, number) for number in range(COUNT)])
    )


def test_gradients_by_the_parameters() -> None:
    energies, weights = make_functional(Energies(NET))
    loss = laplacian(energies, segments=SEGMENTS)(weights, X).square().sum()
    loss = loss + diag_jac(energies, segments=SEGMENTS)(weights, X).square().sum()
    found = torch.autograd.grad(loss, list(weights.values()))
    own = list(NET.parameters())
    by_hand = sum(
        whole(laplacian, 1, number).square() + whole(batch_jac, 1, number).square().sum() for number in range(COUNT)
    )
    for one, other in zip(found, torch.autograd.grad(by_hand, own), strict=True):
        torch.testing.assert_close(one, other)


class Energies(nn.Module):
    def __init__(self, net: Pairwise) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net.energies(x, SEGMENTS, COUNT)


def test_values_aux_trees_and_chunks() -> None:
    f = lambda x, y: ({"energy": NET.energies(x + y, SEGMENTS, COUNT), "features": NET.features(x, SEGMENTS)}, x.sum())
    options: Any = {"segments": SEGMENTS, "argnums": (0, 1), "return_value": True, "has_aux": True}
    found, value, aux = batch_jac(f, chunk_size=3, **options)(X, X)
    torch.testing.assert_close(found["energy"][0], diag_jac(GRAPHS, segments=SEGMENTS)(2 * X))
    torch.testing.assert_close(found["features"][0], batch_jac(NODES, segments=SEGMENTS)(X))
    assert not found["features"][1].any() and aux == X.sum()
    torch.testing.assert_close(value["energy"], GRAPHS(2 * X))
    torch.testing.assert_close(value["features"], NODES(X))


def test_another_batch_of_graphs_is_another_program() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        segments = torch.randint(4, (10,), generator=generator)
        segments = segments.unique(return_inverse=True)[1]
        x = torch.randn(10, 2, dtype=torch.float64, generator=generator)
        f = lambda x, segments=segments: NET.energies(x, segments, int(segments.max()) + 1)
        found = laplacian(f, segments=segments)(x)
        for number in range(int(segments.max()) + 1):
            own = x[segments == number]
            single = lambda x: NET.energies(x, torch.zeros(len(x), dtype=torch.long))[0]
            torch.testing.assert_close(found[number], laplacian(single, batch_dims=0)(own))


def test_segments_of_one_row_each() -> None:
    order, x = torch.arange(5), X[:5]
    torch.testing.assert_close(laplacian(lambda x: x.sin(), segments=order)(x), -x.sin())
    torch.testing.assert_close(diag_jac(lambda x: x.sin(), segments=order)(x), x.cos())
    gaps = torch.tensor([0, 2, 3])
    torch.testing.assert_close(diag_jac(lambda x: x.sin(), segments=gaps)(x[:3]), x[:3].cos())
    assert hess_diag(energies_of(order), segments=order)(x).shape == (5, 2)  # of segments, as of longer ones
    energies = lambda x: x.new_zeros(4).index_add(0, gaps, x.square().sum(1))
    torch.testing.assert_close(laplacian(energies, segments=gaps)(x[:3]), torch.tensor([4.0, 0, 4, 4]).double())
    with pytest.raises(
        ShapeError, match="3 rows in as many segments, so that it may be of either; number the segments"
    ):
        laplacian(lambda x: x.sin(), segments=torch.tensor([2, 0, 1]))(x[:3])


def energies_of(segments: torch.Tensor) -> Callable[[Any], Any]:
    return lambda x: x.new_zeros(int(segments.max()) + 1).index_add(0, segments, x.square().sum(1))


def test_no_rows_at_all() -> None:
    none, x = SEGMENTS[:0], X[:0]
    nothing = lambda x: x.new_zeros(0).index_add(0, none, x.sum(1))
    assert laplacian(nothing, segments=none)(x).shape == (0,)
    assert diag_jac(nothing, segments=none)(x).shape == hess_diag(nothing, segments=none)(x).shape == (0, 2)


def test_independence_on_demand() -> None:
    assert check_independent(GRAPHS, segments=SEGMENTS)(X)
    with pytest.raises(CoupledSamplesError):
        check_independent(COUPLED["an edge between two"], segments=SEGMENTS)(X)


COUPLED: dict[str, Callable[[Any], Any]] = {
    "an edge between two": lambda x: NODES(x).index_add(0, torch.tensor([0]), 0.1 * x[4:5]),
    "a mean of all rows": lambda x: NODES(x - x.mean(0)),
    "the neighbour": lambda x: GRAPHS(x) + GRAPHS(x).roll(1, 0),
    "a softmax over segments": lambda x: GRAPHS(x).softmax(0),
}


@pytest.mark.parametrize("name", COUPLED)
def test_what_goes_from_one_segment_to_another_is_refused(name: str) -> None:
    for transform in (laplacian, batch_jac, hessian):
        with pytest.raises(CoupledSamplesError, match=r"\(a sample is a segment of the rows\)$"):
            transform(COUPLED[name], segments=SEGMENTS)(X)


def test_inside_of_another_transform_and_of_functions() -> None:
    force = lambda x: diag_jac(GRAPHS, segments=SEGMENTS)(x)
    twice = divergence(force, segments=SEGMENTS)(X)
    torch.testing.assert_close(twice, laplacian(GRAPHS, segments=SEGMENTS)(X))
    slope = torch.func.grad(lambda s: laplacian(GRAPHS, segments=SEGMENTS)(s * X).sum())(torch.tensor(1.0).double())
    h = 1e-5
    ends = [laplacian(GRAPHS, segments=SEGMENTS)((1 + sign * h) * X).sum() for sign in (1, -1)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-8)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([0, 1], ArgumentTypeError, "segments is a list; pass a tensor with the number of the segment of each row"),
    (
        torch.zeros(8),
        ArgumentTypeError,
        r"segments has shape \(8,\) and dtype torch.float32; pass one integer for each",
    ),
    (torch.zeros(8, 1, dtype=torch.long), ArgumentTypeError, r"segments has shape \(8, 1\) and dtype torch.int64"),
    (torch.tensor([0, -1]), ArgumentError, "segments has -1 among its numbers; pass the number of the segment of each"),
    (torch.tensor([0, 10**13]), ArgumentError, r"segments cannot be read \(.*; pass a tensor of numbers below that of"),
    (torch.zeros(8, dtype=torch.long, device="meta"), ArgumentError, "segments cannot be read"),
]


@pytest.mark.parametrize(("segments", "error", "match"), REFUSED)
def test_what_are_no_segments_is_refused(segments: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        laplacian(GRAPHS, segments=segments)


def test_what_does_not_belong_to_them_is_told() -> None:
    with pytest.raises(
        ShapeError, match=r"args\[0\] has shape \(7, 2\), but segments has 8 entries; pass the number of"
    ):
        laplacian(GRAPHS, segments=SEGMENTS)(X[:7])
    with pytest.raises(ShapeError, match=r"output has shape \(5,\), but segments has 8 rows in 3 segments; return one"):
        laplacian(lambda x: x.new_zeros(5), segments=SEGMENTS)(X)
    with pytest.raises(
        ShapeError, match=r"output has sample shape \(3,\) and args\[0\] \(2,\), without a common diagonal"
    ):
        diag_jac(VECTORS, segments=SEGMENTS)(X)
    with pytest.raises(ArgumentTypeError, match=r"args\[0\] is a float, not a tensor"):
        laplacian(GRAPHS, segments=SEGMENTS)(1.0)
    with pytest.raises(
        ArgumentError, match="segments with sample_chunk_size=2: rows lie on the first axis, and belong"
    ):
        laplacian(GRAPHS, segments=SEGMENTS, sample_chunk_size=2)
    with pytest.raises(ArgumentTypeError, match="partials has no keyword 'segments'"):
        partials(GRAPHS, "u_x", inputs="x y", outputs="u", segments=SEGMENTS)
    assert "segments=8 rows in 3" in repr(laplacian(GRAPHS, segments=SEGMENTS))
    assert "for each of 3 samples" in str(explain(laplacian(GRAPHS, segments=SEGMENTS))(X))


SAME = (SEGMENTS[:, None] == SEGMENTS).double()


@pytest.mark.slow
@pytest.mark.parametrize("transform", [laplacian, diag_jac, hess_diag])
def test_compiled(transform: Callable[..., Any]) -> None:
    felt = lambda x: (SAME * torch.exp(-(x[:, None] - x).square().sum(-1))).sum(1)
    energies = lambda x: x.new_zeros(COUNT).index_add(0, SEGMENTS, felt(x))
    for f in (felt, energies):
        found = transform(f, segments=SEGMENTS, compile=True)(X)
        torch.testing.assert_close(found, transform(f, segments=SEGMENTS)(X))
