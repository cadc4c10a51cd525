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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import torch

from ..core.subclasses import undressed

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


class Held(NamedTuple):
    """A tensor from outside: which one it was, at which version, and a copy of it if it is small."""

    reference: weakref.ref[torch.Tensor]
    version: int | None
    content: torch.Tensor | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Held:
        """Remember a tensor as it is now."""
        small = tensor.numel() * tensor.element_size() <= CONTENT
        return cls(weakref.ref(tensor), _version(tensor), undressed(tensor).detach().clone() if small else None)

    def is_now(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor holds the same numbers, as far as that can be told quickly."""
        if self.reference() is tensor and self.version is not None and self.version == _version(tensor):
            return True
        return self.content is not None and _equal(self.content, undressed(tensor).detach())

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
        """What it is if those of its tensors from outside are compared that last, or hold what a constant does.

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
