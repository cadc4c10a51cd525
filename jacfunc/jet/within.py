"""A propagation within another one: jets that come in, and what is read off in the end, jets of the other again.

What an operation does where both meet is in ``dispatch.py``, the rows are in ``joined.py`` and
``shared.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .frame import AllRowsError, Frame, OneHot, Propagation
from .jet import Jet
from .joined import Joined
from .layout import Layout
from .shared import Origin, Rows, Shared, one_hot
from .windows import Windows

Tensor = torch.Tensor


def embedded(jet: Jet, frame: Frame) -> Jet:
    """A jet of the frame around, which the inner directions do not move, in the frame within it."""
    within = frame.propagation.within
    assert within is not None
    if isinstance(within.joined, Joined):
        return _started(jet.value, jet.coefficients, (), frame)
    origin = within.frame.propagation.origin
    coordinates = None if origin is None else origin_of(jet, within.frame)
    if coordinates is None or not within.joined.moved.isdisjoint(coordinates):
        raise AllRowsError("a transform of a function that also uses the surrounding input")
    return _at_coordinates(jet.value, coordinates, frame)


def differentiated(given: Any, value: Tensor, rows: Sequence[Any], frame: Frame) -> Jet:
    """What the inner evaluation is differentiated by: its own rows of each order, beside those that come in."""
    within = frame.propagation.within
    assert within is not None
    if isinstance(within.joined, Shared):
        coordinates = origin_of(given, within.frame)
        assert coordinates is not None
        return _at_coordinates(value, coordinates, frame)
    own = [_looked_at(row, value, frame.propagation) for row in rows]
    return _started(value, given.coefficients if type(given) is Jet else (), own, frame)


def origin_of(jet: Any, frame: Frame) -> range | None:
    """The coordinates of the surrounding input that a jet moves with, each as the input itself; None if otherwise."""
    origin = frame.propagation.origin
    if type(jet) is not Jet or origin is None or jet.frame is not frame:
        return None
    place = _place(jet, origin)
    return None if place is None else origin.coordinates(place)


def _place(jet: Jet, origin: Origin) -> int | None:
    """The leaf of the input that has the rows of a jet."""
    first, *others = jet._coefficients
    if jet.pending is not None or first is None or any(rows is not None for rows in others):
        return None
    propagation = jet.propagation
    for place, ((rows, *_), size) in enumerate(zip(origin.coefficients, origin.sizes, strict=True)):
        looked_at = type(rows) is OneHot and propagation.identities.get(rows.size) is first
        looked_at = looked_at or (type(rows) is Windows and rows.in_full is first)
        if (rows is first or looked_at) and jet.shape.numel() == math.prod(propagation.batch) * size:
            return place
    return None


def origin_within(given: Sequence[Any], jets: Sequence[Jet], around: Frame, shared: Shared) -> Origin:
    """The origin of the propagation within another one, at whose input it is."""
    origin = around.propagation.origin
    assert origin is not None
    coefficients: list[tuple[Any, ...]] = [(None,)] * len(origin.sizes)
    for outer, jet in zip(given, jets, strict=True):
        place = _place(outer, origin)
        assert place is not None
        coefficients[place] = jet._coefficients
    return Origin(shared.rows, coefficients, origin.sizes)


def shared_with(
    given: Sequence[Any], frame: Frame, batch: tuple[int, ...], inner: Layout, indices: Callable[[], Rows] | None
) -> Shared | None:
    """The rows of both where all that is differentiated by is the surrounding input itself."""
    origin = frame.propagation.origin
    if origin is None or indices is None or batch != frame.propagation.batch:
        return None
    places = [origin_of(jet, frame) for jet in given]
    moved = [coordinate for place in places for coordinate in place or ()]
    if None in places or len(set(moved)) < len(moved):
        return None
    total = sum(origin.sizes)
    own = [tuple([dict(zip(moved, index, strict=True)).get(c, 0) for c in range(total)]) for index in indices()]
    return Shared.around(frame.layout, inner, origin.indices(), own, moved)


def _at_coordinates(value: Tensor, coordinates: range, frame: Frame) -> Jet:
    """What moves with some coordinates of the surrounding input as they do."""
    propagation = frame.propagation
    assert propagation.within is not None
    assert isinstance(propagation.within.joined, Shared)
    directions = propagation.within.joined.directions
    sample = value.shape[len(propagation.batch) :]
    if directions == tuple(coordinates) and len(propagation.batch) == 1 and len(sample) == 1:
        rows = propagation.identity(len(directions), value)
    else:
        hot = one_hot(coordinates, directions, value)
        rows = hot.reshape(len(directions), *(1,) * len(propagation.batch), *sample)
    return Jet(value, (rows, *(None,) * (frame.layout.order - 1)), frame)


def value_of(output: Any) -> Any:
    """The value: a tensor, or within another propagation a jet of that one."""
    if type(output) is not Jet:
        return output
    within = output.propagation.within
    if within is None:
        return output.value
    with _recording(output.propagation):
        value, coefficients = output.value, output.coefficients
        joined = within.joined
        rows = [_part(coefficients, joined, p, 0) for p in range(1, joined.outer.order + 1)]
    return Jet(value, tuple(rows), within.frame)


def value_within(frame: Frame | None, jet: Jet) -> Any:
    """The value of a jet of the propagation within this frame, and any other jet as it is; without a frame, of all."""
    if frame is None:
        return jet.value
    within = jet.propagation.within
    return value_of(jet) if within is not None and within.frame is frame else jet


def rows_within(output: Jet, order: int) -> Jet:
    """The inner rows of an order, ``(count, *S)``, as a jet of the frame around."""
    within = output.propagation.within
    assert within is not None
    joined, count = within.joined, within.joined.inner.sizes[order - 1]
    with _recording(output.propagation):
        value, coefficients = output.value, output.coefficients
        shape = (count, *value.shape)
        own = _part(coefficients, joined, 0, order)
        own = value.new_zeros(shape) if own is None else own.expand(shape).clone()
        rows: list[Tensor | None] = []
        for p in range(1, joined.outer.order + 1):
            part = _part(coefficients, joined, p, order)
            rows.append(None if part is None else part.reshape(-1, count, *part.shape[1:]))
    return Jet(own, tuple(rows), within.frame)


def _part(coefficients: Sequence[Tensor | None], joined: Joined | Shared, p: int, q: int) -> Tensor | None:
    """The rows of outer order p and inner order q, pair by pair."""
    rows = coefficients[p + q - 1]
    if rows is None:
        return None
    places, weights = joined.taken(p, q)
    part = rows[places]
    if weights is None or all(weight == 1 for weight in weights):
        return part
    scale = torch.tensor(weights, dtype=part.dtype, device=part.device)
    return part * scale.reshape(-1, *(1,) * (part.dim() - 1))


def _looked_at(rows: Any, like: Tensor, propagation: Propagation) -> Tensor | None:
    return propagation.identity(rows.size, like) if type(rows) is OneHot else rows


def _started(value: Tensor, outer: Sequence[Tensor | None], inner: Sequence[Tensor | None], frame: Frame) -> Jet:
    """The jet with rows of the outer and of the inner layout, and none of both."""
    within = frame.propagation.within
    assert within is not None
    assert isinstance(within.joined, Joined)
    found: list[Tensor | None] = []
    with _recording(frame.propagation):
        for order in range(1, within.joined.layout.order + 1):
            ends = {(order, 0): outer, (0, order): inner}
            parts = {block: ends[block][order - 1] for block in ends if len(ends[block]) >= order}
            found.append(_stacked([(within.joined.size(*b), parts.get(b)) for b in within.joined.blocks(order)]))
    return Jet(value, tuple(found), frame)


def _stacked(parts: Sequence[tuple[int, Tensor | None]]) -> Tensor | None:
    """Blocks of so many rows one after the other, of which None is zero."""
    known = [rows for _, rows in parts if rows is not None]
    if not known:
        return None
    shape = torch.broadcast_shapes(*[rows.shape[1:] for rows in known])  # type: ignore[no-untyped-call]
    if len(parts) == 1:
        return known[0]
    zero = known[0].new_zeros(())
    return torch.cat([(zero if rows is None else rows).expand(size, *shape) for size, rows in parts])


def _recording(propagation: Propagation) -> Any:
    """Record nothing where rules record nothing."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not propagation.quiet)
