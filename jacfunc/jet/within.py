"""A propagation within another one: jets that come in, and what is read off in the end, jets of the other again.

What an operation does where both meet is in ``dispatch.py``, the rows are in ``joined.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .frame import Frame, OneHot, Propagation
from .jet import Jet

Tensor = torch.Tensor


def embedded(jet: Jet, frame: Frame) -> Jet:
    """A jet of the frame around, which the inner directions do not move, in the frame within it."""
    return _started(jet.value, jet.coefficients, (), frame)


def leaf(given: Any, value: Tensor, rows: Sequence[Any], frame: Frame) -> Jet:
    """What the inner evaluation is differentiated by: its own rows of each order, beside those that come in."""
    own = [_looked_at(row, value, frame.propagation) for row in rows]
    return _started(value, given.coefficients if type(given) is Jet else (), own, frame)


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
        rows = [_part(coefficients, joined.block(p, 0), p) for p in range(1, joined.outer.order + 1)]
    return Jet(value, tuple(rows), within.frame)


def value_within(frame: Frame, jet: Jet) -> Any:
    """The value of a jet of the propagation within this frame; any other jet as it is."""
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
        own = _part(coefficients, joined.block(0, order), order)
        own = value.new_zeros(shape) if own is None else own.expand(shape).clone()
        rows: list[Tensor | None] = []
        for p in range(1, joined.outer.order + 1):
            part = _part(coefficients, joined.block(p, order), p + order)
            rows.append(None if part is None else part.reshape(-1, count, *part.shape[1:]))
    return Jet(own, tuple(rows), within.frame)


def _part(coefficients: Sequence[Tensor | None], block: slice, order: int) -> Tensor | None:
    rows = coefficients[order - 1]
    return None if rows is None else rows[block]


def _looked_at(rows: Any, like: Tensor, propagation: Propagation) -> Tensor | None:
    return propagation.identity(rows.size, like) if type(rows) is OneHot else rows


def _started(value: Tensor, outer: Sequence[Tensor | None], inner: Sequence[Tensor | None], frame: Frame) -> Jet:
    """The jet with rows of the outer and of the inner layout, and none of both."""
    within = frame.propagation.within
    assert within is not None
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
    shape = torch.broadcast_shapes(*[rows.shape[1:] for rows in known])
    if len(parts) == 1:
        return known[0]
    zero = known[0].new_zeros(())
    return torch.cat([(zero if rows is None else rows).expand(size, *shape) for size, rows in parts])


def _recording(propagation: Propagation) -> Any:
    """Record nothing where rules record nothing."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not propagation.quiet)
