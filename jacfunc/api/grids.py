"""Derivatives on a product grid: each coordinate has an axis of points of its own, as separable networks take them.

An output ``[i, j]`` depends on the point ``i`` of the first coordinate and ``j`` of the second alone.  So its
derivatives are those by shifts of whole axes, ``f(t + r, x + s)`` by the numbers ``r`` and ``s`` at zero.  That they
are alone is checked for each axis as for samples anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..call.independence import settle
from ..call.inside import values
from ..call.positions import at_call
from ..call.request import requested
from ..core import trees
from ..core.levels import inside_transform, tracing
from ..core.reasons import a_type, name_of
from ..errors import ArgumentError, ArgumentTypeError, ShapeError
from ..jet import Jet
from ..options import SAMPLE_AXES, Options
from .asked import Asked
from .meshed import meshed, refuse_meshed
from .named import Named_co, Partials
from .notation import Variables
from .places import SamplesInFront, with_output
from .transform import Transform


@dataclass(frozen=True, eq=False)
class OnGrid:
    """``f``, whose outputs have the axes of a grid in front; ``places``: which arguments are its coordinates."""

    transformed: Callable[..., Any]
    places: tuple[int, ...]
    has_aux: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``f`` returns."""
        sizes = tuple([args[place].shape[0] for place in self.places])
        result = self.transformed(*args, **kwargs)
        return with_output(result, self.has_aux, lambda output: self._on_the_grid(output, sizes))

    def _on_the_grid(self, output: Any, sizes: tuple[int, ...]) -> Any:
        leaves, structure = trees.flatten(output)
        for leaf, path in zip(leaves, structure.paths("output"), strict=True):
            shape = tuple(getattr(leaf, "shape", ()))
            if shape[: len(sizes)] != sizes:
                raise ShapeError(
                    f"{path} has shape {shape}, whose first axes are not those of the grid, {sizes}; return an entry "
                    "for each choice of a point of each coordinate, or leave grid=True out"
                )
        return output

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.places, self.has_aux, self.transformed)


@dataclass(frozen=True, eq=False)
class Shifted:
    """``f`` on a grid that is shifted: of the arguments of ``f``, then one number for each coordinate."""

    transformed: OnGrid

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``f`` returns on the shifted grid."""
        places = self.transformed.places
        own, shifts = list(args[: -len(places)]), args[-len(places) :]
        for place, shift in zip(places, shifts, strict=True):
            own[place] = own[place] + shift
        return self.transformed(*own, **kwargs)

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.transformed,)

    def __repr__(self) -> str:
        return name_of(self.transformed.transformed)


@dataclass(frozen=True, eq=False)
class GridPartials(Partials[Named_co]):
    """As :class:`Partials`, of a function on a product grid; ``options`` are those that were given."""

    function: Callable[..., Any]
    options: Options

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        if not tracing() and meshed(args, kwargs):
            refuse_meshed(args, kwargs, "the points of a grid belong to all samples at once")
        places = self._checked(args)
        on_grid = OnGrid(self.function, places, self.options.has_aux)
        self._settle(on_grid, args, kwargs)
        first = values(args, kwargs)[0][places[0]]
        shifts = [first.new_zeros(()) for _ in places]
        return replace(self.transform, transformed=Shifted(on_grid)), (*args, *shifts)

    def coordinates(self, args: Sequence[Any], options: Options) -> list[torch.Tensor]:
        """The points of each coordinate, along the axis of its own."""
        places = self._places(args)
        return [
            args[place].reshape(*(-1 if axis == own else 1 for own in range(len(places))))
            for axis, place in enumerate(places)
        ]

    @property
    def transformed(self) -> Callable[..., Any]:
        """The function that it is a derivative of."""
        return self.function

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.transform.quantity.identity, self.options.argnums, self.function)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, grid=True)"

    def _places(self, args: Sequence[Any]) -> tuple[int, ...]:
        """Where the coordinates are among the arguments."""
        names, numbers, count = self.asked.variables.inputs, self.options.numbers, len(args)
        if self.options.argnums == -1:
            numbers = tuple(range(-len(names), 0))
        if len(numbers) != len(names) or not all(-count <= number < count for number in numbers):
            given = self.options.argnums
            found = f"but {count} came" if given == -1 else f"which argnums={given!r} does not select among {count}"
            raise ArgumentError(
                f"inputs={' '.join(names)!r} on a grid are {len(names)} positional arguments, {found}; pass the points "
                "of each coordinate as an argument of its own"
            )
        return tuple([number % count for number in numbers])

    def _checked(self, args: Sequence[Any]) -> tuple[int, ...]:
        """Where the coordinates are among the arguments, each a tensor of points."""
        places = self._places(args)
        for name, place in zip(self.asked.variables.inputs, places, strict=True):
            points = args[place]
            if not isinstance(points, torch.Tensor | Jet) or not points.dtype.is_floating_point:
                kind = f"has {points.dtype}" if isinstance(points, torch.Tensor) else f"is {a_type(points)}"
                raise ArgumentTypeError(
                    f"args[{place}], the points of {name!r}, {kind}; on a grid each coordinate has a tensor "
                    "of floating-point numbers of its own"
                )
            if tuple(points.shape[1:]) not in ((), (1,)) or not points.dim():
                raise ShapeError(
                    f"args[{place}], the points of {name!r}, has shape {tuple(points.shape)}; on a grid each "
                    "coordinate has points (N,) or (N, 1) of its own"
                )
        return places

    def _settle(self, on_grid: OnGrid, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check, at calls 1, 2, 4, 8 and so on, that along each axis an output depends on its own point alone."""
        jets = any(type(leaf) is Jet for leaf in trees.flatten((args, kwargs))[0])
        if not self.options.check or jets or tracing() or inside_transform():
            return
        for axis, place in enumerate(on_grid.places):
            own = replace(self.options, argnums=place, return_value=False, compile=False)
            along = SamplesInFront(on_grid, axis, place, own.has_aux) if axis else on_grid
            with requested(along, own, args, kwargs) as request, at_call(request, ("grid", axis)) as due:
                if due:
                    settle(request)


def made_on_grid(function: Callable[..., Any], wanted: str, variables: Variables, options: Options) -> GridPartials:
    """The transform for these names on a grid, of a function and options that are checked."""
    why = "on a grid each coordinate has an axis of its own, in the order of inputs"
    options.refuse(SAMPLE_AXES, "grid=True", why)
    count = len(variables.inputs)
    asked = Asked(variables, variables.names(wanted), count, grid=True)
    inner = replace(options, argnums=tuple(range(-count, 0)), batch_dims=0)
    transform = Transform(Shifted(OnGrid(function, (), options.has_aux)), asked.quantity(), inner)
    return GridPartials(transform, transform, asked, wanted, function, options)
