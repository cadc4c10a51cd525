"""What the equation of a residual is given: names that are there, that are only noted, or that are combined.

Where the derivatives come from, and what happens when one is missing, is in ``residual.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch

from .combinations import Combination, Terms
from .derivatives import Derivatives
from .errors import UnsupportedOperationError
from .levels import tracing
from .notation import Name, Variables
from .partials import Combined

Ratios = tuple[tuple[str, float], ...]
"""Derivatives of one output by name, in order, and their coefficients, of which the first is 1."""


class UnreadError(BaseException):
    """What the propagation did not compute; no ``except Exception`` of the equation's is about it."""


class Reading(Derivatives):
    """All that an equation was seen to read: another name interrupts it, and is ``_unread`` even if it goes on."""

    _unread: str | None = None

    @classmethod
    def of(cls, derivatives: Derivatives) -> Reading:
        """With the same tensors."""
        return cls(derivatives._names, list(derivatives), _inputs(derivatives))

    def __getattr__(self, name: str) -> torch.Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        self._unread = name
        raise UnreadError(name)


class DryReading(Derivatives):
    """In the dry run: values of outputs stand for all their derivatives, and names are noted.

    Each is a copy, since what an equation does to it in place must not be seen by anyone.  ``_valued`` are the linear
    combinations that it needs the values of; ``_refused`` says that it treats some otherwise than tensors.
    """

    def __init__(self, values: Derivatives, variables: Variables) -> None:
        super().__init__((), (), [(name, tensor.clone()) for name, tensor in _inputs(values)])
        self._values, self._variables = list(values), variables
        self._read: dict[str, Name] = {}
        self._valued: list[Terms] = []
        self._refused = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        meant = self._read[name] = self._variables.name(name)
        return Combination(self, {name: 1.0}) if any(meant.index) else self._values[meant.output].clone()

    def _value_of(self, terms: Terms) -> torch.Tensor:
        self._valued.append(terms)
        return self._values[self._read[next(iter(terms))].output].clone()

    def _changing(self) -> torch.Tensor:
        self._refused = True
        return self._values[0].clone()


@dataclass(frozen=True)
class Needs:
    """What an equation needs: outputs, and linear combinations of the derivatives that it reads by these ``names``.

    ``written`` is how each combination is asked for; those of several derivatives are ``combined``.
    """

    outputs: tuple[str, ...]
    names: dict[str, Name]
    written: dict[Ratios, str]
    combined: tuple[Combined, ...] = ()

    @classmethod
    def of(cls, dry: DryReading) -> Needs:
        """From a dry run."""
        outputs = tuple([name for name, meant in dry._read.items() if not any(meant.index)])
        needs = cls(outputs, {name: meant for name, meant in dry._read.items() if any(meant.index)}, {})
        combined = []
        for ratios in dict.fromkeys(ratios for terms in dry._valued for ratios, _ in needs.by_output(terms)):
            (first, _), *others = ratios
            written = needs.written[ratios] = " + ".join([first, *(f"{number!r} * {name}" for name, number in others)])
            if others:
                terms = tuple([(needs.names[name].index, number) for name, number in ratios])
                combined.append(Combined(written, needs.names[first].output, terms))
        return replace(needs, combined=tuple(combined))

    @property
    def alone(self) -> tuple[str, ...]:
        """The names whose own values it needs."""
        sums = {each.written for each in self.combined}
        return (*self.outputs, *(name for name in self.written.values() if name not in sums))

    def by_output(self, terms: Terms) -> list[tuple[Ratios, float]]:
        """A combination as combinations of one output each, and numbers that they are to be multiplied by."""
        groups: dict[int, list[str]] = {}
        for name in sorted(terms):
            groups.setdefault(self.names[name].output, []).append(name)
        return [
            (tuple([(name, terms[name] / terms[names[0]]) for name in names]), terms[names[0]])
            for names in groups.values()
        ]


class CombinedReading(Derivatives):
    """Outputs, and derivatives of which only some combinations were computed.

    What cannot be had of them, or would not be the same with tensors, interrupts the equation, and is ``_refused``;
    once it is ``_over`` nothing can be interrupted.
    """

    _refused = _over = False

    def __init__(self, derivatives: Derivatives, needs: Needs) -> None:
        outputs = [getattr(derivatives, name) for name in needs.outputs]
        super().__init__(needs.outputs, outputs, _inputs(derivatives))
        self._needs, self._recorded = needs, torch.is_grad_enabled()
        self._computed = {ratios: getattr(derivatives, name) for ratios, name in needs.written.items()}
        self._combinations = {name: Combination(self, {name: 1.0}) for name in needs.names}
        tensors = [*derivatives, *(tensor for _, tensor in _inputs(derivatives))]
        self._versions = [] if tracing() else [(tensor, tensor._version) for tensor in tensors]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._combinations[name] if name in self._combinations else self._refuse(f"{name} was not read")

    def _value_of(self, terms: Terms) -> torch.Tensor:
        if torch.is_grad_enabled() != self._recorded and not self._over:
            self._changing()  # as in an autograd.Function, whose arguments are looked at before
        total: torch.Tensor | None = None
        for ratios, number in self._needs.by_output(terms):
            if ratios not in self._computed:
                self._refuse(f"{' and '.join(terms)} had no value of {'its' if len(terms) == 1 else 'their'} own")
            part = self._computed[ratios] if number == 1 else self._computed[ratios] * number
            total = part if total is None else total + part
        assert total is not None
        return total

    def _changing(self) -> torch.Tensor:
        self._refuse("a derivative is changed in place")

    def _refuse(self, why: str) -> NoReturn:
        if self._over:
            raise UnsupportedOperationError(
                f"{why} after the equation of a residual has returned, since it needed only a sum that it is in; take "
                "what is to be kept inside of the equation, as d.u_x.clone(), or use partials"
            )
        self._refused = True
        raise UnreadError

    @property
    def _changed(self) -> bool:
        """Whether a tensor was changed in place, on which others would depend that were computed before."""
        return any(tensor._version != version for tensor, version in self._versions)


def same_results(found: Any, expected: Any, derivatives: Sequence[torch.Tensor]) -> bool:
    """Whether results are equal but for half of the digits of the largest derivative that they may be the sum of."""
    found, expected = (list(r) if isinstance(r, tuple | list) else [r] for r in (found, expected))
    if len(found) != len(expected):
        return False
    largest = [tensor.detach().abs().nan_to_num(posinf=0).amax() for tensor in (*expected, *derivatives) if len(tensor)]
    return all(_same(one, other, largest) for one, other in zip(found, expected, strict=True))


def _same(one: Any, other: torch.Tensor, largest: Sequence[torch.Tensor]) -> bool:
    if not isinstance(one, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    room = torch.finfo(other.dtype).eps ** 0.5
    size = max(map(float, largest), default=0.0)
    return torch.allclose(one.detach(), other.detach(), rtol=room, atol=room * size, equal_nan=True)


def _inputs(derivatives: Derivatives) -> list[tuple[str, torch.Tensor]]:
    return [(name, getattr(derivatives, name)) for name in derivatives._inputs]
