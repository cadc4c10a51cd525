"""What the rows of a jet are relative to: the directions of the input, or those of a narrow layer on the way.

A *frame* is a layout and where its first-order rows come from.  The first frame of a propagation has one direction for
each coordinate of the input.  Where a layer is narrower than the rows in flight, its rows are set aside as a ``factor``
and a new frame begins with one direction for each coordinate of the layer: first derivatives are associative, so
contracting in the end is exact.  For a Laplacian the new frame has a ``metric`` instead: with ``z = W x + b`` it is
``sum_ij (W W^T)_ij d2/dz_i dz_j``.  A frame of *blocks* has the directions of one part of a sample, and its rows
are those of whichever part an entry belongs to (``blocks.py``).  What an operation does with rows is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core import caches
from ..core.levels import compiling
from ..core.torch_private import next_node_number
from ..errors import UnsupportedOperationError
from ..evaluation.recorder import Recorder
from .blocks import Blocks
from .generic import Generic
from .joined import Joined
from .layout import Layout, Product, first_order, summed
from .shared import Origin, Shared

Tensor = torch.Tensor


class CannotFollowError(UnsupportedOperationError):
    """A jet cannot be propagated through this: another route has to."""


class AllRowsError(CannotFollowError):
    """The input is also used beside its narrow first layer, so the Laplacian needs all rows."""


class ApartError(CannotFollowError):
    """A sum of second derivatives that says too little: each of them has to have a row."""


class RecomputedError(CannotFollowError):
    """What is checkpointed would find rows known, when it runs again, that it made itself the first time."""


@dataclass(frozen=True)
class OneHot:
    """The one-hot rows of an input that nobody has looked at.

    They are ``size * size`` numbers, and a first linear layer needs none of them.
    """

    size: int


@dataclass
class Propagation:
    """One evaluation of a function on jets.

    ``quiet``: the caller records no graph, so neither do the rules, while the function itself runs with gradients on,
    so that an inner ``no_grad`` can be told.  ``inside``: a rule is running.  ``batch``: the shape of the sample axes.
    ``narrowing``: whether a narrow layer may begin a new frame.  ``replacing``: operations of the table of corrections
    whose replacement is running.  ``coarsest``: the precision of the coarsest dtype that a rule cast to.  ``detached``:
    what shares memory with a jet's value, and its version then.  ``scaled``: rows that are one-hot rows times a scale,
    as an activation after a narrow layer leaves them, each with its scale.  ``within``: what it runs inside of.
    ``origin``: what the rows of its first frame are, where that is known.  ``recorder``: who notes its operations.
    ``rooted``: whether a norm was zero (``root.py``).  ``generic``: what such a one is multiplied by where rows do not
    tell.  ``began``: the number of the first node of its graph.  ``whole``: the first-order rows of the input where
    it is one tensor and they are all of its one-hot rows in their order, so that rows may be of blocks; ``parted``:
    whether any may be, as no reshape has to come first; ``hot``: those rows, also where none may be of blocks;
    ``chosen``: whether a few entries of any value move alone (``chosen.py``).
    """

    batch: tuple[int, ...]
    quiet: bool = False
    narrowing: bool = True
    narrowed: bool = False
    traced: bool = False
    inside: bool = False
    alive: bool = True
    identities: dict[int, Tensor] = field(default_factory=dict)
    slow: dict[str, None] = field(default_factory=dict)
    replacing: set[Any] = field(default_factory=set)
    coarsest: float = 0.0
    detached: list[tuple[Tensor, int]] = field(default_factory=list)
    scaled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    within: Within | None = None
    origin: Origin | None = None
    recorder: Recorder | None = None
    rooted: bool = False
    generic: Generic | None = None
    began: int = field(default_factory=lambda: 0 if compiling() else next_node_number())
    whole: Any = None
    parted: bool = False
    hot: Any = None
    chosen: bool = False

    def apart(self, value: Tensor) -> Tensor:
        """A copy of what shares memory with a jet, and that perhaps with the caller; its change is told in the end."""
        if self.traced:
            return value
        copy = value.clone()
        self.detached.append((copy, copy._version))
        return copy

    def identity(self, size: int, like: Tensor) -> Tensor:
        """``(size, 1, size)``: one-hot rows, the same for every sample."""
        rows = self.identities.get(size)
        if rows is None:
            rows = self.identities[size] = _identity(size, like.dtype, like.device, self.traced)
        return rows

    def is_identity(self, rows: Any) -> bool:
        """Whether these are the one-hot rows themselves."""
        return type(rows) is OneHot or self.identities.get(rows.shape[0]) is rows

    def times(self, scale: Tensor, rows: Tensor) -> Tensor:
        """Rows times a scale of the shape of the value, remembered where they are the one-hot rows."""
        result = rows * scale
        if self.is_identity(rows) and scale.shape[-1:] == rows.shape[-1:]:
            self.scaled.append((result, scale))
        return result

    def scale_of(self, rows: Tensor) -> Tensor | None:
        """The scale of scaled one-hot rows; None for any others."""
        for known, scale in self.scaled:
            if known is rows:
                return scale
        return None


def _identity(size: int, dtype: torch.dtype, device: torch.device, traced: bool) -> Tensor:
    if traced:  # what a trace makes must not be met outside of it
        return torch.eye(size, dtype=dtype, device=device)[:, None, :]
    key = (size, dtype, device)
    rows = caches.IDENTITIES.get(key)
    if rows is None:
        rows = torch.eye(size, dtype=dtype, device=device)[:, None, :]
        if size <= caches.LARGEST_IDENTITY:
            caches.IDENTITIES[key] = rows
    return rows


@dataclass(eq=False)
class Frame:
    """Where rows begin.

    ``factor`` is ``(R, N or 1, k)``: what the k directions of this frame are in the R rows of its ``parent``.
    ``blocks``: which part of a sample the rows of an entry are of; ``inner`` are such frames by these, within this one.
    """

    propagation: Propagation
    layout: Layout
    parent: Frame | None = None
    factor: Tensor | None = None
    metric: Tensor | None = None
    blocks: Blocks | None = None
    inner: dict[Blocks, Frame] = field(default_factory=dict)

    def convolve(self, p: int, q: int, left: Tensor | None, right: Tensor | None, product: Product) -> Tensor | None:
        """The part of the rows of order ``p + q`` that products of rows of the orders p and q make; None for zero."""
        table = self.layout.table(p, q)
        if table is None or left is None or right is None:
            return None
        if self.metric is not None:
            right = torch.tensordot(self.metric, right, 1)
        return table.convolve(left, right, product)

    def squared(self, p: int, rows: Tensor) -> Tensor | None:
        """The part of the rows of order ``2 p`` that those of order p make with themselves, element by element."""
        table = self.layout.table(p, p)
        if table is None or self.metric is not None:
            return self.convolve(p, p, rows, rows, torch.mul)
        return table.squared(rows)

    def narrowed(self, rows: Tensor) -> Frame:
        """The frame that begins at a layer whose first-order rows, ``(R, N or 1, k)``, are set aside."""
        self.propagation.narrowed = True
        return Frame(self.propagation, first_order(rows.shape[-1]), self, rows)

    def changed(self, weight: Tensor) -> Frame:
        """The frame of the variables ``z = W x + b``, for a sum of second derivatives by x."""
        self.propagation.narrowed = True
        return Frame(self.propagation, summed((weight.shape[0],)), self, metric=weight @ weight.t())

    def of_blocks(self, blocks: Blocks) -> Frame:
        """The frame of these blocks within that of the input, for whose layout there is one."""
        found = self.inner.get(blocks)
        if found is None:
            own = first_order(blocks.each) if self.layout.order == 1 else summed((blocks.each,))
            found = self.inner[blocks] = Frame(self.propagation, own, self, blocks=blocks)
        return found

    def outwards(self, coefficients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """Rows of this frame as those of its parent."""
        first, *others = coefficients
        if first is None or self.blocks is None:
            return (None if first is None else self.contracted(first), *others)
        return (self.blocks.spread(first), *others)

    def contracted(self, rows: Tensor) -> Tensor:
        """First-order rows ``(k, N, *S)`` of this frame as those of its parent, ``(R, N, *S)``."""
        if self.factor is None:
            raise AllRowsError("the input is used beside a first layer that is narrower than it")
        return contracted(self.factor, rows)


def contracted(factor: Tensor, rows: Tensor) -> Tensor:
    """``sum_k factor[r, n, k] rows[k, n, ...]``; either may have one entry for all samples."""
    flat = rows.flatten(2)  # (k, N, S)
    if factor.shape[1] == 1:
        product = torch.tensordot(factor[:, 0], flat, 1)
    else:
        product = torch.matmul(factor.transpose(0, 1), flat.transpose(0, 1)).transpose(0, 1)
    result: Tensor = product.reshape(factor.shape[0], product.shape[1], *rows.shape[2:])
    return result


@dataclass(frozen=True, eq=False)
class Within:
    """Where a propagation runs inside of another one: the ``frame`` of that, and how its rows are joined with ours."""

    frame: Frame
    joined: Joined | Shared


def plus(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """The sum of rows, of which None is zero."""
    if left is None or right is None:
        return right if left is None else left
    return left + right
