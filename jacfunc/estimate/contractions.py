r"""A differential operator as directions, of which a few are drawn: :math:`L u = \sum_j w_j \, D^k u(v_j, .., v_j)`.

Every product of derivatives is a sum of derivatives along single directions (polarisation),

.. math:: D^k u(e_1, \ldots, e_k) = \frac{1}{2^{k-1} k!} \sum_{\epsilon \in \{\pm 1\}^k, \; \epsilon_1 = 1}
    \epsilon_1 \cdots \epsilon_k \, D^k u(v_\epsilon, \ldots, v_\epsilon), \qquad v_\epsilon = \sum_j \epsilon_j e_j

and an operator over all coordinates an expected value over random ones.  This is the stochastic Taylor derivative
estimator: Z. Shi, Z. Hu, M. Lin, K. Kawaguchi, "Stochastic Taylor Derivative Estimator", NeurIPS 2024.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..api.notation import Variables
from ..errors import ArgumentError, NotationError
from ..jet.layout import Index

Direction = tuple[int, ...]

WHOLE = {"laplacian": 2, "biharmonic": 4}
"""Operators over all coordinates, and their orders."""


@dataclass(frozen=True)
class Contraction:
    """A part of an operator of one order, for one output: ``weights[j]`` times the derivative along direction j.

    ``output``: the place of the output along the last axis; None for every one.
    """

    order: int
    output: int | None
    directions: tuple[Direction, ...]
    weights: tuple[float, ...]

    def drawn(
        self, batch: tuple[int, ...], count: int, like: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions ``(*batch, count, d)``, drawn by the sizes of their weights, and what to multiply each by."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        device = torch.device("cpu") if generator is None else generator.device
        number = math.prod(batch) * count
        places = torch.multinomial(weights.abs().to(device), max(number, 1), True, generator=generator).cpu()[:number]
        chosen = torch.tensor(self.directions, dtype=torch.float64)[places]
        chosen = chosen.reshape(*batch, count, len(self.directions[0]))
        factors = (weights.sign() * weights.abs().sum())[places].reshape(*batch, count)
        return chosen.to(like), factors.to(like)


def read(operator: str, inputs: str, outputs: str) -> tuple[Contraction, ...]:
    """The parts of an operator that is written as a sum of partial derivatives."""
    variables = Variables.of(inputs, outputs)
    names = variables.names(operator)
    if len(names) != 1:
        raise NotationError(
            f"operator={operator!r} names {len(names)} derivatives; write one, or a sum with + between them"
        )
    name = names[0]
    parts = name.parts
    found: dict[tuple[int, int], dict[Direction, float]] = {}
    for output, terms in parts:
        for index, weight in terms:
            if not any(index):
                raise NotationError(f"operator={operator!r} has an output itself in it; add that to the estimate")
            group = found.setdefault((sum(index), output), {})
            for direction, own in _polarised(index):
                group[direction] = group.get(direction, 0.0) + weight * own
    several = len(variables.outputs) > 1
    return tuple(
        [
            Contraction(order, output if several else None, tuple(group), tuple(group.values()))
            for (order, output), group in found.items()
        ]
    )


def _polarised(index: Index) -> list[tuple[Direction, float]]:
    """A mixed derivative as a sum of derivatives along single directions, with their weights."""
    order = sum(index)
    along = [place for place, count in enumerate(index) for _ in range(count)]
    if len(set(along)) == 1:
        return [(tuple([int(place == along[0]) for place in range(len(index))]), 1.0)]
    found: dict[Direction, float] = {}
    for signs in itertools.product((1, -1), repeat=order - 1):
        direction = [0] * len(index)
        for place, sign in zip(along, (1, *signs), strict=True):
            direction[place] += sign
        weight = math.prod(signs) / (2 ** (order - 1) * math.factorial(order))
        key, sign = _first_positive(direction, order)
        found[key] = found.get(key, 0.0) + sign * weight
    return [(direction, weight) for direction, weight in found.items() if weight and any(direction)]


def _first_positive(direction: Sequence[int], order: int) -> tuple[Direction, int]:
    """The direction or its opposite, whichever begins with a positive number, and what that multiplies by."""
    first = next((number for number in direction if number), 0)
    return (tuple(direction), 1) if first >= 0 else (tuple([-number for number in direction]), (-1) ** order)


def factor(operator: str, probe: str, size: int) -> float:
    """What the derivative along a probe is multiplied by, for an operator over all coordinates."""
    if operator == "laplacian":
        return 1.0
    if probe == "gaussian":  # of which the fourth moment is three times the symmetric product of two identities
        return 1 / 3
    if probe == "sphere":
        return (size + 2) / (3 * size)
    raise ArgumentError(
        f"probe={probe!r} with operator='biharmonic', whose fourth moments have to be alike along all directions; "
        "choose 'gaussian' or 'sphere'"
    )
