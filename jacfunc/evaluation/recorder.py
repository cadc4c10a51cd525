"""Who notes the program of an evaluation, or compares it step by step with those that are known, before each runs.

On jets the dispatcher tells of each operation (``jet/dispatch.py``), on tensors the mode that exchanges operations
(``corrections/``).  What a program is, is in ``program.py``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch.nn import Parameter

from ..core.torch_private import OpOverload, OpOverloadPacket
from .program import (
    CONTENT,
    ITSELF,
    JET,
    KINDS,
    ORIGINS,
    OUTSIDE,
    PARAMETER,
    TENSOR,
    Flag,
    Held,
    Kind,
    Met,
    Origin,
    Program,
    ProgramChangedError,
    Step,
    alike,
    origin,
)

Inputs = Iterable[object]
"""Tensors, or jets, of an argument."""

_NUMBERS = {flag.value: flag for flag in (Flag.ZERO, Flag.ONE, Flag.MINUS_ONE, Flag.INFINITE, Flag.MINUS_INFINITE)}

BY_VALUE = frozenset(
    ["gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal", "not_equal", "clamp"]
    + ["clip", "clamp_min", "clamp_max", "threshold", "hardtanh", "hardshrink", "softshrink", "dropout", "bernoulli"]
    + ["alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rrelu", "isclose", "heaviside"]
)
"""Operations whose numbers are bounds or probabilities: what lies on which side of them is another program."""


class Recorder:
    """Notes what an evaluation does, or compares it with programs that are ``known`` (None: notes).

    It belongs to one evaluation of one thread at a time.

    Attributes:
        on_jets: whether operations on jets are noted, and no others; then all jets are seen, and few tensors.
        busy: what happens is no step, since it is inside of one, or of no evaluation.
        program: the last one that came to its end.
        holding: whether it is asked what tensors from outside hold, also where no program depends on that.
    """

    def __init__(self, samples: int, known: Sequence[Program] | None = None, holding: bool = False) -> None:
        self.samples = samples
        self.known = known
        self.holding = holding
        self.same_size = False
        self.on_jets = False
        self.busy = True
        self.program: Program | None = None

    def begin(self, leaves: Inputs, parameters: Inputs, others: Inputs, on_jets: bool = False) -> None:
        """An evaluation begins, for these leaves, parameters and other arguments."""
        self.on_jets = on_jets
        self.changed = False
        self.at = 0
        self.of_arrays = False
        self.outside: list[Met] = []
        if self.known is None:
            self.held: list[Held] = []
            self.steps: list[Step] = []
        else:
            self._follow([program for program in self.known if program.fits(self.samples)])
        self.given = given = [*leaves, *parameters, *others]  # kept, so that nothing else comes to be where they are
        self.count = len(given)
        origin(self.count)  # so that there are so many
        self.numbers = dict(zip(map(id, given), ORIGINS, strict=False))
        self.jets = self.numbers.copy() if on_jets else {}
        self.living: dict[int, weakref.ref[Any]] = {}
        for tensor in others:
            self._hold(tensor, given=True)
        self.busy = False

    def before(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """An operation is about to run."""
        step: Step = [function]
        append, jets = step.append, self.jets
        for item in args:  # what most of them are without a call, for this is asked at every step
            kind = KINDS.get(type(item))
            if kind is JET and (number := jets.get(id(item))) is not None:
                append(number)
            elif kind is TENSOR or kind is PARAMETER:
                number, made = self.numbers.get(id(item)), self.living.get(id(item))
                if number is not None and (made is None or made() is item):
                    append(number)
                elif kind is PARAMETER:
                    step += (OUTSIDE, item.shape, item.dtype)
                else:
                    self._tell_outside(item, step)
            elif kind is ITSELF:
                append(item)
            else:
                self._tell(item, step)
        if kwargs:
            self._tell_named(kwargs, step)
        if self.same_size and self.steps[self.at] == step:  # there is one, as the last is that of the outputs
            self.at += 1
        else:
            self._take(step)
        self.busy = True

    def step(
        self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], run: Callable[..., Any], *given: Any
    ) -> Any:
        """The result of an operation, which ``run`` gives."""
        self.before(function, args, kwargs)
        try:
            result = run(*given)
        finally:
            self.leave()
        self.after(result)
        return result

    def leave(self) -> None:
        """It runs no more, whether it gave something or raised."""
        self.busy = False

    def after(self, result: Any) -> None:
        """It has run, and this is its result."""
        kind = KINDS.get(type(result))
        if kind is JET or kind is TENSOR or isinstance(result, torch.Tensor):
            count = self.count
            self.count = count + 1
            if count >= len(ORIGINS):
                origin(count)
            if kind is JET and self.on_jets:
                self.jets[id(result)] = ORIGINS[count]
            else:
                self.numbers[id(result)] = ORIGINS[count]
                self.living[id(result)] = weakref.ref(result)
        elif isinstance(result, list | tuple):
            for item in result:
                self.after(item)

    def end(self, outputs: Iterable[object]) -> None:
        """The evaluation has ended with these outputs."""
        step: Step = [Flag.OUTPUT]
        if not self.changed:
            self._tell_all(outputs, step)
        self.given = []  # jets know who notes them: together they would wait for the collector
        if self.changed:
            raise ProgramChangedError
        self._take(step)
        self.busy = True  # what is checkpointed in it may run again
        if self.known is None:
            self.program = Program(self.steps, self.samples, tuple(self.held), of_arrays=self.of_arrays)
            return
        while not self.followed.holds(self.outside):
            self.at = len(self.steps) - 1
            self._turn(step)
        self.program = self.followed

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether it is an argument, or was seen to be made in this evaluation."""
        return self._number(tensor) is not None

    def _number(self, item: Any) -> Origin | None:
        """Where it comes from, if that is known: ``before`` has these lines without the call.

        A tensor that was made in the evaluation may be gone, and another one have come to be at its address, out of
        sight.  What was given stays.  A jet is seen when it is made, and has the place of one that is gone.
        """
        if self.on_jets and KINDS.get(type(item)) is JET:
            return self.jets.get(id(item))
        number, made = self.numbers.get(id(item)), self.living.get(id(item))
        return number if made is None or made() is item else None

    def _take(self, step: Step) -> None:
        """Note a step, or find it in what is followed."""
        at, steps = self.at, self.steps
        if self.known is None:
            steps.append(step)
        elif at >= len(steps) or not alike(steps[at], step, self.followed.samples, self.samples):
            self._turn(step)
        self.at = at + 1

    def _turn(self, step: Step) -> None:
        """Follow another program that begins as this one did, and goes on by this step."""
        way, samples = self.steps[: self.at], self.followed.samples
        self._follow(
            [
                program
                for program in self.others
                if len(program.steps) > self.at
                and program.begins(way, samples)
                and alike(program.steps[self.at], step, program.samples, self.samples)
            ]
        )

    def _follow(self, candidates: Sequence[Program]) -> None:
        if not candidates:
            self.changed = self.busy = True  # what puts tensors back is asked no more, nor f, if it catches this
            raise ProgramChangedError
        if len(candidates) > 1:
            candidates = sorted(candidates, key=lambda program: program.samples != self.samples)
        self.followed, self.others = candidates[0], candidates[1:]
        self.steps = self.followed.steps
        self.same_size = self.followed.samples == self.samples

    # ---------------------------------------------------------------- how arguments are told

    def _tell_all(self, items: Iterable[Any], step: Step) -> None:
        for item in items:
            self._tell(item, step)

    def _tell_named(self, items: dict[Any, Any], step: Step) -> None:
        for name, item in items.items():
            self._tell(name, step)
            self._tell(item, step)

    def _tell(self, item: Any, step: Step) -> None:
        kind = KINDS.get(type(item))
        if kind is TENSOR or kind is JET or kind is PARAMETER:
            number = self._number(item)
            if number is None:
                self._tell_outside(item, step)
            else:
                step.append(number)
        elif kind is ITSELF:
            step.append(item)
        elif kind is Kind.ITEMS:
            step.append(len(item))
            for one in item:
                self._tell(one, step)
        elif kind is Kind.SLICE:
            step.append(slice)
            for one in (item.start, item.stop, item.step):
                step.append(one) if one is None or type(one) is int else self._tell(one, step)
        elif kind is Kind.TRUTH:
            step.append(Flag.TRUE if item else Flag.FALSE)
        elif kind is Kind.NUMBER:
            step.append(Flag.NAN if math.isnan(item) else _NUMBERS.get(item, Flag.OTHER))
            if getattr(step[0], "__name__", "").strip("_") in BY_VALUE:
                step.append((float, item))
        else:
            self._tell_other(item, step)

    def _tell_outside(self, tensor: Any, step: Step) -> None:
        step += (OUTSIDE, tensor.shape, tensor.dtype)
        if type(tensor) is not Parameter:
            self._hold(tensor)

    def _hold(self, tensor: Any, given: bool = False) -> None:
        """Look at what a tensor from outside holds, where it may matter."""
        if not isinstance(tensor, torch.Tensor) or tensor.requires_grad or isinstance(tensor, Parameter):
            return  # numbers that change at every step
        if self.known is None:
            self.held.append(Held.of(tensor, given))
        elif self.holding or not all(program.proved for program in self.known):
            self.outside.append(Met.now(tensor))

    def _tell_other(self, item: Any, step: Step) -> None:
        kind = type(item)
        if isinstance(item, torch.Tensor) or hasattr(kind, "__torch_function__"):
            number = self._number(item)
            if number is not None:
                step.append(number)
            else:
                step.append(kind)
                self._tell_outside(item, step)
        elif isinstance(item, dict):
            step += (kind, len(item))
            self._tell_named(item, step)
        elif isinstance(item, list | tuple):
            step += (kind, len(item))
            self._tell_all(item, step)
        else:
            self.of_arrays |= kind is np.ndarray
            step += (kind, *_themselves(item))


def _themselves(item: Any) -> Iterator[object]:
    """What stands for an argument that is none of torch's kinds."""
    if isinstance(item, np.ndarray):
        yield from (item.shape, item.dtype.str, item.tobytes() if item.nbytes <= CONTENT else id(item))
    elif isinstance(item, np.generic):
        yield repr(item)
    elif isinstance(item, FunctionType):
        yield item.__code__
    elif isinstance(item, complex | bytes | Enum | OpOverload | OpOverloadPacket):
        yield item
    elif isinstance(item, set | frozenset):
        yield frozenset(map(repr, item))
    elif not isinstance(item, np.random.Generator | torch.Generator):
        yield id(item)
