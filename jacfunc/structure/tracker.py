"""A function followed operation by operation: which coordinates of the input each element depends on.

What is followed are torch's operations below autograd, so that modules, transforms and gradients inside of the
function are all the same.  An operation has a rule in ``rules/``, or is elementwise, or is made of others by torch's
own tables; all elements that come out of any other one depend on all that go in, and its name is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..core.torch_operators import arguments_declared, decompositions
from ..core.torch_private import DispatchMode, is_mutable
from ..core.trees import mapped, tensors
from ..evaluation.program import Held
from .joins import Union, constant, over_axes, united
from .marks import Marks, address
from .sets import EMPTY, KNOWN, Sets

Numbers = torch.Tensor
"""The numbers of the sets that the elements of a tensor depend on, of its shape."""


class Call(NamedTuple):
    """One operation: what it was given, as before it wrote to anything, and the tensors that came out."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Sequence[torch.Tensor]

    @property
    def returning(self) -> Any:
        """The operation that returns what this one writes, or itself: whatever its overload."""
        packet = self.function.overloadpacket
        name = str(packet).rpartition(".")[2]
        return getattr(torch.ops.aten, name[:-1], packet) if name.endswith("_") else packet

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by the name that the operation's schema has for it."""
        for place, parameter in enumerate(arguments_declared(self.function)):
            if parameter.name == name:
                found = self.args[place] if place < len(self.args) else self.kwargs.get(name, parameter.default_value)
                return default if found is None else found
        return default

    def operands(self) -> list[torch.Tensor]:
        """All tensors among its arguments."""
        return tensors((self.args, self.kwargs))


Rule = Callable[["Tracker", Call], Sequence[Numbers] | Numbers | Union]
"""The numbers of each result, or of all; those of whole numbers and truth values need not be cared for."""
RULES: dict[Any, Rule] = {}
"""By operation, whatever its overload."""


def rule(*operations: Any) -> Callable[[Rule], Rule]:
    """Enter a rule for some operations."""

    def entered(made: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, made))
        return made

    return entered


class Tracker(DispatchMode):
    """Follows what runs inside it.

    Attributes:
        sets: the table of sets.
        exact: whether values that are always the same are looked at; else none is taken for zero or infinite.
        held: tensors from outside whose values were looked at.
        dense: operations without a rule, by name.
    """

    def __init__(self, count: int, rules: Mapping[Any, Rule], exact: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sets, self.exact, self._rules = Sets(count), exact, rules
        self._marks = Marks(self.sets)
        self._made = {0}
        self.held: dict[int, Held] = {}
        self.dense: dict[str, None] = {}

    # ---------------------------------------------------------------- for rules

    def numbers(self, tensor: torch.Tensor) -> Numbers:
        """Those of a tensor's elements."""
        return self._marks.read(tensor)

    def united(self, operands: Sequence[torch.Tensor]) -> Union:
        """What an element depends on that is computed of those of some tensors, broadcast."""
        return united(self.sets, [part for operand in operands for part in self._marks.read_parts(operand)])

    def are_known(self, tensor: torch.Tensor) -> bool:
        """Whether all elements are the same for all inputs and parameters, as those of a mask or an index."""
        return not any(bool(part.any()) for part in self._marks.read_parts(tensor))

    def always(self, tensor: torch.Tensor, value: float) -> torch.Tensor:
        """Which elements have a value for all inputs and parameters."""
        if not self.exact:
            return torch.zeros_like(tensor, dtype=torch.bool)
        found = tensor == value
        for part in self._marks.read_parts(tensor) if found.any() else ():
            found = found & (part == KNOWN)
        return found

    def everything_in(self, operands: Sequence[torch.Tensor]) -> Numbers:
        """The union of all elements of some tensors, without an axis."""
        parts = [numbers.reshape(-1) for numbers in map(self.numbers, operands) if numbers.numel()]
        return over_axes(self.sets, torch.cat(parts), (0,)) if parts else torch.tensor(float(KNOWN)).double()

    def looked_at(self) -> tuple[Held, ...]:
        """Those tensors from outside that are still there."""
        return tuple([held for held in self.held.values() if held.reference() is not None])

    # ---------------------------------------------------------------- what runs

    def ignore(self, tensor: torch.Tensor) -> None:
        """What a tensor holds is of no interest, as it is replaced before it is used."""
        self._made.add(address(tensor))

    def mark(self, tensor: torch.Tensor, numbers: Numbers | Union) -> None:
        """Give a tensor's elements these numbers, of its shape or broadcast to it."""
        self._marks.write(tensor, numbers if isinstance(numbers, Union) else Union([numbers]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = tensors((args, kwargs))
        for operand in operands:
            self._meet(operand)
        draws = torch.Tag.nondeterministic_seeded in func.tags
        if not draws and not any(map(self._marks.are_on, operands)):
            result = func(*args, **kwargs)
            self._made.update(address(tensor) for tensor in tensors(result) if _is_strided(tensor))
            return result
        if is_mutable(func) and torch.Tag.inplace_view not in func.tags:
            return self._written(func, args, kwargs, draws)
        if func.overloadpacket in (torch.ops.aten.resize_, torch.ops.aten.resize_as_):
            return self._resized(func, args, kwargs)
        made = None if draws or self._has_rule(func) else self._of_others(func, args, kwargs)
        if made is not None:
            return made
        result = func(*args, **kwargs)
        found = [tensor for tensor in tensors(result) if not self._marks.are_on(tensor)]  # others are views
        self._mark_all(Call(func, args, kwargs, found), draws)
        return result

    def _meet(self, tensor: torch.Tensor) -> None:
        """A tensor from outside: a parameter, or values that belong to what is found."""
        if not _is_strided(tensor) or self._marks.are_on(tensor):
            return
        place = address(tensor)
        if tensor.requires_grad or isinstance(tensor, torch.nn.Parameter):  # which may be trained later
            self.mark(tensor, torch.tensor(float(EMPTY)))
        elif place not in self._made and place not in self.held:
            self.held[place] = Held.of(tensor)

    def _has_rule(self, func: Any) -> bool:
        return func.is_view or func.overloadpacket in self._rules or torch.Tag.pointwise in func.tags

    def _of_others(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of the operations that it is made of, followed one by one; None if torch's tables have none."""
        known = decompositions().get(func)
        with self:
            if known is not None:
                return known(*args, **kwargs)
            result = func.decompose(*args, **kwargs)
        return None if result is NotImplemented else result

    def _written(self, func: Any, args: Any, kwargs: Any, draws: bool) -> Any:
        """An operation that writes: followed with copies of what it writes to, as they were before."""
        schema = arguments_declared(func)
        given = {parameter.name: value for parameter, value in zip(schema, args, strict=False)} | kwargs
        written = [each for each in schema if each.alias_info is not None and each.alias_info.is_write]
        targets = tensors([given[each.name] for each in written if each.name in given])
        copies = {id(target): self._copy(target) for target in targets}
        read = {name: value for name, value in kwargs.items() if name not in {each.name for each in written}}
        own, named = mapped(lambda item: copies.get(id(item), item), (args, read))
        call = Call(func, own, named, targets)
        returns = call.returning is not func.overloadpacket or len(read) < len(kwargs)  # in another form of it
        made = self._returned(call) if returns and not draws else None
        result = func(*args, **kwargs)
        others = [tensor for tensor in tensors(result) if id(tensor) not in copies]
        if made is None:
            self._mark_all(Call(func, own, named, [*targets, *others]), draws)
        else:
            self._put(targets, made)
        return result

    def _returned(self, call: Call) -> list[Union] | None:
        """The numbers of what is returned by an operation that has no rule in place of writing it; None if it has."""
        packet = call.returning
        if packet in self._rules or torch.Tag.pointwise in call.function.tags or _writes_always(packet):
            return None
        with self:
            made = tensors(packet(*call.args, **call.kwargs))
        return [self.united([each]) for each in made] if len(made) == len(call.results) else None

    def _resized(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Where elements are after that depends on the memory, so each may be any."""
        every = self.everything_in(tensors(args[0])).clamp(min=EMPTY)
        result = func(*args, **kwargs)
        self.dense[str(func.overloadpacket)] = None
        self.mark(result, every)
        return result

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        if self._marks.are_on(tensor):
            self.mark(copy, Union(self._marks.read_parts(tensor)))
        return copy

    def _mark_all(self, call: Call, draws: bool) -> None:
        """Give each result its numbers."""
        if not call.results:
            return
        found = self._by_rule(call)
        each = [found] * len(call.results) if isinstance(found, torch.Tensor | Union) else found
        unions = [numbers if isinstance(numbers, Union) else Union([numbers]) for numbers in each]
        if draws:
            unions = [union.mapped(lambda part: part.clamp(min=EMPTY)) for union in unions]
        self._put(call.results, unions)

    def _put(self, results: Sequence[torch.Tensor], unions: Sequence[Union]) -> None:
        for result, union in zip(results, unions, strict=True):
            differentiable = result.is_floating_point() or result.is_complex()
            self.mark(result, union if differentiable else union.mapped(constant))

    def _by_rule(self, call: Call) -> Sequence[Numbers] | Numbers | Union:
        for packet in (call.function.overloadpacket, call.returning):
            if packet in self._rules:
                return self._rules[packet](self, call)
        if torch.Tag.pointwise in call.function.tags:
            return self.united(call.operands())
        every = self.everything_in(call.operands()).clamp(min=EMPTY)
        if every > EMPTY:
            self.dense[str(call.function.overloadpacket)] = None
        return every


def _writes_always(packet: Any) -> bool:
    """Whether there is no form of an operation that writes to nothing."""
    return all(is_mutable(getattr(packet, overload)) for overload in packet.overloads())


def _is_strided(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided
