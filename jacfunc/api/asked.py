"""The derivatives that ``partials`` is asked for, and which tensors the names of inputs and outputs are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..call.evaluator import Outputs
from ..call.quantity import Outcome, PartialsOf, Quantity, Wanted, WantedPartials
from ..call.request import Request
from ..call.shapes import instead_of_coordinates
from ..core import trees
from ..core.once import once
from ..core.reasons import a_type
from ..errors import ArgumentTypeError, ShapeError
from ..jet.layout import Terms
from ..jet.multiindices import MultiIndices, Sum
from ..jet.network import ONE_HOT, Pick
from ..jet.stacked import Picked
from .notation import ALL, Combined, Name, Variables


@dataclass(frozen=True)
class Asked:
    """The derivatives that are asked for, and where outputs have their components: after so many axes.

    These are those before the ``axis`` of the samples; on a ``grid`` one for each coordinate, without samples.
    """

    variables: Variables
    names: tuple[Name | Combined, ...]
    axis: int
    grid: bool = False

    @property
    def front(self) -> list[str]:
        """The axes that all outputs have, with that of the samples, in the words of errors."""
        if self.grid:
            return [f"N{place}" for place in range(self.axis)]
        return [*(f"F{place}" if place else "F" for place in range(self.axis)), "N"]

    @once
    def written(self) -> tuple[str, ...]:
        """The names as they were written."""
        return tuple([name.written for name in self.names])

    def quantity(self) -> Quantity:
        """What a plan has to compute."""
        terms = self._terms
        indices = MultiIndices.around([own[0][0] for own in terms if len(own) == 1], [s for s in terms if len(s) > 1])
        return Quantity(
            "partials",
            indices.order,
            PartialsOf(indices),
            self._fields,
            refuse=self._refuse,
            key=(self.variables, tuple([name.parts for name in self.names]), self.axis, self.grid),
            refuse_inputs=self._refuse_inputs,
            picked=self._picked,
        )

    @property
    def _terms(self) -> list[Terms]:
        """Those of each name, one list of them for each output that it is about."""
        return [terms for name in self.names for _, terms in name.parts]

    def _fields(self, request: Request, outcome: Outcome) -> tuple[torch.Tensor, ...]:
        """The tensor of each name, samples in front."""
        columns = _columns(self, outcome.outputs)
        fields = []
        for name in self.names:
            field = None
            for output, terms in name.parts:
                leaf, column = columns[output]
                found = outcome.combined(leaf, terms)
                part = found if column is None else found[..., column]
                field = part if field is None else field + part
            assert field is not None
            fields.append(field)
        return tuple(fields)

    def _picked(self, wanted: Wanted, outputs: Outputs, value: torch.Tensor) -> Picked | None:
        """The row and the column of each name, where none is a sum of several, or of several components."""
        assert isinstance(wanted, WantedPartials)
        indices = wanted.indices
        if outputs.structure is not trees.LEAF or indices.starts or self.axis or self.grid:
            return None
        columns, picks = _columns(self, outputs), []
        starts = [1, *itertools.accumulate(indices.layout.sizes, initial=1)]
        places = {key: (starts[order] + row, factor) for order, _, rows in indices.taken for row, key, factor in rows}
        for name in self.names:
            output, terms = name.parts[0]
            made, place = indices.made_of(terms), columns[output].place
            if len(name.parts) > 1 or len(made) > 1 or isinstance(place, slice):
                return None
            key, coefficient = made[0]
            row, factor = (0, 1) if not isinstance(key, Sum) and not any(key) else places[key]
            picks.append(Pick(row, place, factor * coefficient))
        rows: Any = ONE_HOT
        if indices.directions != tuple(range(value.shape[1])):
            rows = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)[list(indices.directions), None]
        return Picked(indices.layout, (rows, *[None] * (indices.order - 1)), tuple(picks), alone=False)

    def _refuse(self, request: Request, outputs: Outputs) -> None:
        try:
            columns = _columns(self, outputs)
        except ShapeError:
            _check_no_grid(request, self, outputs)
            raise
        for name in self.names:
            first, *others = [columns[output].components(outputs.shapes, self.axis) for output, _ in name.parts]
            for other in others:
                if other != first:
                    raise ShapeError(
                        f"the sum {name.written!r} adds outputs of {first or 'no'} and of {other or 'no'} components; "
                        "ask for each by itself, and add them with the axes that are meant"
                    )

    def _refuse_inputs(self, request: Request) -> None:
        _check_inputs(request, self)


# -------------------------------------------------------------------- which tensors the names are


class Column(NamedTuple):
    """Where an output lies: its leaf, and the place or places along the last axis of it; None for the whole leaf."""

    leaf: int
    place: int | slice | None

    def components(self, shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
        """The shape of the output beyond the axes that it shares with all others."""
        own = shapes[self.leaf][axis:]
        if isinstance(self.place, slice):
            return (*own[:-1], len(range(own[-1])[self.place]))
        return own if self.place is None else ()


def _columns(asked: Asked, outputs: Outputs) -> list[Column]:
    """The place of every output by its name."""
    names = asked.variables.outputs
    leaves = outputs.structure.numbered(len(outputs.shapes))
    if isinstance(leaves, trees.Leaf):
        return _columns_of_one(asked, outputs.shapes[0])
    named = leaves._asdict() if hasattr(leaves, "_asdict") else leaves
    listed = list(named.values()) if isinstance(named, dict) else list(named) if isinstance(named, list | tuple) else []
    if not listed or not all(isinstance(leaf, trees.Leaf) for leaf in listed):
        raise ShapeError(
            f"f returned {outputs.structure!r}, in which the outputs {' '.join(names)!r} are not told apart; "
            "return one tensor, a tuple of tensors, or a dict by name"
        )
    if isinstance(named, dict):
        if set(named) != set(names):
            raise ShapeError(
                f"f returned a dict of {', '.join(map(repr, named))}, but outputs={' '.join(names)!r} names others; "
                "make both the same"
            )
        listed = [named[name] for name in names]
    if len(listed) != len(names):
        raise ShapeError(
            f"outputs={asked.variables.written!r} names {len(names)}, but f returned {len(listed)} tensors; give each "
            "output of f a name"
        )
    shapes = [(leaf.number, outputs.shapes[leaf.number]) for leaf in listed]
    return [Column(leaf, _only(asked, shape, output)) for output, (leaf, shape) in enumerate(shapes)]


def _columns_of_one(asked: Asked, shape: tuple[int, ...]) -> list[Column]:
    variables = asked.variables
    components = variables.components
    if components == (ALL,) and len(shape) > asked.axis:
        return [Column(0, None)]
    if len(shape) == asked.axis and components == (None,):
        return [Column(0, None)]
    least = sum(1 if count is None else max(count, 0) for count in components)
    if len(shape) != asked.axis + 1:
        raise ShapeError(
            f"f returned a tensor of shape {_whole_shape(asked, shape)}; one of shape "
            f"{_expected(asked, max(least, 1))} was expected, with an entry for each of outputs={variables.written!r}"
        )
    rest = shape[-1] - least
    if components.count(ALL) > 1 or rest < 0 or (rest and ALL not in components):
        raise ShapeError(_wrong_number(variables, f"f returned {shape[-1]} (shape {_whole_shape(asked, shape)})"))
    found, start = [], 0
    for count in components:
        size = 1 if count is None else rest if count == ALL else count
        found.append(Column(0, start if count is None else slice(start, start + size)))
        start += size
    return found


def _only(asked: Asked, shape: tuple[int, ...], output: int) -> int | None:
    """The place of the one entry of a tensor of its own; None for all of it."""
    name, count = asked.variables.outputs[output], asked.variables.components[output]
    own = shape[asked.axis :]
    if own == () if count is None else own and (count == ALL or own == (count,)):
        return None
    if count is None and own == (1,):
        return 0
    several = f"; or name its components, as in '{name}[:]'" if count is None and own else ""
    raise ShapeError(
        f"the output {name!r} has shape {_whole_shape(asked, shape)}; in a tuple or dict each is one of its "
        f"own, of shape {_expected(asked, 1 if count is None else max(count, 1), count is not None)}{several}"
    )


def _wrong_number(variables: Variables, found: str) -> str:
    wanted = variables.written
    if not any(variables.components):
        return (
            f"outputs={wanted!r} names {len(variables.outputs)}, but {found}; give each output of f a name, or one "
            f"name to several, as in '{variables.outputs[-1]}[:]'"
        )
    if variables.components.count(ALL) > 1:
        return f"outputs={wanted!r} has several names of all components that there are; give all but one their numbers"
    return f"outputs={wanted!r} has other components than there are, for {found}; make both the same"


def _check_no_grid(request: Request, asked: Asked, outputs: Outputs) -> None:
    """Refuse the values on a grid of as many points a coordinate, where ``grid=True`` was forgotten."""
    names, points = asked.variables.inputs, request.samples
    separate = len(names) > 1 and list(request.input_shapes) == [()] * len(names)
    if separate and not asked.grid and outputs.shapes[0] == (points,) * (len(names) - 1):
        raise ShapeError(
            f"f returned shape {(points,) * len(names)}, as on a grid, for {len(names)} coordinates of {points} points "
            "each; pass grid=True for the derivatives at all their combinations, or return one value for each sample"
        )


def _whole_shape(asked: Asked, shape: tuple[int, ...]) -> str:
    samples = [] if asked.grid else ["N"]
    sizes = [*map(str, shape[: asked.axis]), *samples, *map(str, shape[asked.axis :])]
    return f"({', '.join(sizes)})" if len(sizes) > 1 else "(N,)"


def _expected(asked: Asked, count: int, components: bool = False) -> str:
    alone = f" or ({', '.join(asked.front)},)" if count == 1 and not components else ""
    return f"({', '.join([*asked.front, str(count)])}){alone}"


def _check_inputs(request: Request, asked: Asked) -> None:
    """Refuse tensors that do not have a coordinate for each name."""
    names = asked.variables.inputs
    for argument in request.arguments:
        tree = argument.structure.numbered(argument.span.stop - argument.span.start)
        if isinstance(tree, dict) or hasattr(tree, "_fields"):
            raise ArgumentTypeError(
                f"args[{argument.position}] is {a_type(tree)}, whose order may not be that of "
                f"inputs={' '.join(names)!r}; pass one tensor, or a tuple of tensors"
            )
    for shape, path in zip(request.input_shapes, request.input_paths(), strict=True):
        if len(shape) > 1:
            raise ShapeError(
                f"{path} has sample shape {shape}; inputs are coordinates, one tensor of shape (N, {len(names)}) or "
                f"separate ones of shape (N,) or (N, 1){instead_of_coordinates(request, len(names))}"
            )
    count = sum(shape[0] if shape else 1 for shape in request.input_shapes)
    if count != len(names):
        raise ShapeError(
            f"inputs={' '.join(names)!r} names {len(names)}, but {' and '.join(request.input_paths())} "
            f"{'has' if len(request.input_paths()) == 1 else 'have'} {count} "
            f"coordinate{'' if count == 1 else 's'}; pass one tensor of shape "
            f"(N, {len(names)}), or select separate ones by argnums{instead_of_coordinates(request, len(names))}"
        )
