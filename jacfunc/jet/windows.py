"""First-order rows of an image that are zero but near one pixel, as sums of rows that do not meet.

The row of pixel j of the input is zero, after convolutions and elementwise functions, but in a window of some radius
around j.  So rows of pixels that are far enough from each other can be carried as one: a *class* is the pixels of one
channel whose places are equal modulo a period along each axis, and its sum of rows goes through the same linear maps
as each row.  With a period above the radius its entry at pixel j is that of the row of j alone, which is all that a
diagonal asks for; above twice the radius each row can be told from the sum.  (A. Curtis, M. Powell, J. Reid, "On the
estimation of sparse Jacobian matrices", 1974.)  How large the radius becomes is known in the end only, so nothing is
computed before rows are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..core.levels import inside_transform
from .frame import CannotFollowError
from .pending import versions_of

Tensor = torch.Tensor
Sizes = tuple[int, ...]
FEWEST_PIXELS = 36
"""Of images with fewer rows are carried one by one."""


@dataclass(eq=False)
class Windows:
    """The rows of an input of shape ``(channels, *sizes)``, one for each of its entries, zero beyond ``radius``.

    ``sums`` makes the sums of rows for a period along each axis: ``(channels * prod(periods), N or 1, C, *sizes)``.
    ``kept`` are tensors that it will read, with how often each had been changed in place; ``known`` what it has made,
    ``in_full`` the rows themselves.
    """

    channels: int
    sizes: Sizes
    radius: Sizes
    sums: Callable[[Sizes], Tensor]
    traced: bool
    cast: Cast
    kept: tuple[Read, ...] = ()
    known: dict[Sizes, Tensor] = field(default_factory=dict)
    in_full: Tensor | None = None

    @classmethod
    def of_input(cls, shape: Sizes, like: Tensor, traced: bool) -> Windows | None:
        """The one-hot rows of an image of this shape; None where rows one by one do."""
        channels, *sizes = shape
        if len(sizes) < 2 or math.prod(sizes) < FEWEST_PIXELS:
            return None

        def one_hot(periods: Sizes) -> Tensor:
            axes = [_classes(size, period, like) for size, period in zip(sizes, periods, strict=True)]
            found = torch.eye(channels, dtype=like.dtype, device=like.device)
            for classes in axes:  # (k, C, *before) and (period, size) to (k * period, C, *before, size)
                found = found.unsqueeze(1).unsqueeze(-1) * classes.reshape(
                    1, classes.shape[0], *(1,) * (found.dim() - 1), classes.shape[1]
                )
                found = found.flatten(0, 1)
            return found.unsqueeze(1)

        return cls(channels, tuple(sizes), (0,) * len(sizes), one_hot, traced, Cast.now(like.device.type))

    def then(
        self,
        function: Callable[[Tensor], Tensor],
        reach: Sizes = (),
        reads: tuple[Any, ...] = (),
        given: tuple[Any, ...] = (),
    ) -> Windows:
        """The rows after a linear map that looks as far as ``reach`` along each axis.

        It ``reads`` these tensors, and those that the user has ``given``.
        """

        def sums(periods: Sizes) -> Tensor:
            return function(self.at(periods))

        radius = tuple([sum(pair) for pair in zip(self.radius, reach, strict=True)]) if reach else self.radius
        kept: tuple[Read, ...] = ()
        if not self.traced:
            own = [(each, False) for each in reads] + [(each, True) for each in given]
            kept = tuple([Read.now(*each) for each in own if isinstance(each[0], Tensor)])
        return Windows(self.channels, self.sizes, radius, sums, self.traced, self._cast_now(), kept)

    def _cast_now(self) -> Cast:
        return self.cast if self.traced else Cast.now(self.cast.device)

    def plus(self, other: Windows, alpha: float) -> Windows:
        """The sum of these rows and ``alpha`` times others of the same input."""

        def sums(periods: Sizes) -> Tensor:
            return torch.add(self.at(periods), other.at(periods), alpha=alpha)

        radius = tuple([max(pair) for pair in zip(self.radius, other.radius, strict=True)])
        return Windows(self.channels, self.sizes, radius, sums, self.traced, self._cast_now())

    def at(self, periods: Sizes) -> Tensor:
        """The sums of rows, made once."""
        found = self.known.get(periods)
        if found is None:
            if not all(read.is_now() for read in self.kept):
                raise CannotFollowError("a tensor that is changed in place after it was multiplied with an image")
            with nullcontext() if self.traced else self.cast.again():
                found = self.known[periods] = self.sums(periods)
        return found

    def spread(self, value: Tensor) -> tuple[Tensor]:
        """What a jet of this value has instead, once somebody looks at it."""
        return (self.rows(),)

    def rows(self) -> Tensor:
        """Each row by itself, ``(R, N or 1, C, *sizes)``."""
        if self.in_full is None:
            self.in_full = self._apart()
        return self.in_full

    def _apart(self) -> Tensor:
        periods = self._periods(2) if any(self.radius) else self.sizes
        sums = self.at(periods)
        if periods == self.sizes:
            return sums
        near = [_near(size, radius, sums) for size, radius in zip(self.sizes, self.radius, strict=True)]
        axes, inside = len(self.sizes), sums.new_ones((), dtype=torch.bool)
        for axis, within in enumerate(near):
            shape = [1] * (2 * axes)
            shape[axis], shape[axes + axis] = within.shape
            inside = inside & within.reshape(shape)
        inside = inside.flatten(0, axes - 1).repeat(self.channels, *(1,) * axes)
        return torch.where(inside[:, None, None], sums[self._class_of_each(periods, sums)], 0.0)

    def diagonal(self) -> Tensor | None:
        """``(N or 1, C, *sizes)``: of each row the entry at its own place; None where there are other places."""
        periods = self._periods(1)
        sums = self.at(periods)
        if sums.shape[2:] != (self.channels, *self.sizes):
            return None
        places = self._class_of_each(periods, sums).expand(1, sums.shape[1], -1)
        found = torch.gather(sums.flatten(2), 0, places)[0]
        return found.reshape(-1, self.channels, *self.sizes)

    def _periods(self, times: int) -> Sizes:
        """Those above the radius so many times; a whole axis where no pixels of it are far enough."""
        return tuple([min(times * radius + 1, size) for radius, size in zip(self.radius, self.sizes, strict=True)])

    def _class_of_each(self, periods: Sizes, like: Tensor) -> Tensor:
        """The class of each entry of the input."""
        found = torch.arange(self.channels, device=like.device)
        for size, period in zip(self.sizes, periods, strict=True):
            found = found.unsqueeze(-1) * period + torch.arange(size, device=like.device) % period
        return found.flatten()


def windows_of(jet: Any) -> Windows | None:
    """What the rows of a jet are, where they are those of an image that nobody has looked at."""
    rows = jet._coefficients
    return rows[0] if jet.pending is None and rows and type(rows[0]) is Windows else None


def _classes(size: int, period: int, like: Tensor) -> Tensor:
    """``(period, size)``: which places of an axis are in which class."""
    places = torch.arange(size, device=like.device) % period
    return (torch.arange(period, device=like.device)[:, None] == places).to(like.dtype)


def _near(size: int, radius: int, like: Tensor) -> Tensor:
    """``(size, size)``: which places of an axis are within the radius of which."""
    places = torch.arange(size, device=like.device)
    return (places[:, None] - places).abs() <= radius


class Read(NamedTuple):
    """A tensor that a sum of rows will read, as it is; ``content``: of one that a user may write to by ``.data``."""

    tensor: Tensor
    versions: tuple[int, int]
    content: Tensor | None

    @classmethod
    def now(cls, tensor: Tensor, given: bool) -> Read:
        """As it is."""
        looked_at = given and type(tensor) is Tensor and not inside_transform()
        return cls(tensor, versions_of(tensor, None), tensor.detach().clone() if looked_at else None)

    def is_now(self) -> bool:
        """Whether it is as it was."""
        if versions_of(self.tensor, None) != self.versions:
            return False
        return self.content is None or inside_transform() or torch.equal(self.content, self.tensor.detach())


class Cast(NamedTuple):
    """Whether autocast is on for a kind of device, and to which dtype."""

    device: str
    on: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: str) -> Cast:
        """As it is."""
        return cls(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))

    def again(self) -> AbstractContextManager[Any]:
        """A context in which it is as it was: rows are computed when somebody asks for them."""
        if Cast.now(self.device) == self:
            return nullcontext()
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.on)
