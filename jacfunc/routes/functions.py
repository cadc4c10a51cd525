"""Each ``autograd.Function`` that f calls, by itself: how it was called, and whether its backward is what it seems.

What f makes of a Function can hide what is wrong with it: a large output beside it, values at which it happens to be
symmetric, a derivative that cancels.  So each is called again alone, with what it was given and with other values, and
its backward is judged element by element.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from ..core.graphs import nodes
from ..core.levels import inside_transform, one_of
from ..core.torch_private import WithoutModesOrClasses, is_wrapped, through_transforms
from ..evaluation.linear import graph_gradients, pullback
from .points import REFUSED, others, quotient, recorded, replayed, waves
from .task import Task, Tensors

MOST = 4
"""Calls of one Function with tensors of the same shapes that are looked at."""
APPLY: CodeType | None = getattr(getattr(torch.autograd.Function.apply, "__func__", None), "__code__", None)
"""Of torch before 2.14, in which it is Python."""

WIDER, COARSE = 4, 0.05
"""A factor and a step for wider differences: where there is noise or a kink they are others, and rounding evens out."""
CONSISTENT, SPARED = 0.1, 0.05
"""By which part of what they are off the former may be others, and by which part of the derivative the latter."""
INEXACT, SMALLEST = 100, 1e-4
"""Times as far off as the first derivative the second one is at least, and by which part of itself.

A solver that has not converged is off by both, and by little.
"""


@dataclass(frozen=True)
class Call:
    """One call of an ``autograd.Function``.

    Attributes:
        function: the class.
        args: what it was given.
        by_input: the places of those tensors that depend on what is differentiated by.
        others: the places of those that require a gradient besides, such as parameters.
    """

    function: Any
    args: tuple[Any, ...]
    by_input: tuple[int, ...]
    others: tuple[int, ...]

    def at(self, places: Sequence[int]) -> Tensors:
        """The tensors at these places."""
        return tuple([self.args[place].detach() for place in places])

    def outputs(self, places: Sequence[int], tensors: Sequence[torch.Tensor]) -> Tensors:
        """What it gives for other tensors in these places, as far as that depends on them."""
        given = [item.detach() if isinstance(item, torch.Tensor) else item for item in self.args]
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        args = [item.clone() if isinstance(item, torch.Tensor) else item for item in given]  # it may write to them
        found = self.function.apply(*args)
        items = found if isinstance(found, tuple | list) else (found,)
        return tuple([item for item in items if isinstance(item, torch.Tensor) and item.requires_grad])


class Verdict(NamedTuple):
    """What a point told of a call: anything at all, and that its backward is off the tape."""

    told: bool
    off: bool


def called(task: Task) -> list[Call]:
    """The calls in one evaluation that depend on the leaves; none where they cannot be made again alone.

    Inside of transforms they are made again outside of them, of a ``vmap`` with its first sample.
    """
    inside = inside_transform()
    with replayed(task), _noted() as found:
        if inside:
            pullback(task.evaluate, *task.leaves)
            own: Tensors = ()
        else:
            own, _ = recorded(task, task.leaves)
    return _calls(found, lambda item: is_wrapped(item) if inside else _depends(item, own))


def within(task: Task, call: Call) -> list[Call]:
    """The calls in the backward of a call, which is written as a Function itself."""
    with replayed(task), _noted() as found, suppress(*REFUSED):
        _pulled(task, call, call.by_input, call.at(call.by_input))
    return _calls(found[1:], torch.is_floating_point)


def _calls(found: Sequence[Noted], moves: Callable[[torch.Tensor], bool]) -> list[Call]:
    """Some of what was noted, each kind of arguments a few times."""
    seen: Counter[object] = Counter()
    calls = []
    for function, args, kwargs, versions in found:
        if kwargs or versions != _versions(args) or not all(map(_is_ordinary, args)):
            return []
        shapes = [(item.shape, item.dtype) if isinstance(item, torch.Tensor) else None for item in args]
        kind = (function, *shapes)
        tensors = [place for place, item in enumerate(args) if isinstance(item, torch.Tensor)]
        by_input = tuple([p for p in tensors if torch.is_floating_point(args[p]) and moves(args[p])])
        others = tuple([p for p in tensors if args[p].requires_grad and p not in by_input])
        if by_input and seen[kind] < MOST:
            seen[kind] += 1
            calls.append(Call(function, tuple(map(one_of, args)), by_input, others))
    return calls


def _is_ordinary(item: Any) -> bool:
    """Whether it is no tensor of a class of its own, which may be more than its numbers."""
    return not isinstance(item, torch.Tensor) or type(item) in (torch.Tensor, torch.nn.Parameter)


Noted = tuple[Any, tuple[Any, ...], dict[str, Any], list[int]]
"""A class, what it was applied to, and the versions of the tensors then."""


@contextmanager
def _noted() -> Iterator[list[Noted]]:
    """All calls of Functions in this thread that are recorded in a graph, however they were bound.

    From torch 2.14 on ``apply`` is no Python, and its arguments are those of the ``forward`` that it calls.
    """
    noting = _Noting()
    before = sys.getprofile()
    sys.setprofile(noting)
    try:
        yield noting.found
    finally:
        _tell_again(before)


def _tell_again(profiler: Any) -> None:
    """Have Python tell a profiler of calls once more; that of cProfile is no function, and enters itself."""
    if profiler is None or callable(profiler):
        sys.setprofile(profiler)
    else:
        profiler.enable()


class _Noting:
    """What Python tells of calls: those of Functions, but for what runs inside of one."""

    def __init__(self) -> None:
        self.found: list[Noted] = []
        self.depth = 0
        self.awaited: Any = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code is APPLY and event in ("call", "return"):
            given = frame.f_locals
            if self._enters(event == "call"):
                self._take(given["cls"], given["args"], given["kwargs"])
        elif event == "call" and self.awaited is not None:
            through = frame.f_code is through_transforms()
            if through or frame.f_code is _code(self.awaited):
                skipped = 2 if through else not _sets_up(self.awaited)  # itself and a class; ctx
                self._take(self.awaited, _positional(frame)[skipped:], {})
                self.awaited = None
        elif APPLY is None and event in ("c_call", "c_return", "c_exception") and _applies(argument):
            self.awaited = argument.__self__ if self._enters(event == "c_call") else None

    def _enters(self, begins: bool) -> bool:
        self.depth += 1 if begins else -1
        with WithoutModesOrClasses():
            return begins and self.depth == 1 and torch.is_grad_enabled()

    def _take(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.found.append((function, args, kwargs, _versions(args)))


def _applies(called: Any) -> bool:
    kind, named = getattr(called, "__self__", None), getattr(called, "__name__", "") == "apply"
    return named and isinstance(kind, type) and issubclass(kind, torch.autograd.Function)


def _code(function: Any) -> CodeType | None:
    return getattr(function.forward, "__code__", None)


def _sets_up(function: Any) -> bool:
    return function.setup_context is not torch.autograd.Function.setup_context


def _positional(frame: FrameType) -> tuple[Any, ...]:
    """What a function was given, as arguments by position."""
    code, given = frame.f_code, frame.f_locals
    several = bool(code.co_flags & inspect.CO_VARARGS)
    rest = given[code.co_varnames[code.co_argcount + code.co_kwonlyargcount]] if several else ()
    return (*(given[name] for name in code.co_varnames[: code.co_argcount]), *rest)


def defined() -> bool:
    """Whether anyone but torch and this package has made a Function, a custom operator's included."""
    kinds = torch.autograd.Function.__subclasses__()
    return any(
        not kind.__module__.startswith(("torch.", "jacfunc.")) or kind.__name__.startswith("Generated")
        for kind in kinds
    )


def _versions(args: Sequence[Any]) -> list[int]:
    return [item._version for item in args if isinstance(item, torch.Tensor) and not item.is_inference()]


def _depends(tensor: torch.Tensor, leaves: Tensors) -> bool:
    """Whether a leaf is in the graph of a tensor."""
    behind = (getattr(node, "variable", None) for node in nodes([tensor]))
    return any(found is leaf for found in chain([tensor], behind) for leaf in leaves)


# -------------------------------------------------------------------- whether a backward is linear in its cotangent


def cancelled(task: Task, size: torch.Tensor) -> bool:
    """Whether each backward is linear in its cotangent, and what is left of them, so large, is their rounding."""
    calls = called(task)
    try:
        sizes = [_linear(task, call) for call in calls]
    except REFUSED:
        return False
    known = [found for found in sizes if found is not None]
    return bool(known) and len(known) == len(sizes) and bool(size <= _digits(task.leaves) * max(known))


def _digits(tensors: Sequence[torch.Tensor]) -> float:
    return float(max(torch.finfo(tensor.dtype).eps for tensor in tensors) ** 0.5)


def _linear(task: Task, call: Call) -> float | None:
    """How large the sum is that is the same along tangents and cotangents; None if it is not, or not finite."""
    task.redraw()
    with torch.enable_grad():
        own = tuple([tensor.requires_grad_() for tensor in call.at(call.by_input)])
        outputs = call.outputs(call.by_input, own)
        along, cotangents = waves(own), waves(outputs)
        pulled = graph_gradients(outputs, own, cotangents, True)
        pushed = _pushed(outputs, own, along)
    one, other = _vector(cotangents) * _vector(pushed), _vector(pulled) * _vector(along)
    size = float(one.abs().sum() + other.abs().sum())
    alike = float((one.sum() - other.sum()).abs()) <= _digits((*own, *outputs)) * size
    return size if alike and math.isfinite(size) else None


def _pushed(outputs: Tensors, leaves: Tensors, along: Tensors) -> Tensors:
    """The derivative of outputs along directions of the leaves: the pullback is linear, and this its own pullback."""
    zeros = tuple([torch.zeros_like(output, requires_grad=True) for output in outputs])
    pulled = graph_gradients(outputs, leaves, zeros, True)
    used = [(own.double() * way.double()).sum() for own, way in zip(pulled, along, strict=True) if own.requires_grad]
    if not used:
        return tuple(map(torch.zeros_like, zeros))
    total = torch.stack(used).sum()
    return graph_gradients((total,), zeros, (torch.ones_like(total),), False)


# -------------------------------------------------------------------- whether a backward is on the tape


def off_tape(task: Task, call: Call, by_others: bool = False) -> Verdict:
    """Whether the backward of a call depends on its input (or ``by_others`` as well) out of torch's sight.

    It is asked at what the call was given, beside that, and at values of size one.
    """
    places = (*call.by_input, *call.others) if by_others else call.by_input
    count = len(call.by_input)
    given = call.at(places)
    told = off = False
    for place, first in enumerate((given[:count], *others(given[:count]))):
        try:
            verdict = _judged(task, call, places, (*first, *given[count:]), here=place == 0)
        except REFUSED:  # values beside those that it was given may be none of its
            continue
        told, off = told or verdict.told, off or verdict.off
    return Verdict(told, off)


class _Point(NamedTuple):
    """Outputs, gradients by all that moves, and gradients by the input alone, each as one vector."""

    outputs: torch.Tensor
    every: torch.Tensor
    gradients: torch.Tensor


def _judged(task: Task, call: Call, places: tuple[int, ...], leaves: Tensors, here: bool) -> Verdict:
    """Compare the derivative of the gradients, as torch has it, with differences of them at two steps.

    A backward that is no derivative of the forward, as that of a straight-through estimator, is meant to be another
    one.  Of it only that is judged what torch takes for a constant though it is none, at what it was given.
    """
    step = max(torch.finfo(leaf.dtype).eps for leaf in leaves) ** (1 / 3)
    ways = [
        wave * leaf.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp(min=1.0) if leaf.numel() else wave
        for wave, leaf in zip(waves(leaves), leaves, strict=True)
    ]

    def at(width: float) -> _Point:
        return _pulled(task, call, places, [leaf + width * way for leaf, way in zip(leaves, ways, strict=True)])[0]

    point, slopes, cotangents = _pulled(task, call, places, leaves, ways)
    if not slopes.numel():
        return Verdict(told=not point.outputs.numel() and bool(leaves[0].numel()), off=False)
    (middle, half), (first_middle, first_half) = _quotients(point, at(-step), at(step), step)
    (wide, _), _ = _quotients(point, at(-WIDER * step), at(WIDER * step), WIDER * step)
    by_values, by_gradients = cotangents * first_middle, point.every * _vector(ways)
    error = (by_values.nansum() - by_gradients.nansum()).abs()
    size = by_values.abs().nansum() + by_gradients.abs().nansum()
    meant = error <= (cotangents * first_half).abs().nansum() + 64 * step**2 * (
        size + (cotangents * point.outputs).abs().nansum()
    )
    finite = slopes.isfinite() & middle.isfinite() & wide.isfinite()
    if not bool(finite.any()):
        return Verdict(told=False, off=False)
    steady = (point.gradients - at(0.0).gradients).abs() <= step**2 * point.gradients.abs()  # none that draws
    missing = (slopes - middle).abs()
    room = half + 64 * step**2 * (point.gradients[finite].abs().max() + slopes[finite].abs().max())
    off = finite & steady & (missing > room)
    part = missing / (slopes.abs() + middle.abs()).clamp(min=torch.finfo(missing.dtype).tiny)
    tiny = torch.finfo(size.dtype).tiny
    inexact = INEXACT * error / size.clamp(min=tiny)
    judged = part > inexact.clamp(min=SMALLEST) if bool(meant) else (slopes == 0) & here
    alike = off & judged & ((middle - wide).abs() <= CONSISTENT * missing)
    if bool(alike.any()):  # what is computed with few digits is a staircase at small steps
        (coarse, _), _ = _quotients(point, at(-COARSE), at(COARSE), COARSE)
        alike &= (coarse - slopes).abs() > SPARED * slopes.abs()
    return Verdict(told=True, off=2 * int(alike.sum()) > int(off.sum()))


Quotients = tuple[torch.Tensor, torch.Tensor]


def _quotients(here: _Point, below: _Point, above: _Point, step: float) -> tuple[Quotients, Quotients]:
    """Those of the gradients by the input, and of the outputs."""
    return (
        quotient(here.gradients, below.gradients, above.gradients, step),
        quotient(here.outputs, below.outputs, above.outputs, step),
    )


def _pulled(
    task: Task, call: Call, places: Sequence[int], leaves: Sequence[torch.Tensor], ways: Sequence[torch.Tensor] = ()
) -> tuple[_Point, torch.Tensor, torch.Tensor]:
    """A call at a point; the derivative of its gradients along ``ways``, as torch has it; the cotangents."""
    task.redraw()
    with torch.enable_grad():
        own = tuple([leaf.detach().requires_grad_() for leaf in leaves])
        outputs = call.outputs(places, own)
        cotangents = _vector(waves(outputs))
        every = graph_gradients(outputs, own, waves(outputs), True)
        gradients = every[: len(call.by_input)]
        point = _Point(_vector(outputs), _vector(every), _vector(gradients))
        used = [gradient for gradient in gradients if gradient.requires_grad]
        slopes = _pushed(tuple(used), own, tuple(ways)) if ways and used else ()
    found = iter(slopes)
    along = [next(found) if slopes and gradient.requires_grad else torch.zeros_like(gradient) for gradient in gradients]
    return point, _vector(along), cotangents


def _vector(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors]) if tensors else torch.zeros(0).double()
