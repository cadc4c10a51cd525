"""The result of a sparse Jacobian: its values and one pattern for all samples, and the matrix they are."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from .pattern import SparsityPattern

if TYPE_CHECKING:
    import scipy.sparse  # type: ignore[import-untyped]


NO_TENSOR = (
    "is no tensor: its entries are the tensor .values, its matrices .to_dense(), .to_torch(n) or .to_scipy(n), its "
    "products .matvec(v) and .rmatvec(u)"
)


@dataclass(frozen=True, eq=False)
class SparseJacobian:
    r"""The entries :math:`J_{ij} = \partial y_i / \partial x_j` of each sample's Jacobian that can be nonzero.

    Attributes:
        values: the entries, ``(N, nnz)``, or ``(nnz,)`` with ``batch_dims=0``; in the order of ``pattern.col``.  They
            carry gradients.
        pattern: which entries they are; the same for all samples.

    Example:
        >>> import torch
        >>> from jacfunc import sparse_jac
        >>> x = torch.tensor([[1.0, 2.0, 4.0]])
        >>> jac = sparse_jac(lambda x: x[:, 1:] * x[:, :-1])(x)
        >>> jac.values
        tensor([[2., 1., 4., 2.]])
        >>> jac.to_dense()
        tensor([[[2., 1., 0.],
                 [0., 4., 2.]]])
    """

    values: torch.Tensor
    pattern: SparsityPattern

    @property
    def shape(self) -> tuple[int, ...]:
        """The sample axes, then how many rows and columns each Jacobian has."""
        return (*self.values.shape[:-1], *self.pattern.shape)

    def to_dense(self) -> torch.Tensor:
        """All entries, zeros too, ``(N, rows, columns)``; gradients pass."""
        rows, columns = self.pattern.shape
        flat = self.values.new_zeros(*self.values.shape[:-1], rows * columns)
        place = (self.pattern.row * columns + self.pattern.col).to(self.values.device)
        return flat.index_copy(-1, place, self.values).reshape((*self.values.shape[:-1], rows, columns))

    def to_torch(self, n: int | None = None) -> torch.Tensor:
        """The Jacobian of sample ``n`` as a sparse tensor ``(rows, columns)`` in compressed rows; gradients pass.

        Raises:
            ArgumentError: there are several samples, and ``n`` names none of them.
        """
        values, pattern = self._of(n), self.pattern
        crow, col = pattern.crow.to(values.device), pattern.col.to(values.device)
        with warnings.catch_warnings(action="ignore"):  # of torch, that such tensors are new
            return torch.sparse_csr_tensor(crow, col, values, pattern.shape, check_invariants=False)

    def to_scipy(self, n: int | None = None) -> scipy.sparse.csr_array:
        """The Jacobian of sample ``n`` as a sparse array of scipy's, ``(rows, columns)``; a copy, without gradients.

        Raises:
            ArgumentError: there are several samples, and ``n`` names none of them.
        """
        from scipy.sparse import csr_array

        data = self._of(n).detach().cpu().numpy().copy()
        return csr_array((data, self.pattern.col.numpy(), self.pattern.crow.numpy()), shape=self.pattern.shape)

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        r"""The product :math:`J v` of each sample: ``v`` of shape ``(N, *I)`` or ``(N, columns)`` to ``(N, *O)``.

        Raises:
            ShapeError: ``v`` has another shape.
        """
        flat = self._flat(v, self.pattern.input_shape, "v")
        col, row = self.pattern.col.to(flat.device), self.pattern.row.to(flat.device)
        return self._added(self.values * flat[..., col], row, self.pattern.output_shape)

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        """The product of each sample, as :meth:`matvec`."""
        return self.matvec(v) if isinstance(v, torch.Tensor) else NotImplemented

    def rmatvec(self, u: torch.Tensor) -> torch.Tensor:
        r"""The product :math:`J^T u` of each sample: ``u`` of shape ``(N, *O)`` or ``(N, rows)`` to ``(N, *I)``.

        Raises:
            ShapeError: ``u`` has another shape.
        """
        flat = self._flat(u, self.pattern.output_shape, "u")
        col, row = self.pattern.col.to(flat.device), self.pattern.row.to(flat.device)
        return self._added(self.values * flat[..., row], col, self.pattern.input_shape)

    def diagonal(self) -> torch.Tensor:
        """The entries ``(i, i)``, zero where there are none, ``(N, min(rows, columns))``; gradients pass."""
        on = (self.pattern.row == self.pattern.col).nonzero()[:, 0]
        places = self.pattern.row[on].to(self.values.device)
        zeros = self.values.new_zeros(*self.values.shape[:-1], min(self.pattern.shape))
        return zeros.index_copy(-1, places, self.values[..., on.to(self.values.device)])

    if not TYPE_CHECKING:  # which knows what there is

        def __getattr__(self, name: str) -> object:
            told = f"{type(self).__name__!r} object has no attribute {name!r}"
            of_tensors = name[0] != "_" and hasattr(torch.Tensor, name)
            raise AttributeError(f"{told}; it {NO_TENSOR}" if of_tensors else told)

        __iter__ = None  # else ``__getitem__`` would make it iterable

        def __getitem__(self, place: object) -> object:
            raise ArgumentTypeError(f"a SparseJacobian has no items; it {NO_TENSOR}")

    def _of(self, n: int | None) -> torch.Tensor:
        """The values of one sample."""
        flat = self.values.reshape(-1, self.values.shape[-1]) if self.values.shape[-1] else self.values[..., :0]
        count = math.prod(self.values.shape[:-1])
        if n is None and count == 1:
            return flat.reshape(-1)
        if n is None or not -count <= n < count:
            raise ArgumentError(f"n={n!r} names none of the {count} samples; pass the number of one, as in n=0")
        return flat[n]

    def _flat(self, vector: torch.Tensor, shape: tuple[int, ...], name: str) -> torch.Tensor:
        batch = tuple(self.values.shape[:-1])
        if tuple(vector.shape) not in ((*batch, *shape), (*batch, math.prod(shape))):
            raise ShapeError(f"{name} has shape {tuple(vector.shape)}, but {(*batch, *shape)} was expected")
        return vector.reshape((*batch, math.prod(shape)))

    def _added(self, parts: torch.Tensor, to: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        zeros = parts.new_zeros(*parts.shape[:-1], math.prod(shape))
        return zeros.index_add(-1, to, parts).reshape((*parts.shape[:-1], *shape))

    def __repr__(self) -> str:
        return f"SparseJacobian({tuple(self.shape)}, {self.pattern.nnz} entries a sample, {self.values.dtype})"
