"""How results are built: trees of the outputs around those of the arguments, blocks by leaves, and sums of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..call.quantity import Outcome
from ..call.request import Request


def by_pair(request: Request, outcome: Outcome) -> Any:
    """The output's tree outside, then the tuple of a tuple ``argnums``, the input's tree innermost."""
    leaves = range(len(request.leaves))
    return by_output(outcome, lambda output: by_leaf(request, [outcome.results[output, leaf] for leaf in leaves]))


def by_output(outcome: Outcome, made: Callable[[int], Any]) -> Any:
    """What is made for each leaf of the output, in its tree."""
    return outcome.outputs.structure.build([made(output) for output in range(len(outcome.outputs.shapes))])


def by_leaf(request: Request, found: list[Any]) -> Any:
    """What there is for each leaf of the input, in its trees, and these in the tuple of a tuple ``argnums``."""
    return per_argument(request, [argument.structure.build(found[argument.span]) for argument in request.arguments])


def summed_by_argument(request: Request, outcome: Outcome) -> Any:
    """The output's tree outside; the leaves within one argument are summed."""
    spans = [range(argument.span.start, argument.span.stop) for argument in request.arguments]

    def sums(output: int) -> Any:
        return per_argument(request, [_sum([outcome.results[output, leaf] for leaf in span]) for span in spans])

    return by_output(outcome, sums)


def trace(request: Request, outcome: Outcome) -> torch.Tensor:
    """All diagonals, summed over samples' coordinates and leaves: one number for each sample."""
    shape = (*request.batch, *outcome.outputs.shapes[0][: request.options.out_axis])
    return _sum(
        [
            diagonal.reshape(*shape, -1).sum(-1) if diagonal.numel() else diagonal.new_zeros(shape)
            for diagonal in outcome.results.values()
        ]
    )


def gradients(request: Request, outcome: Outcome, flat: list[Any]) -> Any:
    """As :func:`by_pair`, of first derivatives by all coordinates, ``(*batch, *O, d)`` for each output."""
    found = {}
    for output, derivatives in enumerate(flat):
        for leaf, part in enumerate(parted(request, derivatives, -1)):
            own = part.reshape(*part.shape[:-1], *request.input_shapes[leaf])
            found[output, leaf] = cast(own, request.leaves[leaf].dtype)
    return by_pair(request, outcome._replace(results=found))


def sizes(request: Request) -> list[int]:
    """How many coordinates each leaf of the input has."""
    return [torch.Size(shape).numel() for shape in request.input_shapes]


def parted(request: Request, derivatives: Any, axis: int) -> Any:
    """Derivatives by all coordinates, those of each leaf of the input apart."""
    found = sizes(request)
    return [derivatives] if len(found) == 1 else derivatives.split(found, axis)


def cast(tensor: Any, dtype: torch.dtype) -> Any:
    """The tensor in a dtype."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def per_argument(request: Request, results: list[Any]) -> Any:
    """A tuple of what there is for each argument, unless ``argnums`` is an int."""
    return tuple(results) if isinstance(request.options.argnums, tuple) else results[0]


def _sum(tensors: list[torch.Tensor]) -> torch.Tensor:
    return sum(tensors[1:], start=tensors[0])
