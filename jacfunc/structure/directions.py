r"""A function along directions of each sample's own, and products of its outputs: maps whose Jacobians are products.

.. math:: g(s)_n = f(x_n + \sum_p s_p v_{np}), \quad \partial g / \partial s = J_n V_n, \qquad
    h(x)_n = Q_n^T f(x_n), \quad \partial h / \partial x = Q_n^T J_n
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core.reasons import name_of
from ..jet import Jet
from ..jet.dispatch import apply
from ..jet.registry import add


def shifted(x: torch.Tensor, steps: Any, directions: torch.Tensor) -> Any:
    """``x`` plus ``steps``, ``(*batch, P)``, times the directions of each sample, ``(*batch, P, *I)``."""
    if isinstance(steps, Jet):
        return apply(shifted, (x, steps, directions), {})
    return x + torch.matmul(steps.unsqueeze(-2), _flat(directions, steps)).squeeze(-2).reshape(x.shape)


def _flat(directions: torch.Tensor, steps: Any) -> torch.Tensor:
    """Directions as rows of coordinates, also where there is no sample."""
    return directions.reshape(*steps.shape, directions.shape[steps.dim() :].numel())


def _shifted(x: Any, steps: Jet, directions: torch.Tensor) -> Any:
    """The rule: of one-hot rows of the steps, which are zero, the rows are the directions themselves."""
    axis = steps.dim() - 1
    if type(x) is Jet or steps.apart()[0] is not steps.propagation.hot or steps.propagation.hot is None:
        moved = torch.matmul(steps.unsqueeze(-2), _flat(directions, steps))  # type: ignore[attr-defined]
        return x + moved.squeeze(-2).reshape(x.shape)
    return steps.like(x, (directions.movedim(axis, 0), *[None] * (steps.frame.layout.order - 1)))


add(_shifted, shifted)


@dataclass(frozen=True, eq=False, repr=False)
class AlongDirections:
    """``f`` along directions, as a function of the steps: these come last, and the directions before them.

    Attributes:
        transformed: the function ``f``.
        number: which of its arguments is ``x``.
    """

    added_arguments = 2
    transformed: Callable[..., Any]
    number: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of ``f``."""
        own, directions, steps = list(args[:-2]), args[-2], args[-1]
        own[self.number] = shifted(own[self.number], steps, directions)
        return self.transformed(*own, **kwargs)

    def __repr__(self) -> str:
        return name_of(self.transformed)

    def _fingerprint(self) -> tuple[object, ...]:
        return ("directions", self.transformed, self.number)


@dataclass(frozen=True, eq=False, repr=False)
class OfCotangents:
    """Products of the outputs of ``f`` with cotangents ``(*batch, P, *O)``, which come last.

    Attributes:
        transformed: the function ``f``.
        batch_dims: how many sample axes there are.
        has_aux: whether ``f`` returns an aux as well, which is left out.
    """

    added_arguments = 1
    transformed: Callable[..., Any]
    batch_dims: int
    has_aux: bool

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The products, ``(*batch, P)``."""
        own, cotangents = args[:-1], args[-1]
        output = self.transformed(*own, **kwargs)
        output = output[0] if self.has_aux else output
        size = output.shape[self.batch_dims :].numel()
        rows = cotangents.reshape(*cotangents.shape[: self.batch_dims + 1], size)
        column = output.reshape(*output.shape[: self.batch_dims], size, 1)
        product: torch.Tensor = torch.matmul(rows, column).squeeze(-1)
        return product

    def __repr__(self) -> str:
        return name_of(self.transformed)

    def _fingerprint(self) -> tuple[object, ...]:
        return ("cotangents", self.transformed, self.batch_dims, self.has_aux)
