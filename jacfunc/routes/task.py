"""What a route is given, a task, and gives back, an evaluation; whatever route it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch

from ..errors import UnsupportedOperationError
from ..evaluation.basis import Rows, flattened, through
from ..evaluation.rng import RandomState
from ..jet.frame import Frame
from .collect import Entries, owned

Tensors = tuple[torch.Tensor, ...]
Parts = TypeVar("Parts", bound=Sequence[Any])
P = ParamSpec("P")
R = TypeVar("R")


class Mode(NamedTuple):
    """How a route runs this time.

    Attributes:
        vectorised: rows go under ``vmap``, and as few of them as will do.
        verified: with the checks that a route makes of itself when it is taken for the first time.
        differentiated_again: the result is part of a graph, or of a surrounding transform.
        undifferentiable: it is known that the result has no derivatives.
        wants_value: the caller asks for the value too.
        traced: values cannot be looked at.
        recomputes: the function may checkpoint.
    """

    vectorised: bool = True
    verified: bool = False
    differentiated_again: bool = False
    undifferentiable: bool = False
    wants_value: bool = True
    traced: bool = False
    recomputes: bool = True


@dataclass
class Task:
    """A function at a point, and the rows on both sides of it.

    Attributes:
        order: the highest order of derivatives that is wanted.
        evaluate: the function of the leaves on tensors: output leaves and aux tensors.
        propagate: the function on jets: output leaves, jets or constant tensors, and aux tensors.
        leaves: the tensors to differentiate by, ``(*batch, *I)``.
        batch: the shape of their sample axes.
        inputs: the rows of the input.
        outputs: the rows of the output.
        chunk_size: at most so many rows in flight; None for all.
        random_state: the state of the random generators that every evaluation starts from; None where nothing is drawn.
        mode: how it runs this time.
        within: the frame of the jets that go through what this is a part of, if any do.
        given: the leaves as they came in, some of them such jets.
        open: what the checks of the first time could not tell, added to by ``verify.py`` and ``verify_followed.py``.
        lacking: why the result has no right gradient, added to by ``verify_tape.py``.
        opaque: what was checked and may do another thing later, which no program shows, added to there too.
        aside: a context for evaluations that verify, which are no part of the program that is noted.
    """

    order: int
    evaluate: Callable[..., tuple[Tensors, Tensors]]
    propagate: Callable[..., tuple[tuple[Any, ...], Tensors]]
    leaves: Tensors
    batch: tuple[int, ...]
    inputs: Rows
    outputs: Rows
    chunk_size: int | None
    random_state: RandomState | None
    mode: Mode
    within: Frame | None
    given: tuple[Any, ...]
    open: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)
    aside: Callable[[], AbstractContextManager[None]] = nullcontext

    def input_chunks(self) -> list[tuple[int, int]]:
        """The chunks of the rows of the input."""
        return self.inputs.chunks(self.chunk_size)

    def through(self, linear: Callable[..., Tensors], rows: Tensors) -> Tensors:
        """The results of a linear function for each of the rows."""
        return through(linear, rows, self.mode.vectorised, self.mode.verified)

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
                tuple(t[0] for t in outputs), tuple(owned(t[0], self.mode.traced) for t in aux)
            )
        return evaluation or Evaluation(*self.evaluate(*self.leaves))

    def swept_columns(self, along: Callable[..., tuple[Tensors, Tensors, Tensors]], entries: Entries) -> Evaluation:
        """Let the entries have what ``along``, which evaluates f, gives for each row of the input."""
        return self.swept(along, self.inputs, self.chunk_size, self.leaves, entries.take_columns)

    def evaluations(self, rows: Rows, chunk_size: int | None) -> list[tuple[int, int]]:
        """The chunks of rows for each of which f is evaluated anew."""
        return self.evaluated_for(rows.chunks(chunk_size))

    def evaluated_for(self, parts: Parts) -> Parts:
        """The parts, for each of which f is evaluated anew; more than one is refused while it is traced."""
        if self.mode.traced and len(parts) > 1:
            raise UnsupportedOperationError(
                "chunk_size makes this derivative evaluate f several times, which torch.compile and torch.export "
                "cannot do with one random draw; compile or export it without chunk_size"
            )
        return parts

    def redraw(self) -> None:
        """Let the next evaluation see the same random draw."""
        if self.random_state is not None:
            self.random_state.restore()

    def _redrawn(self, along: Callable[..., Any]) -> Callable[..., Any]:
        """``along`` with the same random draw at every call."""

        def redrawn(*rows: torch.Tensor) -> Any:
            self.redraw()
            return along(*rows)

        return redrawn

    def direction(self, coordinate: int) -> Tensors:
        """The tangent of every leaf along one coordinate of the input, in full."""
        return tuple([row[0] for row in self.inputs.basis(coordinate, coordinate + 1, self.leaves, self.batch)])


class Evaluation(NamedTuple):
    """The value that came with the derivatives: output leaves and aux tensors; whether these have no derivatives.

    ``notes`` is what ``explain`` shall tell of the evaluation.
    """

    outputs: Tensors
    aux: Tensors
    undifferentiable: bool = False
    notes: tuple[str, ...] = ()


def aside(verify: Callable[Concatenate[Task, P], R]) -> Callable[..., R]:
    """What verifies, as it is: the evaluations that it makes are no part of the program that is noted."""

    @functools.wraps(verify)
    def verified(task: Task, *args: P.args, **kwargs: P.kwargs) -> R:
        with task.aside():
            return verify(task, *args, **kwargs)

    return verified


def times(derivative: torch.Tensor, number: float) -> torch.Tensor:
    """The product, of 1 the derivative itself."""
    return derivative if number == 1 else derivative * number
