"""``partials`` where an input is a vector, ``x[1000]``: sums over its coordinates, of all or of a few that are drawn.

A second derivative by a vector is the sum of those by each coordinate.  ``f`` is differentiated by steps at the
coordinates that have names and at those of the vector that are looked at (``structure/coordinates.py``), so that a name
such as ``u_xx`` is a sum like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.levels import compiling
from ..core.reasons import a_type, name_of
from ..core.subclasses import undressed
from ..errors import ArgumentError, ArgumentTypeError, NotationError, ShapeError
from ..jet import Jet
from ..jet.layout import Index, Terms
from ..options import Options
from ..structure.coordinates import AtCoordinates
from .asked import Asked
from .coordinates import KEYWORD, CoordinatesLike, kept_by_errors, places_of, refuse_coordinates, undrawn
from .derivatives import Derivatives
from .named import Partials
from .notation import Combined, Name, Variables
from .transform import Transform

VECTOR = re.compile(r"([^\s,\[\]]+)\[([1-9][0-9]*)\]")


def without_vectors(inputs: Any) -> tuple[str, dict[str, int]]:
    """The inputs as plain names, and how many coordinates each vector among them has."""
    if not isinstance(inputs, str) or compiling():  # which is refused where names are read
        return inputs, {}
    sizes = {match[1]: int(match[2]) for match in VECTOR.finditer(inputs)}
    return VECTOR.sub(r"\1", inputs), sizes


@dataclass(frozen=True)
class Layout:
    """Which coordinates of a sample the names are: one each, and ``size`` from ``place`` on those of the vector."""

    names: tuple[str, ...]
    vector: int
    size: int

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.names) - 1 + self.size

    def places(self, chosen: torch.Tensor) -> torch.Tensor:
        """The coordinates that are differentiated by: those with names, and the chosen ones in place of the vector."""
        before = torch.arange(self.vector, device=chosen.device)
        after = torch.arange(self.vector + self.size, self.total, device=chosen.device)
        return torch.cat([before, self.vector + chosen, after])

    def expanded(self, count: int) -> tuple[str, ...]:
        """Names for these."""
        vector = [f"{self.names[self.vector]}{place}" for place in range(count)]
        return (*self.names[: self.vector], *vector, *self.names[self.vector + 1 :])

    def terms(self, terms: Terms, count: int, written: str) -> Terms:
        """A combination of derivatives by the names, as one of these; a sum over a few is scaled to be over all."""
        found: dict[Index, float] = {}
        for index, weight in terms:
            times, before, after = index[self.vector], index[: self.vector], index[self.vector + 1 :]
            if times not in (0, 2):
                name = self.names[self.vector]
                raise NotationError(
                    f"{written!r} is {times} times by {name!r}, a vector of {self.size} coordinates; what there is "
                    f"of it is the sum of second derivatives, as in u_{name}{name}; take diag_jac for the gradient"
                )
            zeros = (0,) * count
            own = [(*zeros[:place], 2, *zeros[place + 1 :]) for place in range(count)] if times else [zeros]
            scaled = weight * self.size / count if times else weight
            for middle in own:
                key = (*before, *middle, *after)
                found[key] = found.get(key, 0.0) + scaled
        return tuple(found.items())


@dataclass(frozen=True, eq=False)
class OnVectors(Partials[Any]):
    """``partials`` with a vector among its inputs."""

    layout: Layout
    chosen_ones: CoordinatesLike
    generator: torch.Generator | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The derivatives of ``f`` at its arguments, by name."""
        with kept_by_errors((), self.generator) if isinstance(self.chosen_ones, int) else nullcontext():
            own, places = self._given(args)
            return self._named(self.transform, self.transform(*own, **kwargs, **{KEYWORD: places}), args)

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform that is called for these arguments, and its own."""
        with undrawn((), self.generator):
            own, places = self._given(args)
        bound = replace(self.transform, transformed=replace(self.transform.transformed, places=places))  # type: ignore[type-var]
        return bound, own

    def coordinates(self, args: Sequence[Any], options: Options) -> list[torch.Tensor]:
        """Each coordinate with the shape of the sample axes, and the vector with an axis more."""
        x, layout = args[self.transform.transformed.number].clone(), self.layout  # type: ignore[attr-defined]
        vector = x[..., layout.vector : layout.vector + layout.size]
        before = [x[..., place] for place in range(layout.vector)]
        return [*before, vector, *[x[..., place] for place in range(layout.vector + layout.size, layout.total)]]

    def named(self, fields: Sequence[torch.Tensor], options: Options, args: Sequence[Any]) -> Any:
        """The tensors under their names, and the inputs beside them."""
        return Derivatives.put_together(self.asked.written, fields, self.layout.names, self.coordinates(args, options))

    def _given(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], torch.Tensor]:
        """The arguments with steps of zero, and at which coordinates these are."""
        number, axes = self.transform.transformed.number, self.transform.options.batch_dims  # type: ignore[attr-defined]
        x = args[number] if -len(args) <= number < len(args) else None
        if isinstance(x, Jet) or not isinstance(x, torch.Tensor):
            raise ArgumentTypeError(
                f"partials with a vector among its inputs takes one tensor with all coordinates along its last axis, "
                f"but argument {number} is {a_type(x)}"
            )
        x = undressed(x)
        batch, sample = (tuple(part) for part in (x.shape[:axes], x.shape[axes:]))
        if sample != (self.layout.total,):
            raise ShapeError(
                f"inputs names {self.layout.total} coordinates, but a sample of the input has shape {sample}; pass one "
                "tensor with all of them along its last axis"
            )
        places = self.layout.places(places_of(self.chosen_ones, self.layout.size, x.device, self.generator))
        return (*args, x.new_zeros(*batch, len(places))), places

    def __repr__(self) -> str:
        layout, chosen = self.layout, self.chosen_ones
        names = [f"{name}[{layout.size}]" if at == layout.vector else name for at, name in enumerate(layout.names)]
        told = f"coordinates={chosen}" if isinstance(chosen, int) else f"coordinates=<{len(chosen)} of them>"
        shown = [name_of(self.transform.transformed), repr(self.written), f"inputs={' '.join(names)!r}", told]
        return f"partials({', '.join(shown)})"


def made_on_vectors(
    function: Callable[..., Any],
    wanted: str,
    names: str,
    sizes: dict[str, int],
    outputs: str,
    options: Options,
    coordinates: CoordinatesLike | None,
    generator: torch.Generator | None,
) -> Partials[Any]:
    """The transform for names of which one is a vector."""
    options.refuse(("out_dims", "sample_chunk_size", "in_dims"), "inputs with a vector", "it looks at one tensor whole")
    variables = Variables.of(names, outputs)
    if len(sizes) > 1:
        raise NotationError(f"inputs has {len(sizes)} vectors ({', '.join(sizes)}); join them to one")
    if not isinstance(options.argnums, int):
        raise ArgumentError(f"argnums={options.argnums} selects several arguments; a vector is part of one")
    ((name, size),) = sizes.items()
    if coordinates is None and generator is not None:
        raise ArgumentError("partials with generator= but without coordinates=; there is nothing to draw")
    coordinates = torch.arange(size) if coordinates is None else coordinates
    refuse_coordinates("partials", coordinates, generator, sums=True)
    count = coordinates if isinstance(coordinates, int) else len(coordinates)
    if count > size:
        raise ArgumentError(f"coordinates={count}, but {name} has {size}; ask for at most as many")
    layout = Layout(variables.inputs, variables.inputs.index(name), size)
    own = Variables(layout.expanded(count), variables.outputs, variables.components)
    found = [_expanded(layout, each, count) for each in variables.names(wanted)]
    asked = Asked(own, tuple(found), 0)
    along = AtCoordinates(function, options.argnums, options.batch_dims, False, options.has_aux, False)
    transform = Transform(along, asked.quantity(), replace(options, argnums=-1))
    return OnVectors(transform, transform, asked, wanted, layout, coordinates, generator)


def _expanded(layout: Layout, each: Name | Combined, count: int) -> Name | Combined:
    parts = tuple([(output, layout.terms(terms, count, each.written)) for output, terms in each.parts])
    if isinstance(each, Name) and len(parts[0][1]) == 1 and parts[0][1][0][1] == 1:
        return Name(each.written, each.output, parts[0][1][0][0])
    return Combined(each.written, parts)
