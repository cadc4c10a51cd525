"""Which entries of a Jacobian can be nonzero: a pattern, in compressed sparse rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.reasons import a_type
from ..errors import ArgumentTypeError, ShapeError
from .arrays import Array, different_pairs
from .colouring import by_columns
from .symmetric import by_symmetry

if TYPE_CHECKING:
    import scipy.sparse  # type: ignore[import-untyped]

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SparsityPattern:
    r"""The entries :math:`\partial y_i / \partial x_j` of a sample's Jacobian that can be nonzero; one for all samples.

    Row ``i`` is output ``i`` of the flattened sample, column ``j`` is input ``j``.  The columns of row ``i`` are
    ``col[crow[i]:crow[i + 1]]``, in order, as in ``torch.sparse_csr_tensor``.

    Attributes:
        crow: where each row begins in ``col``, ``(rows + 1,)``, int64.
        col: the column of each entry, ``(nnz,)``, int64.
        output_shape: the shape ``O`` of a sample of the output, of ``rows`` elements.
        input_shape: the shape ``I`` of a sample of the input, of as many elements as there are columns.
        symmetric: whether entry ``(j, i)`` always has the value of entry ``(i, j)``, as in a Hessian.
        row: the row of each entry, ``(nnz,)``, int64.

    Example:
        >>> import torch
        >>> from jacfunc import sparsity
        >>> x = torch.rand(8, 4)  # 8 samples
        >>> sparsity(lambda x: x[:, 1:] - x[:, :-1])(x)
        SparsityPattern(3 x 4, 6 entries, 50 % of all)
    """

    crow: torch.Tensor
    col: torch.Tensor
    output_shape: Shape
    input_shape: Shape
    symmetric: bool = False
    row: torch.Tensor = field(init=False)
    arrays: tuple[Array, Array] = field(init=False, repr=False)
    """Row and column of each entry for numpy."""

    def __post_init__(self) -> None:
        # Now, and not when they are asked for: torch.func's transforms and torch.compile may surround that.
        sizes = np.diff(self.crow.numpy())
        rows = np.repeat(np.arange(len(sizes)), sizes)
        object.__setattr__(self, "arrays", (rows, self.col.numpy()))
        object.__setattr__(self, "row", torch.from_numpy(rows))

    @classmethod
    def of(
        cls, pattern: Any, output_shape: Sequence[int] = (), input_shape: Sequence[int] = (), *, symmetric: bool = False
    ) -> SparsityPattern:
        """The pattern of the entries of a matrix that are not zero.

        Args:
            pattern: a matrix ``(rows, columns)``: a tensor, dense or sparse, an array, a scipy sparse matrix, or a
                pattern, which is returned.  Explicit zeros of sparse ones count as entries.
            output_shape: the shape of a sample of the output, ``(rows,)`` if empty.
            input_shape: the shape of a sample of the input, ``(columns,)`` if empty.
            symmetric: whether the entries ``(i, j)`` and ``(j, i)`` of the Jacobian always have the same value; both
                count as entries then, if one is.

        Raises:
            ArgumentTypeError: ``pattern`` is none of these.
            ShapeError: it is no matrix, or does not have as many rows and columns as the shapes have elements.
        """
        if isinstance(pattern, SparsityPattern):
            if not (output_shape or input_shape or symmetric):
                return pattern
            output_shape, input_shape = output_shape or pattern.output_shape, input_shape or pattern.input_shape
            symmetric = symmetric or pattern.symmetric
        rows, columns, shape = _entries(pattern)
        if len(shape) != 2:
            raise ShapeError(f"the pattern has shape {shape}; pass a matrix, a row for each output of a sample")
        found = tuple(output_shape) or shape[:1], tuple(input_shape) or shape[1:]
        for axis, (name, own) in enumerate(zip(("rows", "columns"), found, strict=True)):
            if math.prod(own) != shape[axis]:
                side = ("output", "input")[axis]
                raise ShapeError(
                    f"the pattern has {shape[axis]} {name}, but a sample of the {side} has shape {own}, so "
                    f"{math.prod(own)} were expected"
                )
        made = cls.of_entries(rows, columns, *found)
        return made.made_symmetric() if symmetric else made

    def made_symmetric(self) -> SparsityPattern:
        """That of a symmetric Jacobian: both ``(i, j)`` and ``(j, i)`` are entries if one of them is."""
        if self.shape[0] != self.shape[1]:
            raise ShapeError(f"the pattern has shape {self.shape}, and only a square one is symmetric; leave that out")
        rows, columns = self.arrays
        both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
        return replace(self.of_entries(*both, self.output_shape, self.input_shape), symmetric=True)

    @classmethod
    def of_entries(cls, rows: Array, columns: Array, output_shape: Shape, input_shape: Shape) -> SparsityPattern:
        """That of the entries at these rows and columns, in any order, some perhaps twice."""
        rows, columns = different_pairs(rows.astype(np.int64), columns.astype(np.int64), max(math.prod(input_shape), 1))
        crow = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=math.prod(output_shape)))])
        return cls(torch.from_numpy(crow), torch.from_numpy(columns), output_shape, input_shape)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""
        return math.prod(self.output_shape), math.prod(self.input_shape)

    @property
    def nnz(self) -> int:
        """How many entries can be nonzero."""
        return len(self.col)

    @property
    def transposed(self) -> SparsityPattern:
        """That of the transposed Jacobian."""
        turned = self.of_entries(*self.arrays[::-1], self.input_shape, self.output_shape)
        return replace(turned, symmetric=self.symmetric)

    def __or__(self, other: SparsityPattern) -> SparsityPattern:
        """The entries that are in one of two patterns of the same shapes."""
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        if (self.output_shape, self.input_shape) != (other.output_shape, other.input_shape):
            raise ShapeError(
                f"a pattern of {self.output_shape} by {self.input_shape} has no union with one of "
                f"{other.output_shape} by {other.input_shape}; both must be of the same samples"
            )
        rows, columns = [np.concatenate(pair) for pair in zip(self.arrays, other.arrays, strict=True)]
        both = self.of_entries(rows, columns, self.output_shape, self.input_shape)
        return replace(both, symmetric=self.symmetric and other.symmetric)

    def is_of(self, other: SparsityPattern) -> bool:
        """Whether both are the same entries of samples of the same shapes."""
        shapes = (self.output_shape, self.input_shape) == (other.output_shape, other.input_shape)
        return shapes and torch.equal(self.crow, other.crow) and torch.equal(self.col, other.col)

    def to_torch(self) -> torch.Tensor:
        """A sparse tensor ``(rows, columns)`` in compressed rows, True at each entry."""
        entries = torch.ones(self.nnz, dtype=torch.bool)
        with warnings.catch_warnings(action="ignore"):  # of torch, that such tensors are new
            return torch.sparse_csr_tensor(self.crow, self.col, entries, self.shape, check_invariants=False)

    def to_dense(self) -> torch.Tensor:
        """A tensor ``(rows, columns)``, True at each entry."""
        dense = torch.zeros(self.shape, dtype=torch.bool)
        dense[self.row, self.col] = True
        return dense

    def to_scipy(self) -> scipy.sparse.csr_array:
        """A sparse array of scipy's, True at each entry, as ``jac_sparsity`` of its solvers takes it."""
        from scipy.sparse import csr_array

        data = np.ones(self.nnz, dtype=bool)
        return csr_array((data, self.col.numpy(), self.crow.numpy()), shape=self.shape)

    def colours(self) -> torch.Tensor:
        """A colour for each column, ``(columns,)``, int64: one pass gives all entries of the columns of one colour.

        No two columns of a colour share a row; or, where the Jacobian is symmetric, each entry ``(i, j)`` or its mirror
        image is the only one of its colour in its row.  The number of colours is that of the passes by columns.
        """
        return torch.from_numpy((by_symmetry if self.symmetric else by_columns)(self))

    def plot(self, ax: Any = None) -> Any:
        """A picture of the entries by matplotlib, as its ``spy``; drawn into ``ax``, which is returned, if given."""
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        rows, columns = self.shape
        size = min(4.0, max(0.2, 250.0 / max(rows, columns, 1)))
        ax.plot(self.col.numpy(), self.row.numpy(), "s", markersize=size, color="black")
        ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xlabel="input", ylabel="output")
        return ax

    def __repr__(self) -> str:
        rows, columns = self.shape
        part = 100 * self.nnz / max(rows * columns, 1)
        symmetric = ", symmetric" * self.symmetric
        return f"SparsityPattern({rows} x {columns}, {self.nnz} entries, {part:.3g} % of all{symmetric})"


def _entries(pattern: Any) -> tuple[Array, Array, Shape]:
    """The rows and columns of the entries of a matrix, and its shape."""
    if isinstance(pattern, SparsityPattern):
        return *pattern.arrays, pattern.shape
    if isinstance(pattern, torch.Tensor):
        if pattern.layout is torch.strided:
            rows, columns = pattern.detach().nonzero().cpu().numpy().T if pattern.dim() == 2 else (np.zeros(0),) * 2
        else:
            entries: torch.Tensor = pattern.detach().to_sparse_coo()  # type: ignore[no-untyped-call]
            rows, columns = entries.coalesce().indices().cpu().numpy()
        return rows, columns, tuple(pattern.shape)
    if isinstance(pattern, np.ndarray):
        rows, columns = pattern.nonzero() if pattern.ndim == 2 else (np.zeros(0),) * 2
        return rows, columns, pattern.shape
    if hasattr(pattern, "tocoo"):
        listed = pattern.tocoo()
        return listed.row, listed.col, listed.shape
    raise ArgumentTypeError(
        f"the pattern is {a_type(pattern)}; pass a SparsityPattern, or a matrix: a tensor, an array or a scipy sparse "
        "matrix that is nonzero where the Jacobian may be"
    )
