"""What a transform computes: entries for pairs of leaves, or mixed derivatives; and what its result is made of.

A :class:`Quantity` is what a transform is told apart by; what it wants of one request is a :class:`Wanted`, of which
there are three: each knows its cost and its rows by a route, and has a route compute it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

import torch

from ..evaluation.basis import Rows
from ..jet.layout import Terms
from ..jet.multiindices import Key, MultiIndices, Sum
from ..jet.stacked import Picked
from ..routes.collect import Entries, Pair, Partials
from ..routes.hessians import HESSIAN, Hessians
from ..routes.route import Route
from ..routes.task import Evaluation, Task, times
from .evaluator import Outputs
from .request import Request
from .shapes import axes_ahead

Results = dict[Any, torch.Tensor]
"""By pair of output leaf and input leaf, by output leaf and mixed derivative, or by name and output leaf."""


class Wanted(ABC):
    """What is wanted of one request; a route computes it."""

    @abstractmethod
    def cost(self, route: Route, inputs: int, outputs: int) -> float:
        """In plain forwards, of so many coordinates of the input and the output of a sample."""

    @abstractmethod
    def rows(self, route: Route, inputs: int, outputs: int) -> int:
        """How many rows the route pushes or pulls through."""

    @abstractmethod
    def rows_of_jets(self, inputs: int) -> int:
        """How many rows travel with a jet, its value among them."""

    @abstractmethod
    def compute(self, route: Route, task: Task) -> tuple[Evaluation, Results]:
        """Have the route compute it."""

    @abstractmethod
    def curved(self, results: Results) -> list[torch.Tensor]:
        """Those of the results that are derivatives of the second order or above."""

    def limited(self, rows: Rows, limit: int) -> Rows:
        """The rows for a trial: a few of them."""
        return Rows(rows.shapes, limit)


@dataclass(frozen=True)
class WantedEntries(Wanted):
    """Entries of the Jacobian or of second derivatives: ``entry`` for each pair of an output leaf and an input leaf.

    ``ahead``: how many axes of an output, and of the input, lie before those that each entry is about.
    """

    order: int
    entry: Callable[[Pair], Any]
    pairs: tuple[tuple[int, int], ...]
    ahead: tuple[int, int] = (0, 0)

    def cost(self, route: Route, inputs: int, outputs: int) -> float:
        """That of the entries by this route."""
        return route.cost(self.order, inputs, outputs)

    def rows(self, route: Route, inputs: int, outputs: int) -> int:
        """Those that the route needs for the entries."""
        return route.rows(self.order, inputs, outputs)

    def rows_of_jets(self, inputs: int) -> int:
        """A row of each order below the highest, and one for each coordinate."""
        return self.order + inputs

    def compute(self, route: Route, task: Task) -> tuple[Evaluation, Results]:
        """Have the route fill the entries."""
        batch, leaves, inputs, outputs = task.batch, task.leaves, task.inputs, task.outputs
        by_pair = {
            (output, leaf): self.entry(
                Pair(batch, outputs.shapes[output], inputs.shapes[leaf], leaves[leaf], self.ahead)
            )
            for output, leaf in self.pairs
        }
        entries = Entries(by_pair, inputs, outputs, leaves)
        evaluation = route.first_order(task, entries) if self.order == 1 else route.second_order(task, entries)
        return evaluation, entries.results() if inputs.limit is None else {}

    def curved(self, results: Results) -> list[torch.Tensor]:
        """All or none, by the order of the entries."""
        return list(results.values()) if self.order > 1 else []


def result_of(results: Results, place: tuple[int, Any]) -> torch.Tensor:
    """A result by output leaf and key; a sum also of its parts, which are what routes give that know no sums."""
    leaf, key = place
    found = [times(results[leaf, each], weight) for each, weight in _parts(results, leaf, key)]
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


def _parts(results: Results, leaf: int, key: Key) -> Sequence[tuple[Key, float]]:
    """What is there of a result: itself, or the parts of a sum that is not."""
    return key.terms if isinstance(key, Sum) and (leaf, key) not in results else ((key, 1.0),)


@dataclass(frozen=True)
class WantedPartials(Wanted):
    """Mixed derivatives of every output, and sums of them."""

    indices: MultiIndices

    def cost(self, route: Route, inputs: int, outputs: int) -> float:
        """That of the mixed derivatives by this route."""
        return route.cost_of_partials(self.indices, outputs)

    def rows(self, route: Route, inputs: int, outputs: int) -> int:
        """One for each derivative that the route carries."""
        return route.carried(self.indices).rows

    def rows_of_jets(self, inputs: int) -> int:
        """One for each derivative that jets carry, and the value."""
        return 1 + self.indices.rows

    def compute(self, route: Route, task: Task) -> tuple[Evaluation, Results]:
        """Have the route hand the mixed derivatives over."""
        if not task.inputs.total:  # nothing to differentiate by
            return Evaluation(*task.evaluate(*task.leaves)), {}
        partials = Partials(route.carried(self.indices), task.leaves[0].dtype)
        return route.partials(task, partials), partials.derivatives

    def curved(self, results: Results) -> list[torch.Tensor]:
        """Those whose indices add up to two or more; a sum is of one order."""
        orders = {place: place[1].terms[0][0] if isinstance(place[1], Sum) else place[1] for place in results}
        return [results[place] for place, index in orders.items() if sum(index) > 1]

    def limited(self, rows: Rows, limit: int) -> Rows:
        """All of them: what a trial could leave out are derivatives, not coordinates."""
        return rows

    def combined(self, outcome: Outcome, leaf: int, terms: Terms) -> torch.Tensor:
        """A linear combination of derivatives of an output leaf."""
        total = None
        for key, coefficient in self.indices.made_of(terms):
            for each, weight in _parts(outcome.results, leaf, key):
                value = not isinstance(each, Sum) and not any(each)
                found = outcome.evaluation.outputs[leaf] if value else outcome.results[leaf, each]
                part = times(found, coefficient * weight)
                total = part if total is None else total + part
        assert total is not None
        return total


@dataclass(frozen=True)
class WantedHessian(Wanted):
    """The whole Hessian of every output by all coordinates, and with ``gradient`` its first derivatives beside it."""

    gradient: bool

    def cost(self, route: Route, inputs: int, outputs: int) -> float:
        """That of whole Hessians by this route."""
        return route.cost_of_hessian(inputs, outputs)

    def rows(self, route: Route, inputs: int, outputs: int) -> int:
        """Those that the route needs for them."""
        return route.rows_of_hessian(inputs, outputs)

    def rows_of_jets(self, inputs: int) -> int:
        """The value, a row for each coordinate and one for each pair of them."""
        return 1 + inputs + inputs * (inputs + 1) // 2

    def compute(self, route: Route, task: Task) -> tuple[Evaluation, Results]:
        """Have the route fill the Hessians; without coordinates there is nothing to fill."""
        hessians = Hessians(task.inputs, task.outputs, task.leaves, task.batch, self.gradient)
        if not task.inputs.total:
            return Evaluation(*task.evaluate(*task.leaves)), hessians.results()
        evaluation = route.hessian(task, hessians)
        return evaluation, hessians.results() if task.inputs.limit is None else {}

    def curved(self, results: Results) -> list[torch.Tensor]:
        """The Hessians, without the gradients beside them."""
        return [result for (what, _), result in results.items() if what == HESSIAN]


class Outcome(NamedTuple):
    """What was wanted, its results, the value with them, how outputs and aux are built, what ran (``known.py``)."""

    wanted: Wanted
    results: Results
    evaluation: Evaluation
    outputs: Outputs
    build_aux: Callable[[tuple[torch.Tensor, ...]], Any]
    ran: Any = None

    def combined(self, leaf: int, terms: Terms) -> torch.Tensor:
        """A linear combination of the derivatives of an output leaf."""
        assert isinstance(self.wanted, WantedPartials)
        return self.wanted.combined(self, leaf, terms)


class Axes(Enum):
    """Which axes the result of a transform has, beyond those of the samples."""

    OUTPUT = auto()
    """Those of the output."""
    ROW = auto()
    """The larger of those of the output and of the input: a diagonal."""
    INPUT = auto()
    """Those of the output and of the input."""
    INPUTS = auto()
    """Those of the output and twice those of the input."""
    SAMPLE = auto()
    """None."""


@dataclass(frozen=True)
class Quantity:
    """What a transform computes, of any function.

    Attributes:
        name: that of the transform.
        order: the highest order of derivatives in it.
        wanted: what it wants of a request, when the outputs are known.
        assemble: the result from the outcome.
        key: tells apart what has the same name.
        gradient: whether the result is a pair, of what the transform is named after and the first derivatives.
        refuse: asked when the outputs are known.
        refuse_inputs: asked before any evaluation.
        axes: which axes its result has.
        picked: which rows and columns of a small network it is, for ``replay.py``, if it is no more than these.
    """

    name: str
    order: int
    wanted: Callable[[Request, Outputs], Wanted]
    assemble: Callable[[Request, Outcome], Any]
    key: Hashable = None
    refuse: Callable[[Request, Outputs], None] | None = None
    refuse_inputs: Callable[[Request], None] | None = None
    gradient: bool = False
    axes: Axes = Axes.OUTPUT
    picked: Callable[[Wanted, Outputs, torch.Tensor], Picked | None] | None = None

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What tells it from another."""
        return (self.name, self.key, self.gradient)


@dataclass(frozen=True)
class EntriesOf:
    """Entries of all pairs of an output leaf and an input leaf, or where ``paired`` of one of each in turn.

    ``of_rows``: the first axis of the outputs and of the input is that of the rows of a segment.
    """

    order: int
    entry: Callable[[Pair], Any]
    paired: bool = False
    of_rows: bool = False

    def __call__(self, request: Request, outputs: Outputs) -> WantedEntries:
        """What is wanted, for as many pairs as there are leaves."""
        leaves, count = range(len(request.input_shapes)), range(len(outputs.shapes))
        if self.paired:
            pairs = [(leaf, leaf) for leaf in leaves]
        else:
            pairs = [(output, leaf) for output in count for leaf in leaves]
        return WantedEntries(self.order, self.entry, tuple(pairs), axes_ahead(request, self.of_rows))


@dataclass(frozen=True)
class PartialsOf:
    """Mixed derivatives, those that are given, or that the coordinates of the input decide on."""

    indices: MultiIndices | Callable[[Request], MultiIndices]

    def __call__(self, request: Request, outputs: Outputs) -> WantedPartials:
        """What is wanted, for as many coordinates as the input has."""
        indices = self.indices(request) if callable(self.indices) else self.indices
        if any(leaf.dtype == torch.float16 for leaf in request.leaves):
            indices = indices.separate  # what is large in a sum may be too large for it
        return WantedPartials(indices)
