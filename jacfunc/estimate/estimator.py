"""What an estimate of a derivative is: a function of the same arguments as ``f``; how its probes are drawn and used.

Which estimates there are is in ``transforms.py``, the arithmetic of each method in ``methods.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..api.calling import Uncalled
from ..call.request import Request, requested
from ..core.levels import tracing
from ..core.reasons import a_type, name_of
from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from ..options import Options
from .maps import At, Maps, refuse_trees
from .probes import drawn
from .probing import Probing
from .result import Estimate

PILOT = 10
"""Probes that tell how many are needed."""

Compute = Callable[["Estimator", At, torch.Tensor], Estimate]


@dataclass(frozen=True, eq=False)
class Estimator(Uncalled):
    """A function of the same arguments as ``f`` that returns an :class:`Estimate` of a derivative of it.

    ``compute`` makes an estimate of test vectors, ``(*batch, count, d)``.
    """

    name: str
    transformed: Callable[..., Any]
    options: Options
    probing: Probing
    maps: Maps
    compute: Compute
    what: str = ""
    """What it is an estimate of, where the name does not say."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The estimate at these arguments, perhaps in a tuple with the value and aux."""
        if tracing():
            return self._estimated(Request(self.transformed, self.options, args, kwargs, traced=True))
        with requested(self.transformed, self.options, args, kwargs) as request:
            return self._estimated(request)

    def _estimated(self, request: Request) -> Any:
        refuse_trees(self.name, request)
        at = self.maps.at(request)
        tests = self._tests(at)
        found: Any = self.compute(self, at, tests)
        if self.probing.squared_residual:
            found = (found, self.compute(self, at, self._drawn(at, tests.shape[-2])))
        return (found, *at.others) if at.others else found

    def _tests(self, at: At) -> torch.Tensor:
        """The test vectors of this call."""
        how = self.probing
        if how.fixed is not None:
            return self._given(at, how.fixed)
        if how.tolerance is not None:
            return self._drawn(at, self._enough(at, how.tolerance))
        assert how.probes is not None
        if how.estimator != "hutchinson" and how.probes > 2 * at.size:
            raise ArgumentError(
                f"probes={how.probes} with estimator={how.estimator!r}, but a sample of the input has {at.size} "
                f"elements, so that {at.size} products give the exact result; take {self.name} itself, or fewer probes"
            )
        return self._drawn(at, how.probes)

    def _drawn(self, at: At, count: int) -> torch.Tensor:
        how, batch_dims = self.probing, len(at.request.batch)
        found = drawn(how.probe, at.x, batch_dims, count, how.generator)
        return found.reshape(*at.request.batch, count, at.size)

    def _given(self, at: At, fixed: Any) -> torch.Tensor:
        batch, sample = at.request.batch, at.request.input_shapes[0]
        if not isinstance(fixed, torch.Tensor) or fixed.dtype != at.x.dtype:
            found = f"has dtype {fixed.dtype}" if isinstance(fixed, torch.Tensor) else f"is {a_type(fixed)}"
            raise ArgumentTypeError(f"fixed {found}; pass estimate.draw(x, probes), of the dtype of x, {at.x.dtype}")
        own = tuple(fixed.shape)
        count = own[len(batch)] if len(own) > len(batch) else 0
        if own != (*batch, count, *sample) or not count:
            raise ShapeError(
                f"fixed has shape {own}, but x has samples {batch} of shape {sample}; pass probes of shape "
                f"{(*batch, 'probes', *sample)}, as estimate.draw(x, probes) makes them"
            )
        return fixed.to(at.x.device).reshape(*batch, count, at.size)

    def _enough(self, at: At, tolerance: float) -> int:
        """How many probes reach a tolerance, by a pilot of a few, which are not used again."""
        how = self.probing
        pilot = min(PILOT, how.max_probes)
        with torch.no_grad():
            first = self.compute(self, self.maps.at(at.request), self._drawn(at, pilot))
        error = float(first.standard_error.abs().max()) if pilot > 1 else math.nan
        wanted = pilot * (error / tolerance) ** 2
        if not wanted <= how.max_probes:
            reached = error * math.sqrt(pilot / how.max_probes)
            raise ArgumentError(
                f"tolerance={tolerance:g} takes about {wanted:.3g} probes by a pilot of {pilot}, and max_probes="
                f"{how.max_probes} reaches a standard error of about {reached:.3g}; raise one of them, or take "
                "another estimator"
            )
        return max(math.ceil(wanted), 2)

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.name, self.transformed)

    def _results(self) -> tuple[str, ...]:
        return tuple(Estimate.__annotations__)

    def __repr__(self) -> str:
        told = [name_of(self.transformed), *filter(None, [self.what]), *self.probing.told(), *self.options.changed()]
        return f"estimate.{self.name}({', '.join(told)})"
