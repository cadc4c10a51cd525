"""The matrix of each sample that an estimate is of, by products with it: a Jacobian or Hessian, never written down.

Products are ordinary transforms of functions along directions (``structure/directions.py``), by whichever route.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..api.kinds import COLUMNS
from ..api.results import by_pair
from ..api.transform import Transform
from ..api.transforms import BATCH_JAC, HESS_DIAG
from ..call.quantity import EntriesOf, Quantity
from ..call.request import Request
from ..call.sample_chunks import with_added
from ..errors import ShapeError
from ..options import Options
from ..structure.directions import AlongDirections, OfCotangents
from ..structure.stacks import of_rows

ROWS = Quantity("estimate", 1, EntriesOf(1, of_rows), by_pair, key="rows")
ALONG = replace(COLUMNS, name="estimate")
TWICE = replace(HESS_DIAG, name="estimate")


@dataclass(frozen=True, eq=False)
class Maps:
    """The transforms inside of an estimate of ``f``, made once, since compiled code is looked up by them.

    ``of_gradient``: products are those with the Hessian of one number a sample, which is symmetric.
    """

    f: Callable[..., Any]
    options: Options
    of_gradient: bool = False
    made: dict[Any, Transform] = field(default_factory=dict, repr=False)

    def at(self, request: Request) -> At:
        """At the arguments of a call."""
        return At(self, request)

    def along(self, request: Request, quantity: Quantity, others: bool) -> Transform:
        """Derivatives along directions; ``others``: with what was asked for beside them."""
        return self._made(
            request,
            ("along", quantity.key, quantity.order, others),
            lambda options: self._along(request, quantity, options),
            2,
            others,
        )

    def against(self, request: Request) -> Transform:
        """Products of outputs with cotangents, differentiated."""

        def make(options: Options) -> Transform:
            function = OfCotangents(self.f, options.batch_dims, self.options.has_aux)
            own = replace(options, argnums=request.arguments[0].position, has_aux=False)
            return Transform(function, ROWS, own)

        return self._made(request, "against", make, 1, False)

    def _along(self, request: Request, quantity: Quantity, options: Options) -> Transform:
        inside = self.f
        if self.of_gradient:
            own = replace(self.options.eager.whole, return_value=False, check=False, method="auto")
            inside = Transform(inside, BATCH_JAC, replace(own, argnums=request.arguments[0].position))
        function = AlongDirections(inside, request.arguments[0].position)
        return Transform(function, quantity, replace(options, argnums=-1))

    def _made(
        self, request: Request, key: Any, make: Callable[[Options], Transform], added: int, others: bool
    ) -> Transform:
        options, dims = self.options, with_added(request, self.options, added)
        kind = (key, dims, request.arguments[0].position)
        found = self.made.get(kind)
        if found is None:
            own = replace(options, in_dims=dims)
            found = self.made[kind] = make(own if others else replace(own, return_value=False))
        return found


@dataclass(eq=False)
class At:
    """The matrix of each sample at the arguments of one call; what came beside the first product is kept.

    ``recorded``: whether a graph was recorded when it was made, as that of what comes beside is to be.
    """

    maps: Maps
    request: Request
    others: tuple[Any, ...] | None = None
    recorded: bool = field(default_factory=torch.is_grad_enabled)

    @property
    def x(self) -> torch.Tensor:
        """The input."""
        return self.request.leaves[0]

    @property
    def size(self) -> int:
        """How many coordinates a sample of it has."""
        return math.prod(self.request.input_shapes[0])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Products of each sample's matrix with rows ``(*batch, count, d)``."""
        return self.along(ALONG, rows)

    def curved(self, rows: torch.Tensor) -> torch.Tensor:
        """Second derivatives of every output along rows, ``(*batch, *O, count)``."""
        return self.along(TWICE, rows)

    def backward(self, rows: torch.Tensor) -> torch.Tensor:
        """Products of the transposed matrix with rows."""
        if self.maps.of_gradient:
            return self.forward(rows)
        transform = self.maps.against(self.request)
        found: torch.Tensor = transform(*self.request.args, rows, **self.request.kwargs)
        return found

    def directions(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows in the shape of the input, and steps of zero along them."""
        lying = rows.shape[: len(self.request.batch) + 1]
        return rows.reshape(*lying, *self.request.input_shapes[0]), rows.new_zeros(lying)

    def along(self, quantity: Quantity, rows: torch.Tensor) -> torch.Tensor:
        """What a quantity is along rows: derivatives by a step along each."""
        request, options = self.request, self.maps.options
        first = self.others is None and torch.is_grad_enabled() == self.recorded
        several = options.has_aux or (options.return_value and first)
        transform = self.maps.along(request, quantity, first)
        directions, steps = self.directions(rows)
        found = transform(*request.args, directions, steps, **request.kwargs)
        products, *others = found if several else (found,)
        if first:
            self.others = tuple(others)
        result: torch.Tensor = products
        return result

    def refuse_unless_square(self, name: str, result: torch.Tensor) -> None:
        """Refuse products that have another length than the input."""
        if result.shape[-1] != self.size and self.maps.of_gradient:
            raise ShapeError(
                f"estimate.{name} of a Hessian takes one number a sample, but f returned "
                f"{result.shape[-1] // max(self.size, 1)} of them; pass a function of one"
            )
        if result.shape[-1] != self.size:
            raise ShapeError(
                f"estimate.{name} takes a function whose output has the shape of its input, but a sample of the output "
                f"has {result.shape[-1]} elements and one of the input {self.size}; take batch_jac for the "
                "whole Jacobian"
            )
