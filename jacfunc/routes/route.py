"""What a route is: the contract between those who choose and run one (``call/``) and each way to the numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from ..errors import UnsupportedOperationError
from ..jet.multiindices import MultiIndices
from . import nested
from .collect import Entries, Partials
from .hessians import Hessians
from .task import Evaluation, Task


class Route(ABC):
    """One way to the derivatives of a function; it decides nothing, and gives the right number or raises.

    What a route cannot do it raises for, with whatever torch says, and the next one is tried.

    Attributes:
        name: what ``explain`` shows.
        methods: the values of ``method=`` under which it may be tried.
        last_resort: whether it is tried only after all routes that are none, whatever it costs.
        on_jets: whether it calls f with jets instead of tensors.  Then f might do another thing, which is verified
            once; the route works inside a function that jets go through and can be exported, as no other does.
        slower: what it does where it is tried a second time, its rows no longer under ``vmap``; None if they never are.
    """

    name: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    last_resort: ClassVar[bool] = False
    on_jets: ClassVar[bool] = False
    slower: ClassVar[str | None] = "row by row"

    def rows(self, order: int, inputs: int, outputs: int) -> int:
        """How many it pushes or pulls through, of so many coordinates on both sides; by default one for each input."""
        return inputs

    @abstractmethod
    def cost(self, order: int, inputs: int, outputs: int) -> float:
        """Arithmetic in plain forwards: a pass forward or back counts one, a pass through a pass two."""

    @abstractmethod
    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        """That of mixed derivatives, for so many coordinates of the output."""

    def carried(self, indices: MultiIndices) -> MultiIndices:
        """The derivatives that it computes where these are wanted: of a sum each by itself, if it knows no sums."""
        return indices.separate

    def hindrance(self, leaves: Sequence[torch.Tensor]) -> str | None:
        """What around the call keeps it from working; by default it works inside any transform."""
        return None

    @abstractmethod
    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries of the task with first derivatives."""

    @abstractmethod
    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries of the task with second derivatives."""

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Hand over the mixed derivatives of the task; a route may leave them to the others."""
        raise UnsupportedOperationError(f"the route {self.name} has no mixed derivatives")

    def rows_of_hessian(self, inputs: int, outputs: int) -> int:
        """How many rows it pushes or pulls through for a whole Hessian."""
        return self.rows(2, inputs, outputs) * inputs

    def cost_of_hessian(self, inputs: int, outputs: int) -> float:
        """That of a whole Hessian: at first that of its mixed derivatives one by one."""
        return 1 + inputs * self.cost(2, inputs, outputs)

    def hessian(self, task: Task, hessians: Hessians) -> Evaluation:
        """Fill whole Hessians; unless a route knows better, by mixed derivatives."""
        partials = Partials(hessians.indices, task.leaves[0].dtype)
        evaluation = self.partials(task, partials)
        hessians.take_partials(partials)
        return evaluation


class PullingRoute(Route):
    """A route that pulls cotangents back: its rows are those of the output."""

    def rows(self, order: int, inputs: int, outputs: int) -> int:
        """One for each coordinate of the output, and at second order for each pair with one of the input."""
        return outputs if order == 1 else outputs * inputs

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        """That of an evaluation, and of a pass back for each row."""
        return 1 + outputs if order == 1 else 1 + outputs * (1 + inputs)

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        """That of each order nested in the one below."""
        return nested.cost_by_gradients(indices.separate, outputs)
