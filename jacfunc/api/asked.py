"""The derivatives that ``partials`` is asked for, and which tensors the names of inputs and outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..call.evaluator import Outputs
from ..call.quantity import Outcome, PartialsOf, Quantity
from ..call.request import Request
from ..call.shapes import instead_of_coordinates
from ..core import trees
from ..errors import ArgumentTypeError, ShapeError
from ..jet.layout import Terms
from ..jet.multiindices import MultiIndices
from .notation import Combined, Name, Variables
from .precision import warn_of_rounding


@dataclass(frozen=True)
class Asked:
    """The derivatives that are asked for, and ``axis``: which axis of the outputs the samples lie on."""

    variables: Variables
    names: tuple[Name | Combined, ...]
    axis: int

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
            key=(self.variables.inputs, self.variables.outputs, tuple([name.parts for name in self.names]), self.axis),
            refuse_inputs=self._refuse_inputs,
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

    def _refuse(self, request: Request, outputs: Outputs) -> None:
        _columns(self, outputs)

    def _refuse_inputs(self, request: Request) -> None:
        _check_inputs(request, self)
        if not request.traced:
            warn_of_rounding(request, max(sum(index) for terms in self._terms for index, _ in terms))


# -------------------------------------------------------------------- which tensors the names are


class Column(NamedTuple):
    """Where an output lies: its leaf, and the place along the last axis of it; None where it is the whole leaf."""

    leaf: int
    place: int | None


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
        raise ShapeError(_wrong_number(names, f"f returned {len(listed)} tensors"))
    numbers = [leaf.number for leaf in listed]
    return [Column(leaf, _only(asked, outputs.shapes[leaf], name)) for leaf, name in zip(numbers, names, strict=True)]


def _columns_of_one(asked: Asked, shape: tuple[int, ...]) -> list[Column]:
    names = asked.variables.outputs
    if len(shape) == asked.axis and len(names) == 1:
        return [Column(0, None)]
    if len(shape) != asked.axis + 1:
        raise ShapeError(
            f"f returned a tensor of shape {_whole_shape(asked, shape)}; one of shape "
            f"{_expected(asked, len(names))} was expected, with an entry for each of outputs={' '.join(names)!r}"
        )
    if shape[-1] != len(names):
        raise ShapeError(_wrong_number(names, f"f returned {shape[-1]} (shape {_whole_shape(asked, shape)})"))
    return [Column(0, place) for place in range(len(names))]


def _only(asked: Asked, shape: tuple[int, ...], name: str) -> int | None:
    """The place of the one entry of a tensor of its own."""
    if len(shape) == asked.axis:
        return None
    if len(shape) == asked.axis + 1 and shape[-1] == 1:
        return 0
    raise ShapeError(
        f"the output {name!r} has shape {_whole_shape(asked, shape)}; in a tuple or dict each is one of its "
        f"own, of shape {_expected(asked, 1)}"
    )


def _wrong_number(names: Sequence[str], found: str) -> str:
    return f"outputs={' '.join(names)!r} names {len(names)}, but {found}; give each output of f a name"


def _whole_shape(asked: Asked, shape: tuple[int, ...]) -> str:
    return f"({', '.join([*map(str, shape[: asked.axis]), 'N', *map(str, shape[asked.axis :])])})"


def _expected(asked: Asked, count: int) -> str:
    front = [*(f"F{place}" if place else "F" for place in range(asked.axis)), "N"]
    return f"({', '.join([*front, str(count)])})" + (f" or ({', '.join(front)},)" if count == 1 else "")


def _check_inputs(request: Request, asked: Asked) -> None:
    """Refuse tensors that do not have a coordinate for each name."""
    names = asked.variables.inputs
    for argument in request.arguments:
        tree = argument.structure.numbered(argument.span.stop - argument.span.start)
        if isinstance(tree, dict) or hasattr(tree, "_fields"):
            raise ArgumentTypeError(
                f"args[{argument.position}] is a {type(tree).__name__}, whose order may not be that of "
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
