"""A transform taken for its result, before it is called: what only the result has says so."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ArgumentTypeError

OPERATORS = {
    "neg": "-{}",
    "pos": "+{}",
    "abs": "abs({})",
    "getitem": "{}[..]",
    "add": "{} + ..",
    "radd": ".. + {}",
    "sub": "{} - ..",
    "rsub": ".. - {}",
    "mul": "{} * ..",
    "rmul": ".. * {}",
    "truediv": "{} / ..",
    "rtruediv": ".. / {}",
    "matmul": "{} @ ..",
    "rmatmul": ".. @ {}",
    "pow": "{} ** ..",
    "rpow": ".. ** {}",
}
"""What tensors can do and transforms cannot, and how it is written."""


class Uncalled:
    """A function of the arguments of ``f``: an attribute or operator that only its result has says so."""

    if not TYPE_CHECKING:  # which knows what there is
        __iter__ = None  # else ``__getitem__`` would make it iterable

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(self._missing(name))

    def _missing(self, name: str) -> str:
        if name.startswith("_") or not (hasattr(torch.Tensor, name) or name in self._results()):
            return f"{type(self).__name__!r} object has no attribute {name!r}"
        return self._not_yet("{}." + name)

    def _not_yet(self, written: str) -> str:
        return (
            f"{self!r} is a function of the arguments of f, not yet its result; call it first, as in "
            f"{written.format('g(x)')} instead of {written.format('g')}"
        )

    def _results(self) -> tuple[str, ...]:
        """Further attributes of the result."""
        return ()


def _operator(written: str) -> Callable[..., Any]:
    def operator(self: Uncalled, *others: Any) -> Any:
        if written != OPERATORS["getitem"] and not all(isinstance(other, OPERANDS) for other in others):
            return NotImplemented  # what else there is may know what to do
        raise ArgumentTypeError(self._not_yet(written))

    return operator


OPERANDS = (torch.Tensor, Number, Uncalled)

for _name, _written in OPERATORS.items():
    setattr(Uncalled, f"__{_name}__", _operator(_written))
