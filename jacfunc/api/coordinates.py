"""``coordinates=``: derivatives by a few of many coordinates, and sums over all of them estimated by those of a few.

Each is exact; a sum over ``k`` of ``d`` coordinates that were drawn by chance, times ``d / k``, has the sum over all of
them for its expected value.  The function of these coordinates alone is in ``structure/coordinates.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..call.request import Request, requested
from ..call.sample_chunks import with_added
from ..core.levels import compiling, inside_vmap
from ..core.meshes import MODULES
from ..core.reasons import a_type, name_of
from ..core.torch_private import DYNAMO
from ..errors import ArgumentError, ArgumentTypeError, ShapeError, UnsupportedOperationError
from ..evaluation.rng import RandomState, replaying
from ..options import Options
from ..structure.coordinates import AtCoordinates
from .transform import Result_co, Transform

CoordinatesLike = torch.Tensor | int
"""Coordinates, ``(k,)``, or how many are to be drawn."""

KEYWORD = "jacfunc_places"
"""By which the function of a few coordinates is told which."""


@dataclass(frozen=True, eq=False)
class AtFew(Transform[Result_co]):
    """A transform by a few coordinates.

    ``picks``: whether it is of their entries of the output; ``sums``: whether it is a sum over all coordinates.
    """

    coordinates: CoordinatesLike
    generator: torch.Generator | None
    picks: bool
    sums: bool
    exact: Transform | None = None
    """That by all coordinates, where it is an estimate of this."""
    made: dict[Any, Transform] = field(default_factory=dict, repr=False)
    """The transforms inside, by options: the same at each call, since compiled code is looked up by them."""

    def here(self, args: tuple[Any, ...], kwargs: dict[str, Any], traced: bool) -> Any:
        """The derivative at arguments that are tensors of this process alone; ``traced``: it is recorded."""
        if traced:
            request = Request(self.transformed, self.options, args, kwargs, traced=True)
            return self._computed(request)
        with requested(self.transformed, self.options, args, kwargs) as request:
            if isinstance(self.coordinates, torch.Tensor):
                return self._computed(request)
            with kept_by_errors(request.leaves, self.generator):
                return self._computed(request)

    def _computed(self, request: Request) -> Any:
        x, places = self._leaf(request), self._places(request)
        found = self._inner(request)(*self._arguments(request, x, places), **request.kwargs, **{KEYWORD: places})
        several = self.options.return_value or self.options.has_aux
        derivative, *others = found if several else (found,)
        if self.options.return_value and self.picks:
            others = [*others[0]]
        if self.sums:
            derivative = derivative * (math.prod(request.input_shapes[0]) / len(places))
        return (derivative, *others) if several else derivative

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        with requested(self.transformed, self.options, args, kwargs) as request:
            with undrawn(request.leaves, self.generator):
                x, places, inner = (
                    self._leaf(request),
                    self._places(request),
                    self._inner(request),
                )
            bound = replace(inner, transformed=replace(inner.transformed, places=places))  # type: ignore[type-var]
            return bound, self._arguments(request, x, places)

    def _arguments(self, request: Request, x: torch.Tensor, places: torch.Tensor) -> tuple[Any, ...]:
        return (*request.args, x.new_zeros(*request.batch, len(places)))

    def _inner(self, request: Request) -> Transform:
        """The transform by the steps at these coordinates."""
        options = replace(self.options, argnums=-1, in_dims=with_added(request, self.options, 1))
        number, batch_dims = request.arguments[0].position, options.batch_dims
        found = None if request.traced else self.made.get((options, number))
        if found is None:
            keeps = self.picks and options.return_value
            inner = replace(options, has_aux=True, return_value=False) if keeps else options
            function = AtCoordinates(self.transformed, number, batch_dims, self.picks, options.has_aux, keeps)
            found = Transform(function, self.quantity, inner)
            if not request.traced:
                self.made[options, number] = found
        return found

    def _leaf(self, request: Request) -> torch.Tensor:
        return only_tensor(f"{self.quantity.name} with coordinates=", request)

    def _places(self, request: Request) -> torch.Tensor:
        size, x = math.prod(request.input_shapes[0]), request.leaves[0]
        return places_of(self.coordinates, size, x.device, self.generator, request.traced)

    def input_shapes(self, args: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
        """The sample shape of the argument that is differentiated by."""
        return (sample_shape(args, self.options),)

    def told(self, args: tuple[Any, ...]) -> list[tuple[str, str]]:
        """What ``explain`` says of the coordinates."""
        size, given = math.prod(sample_shape(args, self.options)), self.coordinates
        count = given if isinstance(given, int) else len(given)
        which = "drawn at each call" if isinstance(given, int) else "as they were given"
        scaled = f"; their sum times {size / count:g} is unbiased" if self.sums else ""
        return [("coordinates", f"{count} of {size}, {which}{scaled}")]

    def _fingerprint(self) -> tuple[object, ...]:
        return (*super()._fingerprint(), "coordinates", self.picks)

    def __repr__(self) -> str:
        given = self.coordinates
        shown = given if isinstance(given, int) else f"<{len(given)} of them>"
        told = [name_of(self.transformed), f"coordinates={shown}", *self.options.changed()]
        return f"{self.quantity.name}({', '.join(told)})"


def only_tensor(what: str, request: Request) -> torch.Tensor:
    """The one tensor that is differentiated by; a tree is refused."""
    if len(request.leaves) != 1 or not isinstance(request.args[request.arguments[0].position], torch.Tensor):
        raise ArgumentTypeError(
            f"{what} differentiates by one tensor, but argnums={request.options.argnums} selects "
            f"{len(request.leaves)} in a tree; pass them joined into one tensor"
        )
    return request.leaves[0]


def sample_shape(args: Sequence[Any], options: Options) -> tuple[int, ...]:
    """The shape of a sample of the one argument that is differentiated by."""
    return tuple(args[options.numbers[0]].shape[options.batch_dims :])


def refuse_generator(generator: object) -> None:
    """Refuse what is neither a generator nor None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ArgumentTypeError(f"generator is {a_type(generator)}; pass a torch.Generator")


def by_coordinates(
    transform: Transform,
    coordinates: CoordinatesLike | None,
    generator: torch.Generator | None = None,
    picks: bool = False,
    sums: bool = False,
) -> Transform:
    """The transform by a few coordinates; itself where none are given."""
    name, options = transform.quantity.name, transform.options
    if coordinates is None:
        if generator is not None:
            raise ArgumentError(f"{name} with generator= but without coordinates=; there is nothing to draw")
        return transform
    _refuse(name, options, transform, coordinates, generator, sums)
    exact = transform if sums else None
    return AtFew(transform.transformed, transform.quantity, options, coordinates, generator, picks, sums, exact)


def _refuse(name: str, options: Options, transform: Transform, coordinates: Any, generator: Any, sums: bool) -> None:
    options.refuse(("out_dims",), "coordinates", "coordinates are of samples that lie on the first axes")
    if type(transform) is not Transform:
        raise ArgumentError("coordinates= with sparsity= or segments=; leave one of them out")
    if transform.quantity.gradient:
        raise ArgumentError(f"{name} with return_gradient=True and coordinates=; take the gradient by diag_jac")
    if len(options.numbers) != 1:
        raise ArgumentError(f"argnums={options.argnums} selects several arguments; coordinates are those of one")
    refuse_coordinates(name, coordinates, generator, sums)


def refuse_coordinates(name: str, coordinates: Any, generator: Any, sums: bool) -> None:
    """Refuse what is neither coordinates nor a number of them, where it can be one."""
    if isinstance(coordinates, torch.Tensor):
        if coordinates.dtype not in (torch.int64, torch.int32) or coordinates.dim() != 1:
            raise ArgumentTypeError(
                f"coordinates has dtype {coordinates.dtype} and shape {tuple(coordinates.shape)}; pass their numbers, "
                "int64 of shape (k,), the same for all samples"
            )
        if not len(coordinates):
            raise ShapeError("coordinates has no elements; pass at least one coordinate")
        if generator is not None:
            raise ArgumentError("generator= with coordinates that are given; there is nothing to draw")
        return
    if not isinstance(coordinates, int) or isinstance(coordinates, bool) or coordinates < 1:
        found = repr(coordinates) if isinstance(coordinates, int | float | str) else a_type(coordinates)
        raise ArgumentTypeError(
            f"coordinates={found} is neither a tensor of coordinates nor a number of them, 1 or more"
        )
    if not sums:
        raise ArgumentTypeError(
            f"coordinates={coordinates}, but the result of {name} has an entry for each, so it has to be known which; "
            f"pass them, as torch.randperm(d)[:{coordinates}]"
        )
    refuse_generator(generator)
    if compiling():
        raise ArgumentError(
            f"{name} with coordinates={coordinates} draws numbers in code that torch.compile traces; pass the "
            "coordinates as a tensor, or compile=True in place of torch.compile"
        )


@contextmanager
def undrawn(tensors: Iterable[torch.Tensor], generator: torch.Generator | None) -> Iterator[None]:
    """All generators go on as if nothing had been drawn in between."""
    with replaying(_state(tensors, generator)):
        yield


@contextmanager
def kept_by_errors(tensors: Iterable[torch.Tensor], generator: torch.Generator | None) -> Iterator[None]:
    """After an error all generators are as they were."""
    if inside_vmap():  # whose numbers are drawn by its own rules
        yield
        return
    look = _state
    if DYNAMO in MODULES:  # whose frame around this one may have been given up
        look = torch.compiler.disable(look)  # type: ignore[no-untyped-call]
    state = look(tensors, generator)
    try:
        yield
    except BaseException:
        state.restore()
        raise


def _state(tensors: Iterable[torch.Tensor], generator: torch.Generator | None) -> RandomState:
    return RandomState.capture(tensors, () if generator is None else (generator,))


def _extremes(given: torch.Tensor) -> tuple[int, int]:
    try:
        return int(given.min()), int(given.max())
    except RuntimeError as error:
        if not inside_vmap():
            raise
        raise UnsupportedOperationError(
            "coordinates= that torch.func.vmap maps over cannot be looked at; pass the same ones to all of them"
        ) from error


def places_of(
    given: CoordinatesLike, size: int, device: torch.device, generator: torch.Generator | None, traced: bool = False
) -> torch.Tensor:
    """The coordinates that were given, or as many that are drawn without replacement, ``(k,)``."""
    if isinstance(given, torch.Tensor):
        if not traced and given.numel():
            low, high = _extremes(given)
            if low < 0 or high >= size:
                raise ArgumentError(
                    f"coordinates has {low if low < 0 else high}, but a sample of the input has {size} elements; "
                    f"pass numbers from 0 to {size - 1}"
                )
        return given.to(device, torch.long)
    if given > size:
        raise ArgumentError(
            f"coordinates={given}, but a sample of the input has {size} elements; ask for at most as many"
        )
    if traced:
        raise UnsupportedOperationError(
            f"coordinates={given} draws numbers, which code that torch.compile or torch.export traces cannot; pass the "
            "coordinates as a tensor, or compile=True in place of torch.compile"
        )
    if inside_vmap():
        raise UnsupportedOperationError(
            f"coordinates={given} draws numbers inside of torch.func.vmap; pass the coordinates as a tensor"
        )
    own = "cpu" if generator is None else generator.device
    return torch.randperm(size, generator=generator, device=own)[:given].to(device)
