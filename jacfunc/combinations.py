"""Linear combinations of derivatives as an equation writes them, kept apart until their value is needed.

Where ``d.u_t - nu * d.u_xx`` is all that an equation needs of ``u_t`` and ``u_xx``, one row of a propagation carries
the sum (``multiindices.py``).  Here is only how sums are seen; where their values come from is in ``readings.py``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

import torch

from .jet.dispatch import IN_PYTHON, MATMUL
from .jet.fallback import WRITING, name_of, writes
from .levels import compiling

Terms = dict[str, float]
"""Names of derivatives, each with its coefficient."""


class Source(Protocol):
    """Where the values of derivatives come from."""

    def _value_of(self, terms: Terms) -> torch.Tensor:
        """The sum of these derivatives times these numbers."""
        ...

    def _changing(self) -> torch.Tensor:
        """What to do where a combination is to be changed in place."""
        ...


class Combination:
    """Derivatives times numbers, and what else was added; whatever is not linear in them is given their value."""

    __slots__ = ("_rest", "_source", "_terms")
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, source: Source, terms: Terms, rest: Any = None) -> None:
        self._source, self._terms, self._rest = source, terms, rest

    def _value(self) -> torch.Tensor:
        value = self._source._value_of(self._terms)
        return value if self._rest is None else value + self._rest

    def __add__(self, other: Any) -> Any:
        return added(self, other)

    def __radd__(self, other: Any) -> Any:
        return added(self, other)

    def __sub__(self, other: Any) -> Any:
        return subtracted(self, other)

    def __rsub__(self, other: Any) -> Any:
        return subtracted(other, self)

    def __mul__(self, other: Any) -> Any:
        return multiplied(self, other)

    def __rmul__(self, other: Any) -> Any:
        return multiplied(self, other)

    def __truediv__(self, other: Any) -> Any:
        return divided(self, other)

    def __neg__(self) -> Any:
        return multiplied(self, -1)

    def __pos__(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._source._changing() if name in WRITING else self._value(), name)

    def __getitem__(self, index: Any) -> Any:
        return self._value()[evaluated(index)]

    def __bool__(self) -> bool:
        return bool(self._value())

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        value: Any = self._value()
        return value.__array__(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        value: Any = self._value()
        return value.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self._value())

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if compiling():
            function = getattr(torch.Tensor, name_of(function)) if name_of(function) in IN_PYTHON else function
        kept = LINEAR.get(function)
        if kept is not None and len(args) == 2 and not kwargs:
            return kept(*args)
        if writes(function, kwargs) or (compiling() and function == MATMUL and type(args[0]) is not Combination):
            next(part for part in (*args, *kwargs.values()) if type(part) is cls)._source._changing()
        return function(*evaluated(args), **evaluated(kwargs))


def _not_linear(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An operator that is given values, and the same with the operands the other way around."""
    function = getattr(operator, name)

    def method(self: Combination, *other: Any) -> Any:
        return function(self._value(), *evaluated(other))

    def reflected(self: Combination, other: Any) -> Any:
        return function(evaluated(other), self._value())

    return method, reflected


for _name in ("lt", "le", "eq", "ne", "gt", "ge", "abs", "pow", "matmul", "floordiv", "mod", "truediv"):
    _method, _reflected = _not_linear(f"__{_name}__")
    if _name != "truediv":
        setattr(Combination, f"__{_name}__", _method)
    if _name in ("pow", "matmul", "floordiv", "mod", "truediv"):
        setattr(Combination, f"__r{_name}__", _reflected)


def evaluated(tree: Any) -> Any:
    """The same lists, tuples and dicts with the value of each combination."""
    if type(tree) is Combination:
        return tree._value()
    if isinstance(tree, dict):
        return {key: evaluated(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        items = [evaluated(item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


# -------------------------------------------------------------------- what is linear


def added(one: Any, other: Any) -> Any:
    """Their sum, kept apart where one is a combination and the other one as well, a number or a tensor."""
    if type(one) is not Combination:
        one, other = other, one
    if type(other) is Combination:
        terms = _merged(one._terms, other._terms) if one._source is other._source else None
        if terms is not None:
            return Combination(one._source, terms, _plus(one._rest, other._rest))
    elif _is_number(other) or (isinstance(other, torch.Tensor) and other.is_floating_point()):
        return Combination(one._source, one._terms, _plus(one._rest, other))
    return evaluated(one) + evaluated(other)


def subtracted(one: Any, other: Any) -> Any:
    """Their difference, in the same way."""
    if type(other) is Combination:
        return added(multiplied(other, -1), one)
    if _is_number(other) or (isinstance(other, torch.Tensor) and other.is_floating_point()):
        return added(one, -other)
    return evaluated(one) - other


def multiplied(one: Any, other: Any) -> Any:
    """Their product, kept apart where one is a combination and the other one a number."""
    if type(one) is not Combination:
        one, other = other, one
    if _is_number(other):
        terms = {name: coefficient * other for name, coefficient in one._terms.items()}
        if _are_coefficients(terms):
            return Combination(one._source, terms, None if one._rest is None else one._rest * other)
    return evaluated(one) * evaluated(other)


def divided(one: Any, other: Any) -> Any:
    """Their quotient, kept apart where a combination is divided by a number."""
    if type(one) is Combination and _is_number(other) and other != 0:
        terms = {name: coefficient / other for name, coefficient in one._terms.items()}
        if _are_coefficients(terms):
            return Combination(one._source, terms, None if one._rest is None else one._rest / other)
    return evaluated(one) / evaluated(other)


def _merged(one: Terms, other: Terms) -> Terms | None:
    """The sum; None where a derivative cancels, which is only zero where it is finite."""
    terms = dict(one)
    for name, coefficient in other.items():
        terms[name] = terms.get(name, 0.0) + coefficient
    return terms if _are_coefficients(terms) else None


def _are_coefficients(terms: Terms) -> bool:
    return all(coefficient != 0 and math.isfinite(coefficient) for coefficient in terms.values())


def _is_number(other: Any) -> bool:
    return isinstance(other, int | float) and not isinstance(other, bool)


def _plus(one: Any, other: Any) -> Any:
    """The sum of what is beside derivatives, of which None is zero, as is the number that ``sum`` begins with."""
    if one is None or other is None:
        found = other if one is None else one
        return None if _is_number(found) and found == 0 else found
    return one + other


def _reflected_subtracted(one: Any, other: Any) -> Any:
    return subtracted(other, one)


_TENSOR = torch.Tensor
LINEAR: dict[Any, Callable[[Any, Any], Any]] = {
    **dict.fromkeys((torch.add, _TENSOR.add, _TENSOR.__add__, _TENSOR.__radd__), added),
    **dict.fromkeys((torch.sub, _TENSOR.sub, _TENSOR.__sub__), subtracted),
    **dict.fromkeys((torch.rsub, _TENSOR.__rsub__), _reflected_subtracted),
    **dict.fromkeys((torch.mul, _TENSOR.mul, _TENSOR.__mul__, _TENSOR.__rmul__), multiplied),
    **dict.fromkeys((torch.div, _TENSOR.div, _TENSOR.__truediv__), divided),
}
"""What torch calls these operations of two operands."""
