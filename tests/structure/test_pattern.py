"""``structure/pattern.py``: what a pattern is made of, and what is made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jacfunc import ArgumentTypeError, ShapeError, SparsityPattern

DENSE = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]]).bool()
MADE = {
    "tensor": lambda: DENSE,
    "numbers": lambda: DENSE.float() * -2,
    "array": lambda: DENSE.numpy(),
    "csr": lambda: DENSE.double().to_sparse_csr(),
    "csc": lambda: DENSE.double().to_sparse_csc(),
    "coo": lambda: DENSE.double().to_sparse_coo(),
    "uncoalesced": lambda: torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 0, 2, 2, 3], [0, 2, 0, 1, 2, 0]]), torch.ones(6), (4, 3)
    ),
    "pattern": lambda: SparsityPattern.of(DENSE),
}


@pytest.mark.parametrize("kind", MADE)
def test_of(kind):
    pattern = SparsityPattern.of(MADE[kind]())
    assert torch.equal(pattern.to_dense(), DENSE)
    assert (pattern.shape, pattern.nnz) == ((4, 3), 5)
    assert (pattern.output_shape, pattern.input_shape) == ((4,), (3,))
    assert pattern.crow.tolist() == [0, 2, 2, 4, 5]
    assert pattern.col.tolist() == [0, 2, 1, 2, 0]
    assert pattern.row.tolist() == [0, 0, 2, 2, 3]
    assert torch.equal(pattern.to_torch().to_dense(), DENSE)


def test_explicit_zeros_count():
    coo = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.zeros(2), (2, 2))
    assert SparsityPattern.of(coo).to_dense().tolist() == [[False, True], [True, False]]


def test_scipy():
    scipy = pytest.importorskip("scipy.sparse", reason="scipy is no dependency")
    for kind in (scipy.csr_array, scipy.coo_matrix, scipy.csc_array):
        assert torch.equal(SparsityPattern.of(kind(DENSE.numpy())).to_dense(), DENSE)
    assert np.array_equal(SparsityPattern.of(DENSE).to_scipy().toarray(), DENSE.numpy())


def test_shapes_of_samples():
    pattern = SparsityPattern.of(DENSE, (2, 2), (3, 1))
    assert (pattern.output_shape, pattern.input_shape, pattern.shape) == ((2, 2), (3, 1), (4, 3))
    assert torch.equal(pattern.transposed.to_dense(), DENSE.T)
    assert (pattern.transposed.output_shape, pattern.transposed.input_shape) == ((3, 1), (2, 2))


def test_unions():
    other = torch.zeros(4, 3)
    other[1, 1] = 1
    one, two = SparsityPattern.of(DENSE), SparsityPattern.of(other)
    assert torch.equal((one | two).to_dense(), DENSE | other.bool())
    assert (one | two).is_of(two | one)
    assert not one.is_of(two)
    assert not one.is_of(SparsityPattern.of(DENSE, (2, 2)))
    with pytest.raises(ShapeError, match=r"no union with one of \(3,\) by \(4,\)"):
        one | one.transposed


def test_entries_in_any_order():
    rows, columns = np.array([3, 0, 2, 0, 2, 3]), np.array([0, 2, 1, 0, 2, 0])
    assert torch.equal(SparsityPattern.of_entries(rows, columns, (4,), (3,)).to_dense(), DENSE)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_none(shape):
    pattern = SparsityPattern.of(np.zeros(shape))
    assert (pattern.shape, pattern.nnz) == (shape, 0)
    assert pattern.transposed.shape == shape[::-1]
    assert repr(pattern) == f"SparsityPattern({shape[0]} x {shape[1]}, 0 entries, 0 % of all)"


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (lambda: SparsityPattern.of([[1]]), ArgumentTypeError, "the pattern is a list"),
        (lambda: SparsityPattern.of(3), ArgumentTypeError, "the pattern is an? int"),
        (lambda: SparsityPattern.of(torch.ones(3)), ShapeError, r"shape \(3,\)"),
        (lambda: SparsityPattern.of(np.ones((1, 2, 3))), ShapeError, r"shape \(1, 2, 3\)"),
        (lambda: SparsityPattern.of(DENSE, (5,)), ShapeError, "4 rows, .*output has shape .*5 were expected"),
        (lambda: SparsityPattern.of(DENSE, (), (2,)), ShapeError, "3 columns, .*input has shape .*2 were expected"),
    ],
)
def test_what_is_refused(given, kind, words):
    with pytest.raises(kind, match=words):
        given()


def test_a_picture():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is an extra")
    ax = pyplot.subplots()[1]
    assert SparsityPattern.of(DENSE).plot(ax) is ax
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[0, 0], [2, 0], [1, 2], [2, 2], [0, 3]]
    assert SparsityPattern.of(DENSE).plot() is not ax
    pyplot.close("all")
