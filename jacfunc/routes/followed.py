"""A function followed on jets, for the Taylor route and what verifies it: once, or again where a norm is zero.

Gradients of rows may depend on what no row shows (``jet/generic.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from ..core.levels import differentiated_again, exporting, grad_mode, in_a_graph, inside_vmap
from ..evaluation.checkpoint import begin, end
from ..jet import CannotFollowError, Frame, Jet, Propagation, layout
from ..jet.blocks import first_blocks
from ..jet.dispatch import lifted
from ..jet.frame import RecomputedError, Within
from ..jet.generic import Generic, direction, tells_all
from ..jet.joined import Joined
from ..jet.shared import Origin, Rows
from ..jet.windows import windows_of
from ..jet.within import differentiated, origin_within, shared_with
from .task import Task

Outputs = tuple[Any, ...]
"""Jets, or tensors that do not depend on the input."""


class Followed(NamedTuple):
    """What a function on jets gave: outputs, aux, what is to be told of it, and whether a norm was zero."""

    outputs: Outputs
    aux: tuple[torch.Tensor, ...]
    notes: tuple[str, ...] = ()
    rooted: bool = False


def follow_all(
    task: Task,
    rows_layout: layout.Layout,
    rows: Callable[[Propagation], list[Any]],
    started: Mapping[int, Sequence[torch.Tensor]] | None = None,
    narrowing: bool = True,
    indices: Callable[[], Rows] | None = None,
) -> Followed:
    """What :func:`follow` gives, with no gradient and no product of roots where there is none but no row shows it."""
    own = Generic()
    found = follow(task, rows_layout, rows, started, narrowing, indices, own)
    if not (found.rooted and (own.two or (differentiated_again() and any(map(_recorded, found.outputs))))):
        return found
    if task.within is None and tells_all(rows_layout, task.inputs.total):
        return found
    generic = _seen_along_one(task, rows_layout.order)
    if not task.mode.traced and not inside_vmap() and not generic.more_than(own):
        return found
    del found  # and its graph
    return follow(task, rows_layout, rows, started, narrowing, indices, generic.again())


def _recorded(output: Any) -> bool:
    rows = output.coefficients if type(output) is Jet else ()
    return any(stack is not None and in_a_graph(stack) for stack in rows)


def _seen_along_one(task: Task, order: int) -> Generic:
    """What is seen along a generic direction, up to the order of the rows, and of those around."""
    generic, along = Generic(), direction(task.leaves, len(task.batch))
    if task.within is not None:
        order += task.within.layout.order
    along_one = layout.closed(tuple([(k,) for k in range(1, order + 1)]))
    with nullcontext() if task.mode.traced else task.aside():  # of which Dynamo knows nothing
        follow(task, along_one, lambda _: along, generic=generic)
    return generic


def follow(
    task: Task,
    rows_layout: layout.Layout,
    rows: Callable[[Propagation], list[Any]],
    started: Mapping[int, Sequence[torch.Tensor]] | None = None,
    narrowing: bool = True,
    indices: Callable[[], Rows] | None = None,
    generic: Generic | None = None,
) -> Followed:
    """Run ``f`` on jets of the leaves with these first-order rows.

    ``started`` has the rows of other orders, or all of the first, where there are some; ``indices`` gives the
    derivative that each row is, where it is one.  Every call sees the same random draw.
    """
    task.redraw()
    if task.within is not None:
        return _within(task, task.within, rows_layout, rows, started or {}, indices, generic)
    exported = task.mode.traced and exporting()
    quiet = not (exported or torch.is_grad_enabled())
    narrowing = narrowing and task.mode.vectorised
    propagation = Propagation(task.batch, quiet=quiet, narrowing=narrowing, traced=task.mode.traced, generic=generic)
    frame = Frame(propagation, rows_layout)
    coefficients = _coefficients(task, rows_layout, {1: rows(propagation), **(started or {})})
    if not _has_parts(task, rows_layout, coefficients, propagation.whole):
        propagation.whole = None
    elif first_blocks(task.inputs.shapes[0]) is not None:
        propagation.parted = True
    if indices is not None:
        propagation.origin = Origin(indices, coefficients, task.inputs.sizes)
    jets = [Jet(leaf, row, frame) for leaf, row in zip(task.leaves, coefficients, strict=True)]
    run = _quietly if quiet or exported else (_recomputed if task.mode.recomputes else _directly)
    outputs, aux = run(task, jets, propagation)
    _end(propagation)
    return Followed(outputs, aux, tuple(propagation.slow), propagation.rooted)


def _has_parts(task: Task, rows_layout: layout.Layout, coefficients: list[tuple[Any, ...]], whole: Any) -> bool:
    """Whether rows may be of blocks: those of one input begin as all of its one-hot rows, and there are enough."""
    if whole is None or task.inputs.total < FEWEST_ROWS or not (rows_layout.order == 1 or rows_layout.total):
        return False
    first, *others = coefficients[0]
    return first is whole and all(rows is None for rows in others)


FEWEST_ROWS = 16
"""Below that it would take longer to ask than to carry them."""


def _coefficients(
    task: Task, rows_layout: layout.Layout, of_order: Mapping[int, Sequence[Any]]
) -> list[tuple[Any, ...]]:
    """The rows of each leaf, of every order."""
    if rows_layout.order == 1:
        return [(row,) for row in of_order[1]]
    none = [None] * len(task.leaves)
    return list(zip(*[of_order.get(order, none) for order in range(1, rows_layout.order + 1)], strict=True))


def _end(propagation: Propagation) -> None:
    propagation.alive = False
    if propagation.detached and any(value._version != version for value, version in propagation.detached):
        raise CannotFollowError("a detached tensor that is changed in place, and the differentiated one with it")


def _within(
    task: Task,
    around: Frame,
    rows_layout: layout.Layout,
    rows: Callable[[Propagation], list[Any]],
    started: Mapping[int, Sequence[torch.Tensor]],
    indices: Callable[[], Rows] | None,
    generic: Generic | None,
) -> Followed:
    """Run ``f`` inside a function that jets go through: those rows and these together."""
    outer = around.propagation
    shared = shared_with(task.given, around, task.batch, rows_layout, indices) if task.mode.vectorised else None
    joined = shared or Joined.of(around.layout, rows_layout)
    within = Within(around, joined)
    propagation = Propagation(task.batch, outer.quiet, narrowing=False, slow=outer.slow, within=within, generic=generic)
    propagation.recorder = outer.recorder
    frame = Frame(propagation, joined.layout)
    coefficients = _coefficients(task, rows_layout, {1: rows(propagation), **started})
    jets = [
        differentiated(lifted(given, around) if type(given) is Jet else given, value, own, frame)
        for given, value, own in zip(task.given, task.leaves, coefficients, strict=True)
    ]
    if shared is not None:
        propagation.origin = origin_within(task.given, jets, around, shared)
    run = _recomputed if task.mode.recomputes and not outer.quiet else _directly
    outputs, aux = run(task, jets, propagation)
    _end(propagation)
    outer.coarsest = max(outer.coarsest, propagation.coarsest)
    return Followed(tuple([_ours(output, frame) for output in outputs]), aux, rooted=propagation.rooted)


def _ours(output: Any, frame: Frame) -> Any:
    """An output in this frame, whatever it was made of: a jet of the evaluation around moves with that alone."""
    if type(output) is not Jet or output.propagation is frame.propagation:
        return output
    return lifted(output, frame) if output.propagation.alive else output.value


def _directly(task: Task, jets: list[Jet], propagation: Propagation) -> tuple[Outputs, tuple[torch.Tensor, ...]]:
    return task.propagate(jets, others_copied=task.mode.verified)


def _quietly(task: Task, jets: list[Jet], propagation: Propagation) -> tuple[Outputs, tuple[torch.Tensor, ...]]:
    """Gradients on while ``f`` runs, so that an inner ``no_grad`` can be told; rules record nothing where quiet."""
    with grad_mode(True):
        return _directly(task, jets, propagation)


def _recomputed(task: Task, jets: list[Jet], propagation: Propagation) -> tuple[Outputs, tuple[torch.Tensor, ...]]:
    """What is checkpointed while ``f`` runs finds its jets alive when it runs again in the backward."""
    of_image = any(windows_of(jet) is not None for jet in jets)

    def revived(function: Callable[..., Any]) -> Callable[..., Any]:
        if of_image:
            raise RecomputedError("a checkpoint amid rows of an image")

        def again(*args: Any, **kwargs: Any) -> Any:
            before, propagation.alive = propagation.alive, True
            try:
                return function(*args, **kwargs)
            finally:
                propagation.alive = before

        return again

    begin(revived)
    try:
        return _directly(task, jets, propagation)
    finally:
        end()
