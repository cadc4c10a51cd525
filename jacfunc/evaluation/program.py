"""What a function did in one evaluation, operation by operation: its program, noted once and compared from then on.

A step is an operation with where each of its operands came from (an input, the result of an earlier operation, or from
outside) and its other arguments.  Verdicts (samples are independent, a route is right, nothing is random) belong to the
programs that were looked at; before a step that is none of theirs runs, :class:`ProgramChangedError` is raised.

Compared is also what a tensor from outside holds, where samples are only known to be independent for these numbers
(``sample_axis.py`` says for which programs they are for all).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.torch_private import OpOverload, OpOverloadPacket

Step = list[object]
"""An operation and its arguments, as they are compared."""

PROGRAMS = 64
"""So many programs of one plan are remembered: batch sizes, branches, numbers of steps."""
CONTENT = 2**20
"""Up to so many bytes of a tensor from outside are kept, to be compared; of more, which tensor it is."""


class ProgramChangedError(Exception):
    """The function does something else than when it was looked at."""


class Kind(Enum):
    """How an argument is told."""

    TENSOR = "by where it comes from"
    ITSELF = "as it is"
    NUMBER = "by its sign and size"
    TRUTH = "by a flag, since True equals 1"
    ITEMS = "one by one"
    SLICE = "by its three numbers"


TENSOR, ITSELF = Kind.TENSOR, Kind.ITSELF  # asked for at every step


KINDS: dict[type, Kind] = {
    torch.Tensor: Kind.TENSOR,
    torch.nn.Parameter: Kind.TENSOR,
    int: Kind.ITSELF,
    float: Kind.NUMBER,
    bool: Kind.TRUTH,
    slice: Kind.SLICE,
    list: Kind.ITEMS,
    tuple: Kind.ITEMS,
    torch.Size: Kind.ITEMS,
    **dict.fromkeys(
        [type(None), str, type(...), torch.dtype, torch.device, torch.layout, torch.memory_format], Kind.ITSELF
    ),
}
"""Of what is asked for at every step; jets add their class (``jet/``)."""


class Origin:
    """A place in a program that a tensor comes from; it is the same object in every program, and equals no other."""


_ORIGINS: list[Origin] = [Origin() for _ in range(256)]


def _origin(number: int) -> Origin:
    """The place of this number; one list for all threads, which only grows."""
    while number >= len(_ORIGINS):
        _ORIGINS.append(Origin())
    return _ORIGINS[number]


class Flag(Enum):
    """What is compared in place of an argument that nothing else may equal."""

    TRUE = True
    FALSE = False
    OUTSIDE = "a tensor from outside"
    ZERO = 0.0
    ONE = 1.0
    MINUS_ONE = -1.0
    NAN = math.nan
    INFINITE = math.inf
    MINUS_INFINITE = -math.inf
    OTHER = "any other number"
    OUTPUT = "the end"


_NUMBERS = {
    0.0: Flag.ZERO,
    1.0: Flag.ONE,
    -1.0: Flag.MINUS_ONE,
    math.inf: Flag.INFINITE,
    -math.inf: Flag.MINUS_INFINITE,
}

BY_VALUE = frozenset(
    ["gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal", "not_equal", "clamp"]
    + ["clip", "clamp_min", "clamp_max", "threshold", "hardtanh", "hardshrink", "softshrink", "dropout", "bernoulli"]
    + ["alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rrelu", "isclose", "heaviside"]
)
"""Operations whose numbers are bounds or probabilities: what lies on which side of them is another program."""


class Held(NamedTuple):
    """A tensor from outside: which one it was, at which version, and a copy of it if it is small."""

    reference: weakref.ref[torch.Tensor]
    version: int | None
    content: torch.Tensor | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Held:
        """Remember a tensor as it is now."""
        small = tensor.numel() * tensor.element_size() <= CONTENT
        return cls(weakref.ref(tensor), _version(tensor), tensor.detach().clone() if small else None)

    def is_now(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor holds the same numbers, as far as that can be told quickly."""
        if self.reference() is tensor and self.version is not None and self.version == _version(tensor):
            return True
        return self.content is not None and _equal(self.content, tensor.detach())

    def same(self, other: Held) -> bool:
        """Whether both are the same numbers, as far as that can be told quickly."""
        tensor = self.reference()
        if tensor is not None and tensor is other.reference() and None is not self.version == other.version:
            return True
        return self.content is not None and other.content is not None and _equal(self.content, other.content)


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        same = one.dtype == other.dtype and one.device == other.device and one.shape == other.shape
        return same and (torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all()))
    except (RuntimeError, NotImplementedError):  # sparse, or in the middle of a transform
        return False


@dataclass(frozen=True, eq=False)
class Program:
    """What ran in one evaluation: its steps, for how many samples, and what came from outside, one by one.

    ``proved``: each sample of the outputs is computed of its own sample alone, whatever the tensors hold.
    ``of_arrays``: arrays of numpy are among its arguments, by what they hold.
    """

    steps: list[Step]
    samples: int
    held: tuple[Held | None, ...] = field(repr=False)
    proved: bool = False
    of_arrays: bool = False

    @property
    def depends(self) -> bool:
        """Whether what was found of it may depend on what is held outside of the function."""
        return not self.proved and (bool(self.held) or self.of_arrays)

    def covers(self, other: Program) -> bool:
        """Whether what was found of this program holds for another one: it is the same, but for how many samples."""
        if len(self.steps) != len(other.steps) or not self.begins(other.steps, other.samples):
            return False
        return self.proved or (
            len(self.held) == len(other.held)
            and all(
                one is None or (two is not None and one.same(two))
                for one, two in zip(self.held, other.held, strict=True)
            )
        )

    def passing(self) -> bool:
        """Whether something came from outside of its operations that is gone now."""
        return any(held is not None and held.reference() is None for held in self.held)

    def of_constants(self, constants: Sequence[Held | None]) -> Program:
        """The same, of whose tensors from outside those are compared that last, or hold what one of the constants does.

        The others were made by what torch tells nobody of, and of the samples: by the forward of an
        ``autograd.Function``, a transform of ``torch.func``, scripted code.
        """
        lasting = [
            held
            if held is not None and (held.reference() is not None or any(c and c.same(held) for c in constants))
            else None
            for held in self.held
        ]
        return replace(self, held=tuple(lasting))

    def constants(self, elsewhere: Program) -> Program:
        """The same, if it also ran for other samples: of what is gone now what was the same there is compared."""
        if len(elsewhere.held) != len(self.held):
            return self
        pairs = zip(self.held, elsewhere.held, strict=True)
        return self.of_constants(
            [one for one, other in pairs if one is not None and other is not None and one.same(other)]
        )

    def sure(self) -> Program:
        """The same, proved."""
        return replace(self, held=(), proved=True)

    def begins(self, steps: Sequence[Step], samples: int) -> bool:
        """Whether it begins with these steps, but for how many samples there are."""
        if len(steps) > len(self.steps):
            return False
        return all(alike(mine, its, self.samples, samples) for mine, its in zip(self.steps, steps, strict=False))

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the tensors from outside are what they were, if it matters."""
        return self.proved or (
            len(tensors) == len(self.held)
            and all(held is None or held.is_now(one) for held, one in zip(self.held, tensors, strict=True))
        )


def alike(one: Any, other: Any, samples: int, others: int) -> bool:
    """Whether two steps are the same but for a size that is so many samples, or a multiple of that.

    What happens to be as large as the batch was is the same only where it is so again.
    """
    if samples == others:
        return bool(one == other)
    if type(one) is int and type(other) is int:
        multiple = samples > 0 and one > 0 and one % samples == 0
        return one // samples * others == other if multiple else one == other
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(alike(a, b, samples, others) for a, b in zip(one, other, strict=True))
    return bool(one == other)


class Recorder:
    """Notes what an evaluation does, or compares it with programs that are ``known`` (None: notes).

    It belongs to one evaluation of one thread at a time.

    Attributes:
        on_jets: whether operations on jets are noted, and no others; of jets all are seen.
        busy: what happens is no step, since it is inside of one, or of no evaluation.
        program: the last one that came to its end.
    """

    def __init__(self, samples: int, known: Sequence[Program] | None = None) -> None:
        self.samples = samples
        self.known = known
        self.same_size = False
        self.on_jets = False
        self.busy = True
        self.program: Program | None = None

    def begin(self, leaves: Iterable[object], parameters: Iterable[object], others: Iterable[object]) -> None:
        """An evaluation begins, for these leaves, parameters and other arguments."""
        self.changed = False
        self.at = 0
        self.of_arrays = False
        self.outside: list[torch.Tensor] = []
        if self.known is None:
            self.held: list[Held] = []
            self.steps: list[Step] = []
        else:
            self._follow(self.known)
        given = [*leaves, *parameters, *others]
        self.count = len(given)
        self.numbers = {id(tensor): _origin(number) for number, tensor in enumerate(given)}
        self.living = {} if self.on_jets else {id(tensor): weakref.ref(tensor) for tensor in given}
        for tensor in others:
            self._hold(tensor)
        self.busy = False

    def before(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """An operation is about to run."""
        step: Step = [function]
        numbers, on_jets = self.numbers, self.on_jets
        for item in args:  # what most of them are at once, for this is asked at every step
            kind = KINDS.get(type(item))
            if kind is TENSOR and id(item) in numbers and (on_jets or self._is(item)):
                step.append(numbers[id(item)])
            elif kind is ITSELF:
                step.append(item)
            else:
                self._tell(item, step)
        if kwargs:
            for name, value in kwargs.items():
                step.append(name)
                self._tell(value, step)
        if self.same_size and self.at < len(self.steps) and self.steps[self.at] == step:
            self.at += 1
        else:
            self._take(step)
        self.busy = True

    def after(self, result: Any) -> None:
        """It has run."""
        if KINDS.get(type(result)) is TENSOR or isinstance(result, torch.Tensor):
            count = self.count
            self.numbers[id(result)] = _ORIGINS[count] if count < len(_ORIGINS) else _origin(count)
            self.count = count + 1
            if not self.on_jets:
                self.living[id(result)] = weakref.ref(result)
        elif isinstance(result, list | tuple):
            for item in result:
                self.after(item)

    def end(self, outputs: Iterable[object]) -> None:
        """The evaluation has ended with these outputs."""
        if self.changed:
            raise ProgramChangedError
        step: Step = [Flag.OUTPUT]
        for output in outputs:
            self._tell(output, step)
        self._take(step)
        self.busy = True  # what is checkpointed in it may run again
        if self.known is None:
            self.program = Program(self.steps, self.samples, tuple(self.held), of_arrays=self.of_arrays)
            return
        while not self.followed.holds(self.outside):
            self.at = len(self.steps) - 1
            self._turn(step)
        self.program = self.followed

    def _is(self, tensor: torch.Tensor) -> bool:
        """Whether it is what is known by its address: another one may have come to be there, made out of sight."""
        return self.living[id(tensor)]() is tensor

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

    def _tell(self, item: Any, step: Step) -> None:
        kind = KINDS.get(type(item))
        if kind is TENSOR:
            if id(item) in self.numbers and (self.on_jets or self._is(item)):
                step.append(self.numbers[id(item)])
            else:
                self._tell_outside(item, step)
        elif kind is ITSELF:
            step.append(item)
        elif kind is Kind.ITEMS:
            step.append(len(item))
            for one in item:
                self._tell(one, step)
        elif kind is Kind.SLICE:
            step.append(slice)
            for one in (item.start, item.stop, item.step):
                self._tell(one, step)
        elif kind is Kind.TRUTH:
            step.append(Flag.TRUE if item else Flag.FALSE)
        elif kind is Kind.NUMBER:
            step.append(Flag.NAN if math.isnan(item) else _NUMBERS.get(item, Flag.OTHER))
            if getattr(step[0], "__name__", "").strip("_") in BY_VALUE:
                step.append((float, item))
        else:
            self._tell_other(item, step)

    def _tell_outside(self, tensor: Any, step: Step) -> None:
        step += (Flag.OUTSIDE, tuple(tensor.shape), tensor.dtype)
        self._hold(tensor)

    def _hold(self, tensor: Any) -> None:
        """Look at what a tensor from outside holds, where it may matter."""
        if not isinstance(tensor, torch.Tensor) or tensor.requires_grad or isinstance(tensor, torch.nn.Parameter):
            return  # numbers that change at every step
        if self.known is None:
            self.held.append(Held.of(tensor))
        elif not all(program.proved for program in self.known):
            self.outside.append(tensor)

    def _tell_other(self, item: Any, step: Step) -> None:
        kind = type(item)
        if isinstance(item, torch.Tensor) or hasattr(kind, "__torch_function__"):
            if id(item) in self.numbers and (self.on_jets or self._is(item)):
                step.append(self.numbers[id(item)])
            else:
                step.append(kind)
                self._tell_outside(item, step)
        elif isinstance(item, dict):
            step += (kind, len(item))
            for name, value in item.items():
                self._tell(name, step)
                self._tell(value, step)
        elif isinstance(item, list | tuple):
            step += (kind, len(item))
            for one in item:
                self._tell(one, step)
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
