"""Outputs whose samples lie on a later axis: that axis moved to the front for a transform, and back in what it returns.

The axes before it (the times of a trajectory, the functions of an operator network) stay in front of all others: the
result has them as the output does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..core import trees
from ..core.reasons import name_of
from ..errors import ShapeError
from ..options import Options
from ..routes.collect import owned


def with_output(result: Any, has_aux: bool, changed: Callable[[Any], Any]) -> Any:
    """What a function returned, with its output changed and aux as it is; what is no pair is refused later."""
    if has_aux and isinstance(result, tuple) and len(result) == 2:
        return changed(result[0]), result[1]
    return changed(result)


@dataclass(frozen=True, eq=False)
class SamplesInFront:
    """A function whose outputs have their sample axis at a later place, with that axis moved to the front."""

    transformed: Callable[..., Any]
    axis: int
    number: int
    has_aux: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns, samples in front."""
        result = self.transformed(*args, **kwargs)
        count = trees.flatten(args[self.number])[0][0].shape[0]
        return with_output(result, self.has_aux, lambda output: self._moved(output, count))

    def _moved(self, output: Any, count: int) -> Any:
        leaves, structure = trees.flatten(output)
        for leaf, path in zip(leaves, structure.paths("output"), strict=True):
            shape = tuple(getattr(leaf, "shape", ()))
            if len(shape) <= self.axis or shape[self.axis] != count:
                raise ShapeError(
                    f"{path} has shape {shape}, but out_dims={self.axis} says that its axis {self.axis} has "
                    f"the {count} samples; set out_dims to the axis that they lie on"
                )
        return structure.build([leaf.movedim(self.axis, 0) for leaf in leaves])

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.axis, self.number, self.has_aux, self.transformed)

    def __repr__(self) -> str:
        return name_of(self.transformed)


def in_front(f: Callable[..., Any], options: Options) -> Callable[..., Any]:
    """The function with the samples of its outputs in front."""
    if not options.out_axis:
        return f
    return SamplesInFront(f, options.out_axis, options.numbers[0], options.has_aux)


def put_back(result: Any, options: Options, traced: bool = False) -> Any:
    """A result with its sample axis where that of the outputs is; its tensors are its own."""
    axis = options.out_axis
    if axis:  # of jets too
        leaves, structure = trees.flatten(result)
        result = structure.build([leaf.movedim(0, axis) for leaf in leaves])
    own = partial(owned, traced=True) if traced else owned
    return own(result) if type(result) is torch.Tensor else trees.mapped(own, result)
