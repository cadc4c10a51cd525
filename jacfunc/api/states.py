"""What a sparsity pattern was found with: which program ran, which numbers were around, what tensors from outside held.

A pattern belongs to all of that.  Where anything of it is another one, the pattern is looked for again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..call.known import Ran
from ..call.request import Request
from ..core.torch_operators import graphs_compiled
from ..core.trees import tensors
from ..evaluation.program import SMALL, Held, Met, version_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Content:
    """What a tensor held: of whole numbers and truth values all, of others where they are zero or infinite.

    Attributes:
        reference: the tensor.
        version: how often it had been written to; None where that is unknown.
        digest: a number that stands for what it held; None where nothing is known of that.
    """

    reference: weakref.ref[torch.Tensor]
    version: int | None
    digest: object

    @classmethod
    def of(cls, met: Met | Held | torch.Tensor) -> Content:
        """As it was when it was met."""
        if isinstance(met, Held):
            tensor = met.reference()
            known = _digest(met.content) if met.content is not None else None
            return cls(met.reference, met.version, known if known is not None or tensor is None else _read(tensor))
        if isinstance(met, torch.Tensor):
            return cls(weakref.ref(met), version_of(met), _read(met))
        known = _read(met.tensor) if met.content is None else _digest(met.content)
        return cls(weakref.ref(met.tensor), met.version, known)

    def is_now(self, met: Met | Held | torch.Tensor) -> bool:
        """Whether another tensor, or the same one later, holds the same."""
        tensor = met if isinstance(met, torch.Tensor) else met.tensor if isinstance(met, Met) else met.reference()
        if tensor is not None and tensor is self.reference() and tensor.numel() > SMALL:  # else it may change unseen
            same = self.version is not None and self.version == version_of(tensor)
            return same or self.digest == _read(tensor) is not None
        return self.digest is not None and self.digest == Content.of(met).digest


class State(NamedTuple):
    """What one evaluation was."""

    program: object
    numbers: tuple[object, ...]
    contents: tuple[Content, ...]

    @classmethod
    def of(cls, request: Request, ran: Sequence[Ran]) -> State:
        """That of a request whose blocks of samples ran so; nothing is known of those that torch compiled."""
        return cls(_programs(ran), _numbers(request), tuple(map(Content.of, _met(request, ran))))

    def is_now(self, request: Request, ran: Sequence[Ran]) -> bool:
        """Whether another evaluation was the same in all that a pattern may depend on."""
        met = _met(request, ran)
        if len(met) != len(self.contents) or self.program != _programs(ran) or self.numbers != _numbers(request):
            return False
        return all(content.is_now(each) for content, each in zip(self.contents, met, strict=True))


def _programs(ran: Sequence[Ran]) -> object:
    """The programs; of compiled code how often torch compiled anything."""
    return tuple([each.program for each in ran]) if ran else graphs_compiled()


def _numbers(request: Request) -> tuple[object, ...]:
    return tuple([each for each in request.numbers() if not isinstance(each, float)])


def _met(request: Request, ran: Sequence[Ran]) -> list[Met | Held | torch.Tensor]:
    """The tensors from outside of all blocks; of compiled code the arguments that may be indices."""
    if ran:
        return [met for each in ran for met in each.outside]
    others = tensors((request.beside(request.args), request.kwargs))
    return [each for each in others if not (each.is_floating_point() or each.is_complex())]


def _read(tensor: torch.Tensor) -> object:
    """What stands for its numbers; None where they cannot be read."""
    try:
        own = tensor.detach().cpu()
        return _digest((own.float() if own.dtype == torch.bfloat16 else own).numpy())
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, or of a class without memory
        return None


def _digest(array: Array) -> object:
    if array.dtype.kind in "fc":
        array = np.stack([array == 0, np.isinf(array)])
    return (array.shape, array.dtype.str, hash(np.ascontiguousarray(array).tobytes()))
