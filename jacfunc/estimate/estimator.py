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
from ..api.coordinates import kept_by_errors, only_tensor, sample_shape, undrawn
from ..api.meshed import meshed, on_own_samples
from ..api.transform import Transform
from ..call.quantity import Quantity
from ..call.request import Request, requested
from ..core.levels import inside_vmap, tracing
from ..core.meshes import distributed_as, is_meshed
from ..core.reasons import a_type, name_of
from ..errors import ArgumentError, ArgumentTypeError, ShapeError, UnsupportedOperationError
from ..options import Options
from ..training.blocks import Bar, check_tqdm
from .maps import At, Maps
from .probes import drawn
from .probing import PARTS, Probing
from .result import Estimate

PILOT = 10
"""Probes that tell how many are needed."""
LARGEST = 2**25
"""Numbers of the probes that are drawn at a time: so many in single precision are 128 MiB."""

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
    quantity: Quantity
    """What the first products are."""
    exact: Any = None
    """The transform that it is an estimate of, where there is one."""
    what: str = ""
    """What it is an estimate of, where the name does not say."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The estimate at these arguments, perhaps in a tuple with the value and aux."""
        if not tracing() and meshed(args, kwargs):
            return self._on_own_samples(args, kwargs)
        if tracing():
            raise UnsupportedOperationError(
                f"estimate.{self.name} draws probes, which code that torch.compile or torch.export traces cannot; call "
                "it outside, with compile=True"
            )
        with (
            requested(self.transformed, self.options, args, kwargs) as request,
            kept_by_errors(request.leaves, self.generator),
        ):
            return self._estimated(request)

    @property
    def generator(self) -> torch.Generator | None:
        """What probes are drawn by."""
        return self.probing.generator

    def _on_own_samples(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """On this rank's own samples of a device mesh, with their part of the probes that are drawn for all samples."""
        number, how = self.options.numbers[0] % max(len(args), 1), self.probing
        if how.tolerance is not None:
            raise ArgumentError("tolerance= with DTensors, whose samples lie on several ranks; pass probes=")
        beside: tuple[Any, ...] = ()
        if number < len(args) and is_meshed(args[number]):
            x = args[number]
            whole = x.to_local().new_empty(()).expand(x.shape)
            if how.fixed is not None:
                tests = self._given(whole, how.fixed)
            else:
                count = self._asked(x.shape[self.options.batch_dims :].numel())
                tests = torch.cat([self.drawn(whole, count) for _ in range(1 + how.squared_residual)], -2)
            beside = (distributed_as(x, tests),)
        made = _WithTests(self) if beside else self
        return on_own_samples(made, self.options, (*args, *beside), kwargs, (number,), frozenset([len(args)]))

    def _estimated(self, request: Request, tests: torch.Tensor | None = None) -> Any:
        only_tensor(f"estimate.{self.name}", request)
        at, twice = self.maps.at(request), self.probing.squared_residual
        if tests is not None:
            count = tests.shape[-2] // (1 + twice)
            own = [tests[..., place * count : (place + 1) * count, :] for place in range(1 + twice)]
            estimates = [self.compute(self, at, each) for each in own]
        elif self.probing.fixed is not None:
            estimates = [self.compute(self, at, self._given(at.x, self.probing.fixed))]
        else:
            count = self.count(at)
            estimates = [self._in_parts(at, count) for _ in range(1 + twice)]
        found: Any = tuple(estimates) if twice else estimates[0]
        return (found, *at.others) if at.others else found

    def _in_parts(self, at: At, count: int) -> Estimate:
        """The estimate of so many probes, drawn a few at a time where all of them would take too much memory."""
        bar = Bar(check_tqdm() if self.probing.progress else None, count, "probes")
        try:
            found = []
            for size in self.parts(at, count):
                found.append(self.compute(self, at, self.drawn(at.x, size)))
                bar.update(size)
        finally:
            bar.close()
        return Estimate.merged(found)

    def parts(self, at: At, count: int) -> list[int]:
        """How many probes are drawn at a time: all but where each is as good as any other."""
        if self.probing.estimator != "hutchinson":
            return [count]
        # More rows than coordinates would make other routes look cheaper, which push as many through all the probes.
        number = max(math.ceil(count * at.x.numel() / LARGEST), math.ceil(count / max(at.size, 2)), 1)
        number = min(number, max(count // 2, 1))
        return [count // number + (place < count % number) for place in range(number)]

    def count(self, at: At) -> int:
        """How many probes a call takes."""
        how = self.probing
        if how.fixed is not None:
            return self._given(at.x, how.fixed).shape[-2]
        if how.tolerance is not None:
            return self._enough(at, how.tolerance)
        return self._asked(at.size)

    def _asked(self, size: int) -> int:
        how = self.probing
        assert how.probes is not None
        if how.estimator != "hutchinson" and how.probes > 2 * size:
            raise ArgumentError(
                f"probes={how.probes} with estimator={how.estimator!r}, but a sample of the input has {size} "
                f"elements, so that {size} products give the exact result; take {self.name} itself, or fewer probes"
            )
        return how.probes

    def drawn(self, x: torch.Tensor, count: int) -> torch.Tensor:
        """So many test vectors, ``(*batch, count, d)``."""
        how, batch_dims = self.probing, self.options.batch_dims
        found = drawn(how.probe, x, batch_dims, count, how.generator)
        return found.reshape(*x.shape[:batch_dims], count, x.shape[batch_dims:].numel())

    def _given(self, x: torch.Tensor, fixed: Any) -> torch.Tensor:
        batch, sample = tuple(x.shape[: self.options.batch_dims]), tuple(x.shape[self.options.batch_dims :])
        if not isinstance(fixed, torch.Tensor) or fixed.dtype != x.dtype:
            found = f"has dtype {fixed.dtype}" if isinstance(fixed, torch.Tensor) else f"is {a_type(fixed)}"
            raise ArgumentTypeError(f"fixed {found}; pass estimate.draw(x, probes), of the dtype of x, {x.dtype}")
        own = tuple(fixed.shape)
        count = own[len(batch)] if len(own) > len(batch) else 0
        if own != (*batch, count, *sample) or not count:
            raise ShapeError(
                f"fixed has shape {own}, but x has samples {batch} of shape {sample}; pass probes of shape "
                f"{(*batch, 'probes', *sample)}, as estimate.draw(x, probes) makes them"
            )
        return fixed.to(x.device).reshape(*batch, count, math.prod(sample))

    def _enough(self, at: At, tolerance: float) -> int:
        """How many probes reach a tolerance, by a pilot of a few, which are not used again."""
        how = self.probing
        pilot = min(PILOT, how.max_probes)
        if not at.x.numel():
            return 2
        if inside_vmap():
            raise UnsupportedOperationError(
                "tolerance= inside of torch.func.vmap, where a pilot cannot be looked at; pass probes="
            )
        with torch.no_grad():
            first = self.compute(self, self.maps.at(at.request), self.drawn(at.x, pilot))
        error = float(first.standard_error.abs().max()) if pilot > 1 else math.nan
        wanted = math.nan if math.isnan(error) else pilot * min(error / tolerance, 1e150) ** 2
        if not wanted <= how.max_probes:
            reached = error * math.sqrt(pilot / how.max_probes)
            raise ArgumentError(
                f"tolerance={tolerance:g} takes about {wanted:.3g} probes by a pilot of {pilot}, and max_probes="
                f"{how.max_probes} reaches a standard error of about {reached:.3g}; raise one of them, or take "
                "another estimator"
            )
        return max(math.ceil(wanted), 2)

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The first transform that is called for these arguments, and its own."""
        with requested(self.transformed, self.options, args, kwargs) as request:
            only_tensor(f"estimate.{self.name}", request)
            at = self.maps.at(request)
            with undrawn(request.leaves, self.generator):
                first = max(self.parts(at, self.count(at))[0] // PARTS[self.probing.estimator], 1)
                directions, steps = at.directions(self.drawn(at.x, first))
            return self.maps.along(request, self.quantity, others=True), (*args, directions, steps)

    def input_shapes(self, args: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
        """The sample shape of the argument that is differentiated by."""
        return (sample_shape(args, self.options),)

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.name, self.transformed)

    def _results(self) -> tuple[str, ...]:
        return tuple(Estimate.__annotations__)

    def __repr__(self) -> str:
        told = [name_of(self.transformed), *filter(None, [self.what]), *self.probing.told(), *self.options.changed()]
        return f"estimate.{self.name}({', '.join(told)})"


@dataclass(frozen=True)
class _WithTests:
    """An estimate of test vectors that come after the arguments of ``f``."""

    made: Estimator

    @property
    def transformed(self) -> Callable[..., Any]:
        return self.made.transformed

    def _fingerprint(self) -> tuple[object, ...]:
        return self.made._fingerprint()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self.made
        with requested(made.transformed, made.options, args[:-1], kwargs) as request:
            return made._estimated(request, args[-1])
