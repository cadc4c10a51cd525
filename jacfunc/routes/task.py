"""What a route is given and gives back; the same for every route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..errors import UnsupportedOperationError
from ..evaluation.basis import Rows, flattened, through
from ..evaluation.rng import Draw
from ..jet.frame import Frame
from ..jet.multiindices import Key, MultiIndices
from .collect import owned

Tensors = tuple[torch.Tensor, ...]


@dataclass
class Task:
    """A function of leaves, the shape of their sample axes, the rows on both sides of it, and the entries to fill.

    ``entries[m, k]`` belongs to output leaf m and input leaf k; a pair that nobody wants is absent.  ``verified`` asks
    for the checks that a route makes of itself when it is taken for the first time, ``differentiated_again`` says that
    the result is part of a graph or of a surrounding transform, ``wants_value`` that the caller asks for the value too,
    ``traced`` that values cannot be looked at, ``recomputes`` that the function may checkpoint.  ``indices`` are mixed
    derivatives that are wanted instead of entries, which go to ``derivatives`` by output leaf and key.  ``within`` is
    the frame of the jets that go through what this is a part of, and ``given`` are the leaves, some of them such jets.
    """

    evaluate: Callable[..., tuple[Tensors, Tensors]]
    leaves: Tensors
    batch: tuple[int, ...]
    inputs: Rows
    outputs: Rows
    entries: dict[tuple[int, int], Any]
    chunk_size: int | None
    vectorised: bool
    draw: Draw | None
    verified: bool = False
    differentiated_again: bool = False
    wants_value: bool = True
    order: int = 1
    traced: bool = False
    recomputes: bool = True
    indices: MultiIndices | None = None
    derivatives: dict[tuple[int, Key], torch.Tensor] = field(default_factory=dict)
    within: Frame | None = None
    given: tuple[Any, ...] = ()

    def input_chunks(self) -> list[tuple[int, int]]:
        """The chunks of the rows of the input."""
        return self.inputs.chunks(self.chunk_size)

    def through(self, linear: Callable[..., Tensors], rows: Tensors) -> Tensors:
        """The results of a linear function for each of the rows."""
        return through(linear, rows, self.vectorised, self.verified)

    def swept(
        self,
        along: Callable[..., tuple[Tensors, Tensors, Tensors]],
        rows: Rows,
        chunk_size: int | None,
        like: Sequence[torch.Tensor],
        take: Callable[[int, int, Tensors], None],
    ) -> Evaluation:
        """Let ``take`` have what ``along``, which evaluates f, gives for each row: derivatives, outputs and aux."""
        evaluation = None
        flat, grouped = flattened(self._redrawn(along))
        for start, stop in self.evaluations(rows, chunk_size):
            derivatives, outputs, aux = grouped(self.through(flat, rows.basis(start, stop, like, self.batch)))
            take(start, stop, derivatives)
            # The value does not depend on the row, so any row's will do.
            evaluation = evaluation or Evaluation(
                tuple(t[0] for t in outputs), tuple(owned(t[0], self.traced) for t in aux)
            )
        return evaluation or Evaluation(*self.evaluate(*self.leaves))

    def evaluations(self, rows: Rows, chunk_size: int | None) -> list[tuple[int, int]]:
        """The chunks of rows for each of which f is evaluated anew."""
        chunks = rows.chunks(chunk_size)
        if self.traced and len(chunks) > 1:
            self.refuse_evaluations()
        return chunks

    def refuse_evaluations(self) -> None:
        """Refuse to evaluate f more than once while it is traced."""
        raise UnsupportedOperationError(
            "chunk_size makes this derivative evaluate f several times, which torch.compile and torch.export cannot do "
            "with one random draw; compile or export it without chunk_size"
        )

    def redraw(self) -> None:
        """Let the next evaluation see the same random draw."""
        if self.draw is not None:
            self.draw.restore()

    def _redrawn(self, along: Callable[..., Any]) -> Callable[..., Any]:
        """``along`` with the same random draw at every call."""

        def redrawn(*rows: torch.Tensor) -> Any:
            self.redraw()
            return along(*rows)

        return redrawn

    def swept_columns(self, along: Callable[..., tuple[Tensors, Tensors, Tensors]]) -> Evaluation:
        """The same for the rows of the input, whose derivatives are columns."""
        return self.swept(along, self.inputs, self.chunk_size, self.leaves, self.take_columns)

    def take_columns(self, start: int, stop: int, tangents: Tensors) -> None:
        """Hand the derivatives along input rows ``start`` to ``stop`` to the entries."""
        for segment in self.inputs.segments(start, stop):
            dtype = self.leaves[segment.leaf].dtype
            for leaf, tangent in enumerate(tangents):
                if entry := self.entries.get((leaf, segment.leaf)):
                    own = tangent if segment.size == stop - start else tangent[segment.where]
                    entry.columns(own if own.dtype == dtype else own.to(dtype), segment.start)

    def take_sums(self, start: int, stop: int, sums: Tensors) -> None:
        """Hand sums of second derivatives to the entries, one for each input leaf with rows between start and stop."""
        for place, segment in enumerate(self.inputs.segments(start, stop)):
            dtype = self.leaves[segment.leaf].dtype
            for leaf, seconds in enumerate(sums):
                if entry := self.entries.get((leaf, segment.leaf)):
                    entry.columns(seconds[place : place + 1].to(dtype), segment.start)

    def take_partial(self, leaf: int, key: Key, derivative: torch.Tensor) -> None:
        """Keep a mixed derivative of an output leaf, or a sum of some."""
        dtype = self.leaves[0].dtype
        self.derivatives[leaf, key] = derivative if derivative.dtype == dtype else derivative.to(dtype)

    def direction(self, coordinate: int) -> Tensors:
        """The tangent of every leaf along one coordinate of the input, in full."""
        return tuple([row[0] for row in self.inputs.basis(coordinate, coordinate + 1, self.leaves, self.batch)])

    def take_rows(self, start: int, stop: int, cotangents: Tensors) -> None:
        """Hand the gradients of output rows ``start`` to ``stop`` to the entries."""
        for segment in self.outputs.segments(start, stop):
            for leaf, cotangent in enumerate(cotangents):
                if entry := self.entries.get((segment.leaf, leaf)):
                    entry.rows(cotangent[segment.where], segment.start)

    def take_cells(self, start: int, stop: int, cells: Tensors) -> None:
        """Hand the second derivatives of output rows ``start`` to ``stop`` by all inputs to the entries."""
        for segment in self.outputs.segments(start, stop):
            for leaf, seconds in enumerate(cells):
                if entry := self.entries.get((segment.leaf, leaf)):
                    entry.cells(seconds[segment.where])


class Evaluation(NamedTuple):
    """The value that came with the derivatives: output leaves and aux tensors; whether these have no derivatives.

    ``notes`` is what ``explain`` shall tell of the evaluation.
    """

    outputs: Tensors
    aux: Tensors
    undifferentiable: bool = False
    notes: tuple[str, ...] = ()


def times(derivative: torch.Tensor, number: float) -> torch.Tensor:
    """The product, of 1 the derivative itself."""
    return derivative if number == 1 else derivative * number
