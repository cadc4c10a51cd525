"""Ragged samples: rows that belong to segments of different lengths, as the atoms of molecules or the nodes of graphs.

A sample is a segment.  Its rows are put side by side in a tensor ``(G, M, *I)``, as many as the longest has, and that
is what is differentiated by: the function takes its rows out of it.  So all routes, checks and plans are those of plain
samples; here rows are put there and taken out of what comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..call.quantity import Axes
from ..core import trees
from ..core.levels import tracing
from ..core.reasons import a_type, first_line, name_of
from ..core.subclasses import dressed, undressed
from ..errors import ArgumentError, ArgumentTypeError, CoupledSamplesError, ShapeError
from ..options import SAMPLE_AXES
from .meshed import meshed, refuse_meshed
from .places import with_output
from .transform import Result_co, Transform


@dataclass(frozen=True, eq=False)
class Segments:
    """Which row belongs where: ``flat`` has the place of each row among ``count`` times ``longest``."""

    flat: torch.Tensor
    count: int
    longest: int
    in_order: bool

    @classmethod
    def of(cls, segments: Any) -> Segments:
        """From the number of the segment that each row is in."""
        if not isinstance(segments, torch.Tensor):
            raise ArgumentTypeError(
                f"segments is {a_type(segments)}; pass a tensor with the number of the segment of each row"
            )
        kind, shape = segments.dtype, tuple(segments.shape)
        if kind.is_floating_point or kind.is_complex or kind == torch.bool or len(shape) != 1:
            raise ArgumentTypeError(
                f"segments has shape {shape} and dtype {kind}; pass one integer for each row, the number of its segment"
            )
        try:
            return cls._counted(segments.long())
        except RuntimeError as error:
            raise ArgumentError(
                f"segments cannot be read ({first_line(error)}); pass a tensor of numbers below that of rows, and "
                "outside of torch.func.vmap and of what is exported"
            ) from error

    @classmethod
    def _counted(cls, own: torch.Tensor) -> Segments:
        least = int(own.min()) if len(own) else 0
        if least < 0:
            raise ArgumentError(f"segments has {least} among its numbers; pass the number of the segment of each row")
        lengths = own.bincount()
        # At least 2: else an output of a segment would look like that of a row.
        longest = max(2, int(lengths.max()) if len(own) else 0)
        order = own.argsort(stable=True)
        starts = lengths.cumsum(0) - lengths
        place = torch.empty_like(own)
        place[order] = torch.arange(len(own), device=own.device) - starts[own[order]]
        in_order = bool((own == torch.arange(len(own), device=own.device)).all())
        return cls(own * longest + place, len(lengths), longest, in_order)

    @property
    def rows(self) -> int:
        """How many there are in all."""
        return self.flat.shape[0]

    def put(self, rows: Any) -> Any:
        """Rows ``(R, *S)`` side by side, ``(G, M, *S)``, zeros where a segment has fewer."""
        shape = tuple(rows.shape[1:])
        room = rows.new_zeros((self.count * self.longest, *shape))
        return room.index_copy(0, self.flat, rows).reshape(self.count, self.longest, *shape)

    def taken(self, together: Any) -> Any:
        """The rows ``(R, *S)`` out of ``(G, M, *S)``."""
        return together.reshape(self.count * self.longest, *together.shape[2:]).index_select(0, self.flat)

    def own(self, output: Any) -> Any:
        """What was of each row, ``(G, M, *S)``, or of each segment, ``(G, 1, *S)``, with one axis again."""
        return output.squeeze(1) if output.shape[1] == 1 else self.taken(output)


@dataclass(frozen=True, eq=False)
class Ragged:
    """``f`` of rows side by side: an output of each row is side by side too, one of each segment has an axis of 1."""

    transformed: Callable[..., Any]
    segments: Segments
    places: tuple[int, ...]
    has_aux: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``f`` returns for its rows."""
        own = list(args)
        for place in self.places:
            leaves, structure = trees.flatten(own[place])
            own[place] = structure.build([self.segments.taken(leaf) for leaf in leaves])
        result = self.transformed(*own, **kwargs)
        return with_output(result, self.has_aux, self._put)

    def _put(self, output: Any) -> Any:
        leaves, structure = trees.flatten(output)
        return structure.build(
            [self._placed(leaf, path) for leaf, path in zip(leaves, structure.paths("output"), strict=True)]
        )

    def _placed(self, leaf: Any, path: str) -> Any:
        segments, shape = self.segments, tuple(getattr(leaf, "shape", ()))
        rows, count = segments.rows, segments.count
        if shape[:1] == (rows,) and rows != count:
            return segments.put(leaf)
        if shape[:1] != (count,):
            raise ShapeError(
                f"{path} has shape {shape}, but segments has {rows} rows in {count} segments; return one result for "
                "each row, or one for each segment, and leave no empty segment at the end"
            )
        if rows == count and not segments.in_order:
            raise ShapeError(
                f"{path} has shape {shape}, and segments has {rows} rows in as many segments, so that it may be of "
                "either; number the segments without gaps, in the order of the rows"
            )
        return leaf.unsqueeze(1)

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.places, self.has_aux, self.segments.count, self.segments.longest, self.transformed)

    def __repr__(self) -> str:
        return name_of(self.transformed)


@dataclass(frozen=True, eq=False)
class Segmented(Transform[Result_co]):
    """As :class:`Transform`, of a function of rows that belong to ``segments``."""

    segments: Segments

    def __call__(self, *args: Any, **kwargs: Any) -> Result_co:
        """The derivative of ``f`` at its arguments."""
        if not tracing() and meshed(args, kwargs):
            refuse_meshed(args, kwargs, "rows of one segment may lie on several ranks")
        transform, own = self.resolved(args, kwargs)
        try:
            result = transform(*own, **kwargs)
        except CoupledSamplesError as error:
            raise CoupledSamplesError(f"{error} (a sample is a segment of the rows)") from None
        return self._back(result, args)  # type: ignore[no-any-return]

    def resolved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Transform, tuple[Any, ...]]:
        """The transform of plain samples that is called for these arguments, and its own."""
        places, own = self._places(args), list(args)
        for place in places:
            leaves, structure = trees.flatten(args[place])
            paths = structure.paths(f"args[{place}]")
            own[place] = structure.build([self._put(*each) for each in zip(leaves, paths, strict=True)])
        ragged = Ragged(self.transformed, self.segments, places, self.options.has_aux)
        return Transform(ragged, self.quantity, self.options), tuple(own)

    def _places(self, args: tuple[Any, ...]) -> tuple[int, ...]:
        count = len(args)
        return tuple([number % count for number in self.options.numbers if -count <= number < count])

    def _put(self, leaf: Any, path: str) -> Any:
        if not hasattr(leaf, "index_select"):  # which is refused by what it is
            return leaf
        if tuple(leaf.shape[:1]) != (self.segments.rows,):
            raise ShapeError(
                f"{path} has shape {tuple(leaf.shape)}, but segments has {self.segments.rows} entries; pass the number "
                "of the segment of each row of what is differentiated by"
            )
        return dressed(self.segments.put(undressed(leaf)), leaf)

    def _back(self, result: Any, args: tuple[Any, ...]) -> Any:
        """The result by rows: each of its parts as it says what its axes are, then the value, and aux as it is."""
        gradient, options = self.quantity.gradient, self.options
        axes = [
            self.quantity.axes,
            *([Axes.INPUT] if gradient else []),
            *([Axes.OUTPUT] if options.return_value else []),
        ]
        whole = (result,) if len(axes) + options.has_aux == 1 else result
        parts = [self._by_rows(part, kind, args) for part, kind in zip(whole[: len(axes)], axes, strict=True)]
        parts += whole[len(axes) :]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _by_rows(self, part: Any, axes: Axes, args: tuple[Any, ...]) -> Any:
        if axes is Axes.SAMPLE:
            return part
        leaves, structure = trees.flatten(part)
        inputs = [leaf for place in self._places(args) for leaf in trees.flatten(args[place])[0]]
        found = []
        for number, leaf in enumerate(leaves):
            if axes is Axes.ROW:
                found.append(self.segments.taken(leaf))
            elif axes is Axes.INPUT and leaf.shape[1] == 1:  # of a segment: every row has an entry of its own
                rows = leaf.squeeze(1).movedim(-inputs[number % len(inputs)].dim(), 1)
                found.append(self.segments.taken(rows))
            else:
                found.append(self.segments.own(leaf).contiguous())
        return structure.build(found)

    def _fingerprint(self) -> tuple[object, ...]:
        return (*super()._fingerprint(), self.segments.count, self.segments.longest)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, segments={self.segments.rows} rows in {self.segments.count})"


def segmented(transform: Transform, segments: Any) -> Transform:
    """The transform for rows that belong to segments; itself where there are none."""
    if segments is None:
        return transform
    transform.options.refuse(SAMPLE_AXES, "segments", "rows lie on the first axis, and belong to all segments at once")
    return Segmented(transform.transformed, transform.quantity, transform.options, Segments.of(segments))
