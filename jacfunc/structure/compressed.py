r"""A function whose whole Jacobian has all entries of another one's sparse Jacobian, in few columns or few rows.

.. math:: B = J S, \qquad B = W J

where a column of ``S`` is the sum of the unit vectors of one colour of columns, a row of ``W`` that of one colour of
rows.  No two columns of a colour meet in a row, so each entry of ``J`` is one entry of ``B``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..core.reasons import name_of
from ..errors import ShapeError
from ..jet import Jet
from ..jet.dispatch import apply
from ..jet.registry import add
from ..options import Options
from .arrays import Array
from .colouring import by_columns, for_diagonal, number_of
from .pattern import SparsityPattern
from .symmetric import by_symmetry, places_by_symmetry

COLUMN = 0.5
"""What a column costs in plain forwards, by the Taylor route; a row costs one, by reverse mode (``routes/``)."""


def moved(x: torch.Tensor, steps: Any, seeds: torch.Tensor) -> Any:
    """``x + s S``; of jets ``s``, which are zero and have one-hot rows, the rows are those of ``S``, written down."""
    if isinstance(steps, Jet):
        return apply(moved, (x, steps, seeds), {})
    return x + (steps @ seeds).reshape(x.shape)


def _moved(x: torch.Tensor, steps: Jet, seeds: torch.Tensor) -> Jet:
    """The rule: where the rows of ``s`` are all of the one-hot rows, in their order, no product is needed."""
    batch = steps.dim() - 1
    if steps.apart()[0] is steps.propagation.hot is not None:
        rows = seeds.reshape((len(seeds), *[1] * batch, *x.shape[batch:]))
    else:
        first = steps.coefficients[0]
        assert first is not None
        rows = (first @ seeds).reshape((*first.shape[:-1], *x.shape[batch:]))
    return steps.like(x, (rows, *[None] * (steps.frame.layout.order - 1)))


add(_moved, moved)


@dataclass(frozen=True, eq=False, repr=False)
class AlongColumns:
    """``f`` at ``x + s S``, as a function of ``s``, which comes last: its Jacobian at 0 is ``J S``.

    Attributes:
        transformed: the function ``f``.
        number: which of its arguments is ``x``.
        seeds: the transposed ``S``, ``(C, columns)``.
    """

    holds_outside = True  # no field: it is asked what index tensors hold
    transformed: Callable[..., Any]
    number: int
    seeds: torch.Tensor

    def __call__(self, *args: Any, weights: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """The outputs of ``f``; ``weights`` of the columns are 1 if None."""
        own, steps = list(args[:-1]), args[-1]  # a starred target is a tuple to Dynamo of torch 2.11
        seeds = self.seeds if weights is None else self.seeds * weights
        own[self.number] = moved(own[self.number], steps, seeds)
        return self.transformed(*own, **kwargs)

    def __repr__(self) -> str:
        return name_of(self.transformed)

    def _fingerprint(self) -> tuple[object, ...]:
        return ("columns", self.transformed, self.number)


@dataclass(frozen=True, eq=False, repr=False)
class OfRows:
    """``W f(x)``, whose Jacobian is ``W J``.

    Attributes:
        transformed: the function ``f``.
        weights: the transposed ``W``, ``(rows, C)``.
        batch_dims: how many sample axes an output has.
        has_aux: whether ``f`` returns an aux as well.
        keeps_value: whether the output of ``f`` is to come first in the aux.
    """

    holds_outside = True  # no field
    transformed: Callable[..., Any]
    weights: torch.Tensor
    batch_dims: int
    has_aux: bool
    keeps_value: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The sums of outputs of each colour, and an aux if there is one to keep."""
        result = self.transformed(*args, **kwargs)
        output, *aux = result if self.has_aux else (result,)
        sums = output.reshape((*output.shape[: self.batch_dims], len(self.weights))) @ self.weights
        if self.keeps_value:
            return sums, (output, *aux)
        return (sums, *aux) if aux else sums

    def __repr__(self) -> str:
        return name_of(self.transformed)

    def _fingerprint(self) -> tuple[object, ...]:
        return ("rows", self.transformed, self.batch_dims, self.has_aux, self.keeps_value)


@dataclass(frozen=True, eq=False, repr=False)
class TimesOutput:
    r"""The product :math:`u_n \cdot f(x)_n` of each sample, whose gradient is :math:`J_n^T u_n`; the sum for no ``u``.

    Attributes:
        transformed: the function ``f``.
        batch_dims: how many sample axes an output has.
        has_aux: whether ``f`` returns an aux as well, which is left out.
    """

    transformed: Callable[..., Any]
    batch_dims: int
    has_aux: bool

    def __call__(self, *args: Any, times: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """The product of the outputs with ``times``, ``(*batch, outputs)``."""
        output = self.transformed(*args, **kwargs)
        output = output[0] if self.has_aux else output
        flat: torch.Tensor = output.reshape((*output.shape[: self.batch_dims], -1))
        return (flat if times is None else flat * times).sum(-1)

    def __repr__(self) -> str:
        return name_of(self.transformed)

    def _fingerprint(self) -> tuple[object, ...]:
        return ("times", self.transformed, self.batch_dims, self.has_aux)


@dataclass(frozen=True, eq=False)
class Passes:
    """How the entries that are wanted of a pattern are computed.

    Attributes:
        pattern: the pattern.
        columns: whether columns are compressed, or else rows.
        seeds: for each colour the sum of the unit vectors of its columns, or rows, ``(C, columns)`` or ``(C, rows)``.
        places: where each wanted entry is in the flattened columns, or rows, of a sample.
    """

    pattern: SparsityPattern
    columns: bool
    seeds: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of_all(cls, pattern: SparsityPattern, method: str) -> Passes:
        """For all entries, of columns or rows, which takes less time; of one of both where ``method`` has no other."""
        if pattern.symmetric:
            colours = by_symmetry(pattern)
            return cls._made(pattern, method != "reverse", colours, places_by_symmetry(pattern, colours))
        chosen, least = None, math.inf
        for columns, bound in _bounds(pattern, method):
            if bound >= least:
                break
            colours = by_columns(pattern if columns else pattern.transposed)
            cost = (COLUMN if columns else 1.0) * number_of(colours)
            if cost < least:
                chosen, least = (columns, colours), cost
        assert chosen is not None
        columns, colours = chosen
        rows, others = pattern.arrays if columns else pattern.arrays[::-1]
        return cls._made(pattern, columns, colours, colours[others] * pattern.shape[0 if columns else 1] + rows)

    @classmethod
    def of_diagonal(cls, pattern: SparsityPattern) -> Passes:
        """For the diagonal alone, of columns; zero where it has no entry."""
        if pattern.shape[0] != pattern.shape[1]:
            raise ShapeError(
                f"a diagonal by sparsity= is that of a square Jacobian, but this one has {pattern.shape[0]} rows and "
                f"{pattern.shape[1]} columns; leave sparsity out, or take sparse_jac"
            )
        colours = for_diagonal(pattern)
        return cls._made(pattern, True, colours, colours * pattern.shape[0] + np.arange(len(colours)))

    @classmethod
    def _made(cls, pattern: SparsityPattern, columns: bool, colours: Array, places: Array) -> Passes:
        hot = torch.zeros(number_of(colours), len(colours), dtype=torch.bool)
        hot[colours, np.arange(len(colours))] = True
        return cls(pattern, columns, hot, torch.from_numpy(places))

    def to(self, like: torch.Tensor) -> Passes:
        """With tensors of the dtype and the device of another one."""
        return replace(self, seeds=self.seeds.to(like), places=self.places.to(like.device))

    @property
    def count(self) -> int:
        """How many colours there are."""
        return len(self.seeds)

    def function(self, f: Callable[..., Any], options: Options) -> tuple[Callable[..., Any], Options]:
        """The function whose whole Jacobian has all entries, and the options for it."""
        if self.columns:
            return AlongColumns(f, options.numbers[0], self.seeds), along(options)
        inner = replace(options, has_aux=options.has_aux or options.return_value, return_value=False)
        return OfRows(f, self.seeds.T, options.batch_dims, options.has_aux, options.return_value), inner

    def arguments(self, args: tuple[Any, ...], x: torch.Tensor, batch: tuple[int, ...]) -> tuple[Any, ...]:
        """The arguments of that function."""
        return (*args, x.new_zeros(*batch, self.count)) if self.columns else args

    def picked(self, stack: torch.Tensor) -> torch.Tensor:
        """The wanted entries ``(*batch, n)`` of columns or rows ``(*batch, C, X)``."""
        size = self.pattern.shape[0 if self.columns else 1]
        if stack.shape[-1] != size:
            raise ShapeError(
                f"sparsity has {size} {'rows' if self.columns else 'columns'}, but a sample of the "
                f"{'output' if self.columns else 'input'} has {stack.shape[-1]} elements; pass one for each"
            )
        return stack.flatten(-2).index_select(-1, self.places)


def along(options: Options) -> Options:
    """Options for a function that has the argument ``s`` after all others."""
    dims = options.in_dims
    return replace(options, argnums=-1, in_dims=(*dims, 0) if isinstance(dims, tuple) else dims)


def _bounds(pattern: SparsityPattern, method: str) -> list[tuple[bool, float]]:
    """Columns, rows or both, and what they cost at least, the cheaper first: all that meet in a row differ."""
    fullest = [int(np.bincount(lines, minlength=1).max()) for lines in pattern.arrays]
    sides = [(True, COLUMN * fullest[0]), (False, 1.0 * fullest[1])]
    if method in ("taylor", "forward", "reverse"):
        return [(method != "reverse", 0.0)]
    return sorted(sides, key=lambda side: side[1])
