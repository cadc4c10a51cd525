"""Mixed derivatives of any order by nesting first ones, for functions that no jet goes through; slower with each order.

A *level* is a function of the leaves: all derivatives of one order (by multi-index, then by output leaf), and beside
them those of the lower orders, the outputs and aux.  A route says how one level grows from the one below; what it does
with rows of the first and second order is its own business.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..jet.multiindices import MultiIndices
from .collect import Partials
from .task import Evaluation, Task, Tensors

Level = Callable[..., tuple[Tensors, Tensors]]
Parents = tuple[tuple[int, int], ...]
"""For each derivative of a level the place of the one below that it is taken of, and by which coordinate."""
Grow = Callable[[Task, Level, Parents], Level]


def cost_by_tangents(indices: MultiIndices) -> float:
    """Plain forwards, where each coordinate of a level costs a pass; one within another costs twice as much."""
    orders = range(1, indices.order + 1)
    return 1.0 + sum([len({coordinate for _, coordinate in indices.parents(k)}) << (k - 1) for k in orders])


def cost_by_gradients(indices: MultiIndices, outputs: int) -> float:
    """Plain forwards, where each derivative of each output costs a pass for the next level."""
    orders = range(1, indices.order + 1)
    return 1.0 + outputs * sum([len({place for place, _ in indices.parents(k)}) << (k - 1) for k in orders])


def swept(task: Task, partials: Partials, grow: Grow) -> Evaluation:
    """Fill the derivatives of a task level by level; ``f`` is evaluated as often as ``grow`` does."""
    task.redraw()
    level: Level = task.evaluate
    for order in range(1, partials.indices.order + 1):
        level = grow(task, level, partials.indices.parents(order))
    last, lower = level(*task.leaves)
    for order in range(partials.indices.order, 0, -1):
        count = len(task.outputs.shapes)
        for place, index in enumerate(partials.indices.of_order(order)):
            if index in partials.indices.wanted:
                for leaf in range(count):
                    partials.take(leaf, index, last[place * count + leaf])
        size = count * (len(partials.indices.of_order(order - 1)) if order > 1 else 1)
        last, lower = lower[:size], lower[size:]
    return Evaluation(last, lower)


def by_tangents(
    task: Task, parents: Parents, along: dict[int, Tensors], tensors: Tensors, lower: Tensors
) -> tuple[Tensors, Tensors]:
    """A level from the derivatives along each coordinate of all that is in the level below."""
    count = len(task.outputs.shapes)
    found = [along[coordinate][place * count + leaf] for place, coordinate in parents for leaf in range(count)]
    return tuple(found), (*tensors, *lower)


def by_gradients(
    task: Task,
    parents: Parents,
    gradients: Callable[[int, torch.Tensor], Tensors],
    tensors: Tensors,
    lower: Tensors,
) -> tuple[Tensors, Tensors]:
    """A level from gradients of single output coordinates of the level below: of which tensor, by which cotangent."""
    axes, count = len(task.batch), len(task.outputs.shapes)
    sizes = [math.prod(shape) for shape in task.inputs.shapes]
    known: dict[tuple[int, int], Tensors] = {}

    def cell(place: int, coordinate: int, by: int) -> torch.Tensor:
        if (place, coordinate) not in known:
            cotangent = torch.zeros_like(tensors[place]).flatten(axes) if tensors[place].dim() > axes else None
            hot = torch.ones_like(tensors[place]) if cotangent is None else _hot(cotangent, coordinate)
            known[place, coordinate] = gradients(place, hot.reshape(tensors[place].shape))
        (segment,) = task.inputs.segments(by, by + 1)
        return known[place, coordinate][segment.leaf].reshape(*task.batch, sizes[segment.leaf])[..., segment.start]

    found = []
    for parent, by in parents:
        for place in range(parent * count, (parent + 1) * count):
            cells = [cell(place, coordinate, by) for coordinate in range(tensors[place].shape[axes:].numel())]
            shape = tensors[place].shape
            found.append(torch.stack(cells, -1).reshape(shape) if cells else tensors[place].new_zeros(shape))
    return tuple(found), (*tensors, *lower)


def _hot(zeros: torch.Tensor, coordinate: int) -> torch.Tensor:
    hot = torch.arange(zeros.shape[-1], device=zeros.device) == coordinate
    return zeros + hot.to(zeros.dtype)
