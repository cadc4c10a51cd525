"""What a transform with a sparsity pattern picks out of few columns or rows, and what tells it to be right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..call.quantity import EntriesOf, Quantity
from ..call.request import Request
from ..errors import ShapeError
from ..structure.compressed import Passes
from ..structure.jacobian import SparseJacobian
from ..structure.pattern import SparsityPattern
from ..structure.stacks import of_columns, of_rows
from .results import by_pair

Pair = tuple[Tensor, Tensor]
Compared = tuple[Pair, Tensor]


@dataclass(frozen=True)
class Kind(ABC):
    """What is picked of ``B = J S``, and how it is told to be right.

    Attributes:
        order: that of the pattern: 1 for Jacobians, 2 for Hessians.
    """

    order: ClassVar[int] = 1

    @abstractmethod
    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """How what is wanted of a pattern is computed."""

    def refuse(self, name: str, output_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:  # noqa: B027
        """Refuse samples of shapes that have not what is wanted."""

    @abstractmethod
    def quantity(self, passes: Passes) -> Quantity:
        """What is computed of the function that has ``B`` as its Jacobian."""

    @abstractmethod
    def result(self, request: Request, passes: Passes, found: torch.Tensor) -> Any:
        """What is wanted, of that."""

    def other_quantity(self, passes: Passes) -> Quantity:
        """What is computed of another function of that kind, to tell whether all is right."""
        return self.quantity(passes)

    def other_seeds(self, passes: Passes) -> torch.Tensor:
        """The transposed ``S`` for that."""
        return passes.seeds

    def draws(self, passes: Passes) -> int:
        """How many of the other ``B`` tell at the first call."""
        return 1

    def other_weights(self, weights: torch.Tensor, draw: int | None) -> torch.Tensor:
        """The weights of the columns for that, of random ones from 0.5 to 1.5; ``draw``: that of a first call."""
        return weights

    @abstractmethod
    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, other: Tensor) -> Compared:
        """A result, or what follows from it, with what that says it is; and the size of what each is a sum of."""


COLUMNS = Quantity("sparse_jac", 1, EntriesOf(1, of_columns), by_pair, key="columns")
_ROWS = Quantity("sparse_jac", 1, EntriesOf(1, of_rows), by_pair, key="rows")


@dataclass(frozen=True)
class Whole(Kind):
    """All entries of a Jacobian, held against its product with a random vector: ``column`` is all of ``B`` then."""

    column: Quantity
    dense: bool = False

    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """Of columns or of rows."""
        return Passes.of_all(pattern, method)

    def quantity(self, passes: Passes) -> Quantity:
        """All columns, or all rows."""
        return COLUMNS if passes.columns else _ROWS

    def result(self, request: Request, passes: Passes, found: torch.Tensor) -> SparseJacobian | torch.Tensor:
        """The entries and one pattern for all samples, or a dense Jacobian of each."""
        jac, pattern = SparseJacobian(passes.picked(found), passes.pattern), passes.pattern
        if not self.dense:
            return jac
        return jac.to_dense().reshape((*request.batch, *pattern.output_shape, *pattern.input_shape))

    def other_quantity(self, passes: Passes) -> Quantity:
        """The one column of ``B``."""
        return self.column

    def other_seeds(self, passes: Passes) -> torch.Tensor:
        """All columns at once, so that the weights are the vector."""
        return passes.seeds.new_ones(1, passes.pattern.shape[1])

    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, other: Tensor) -> Compared:
        """The product with the vector, and what it is."""
        product = other.reshape((*request.batch, passes.pattern.shape[0]))
        if self.dense:
            matrix = result.reshape((*product.shape, len(weights)))
            return (matrix @ weights, product), matrix.abs() @ weights + product.abs()
        pushed = weights.expand((*request.batch, len(weights)))
        sizes = SparseJacobian(result.values.abs(), result.pattern)
        found = [each.matvec(pushed).reshape(product.shape) for each in (result, sizes)]
        return (found[0], product), found[1] + product.abs()


@dataclass(frozen=True)
class OnDiagonal(Kind):
    """The diagonal alone, or its sum, held against that of columns with random weights.

    What another column leaves in a diagonal entry has the weight of that other column.
    """

    summed: bool = False

    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """Of columns; they may share a colour unless they have entries in each other's rows."""
        return Passes.of_diagonal(pattern)

    def refuse(self, name: str, output_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        """Both are to be the same."""
        if output_shape != input_shape:
            raise ShapeError(
                f"{name} with sparsity= takes an output of the shape of the input, but a sample of the output has "
                f"shape {output_shape} and one of the input {input_shape}; leave sparsity out, or use sparse_jac"
            )

    def quantity(self, passes: Passes) -> Quantity:
        """All columns."""
        return COLUMNS

    def result(self, request: Request, passes: Passes, found: torch.Tensor) -> torch.Tensor:
        """An entry for each element of the input, or their sum."""
        return self._reduced(request, passes.picked(found))

    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, other: Tensor) -> Compared:
        """Entries, and those of the other columns without their weights."""
        found = self._reduced(request, passes.picked(other) / weights)
        return (result, found), self._reduced(request, (passes.picked(other) / weights).abs()) + found.abs()

    def _reduced(self, request: Request, diagonal: torch.Tensor) -> torch.Tensor:
        return diagonal.sum(-1) if self.summed else diagonal.reshape((*request.batch, *request.input_shapes[0]))


@dataclass(frozen=True)
class OfGradient(OnDiagonal):
    """The diagonal of a Hessian, as that of the Jacobian of the gradient of one number."""

    def refuse(self, name: str, output_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
        """What is differentiated is to have the shape of the input, as the gradient of a number has."""
        if output_shape != input_shape:
            own = output_shape[: len(output_shape) - len(input_shape)]
            raise ShapeError(
                f"{name} with sparsity= takes one number a sample, but a sample of the output has shape {own}; leave "
                "sparsity out, or sum the outputs"
            )


@dataclass(frozen=True)
class SecondSum(Kind):
    r"""The Laplacian, as that by ``s``: :math:`\sum_c v_c^T H v_c`, where no two columns of a colour meet in ``H``.

    What is held against it has signs, by which entries off the diagonal count in another way: at the first call those
    of each binary digit of the columns' numbers, so that any two differ in one of them, and random ones later.
    """

    sums: Quantity
    order: ClassVar[int] = 2

    def passes(self, pattern: SparsityPattern, method: str) -> Passes:
        """Of columns; they may share a colour unless they have an entry in common."""
        return Passes.of_diagonal(pattern)

    def quantity(self, passes: Passes) -> Quantity:
        """The Laplacian by ``s``."""
        return self.sums

    def result(self, request: Request, passes: Passes, found: torch.Tensor) -> torch.Tensor:
        """That."""
        return found

    def draws(self, passes: Passes) -> int:
        """As many as the number of the last column has binary digits."""
        return max((passes.pattern.shape[1] - 1).bit_length(), 1)

    def other_weights(self, weights: torch.Tensor, draw: int | None) -> torch.Tensor:
        """Signs."""
        if draw is None:
            return (weights - 1).sign()
        digit = torch.arange(len(weights), device=weights.device) >> draw & 1
        return (1 - 2 * digit).to(weights)

    def compared(self, request: Request, passes: Passes, weights: Tensor, result: Any, other: Tensor) -> Compared:
        """Both sums."""
        return (result, other), result.abs() + other.abs()
