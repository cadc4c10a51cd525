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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.torch_private import WithoutClasses, innermost, level_count, outside_transforms

Array = np.ndarray[Any, Any]
Step = list[object]
"""An operation and its arguments, as they are compared."""

PROGRAMS = 64
"""So many programs of one plan are remembered: batch sizes, branches, numbers of steps."""
CONTENT = 2**18
"""Up to so many bytes of a tensor from outside are kept, to be compared; of more, which tensor it is."""
SMALL = 2**13
"""Up to so many elements are compared at each call, even where nothing tells of a change."""
FEW = 8
"""With fewer samples one may be its own neighbour by chance: two samples flipped and rolled are where they were."""


class ProgramChangedError(Exception):
    """The function does something else than when it was looked at."""


class Kind(Enum):
    """How an argument is told."""

    TENSOR = "by where it comes from"
    JET = "by where it comes from; while operations on jets are noted, all of them are seen to be made"
    PARAMETER = "by where it comes from, and from outside not by what it holds"
    ITSELF = "as it is"
    NUMBER = "by its sign and size"
    TRUTH = "by a flag, since True equals 1"
    ITEMS = "one by one"
    SLICE = "by its three numbers"


TENSOR, JET, PARAMETER, ITSELF = Kind.TENSOR, Kind.JET, Kind.PARAMETER, Kind.ITSELF  # asked for at every step

KINDS: dict[type, Kind] = {
    torch.Tensor: Kind.TENSOR,
    torch.nn.Parameter: Kind.PARAMETER,
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


ORIGINS: list[Origin] = [Origin() for _ in range(256)]


def origin(number: int) -> Origin:
    """The place of this number; one list for all threads, which only grows."""
    while number >= len(ORIGINS):
        ORIGINS.append(Origin())
    return ORIGINS[number]


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


OUTSIDE = Flag.OUTSIDE


class Held(NamedTuple):
    """A tensor from outside: which one it was, at which version, and a copy of it if it is small.

    ``constant``: it is the same for other samples; ``given``: it came as an argument, whichever copy of it.
    """

    reference: weakref.ref[torch.Tensor]
    version: int | None
    content: Array | None
    constant: bool = False
    given: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor, given: bool = False) -> Held:
        """Remember a tensor as it is now."""
        small = tensor.numel() * tensor.element_size() <= CONTENT
        content = _content(tensor) if small else None
        return cls(weakref.ref(tensor), version_of(tensor), None if content is None else content.copy(), given=given)

    def is_now(self, met: Met) -> bool:
        """Whether a tensor held the same numbers when it was met, as far as that can be told quickly.

        A small one is looked at each time: what is written through ``.data`` or an array of numpy is no other version.
        """
        tensor, version, content = met
        here = self.reference() is tensor and self.version is not None and self.version == version
        return (here and not self.small) or _equal(self.content, _content(tensor) if content is None else content)

    def same(self, other: Held) -> bool:
        """Whether both are the same numbers, as far as that can be told quickly."""
        tensor = self.reference()
        here = tensor is not None and tensor is other.reference() and None is not self.version == other.version
        return (here and not self.small) or _equal(self.content, other.content)

    @property
    def small(self) -> bool:
        """Whether what it holds is looked at each time."""
        return self.content is not None and self.content.size <= SMALL


class Met(NamedTuple):
    """A tensor from outside as it was when it was met, for it may be written to: a small one's numbers are copied."""

    tensor: torch.Tensor
    version: int | None
    content: Array | None

    @classmethod
    def now(cls, tensor: torch.Tensor) -> Met:
        """As it is now."""
        content = _content(tensor) if tensor.numel() <= SMALL else None
        return cls(tensor, version_of(tensor), None if content is None else content.copy())


def version_of(tensor: torch.Tensor) -> int | None:
    """How often a tensor was written to; None where that is not counted."""
    return None if tensor.is_inference() else tensor._version


def _content(tensor: torch.Tensor) -> Array | None:
    """The numbers themselves, which a transform around would wrap in tensors of its own; None where there are none."""
    if level_count():
        with outside_transforms():
            return _content(innermost(tensor))
    try:
        with WithoutClasses():
            return tensor.numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # on another device, sparse, bfloat16
        return None


def _equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None or one.dtype != other.dtype:
        return False
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


@dataclass(frozen=True, eq=False)
class Program:
    """What ran in one evaluation: its steps, for how many samples, and what came from outside, one by one.

    ``proved``: each sample of the outputs is computed of its own sample alone, whatever the tensors hold.
    ``of_arrays``: arrays of numpy are among its arguments, by what they hold.  ``obstacle``: what kept it from being
    proved, where that has a name.
    """

    steps: list[Step]
    samples: int
    held: tuple[Held | None, ...] = field(repr=False)
    proved: bool = False
    of_arrays: bool = False
    obstacle: str = ""

    @property
    def depends(self) -> bool:
        """Whether what was found of it may depend on what is held outside of the function."""
        return not self.proved and (bool(self.held) or self.of_arrays)

    def covers(self, other: Program) -> bool:
        """Whether what was found of this program holds for another one: it is the same, but for how many samples."""
        as_long = len(self.steps) == len(other.steps)
        if not (as_long and self.fits(other.samples) and self.begins(other.steps, other.samples)):
            return False
        return self._held_by(other.held, lambda one, two: two is not None and one.same(two))

    def passing(self) -> bool:
        """Whether something came from outside of its operations that is gone now, and is no constant."""
        return any(
            held is None or (held.reference() is None and not (held.constant or held.given)) for held in self.held
        )

    def of_constants(self, constants: Sequence[Held | None]) -> Program:
        """What it is if those of its tensors from outside are compared that last, or hold what a constant does.

        The others were made by what torch tells nobody of, and of the samples: by the forward of an
        ``autograd.Function``, a transform of ``torch.func``, scripted code.
        """

        def lasting(held: Held | None) -> Held | None:
            if held is None or held.given or held.reference() is not None:
                return held
            return held._replace(constant=True) if any(one and one.same(held) for one in constants) else None

        return replace(self, held=tuple(map(lasting, self.held)))

    def constants(self, elsewhere: Program) -> Program:
        """What it is if it also ran for other samples: of what is gone now what was as it is there is compared."""
        if len(elsewhere.held) != len(self.held):
            return self
        pairs = zip(self.held, elsewhere.held, strict=True)
        return self.of_constants(
            [one for one, other in pairs if one is not None and other is not None and one.same(other)]
        )

    def sure(self) -> Program:
        """What it is when it is proved."""
        return replace(self, held=(), proved=True)

    def fits(self, samples: int) -> bool:
        """Whether what was found of it may hold for so many samples: of few of them for exactly so many."""
        return self.proved or samples == self.samples or min(samples, self.samples) >= FEW

    def begins(self, steps: Sequence[Step], samples: int) -> bool:
        """Whether it begins with these steps, but for how many samples there are."""
        if len(steps) > len(self.steps):
            return False
        return all(alike(mine, its, self.samples, samples) for mine, its in zip(self.steps, steps, strict=False))

    def holds(self, tensors: Sequence[Met]) -> bool:
        """Whether the tensors from outside were what they are known to be, if it matters."""
        return self._held_by(tensors, Held.is_now)

    def _held_by(self, others: Sequence[Any], same: Callable[[Held, Any], bool]) -> bool:
        """Whether what came from outside is the same as these, one by one, if it matters."""
        if self.proved or len(self.held) != len(others):
            return self.proved
        return all(held is None or same(held, other) for held, other in zip(self.held, others, strict=True))


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
