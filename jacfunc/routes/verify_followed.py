"""What the Taylor route checks of a function when it is taken for the first time: that jets are right.

A function may look at what it is given (``isinstance``) and go another way with a jet, and a rule may be wrong.  So the
value is compared with a plain forward's, and every derivative along one direction with that of reverse mode; where that
has none, with a difference of what is one order below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch

from ..core.levels import inside_transform
from ..evaluation.corrections.zero_norms import Differentiated
from ..evaluation.linear import graph_gradients, pullback
from ..jet import CannotFollowError, Propagation, layout
from ..jet.readout import rows_of
from ..jet.values import plain
from .followed import follow
from .points import REFUSED, Projection, moved, others, projected, quotient, recorded, waves
from .task import Task, Tensors, aside


class OtherwiseError(CannotFollowError):
    """Other derivatives by jets than by tensors: the function does another thing with them."""


class ZeroNormError(OtherwiseError):
    """Other derivatives where a norm is zero than those that f has near it, as far as can be told."""


UNCONFIRMED = (
    "and its derivatives there are not confirmed by f near it, which may ask for zero (clamp_min, where): "
    "write f of the squared norm, or without the question"
)
STEPS = (1.0, 4.0, 0.5)
"""Times the first one, at which differences where a norm is zero are taken again where they are not the derivatives."""


@aside
def verify_followed(task: Task) -> None:
    """Raise unless the jets' derivatives along one direction, projected to one number a sample, are the true ones.

    Orders of which no sample told anything, all derivatives zero or not finite, are compared at other values; if
    nothing is finite there either, it stays open.  Inside a function that jets go through nothing is verified but that
    function.
    """
    if task.within is not None:
        return
    untold, _ = _untold(task, set(range(1, task.order + 1)))
    infinite = untold
    for leaves in others(task.leaves) if task.leaves[0].numel() else ():
        if not untold:
            break
        try:
            zero, unknown = _untold(replace(task, leaves=leaves), untold)
        except OtherwiseError:
            raise
        except REFUSED:
            continue
        untold, infinite = untold & zero, infinite & unknown
    if untold & infinite:
        task.open.append("no sample told whether its derivatives by jets are right")


def _untold(task: Task, wanted: set[int]) -> tuple[set[int], set[int]]:
    """Of the wanted orders those that are zero but for rounding, and nowhere finite; raise if one is not the truth."""
    found, cotangents, coarsest, rooted = _followed_projections(task)
    references = (_graph_projections, _reverse_projections)  # a thread that f starts is inside of no transform
    ordered = reversed(references) if inside_transform() else references
    for reference in () if rooted else ordered:  # of a norm that is zero these have a constant
        try:
            with Differentiated(0, by_tensors=True):
                true = reference(task, cotangents)
        except (RuntimeError, NotImplementedError):
            continue
        _compare(task, reference, found, true, coarsest, wanted)
        break
    else:
        true = _compare_differences(task, found, cotangents, coarsest, rooted)
    pairs = list(zip(found, true, strict=True))
    sizes = [_scale(*pair) for pair in pairs]
    least = coarsest * torch.stack(sizes).amax()
    return {k for k in wanted if not sizes[k] > least}, {k for k in wanted if not bool(_finite(*pairs[k]).any())}


def _compare(
    task: Task,
    reverse: Callable[..., list[Projection]],
    found: list[Projection],
    true: list[Projection],
    coarsest: float,
    wanted: set[int],
) -> None:
    room = [min(0.5, 4**k * coarsest**0.5) * _scale(found[k], true[k]) for k in range(task.order + 1)]
    if _agree(found, true, room, wanted):
        return
    noise = _noise(task, reverse, found, true, coarsest)
    if not _agree(found, true, [a + b for a, b in zip(room, noise, strict=True)], wanted):
        raise OtherwiseError("the derivatives by jets are not those of reverse mode")


def _compare_differences(
    task: Task, found: list[Projection], cotangents: Tensors, coarsest: float, rooted: bool
) -> list[Projection]:
    """What neither torch.func nor a graph differentiates: each order by differences of the one below, the first of f.

    Where a norm is zero a step may be too short, as distances are rounded, or too long, as other points are near: what
    is off there is compared at other steps too, without more room.
    """
    step, last = coarsest ** (1 / 3), min(task.order, 2) if rooted else task.order
    true, further, room = _differences(task, found, cotangents, step, last, rooted)
    off = {k: _off(found[k], true[k], room[k], rooted) for k in range(1, last + 1)}
    for times in STEPS if rooted else ():
        if not any(bool(where.any()) for where in off.values()):
            break
        with suppress(*REFUSED):  # of what f may not be asked there
            _, further, _ = _differences(task, found, cotangents, times * step, last, rooted)
            off = {k: where & _off(found[k], further[k], room[k], rooted) for k, where in off.items()}
    if any(bool(where.any()) for where in off.values()):
        if rooted:
            raise ZeroNormError(f"{_zero_norm(task, cotangents)} is zero here, {UNCONFIRMED}")
        raise OtherwiseError("the derivatives by jets are not the differences of f")
    unknown = torch.full_like(true[0][0], torch.nan)
    return true + [(unknown, unknown)] * (task.order - last)


def _zero_norm(task: Task, cotangents: Tensors) -> str:
    """The name of a norm that is zero, as routes on tensors tell it."""
    try:
        with Differentiated(0, by_tensors=True):
            _graph_projections(task, cotangents)
    except Exception as error:
        name, is_zero, _ = str(error).partition(" is zero here")
        return name if is_zero else "a norm"
    return "a norm"


def _differences(
    task: Task,
    found: list[Projection],
    cotangents: Tensors,
    step: float,
    last: int,
    rooted: bool,
) -> tuple[list[Projection], list[Projection], list[torch.Tensor]]:
    """Differences up to an order, what they and those at twice the step tend to, and how far the first may be off.

    A derivative lies between the differences forward and back, but for rounding and where the next order is zero.
    Where a norm is zero there may be none, and they approach it as the step does: they are off by what they differ by
    from those at twice the step.  Near it higher derivatives than the first are lost to rounding: of those above the
    second nothing is said then.
    """
    here, below, above = [_stepped(task, cotangents, sign * step) for sign in (0, -1, 1)]
    wide = [_stepped(task, cotangents, sign * 2 * step) for sign in (-1, 1)] if rooted else []
    true, further, room = [here[0]], [here[0]], [torch.zeros(())]
    for k in range(1, last + 1):
        middle, half = quotient(here[k - 1][0], below[k - 1][0], above[k - 1][0], k * step)
        true.append((middle, middle.abs()))
        room.append(half + 64 * step**2 * (_scale(here[k - 1], here[k - 1]) + _scale(found[k], true[k])))
        if wide:
            before, after = wide
            wider, _ = quotient(here[k - 1][0], before[k - 1][0], after[k - 1][0], 2 * k * step)
            room[k] = (room[k] + 4 * (wider - middle).abs()).nan_to_num(torch.inf)
            middle = 2 * middle - wider
        further.append((middle, middle.abs()))
    return true, further, room


def _stepped(task: Task, cotangents: Tensors, step: float) -> list[Projection]:
    """Value by a plain forward, and derivatives by jets below the highest order, so far along the tangents."""
    there = replace(task, leaves=moved(task.leaves, step))
    there.redraw()
    with torch.no_grad(), Differentiated(-task.order, by_tensors=False):
        outputs, _ = there.evaluate(*there.leaves, others_copied=True)
    by_jets = _followed_projections(there).found if task.order > 1 else []
    return [projected(cotangents, outputs, task), *by_jets[1:]]


def _noise(
    task: Task,
    reverse: Callable[..., list[Projection]],
    found: list[Projection],
    true: list[Projection],
    coarsest: float,
) -> list[torch.Tensor]:
    """How far derivatives that cancel to nothing may be off by rounding, as those of what is linear in effect.

    Of the size of rounding beside the orders below, and not much more than they move by where the input moves a little.
    """
    along = waves(task.leaves)
    near = tuple(leaf + leaf * wave * coarsest**0.25 for leaf, wave in zip(task.leaves, along, strict=True))
    beyond, cotangents, *_ = _followed_projections(replace(task, leaves=near))
    turned = reverse(replace(task, leaves=near), cotangents)
    allowed, beside = [torch.zeros(())], torch.zeros(())
    for k in range(1, task.order + 1):
        beside = torch.maximum(beside, _scale(found[k - 1], true[k - 1]))
        change = torch.maximum(_difference(found[k], beyond[k]).amax(), _difference(true[k], turned[k]).amax())
        allowed.append(torch.minimum(32 * change, 64 * coarsest * beside))
    return allowed


class _Followed(NamedTuple):
    """Projections, the cotangents u, the coarsest precision on the way, and whether a norm was zero."""

    found: list[Projection]
    cotangents: Tensors
    coarsest: float
    rooted: bool


def _followed_projections(task: Task) -> _Followed:
    """What :func:`_reverse_projections` gives, by jets."""
    tangents = waves(task.leaves)
    rows_layout = layout.closed(tuple((k,) for k in range(1, task.order + 1)))
    propagations: list[Propagation] = []

    def rows(propagation: Propagation) -> list[torch.Tensor | None]:
        propagations.append(propagation)
        return [tangent[None] for tangent in tangents]

    outputs, _, _, rooted = follow(task, rows_layout, rows)
    values = tuple(output.detach() for output in plain(outputs))
    cotangents = waves(values)
    found = [projected(cotangents, values, task)]
    for k in range(1, task.order + 1):
        found.append(projected(cotangents, [rows_of(o, k, 1, task.leaves[0])[0] for o in outputs], task))
    coarsest = max(propagations[0].coarsest, *(torch.finfo(leaf.dtype).eps for leaf in task.leaves))
    return _Followed(found, cotangents, coarsest, rooted)


def _reverse_projections(task: Task, cotangents: Tensors) -> list[Projection]:
    """``<u, f>``, ``<J^T u, v>``, ``<H v, v> / 2`` and so on of ``<u, f>``, of each sample, up to the order wanted."""
    tangents = waves(task.leaves)

    def gradient(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        task.redraw()
        outputs, pull, _ = pullback(task.evaluate, *leaves)
        return pull(*cotangents), outputs

    level = gradient
    for k in range(2, task.order + 1):
        level = _differentiated(level, tangents, k)
    last, others = level(*task.leaves)
    return _all_projected(task, cotangents, [*grouped(others, len(tangents), len(cotangents)), last])


def _graph_projections(task: Task, cotangents: Tensors) -> list[Projection]:
    """What :func:`_reverse_projections` gives, from a graph by ``torch.autograd.grad``."""
    tangents = waves(task.leaves)
    leaves, tensors = recorded(task, task.leaves)
    found, along = [tensors], cotangents
    for k in range(1, task.order + 1):
        with torch.enable_grad():
            tensors = tuple(tensor / k for tensor in graph_gradients(tensors, leaves, along, k < task.order))
        found.append(tensors)
        along = tangents
    return _all_projected(task, cotangents, found)


def _all_projected(task: Task, cotangents: Tensors, found: Sequence[Tensors]) -> list[Projection]:
    """Outputs along the cotangents, and derivatives of every order along the tangents."""
    tangents = waves(task.leaves)
    pairs = [(cotangents, found[0]), *((tensors, tangents) for tensors in found[1:])]
    return [projected(left, right, task) for left, right in pairs]


Level = Callable[..., tuple[Tensors, Tensors]]
"""Derivatives of one order, and those of the lower ones."""


def _differentiated(level: Level, tangents: Tensors, order: int) -> Level:
    """The next order along the tangents, over its factorial: the field is a gradient, so it is its own transpose's."""

    def following(*leaves: torch.Tensor) -> tuple[Tensors, Tensors]:
        tensors, pull, lower = pullback(level, *leaves)
        return tuple(tensor / order for tensor in pull(*tangents)), (*lower, *tensors)

    return following


def grouped(tensors: Tensors, size: int, first: int) -> list[Tensors]:
    """Tensors in groups of a size, after a first group of another."""
    starts = range(first, len(tensors), size)
    return [tensors[:first], *(tensors[start : start + size] for start in starts)]


def _finite(one: Projection, other: Projection) -> torch.Tensor:
    return one[1].isfinite() & other[1].isfinite()


def _scale(one: Projection, other: Projection) -> torch.Tensor:
    """The largest size among samples; a derivative that is missing is off by its own size."""
    size = torch.where(_finite(one, other), one[1] + other[1], 0.0)
    return size.amax() if size.numel() else size.sum()


def _difference(one: Projection, other: Projection) -> torch.Tensor:
    return torch.where(_finite(one, other), (one[0] - other[0]).abs(), 0.0)


def _agree(found: list[Projection], true: list[Projection], room: list[torch.Tensor], wanted: set[int]) -> bool:
    """Whether the derivatives wanted are equal but for so much."""
    return not any(bool(_off(found[k], true[k], room[k]).any()) for k in wanted)


def _off(found: Projection, true: Projection, room: torch.Tensor, lost: bool = False) -> torch.Tensor:
    """In which samples they are not, or not finite where those of reverse mode are.

    What is finite in reverse mode only is a zero times an infinity (``relu(x).sqrt()`` below zero), which that does not
    multiply.  ``lost``: there may be no derivative, of which differences say nothing.
    """
    close = (_difference(found, true) <= room) | ~_finite(found, true)  # whose room may be no number either
    return ~(close & (found[1].isfinite() | ~true[1].isfinite() | lost))
