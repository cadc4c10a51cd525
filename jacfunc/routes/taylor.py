"""The Taylor route: the value and all rows travel together through ``f``, operation by operation (``jet/``).

No graph is needed, and ``f`` runs once for each chunk of rows.  What a jet cannot go through raises, and the plan takes
another route; that what it went through was right is verified once against reverse mode (``verify.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch

from ..core import caches
from ..jet import Jet, Propagation, layout
from ..jet.frame import ApartError, OneHot, RecomputedError
from ..jet.multiindices import MultiIndices
from ..jet.readout import diagonal_of, rows_of
from ..jet.shared import single
from ..jet.windows import Windows, windows_of
from ..jet.within import value_of
from .collect import Diagonal, Entries, Laplacian, Partials
from .followed import Followed, Outputs, follow_all
from .hessians import Hessians, Patch, patches
from .route import Route
from .task import Evaluation, Task, times
from .verify_followed import verify_followed

Part = TypeVar("Part")


class Taylor(Route):
    """Jets sent through the function."""

    name = "taylor"
    methods = ("auto", "taylor")
    on_jets = True
    slower = "all rows"

    def cost(self, order: int, inputs: int, outputs: int) -> float:
        """That of the value and all rows in one evaluation."""
        # Measured: a row through a layer is half of a plain forward, whose activations cost more than a product.
        return 1 + inputs / 2 if order == 1 else 2 + inputs

    def cost_of_partials(self, indices: MultiIndices, outputs: int) -> float:
        """One row for each derivative in the set around those that are wanted."""
        return 1 + indices.rows

    def carried(self, indices: MultiIndices) -> MultiIndices:
        """Sums as well, which need fewer rows than what they are made of."""
        return indices

    def first_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by columns."""

        def take(start: int, stop: int, outputs: Outputs) -> None:
            if not (_contract(task, entries, stop - start, outputs) or _by_windows(task, entries, outputs)):
                like = task.leaves[0]
                entries.take_columns(start, stop, tuple([rows_of(output, 1, stop - start, like) for output in outputs]))

        return _swept(task, lambda segments: layout.first_order(sum(segments)), take, 1, images=True)

    def second_order(self, task: Task, entries: Entries) -> Evaluation:
        """Fill the entries by columns of second derivatives, or by their sum where only that is wanted."""
        if not all(isinstance(entry, Laplacian) for entry in entries.by_pair.values()):
            return _swept(
                task, lambda segments: layout.diagonal(sum(segments)), _taker(task, entries.take_columns, False), 2
            )
        by_each = _taker(task, entries.take_columns, False)
        return _swept(task, layout.summed, _taker(task, entries.take_sums, True), None, by_each)

    def partials(self, task: Task, partials: Partials) -> Evaluation:
        """Mixed derivatives of any order: rows are the smallest downward-closed set around those that are wanted."""

        def followed(part: MultiIndices) -> Followed:
            # A sum of second derivatives in a new frame leaves no first ones.
            narrowing = not part.layout.total or part.taken[0][0] > 1
            indices = None if part.sums else partial(getattr, part, "indices")
            rows, started = _along(task, part.directions), _started(task, part)
            found = follow_all(task, part.layout, rows, started, narrowing, indices)
            if found.rooted and part.squared is not part:
                raise ApartError(
                    "a norm that is zero, of whose square rows without those by one coordinate say too little"
                )
            _take_partials(task, partials, part, found.outputs)
            return found

        try:
            return _in_parts(task, partials.indices.parts(task.chunk_size), followed)
        except ApartError:
            pass
        parts = partials.indices.separate.parts(task.chunk_size)
        return _in_parts(task, [part.squared for part in parts], followed)

    def rows_of_hessian(self, inputs: int, outputs: int) -> int:
        """One for each coordinate, and one for each pair of them."""
        return inputs + inputs * (inputs + 1) // 2

    def cost_of_hessian(self, inputs: int, outputs: int) -> float:
        """That of the value and all rows in one evaluation."""
        # Measured: of two coordinates of one output about what reverse mode takes, of more than that more.
        return 1 + 3 * self.rows_of_hessian(inputs, outputs) / 5

    def hessian(self, task: Task, hessians: Hessians) -> Evaluation:
        """Fill whole Hessians, each pair of coordinates once."""

        def followed(part: Patch) -> Followed:
            indices = partial(part.indices, sum(task.inputs.sizes))
            found = follow_all(task, part.layout, _along(task, part.coordinates), indices=indices)
            _take_patch(task, hessians, part, found.outputs)
            return found

        return _in_parts(task, patches(task.inputs.total, task.chunk_size), followed)


def _take_patch(task: Task, hessians: Hessians, part: Patch, outputs: Outputs) -> None:
    like, count = task.leaves[0], len(part.coordinates)
    firsts = []
    if hessians.gradient and part.chosen[0][0] == part.chosen[0][1]:
        firsts = [rows_of(output, 1, count, like) for output in outputs]
    factors = torch.tensor([2.0 if i == j else 1.0 for i, j in part.chosen], dtype=like.dtype, device=like.device)
    seconds = []
    for output in outputs:  # coefficients are normalised: a second derivative by one coordinate is twice the row
        rows = rows_of(output, 2, len(part.chosen), like)
        seconds.append(rows * factors.reshape(-1, *(1,) * (rows.dim() - 1)))
    hessians.take_patch(part.chosen, firsts, seconds)


def _take_partials(task: Task, partials: Partials, part: MultiIndices, outputs: Outputs) -> None:
    for order, count, rows in part.taken:
        for leaf, output in enumerate(outputs):
            stack = rows_of(output, order, count, task.leaves[0])
            if len(rows) > 1:  # whose gradients are stacked once, not added up one by one
                stack = stack.unbind()
            for row, key, factorial in rows:  # coefficients are normalised
                partials.take(leaf, key, times(stack[row], factorial))


def _started(task: Task, part: MultiIndices) -> dict[int, list[torch.Tensor]]:
    """What rows of the input are, for some orders those of each leaf, where first derivatives are in sums."""
    if not part.starts:
        return {}
    basis = task.inputs.basis(0, task.inputs.total, task.leaves, (1,) * len(task.batch))
    found = {}
    for order, matrix in part.starts:
        weights = [torch.tensor(matrix, dtype=hot.dtype, device=hot.device) for hot in basis]
        found[order] = [torch.tensordot(own, hot, 1) for own, hot in zip(weights, basis, strict=True)]
    return found


def _along(task: Task, directions: tuple[int, ...]) -> Callable[[Propagation], list[torch.Tensor | None]]:
    """One-hot rows of some coordinates of the input, the same for every sample."""
    whole = _one_hot(task, 0, task.inputs.total)
    if directions == tuple(range(task.inputs.total)):
        return whole
    return lambda propagation: [None if rows is None else rows[list(directions)] for rows in whole(propagation)]


def _taker(task: Task, take: Callable[..., None], summed: bool) -> Callable[[int, int, Outputs], None]:
    def taken(start: int, stop: int, outputs: Outputs) -> None:
        count = len(task.inputs.segments(start, stop)) if summed else stop - start
        # Coefficients are normalised: the second derivative is twice the row.
        take(start, stop, tuple([2 * rows_of(output, 2, count, task.leaves[0]) for output in outputs]))

    return taken


def _swept(
    task: Task,
    make_layout: Callable[[tuple[int, ...]], layout.Layout],
    take: Callable[[int, int, Outputs], None],
    order: int | None,
    by_each: Callable[[int, int, Outputs], None] | None = None,
    images: bool = False,
) -> Evaluation:
    """``order`` up to which each row of the input has rows of its own; None where they are summed.

    ``by_each``: who takes the second derivative along each of them, where a sum will not do; ``images``: whether
    the rows of one may be carried as sums.
    """

    def followed(chunk: tuple[int, int]) -> Followed:
        start, stop = chunk
        sizes = tuple([segment.size for segment in task.inputs.segments(start, stop)])
        indices = None if order is None else partial(single, start, stop, task.inputs.sizes, order)
        try:
            found = _begun(task, make_layout(sizes), chunk, indices, images)
        except ApartError:
            if by_each is None:
                raise
            found = follow_all(task, layout.diagonal(sum(sizes)), _one_hot(task, start, stop), narrowing=False)
            by_each(start, stop, found.outputs)
        else:
            take(start, stop, found.outputs)
        return found

    return _in_parts(task, task.inputs.chunks(task.chunk_size), followed, task.mode.wants_value)


def _begun(
    task: Task, rows_layout: layout.Layout, chunk: tuple[int, int], indices: Callable[[], Any] | None, images: bool
) -> Followed:
    """What follows of one-hot rows."""
    if images:
        with suppress(RecomputedError):
            return follow_all(task, rows_layout, _in_windows(task, *chunk), indices=indices)
    return follow_all(task, rows_layout, _one_hot(task, *chunk), indices=indices)


def _in_parts(
    task: Task, parts: Sequence[Part], followed: Callable[[Part], Followed], valued: bool = True
) -> Evaluation:
    """What came with the rows of the first part, once all are followed; without a part that of a plain evaluation."""
    if task.mode.verified:
        verify_followed(task)
    evaluation = None
    for part in task.evaluated_for(parts):
        found = followed(part)
        if evaluation is None:
            values = tuple(map(value_of, found.outputs)) if valued else ()
            evaluation = Evaluation(values, found.aux, notes=found.notes)
    return evaluation or Evaluation(*task.evaluate(*task.leaves))


def _one_hot(task: Task, start: int, stop: int) -> Callable[[Propagation], list[Any]]:
    """The rows ``start`` to ``stop`` of each leaf, the same for every sample and so not expanded over them."""

    def make(propagation: Propagation) -> list[Any]:
        shapes = task.inputs.shapes
        if len(shapes) == 1 and len(task.batch) == 1 and len(shapes[0]) == 1 and stop - start == shapes[0][0]:
            rows = [OneHot(stop) if stop > caches.LARGEST_IDENTITY else propagation.identity(stop, task.leaves[0])]
        else:
            rows = list(task.inputs.basis(start, stop, task.leaves, (1,) * len(task.batch)))
        propagation.whole = propagation.hot = rows[0] if len(rows) == 1 and stop - start == task.inputs.total else None
        return rows

    return make


def _in_windows(task: Task, start: int, stop: int) -> Callable[[Propagation], list[Any]]:
    """One-hot rows, those of all of an image as sums until somebody looks at them."""
    shapes, like = task.inputs.shapes, task.leaves[0]
    if len(shapes) != 1 or stop - start != math.prod(shapes[0]) or len(task.batch) != 1 or task.within is not None:
        return _one_hot(task, start, stop)
    windows = Windows.of_input(shapes[0], like, task.mode.traced)
    return _one_hot(task, start, stop) if windows is None else lambda _: [windows]


def _by_windows(task: Task, entries: Entries, outputs: Outputs) -> bool:
    """Whether the one diagonal that is wanted was taken of rows of an image that nobody has looked at."""
    if len(entries.by_pair) != 1 or len(outputs) != 1 or type(outputs[0]) is not Jet:
        return False
    (entry,), (output,) = entries.by_pair.values(), outputs
    windows = windows_of(output)
    if windows is None or not isinstance(entry, Diagonal) or entry.pair.input != entry.pair.output:
        return False
    if entry.pair.ahead != (0, 0) or entry.pair.input != (windows.channels, *windows.sizes):
        return False
    diagonal = windows.diagonal()
    if diagonal is not None:
        entry.taken.append(diagonal.to(task.leaves[0].dtype).flatten(1).expand(output.shape[0], -1))
    return diagonal is not None


def _contract(task: Task, entries: Entries, count: int, outputs: Outputs) -> bool:
    """Whether the one diagonal that is wanted was taken without all rows of the last linear layer."""
    if len(entries.by_pair) != 1 or len(outputs) != 1:
        return False
    (entry,) = entries.by_pair.values()
    if not isinstance(entry, Diagonal) or not entry.pair.input == entry.pair.output == (count,):
        return False
    found = diagonal_of(outputs[0])
    if found is not None:
        entry.taken.append(found.to(task.leaves[0].dtype))
    return found is not None
