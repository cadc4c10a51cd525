"""Writes to parameters: a function may write to what it makes, and to copies, but not to what lives on after it.

Buffers are exchanged for copies while a function runs; parameters are not, since gradients go by them.  So a write to
one is refused before it runs.  ``.data = ...`` is refused of whatever is not known to be made inside: under a transform
of ``torch.func`` it leaves a tensor behind whose memory ends with the transform, which torch reads all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import Parameter

from ...core.torch_private import (
    OpOverload,
    OpOverloadPacket,
    base_of,
    innermost,
    is_wrapped,
    level_count,
    level_of,
    next_node_number,
    node_number,
    written_arguments,
)
from ...errors import RefusedOperationError
from ..recorder import Recorder
from ..sample_axis_rules import FRESH, WRITING, tensors_in

MADE = FRESH | frozenset(
    ["empty", "zeros", "ones", "full", "eye", "tensor", "rand", "randn", "randint", "arange", "linspace", "clone"]
    + ["ones_like", "rand_like", "randn_like"]
)
"""What returns memory that nothing had before."""

ACCESSES = frozenset(["__get__", "__set__"])
"""How attributes are read and set."""

TABLES = frozenset(["embedding", "embedding_bag"])
"""What scales rows of its second argument, if it is told a ``max_norm``."""

OPERATORS = frozenset(f"__{name}__" for name in WRITING)
"""What writes to its first argument under names of Python's."""

WATCHED = MADE | TABLES | OPERATORS | {"detach", "__set__"}

TELLING = frozenset(["out", "inplace", "max_norm"])
"""Arguments by whose names an operation may write."""

DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]

HARMLESS = frozenset(["requires_grad_", "share_memory_", "rename_", "detach_"])
"""Names that end as those of writes do, and leave the numbers as they are; ``detach_`` has an entry of its own."""

WRITTEN_ATTRIBUTES = frozenset(["data", "real", "imag"])

WAY_OUT = (
    "compute another tensor (w = self.w.clamp(-3, 3), or w = self.w.clone() and write to that), or do it outside of "
    "the function that is differentiated"
)


NOWHERE = -1
"""In place of an address, where there is no memory: of a tensor without elements, sparse, or not there at all."""


class Writes:
    """What an evaluation may write to, and what not.

    Attributes:
        given: dicts of tensors that the function is given as parameters.
    """

    def __init__(self, given: Sequence[Mapping[str, Any]] = ()) -> None:
        self.given = given
        self.number, self.depth = next_node_number(), level_count()
        self.made: set[int] = set()
        self.shared: set[int] = set()

    def run(
        self,
        recorder: Recorder | None,
        name: str,
        function: Any,
        args: Any,
        kwargs: Any,
        run: Callable[..., Any],
        *given: Any,
    ) -> Any:
        """The result of an operation, which ``run`` gives, unless it would write to a parameter.

        If there is a ``recorder``, it knows all that was made.
        """
        if name in MADE and "out" not in kwargs:
            result = run(*given)
            if isinstance(result, torch.Tensor):
                self.made.add(_start(result))
            return result
        attribute = getattr(getattr(function, "__self__", None), "__name__", "") if name in ACCESSES else ""
        if name in ("detach", "__get__"):
            if self._is_outside(args[0]) and (place := _place(args[0])) != NOWHERE:
                self.shared.add(place)
        elif name == "requires_grad_" or attribute == "requires_grad":
            self._tell_required(args[0])
        elif name == "__set__" and attribute == "data":
            if _is_same(args[0], args[1]):  # as ``to`` and ``double`` of a module set what they have not changed
                return None
            self._set_data(args[0], args[1], recorder)
        else:
            for tensor in tensors_in(_written(name, attribute, function, args, kwargs)):
                if self._is_outside(tensor):
                    raise RefusedOperationError(
                        f"f writes to a parameter {list(tensor.shape)} in place, by {name}, and it would stay changed; "
                        f"{WAY_OUT}"
                    )
        return run(*given)

    def _tell_required(self, tensor: Any) -> None:
        """Of what gets a gradient here: it was no parameter until now."""
        if isinstance(tensor, torch.Tensor) and not (tensor.requires_grad or isinstance(tensor, Parameter)):
            self.made.add(_place(tensor))

    def _set_data(self, tensor: Any, data: Any, recorder: Recorder | None) -> None:
        """Refuse to set the data of what may live on; else they are of what is made inside, as the tensor was."""
        made = _place(tensor) in self.made
        unknown = (recorder is not None and not recorder.knows(tensor)) or (is_wrapped(data) and not is_wrapped(tensor))
        if self._is_outside(tensor) or (unknown and not made):
            raise RefusedOperationError(
                f"f sets .data of a tensor {list(tensor.shape)} from outside, which would stay changed; {WAY_OUT}"
            )
        if made and not self._is_outside(data):
            self.made.add(_place(data))

    def _is_outside(self, tensor: Any) -> bool:
        """Whether it is a parameter that was there before, or has its memory as far as that is known."""
        if not isinstance(tensor, torch.Tensor):
            return False
        base = base_of(tensor)
        if self._is_parameter(tensor) or (base is not None and self._is_parameter(base)):
            return True
        ones = [one for given in self.given for one in given.values()] if tensor.grad_fn is None else []  # made inside
        if any(one is tensor or one is base for one in ones):
            return True
        return bool(self.shared) and _place(tensor) in self.shared

    def _is_parameter(self, tensor: torch.Tensor) -> bool:
        if not (tensor.requires_grad or isinstance(tensor, Parameter)):
            return False
        if tensor.grad_fn is not None:
            return node_number(tensor.grad_fn) < self.number
        return level_of(tensor) <= self.depth and _place(tensor) not in self.made


def is_watched(function: Any, name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation may write, or make what may be written to; asked of each, and so by its name, mostly."""
    if name in WATCHED or (kwargs and (not args or not TELLING.isdisjoint(kwargs))):
        return True
    if name[-1:] == "_":
        return name[-2:] != "__" or (name == "__get__" and function == DATA)
    kind = type(function)
    return kind is OpOverload or kind is OpOverloadPacket


def _written(name: str, attribute: str, function: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation writes to."""
    given = args or tuple(kwargs.values())
    found = [kwargs.get("out")]
    if isinstance(function, OpOverload | OpOverloadPacket):
        found += [given[position] for position in written_arguments(function) if position < len(given)]
    if name in TABLES:
        return [given[1]] if kwargs.get("max_norm") is not None else []
    if name == "__set__":
        in_place = attribute in WRITTEN_ATTRIBUTES
    else:
        in_place = name in OPERATORS or (name[-1:] == "_" and name[-2:] != "__" and name not in HARMLESS)
    return found + list(given[:1]) if in_place or kwargs.get("inplace") else found


def _is_same(tensor: torch.Tensor, data: Any) -> bool:
    """Whether it has these data, so that to set them changes nothing."""
    if not isinstance(data, torch.Tensor) or (data.dtype, data.shape) != (tensor.dtype, tensor.shape):
        return False
    return _start(tensor) == _start(data) != NOWHERE and tensor.stride() == data.stride()


def _start(tensor: torch.Tensor) -> int:
    """Where its elements are in memory."""
    try:
        return innermost(tensor).data_ptr() or NOWHERE
    except (RuntimeError, NotImplementedError):
        return NOWHERE


def _place(tensor: torch.Tensor) -> int:
    """Where the memory begins that it is a part of."""
    try:
        return innermost(tensor).untyped_storage().data_ptr() or NOWHERE
    except (RuntimeError, NotImplementedError):
        return NOWHERE
