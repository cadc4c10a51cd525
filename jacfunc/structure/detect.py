"""The pattern of a function at its arguments, found by following one evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..call.evaluator import Evaluator
from ..call.independence import decided
from ..call.reproduced import Precision
from ..call.request import Request
from ..core.levels import inside_transform, tracing
from ..core.trees import LEAF, tensors
from ..core.unasked import unasked
from ..errors import ArgumentTypeError, ShapeError, UnsupportedOperationError
from ..evaluation.program import Held, Met
from ..evaluation.rng import replaying
from .arrays import different_pairs
from .joins import as_integers
from .marks import address
from .pattern import SparsityPattern
from .rules import RULES
from .sets import EMPTY, FIRST
from .tracker import Tracker


@dataclass(frozen=True)
class Found:
    """A pattern, and what it depends on.

    Attributes:
        pattern: the entries that can be nonzero.
        held: tensors whose values it belongs to: indices, masks, constants with zeros in them.
        dense: operations without a rule, for which all that comes out depends on all that goes in.
        coarsest: the precision of the coarsest dtype that the function computes in.
    """

    pattern: SparsityPattern
    held: tuple[Held, ...]
    dense: tuple[str, ...]
    coarsest: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the tensors that it belongs to are as they were, as far as that can be told quickly."""
        return all(_is_as_it_was(held) for held in self.held)

    def now(self) -> Found:
        """With these tensors as they are now, where a pattern was seen to be right with them."""
        if self.holds:
            return self
        tensors = [tensor for held in self.held if (tensor := held.reference()) is not None]
        return replace(self, held=tuple(map(Held.of, tensors)))


def detect(request: Request, order: int = 1, exact: bool = True) -> Found:
    """The pattern of the Jacobian of a request's function, or of the Hessian of the sum of its outputs.

    The coordinates of all samples have the same numbers, so what comes out is the union over samples.  ``exact``: what
    is always zero, or masked, is left out.
    """
    if tracing() or inside_transform():
        raise UnsupportedOperationError(
            "the sparsity pattern cannot be found while torch.compile, torch.export or a torch.func transform runs; "
            "find it before, by sparsity(f)(..), and pass it as sparsity="
        )
    refuse_several(len(request.leaves), "differentiates by")
    if request.arguments[0].structure != LEAF:
        raise ArgumentTypeError(
            f"args[{request.arguments[0].position}] is no tensor but holds one, and a sparsity pattern is of a tensor; "
            "take that as the argument"
        )
    evaluator, state = Evaluator(request), request.random_state()
    with Precision() as precision:
        values, _ = evaluator.look(state)
    refuse_several(len(values), "returns")
    if evaluator.outputs is not None and evaluator.outputs.structure != LEAF:
        raise ArgumentTypeError("f returns a tree of one tensor, and a sparsity pattern is of one; return the tensor")
    if request.options.check:
        decided(evaluator, values, state)
    leaf = request.leaves[0].detach().clone()
    count = math.prod(request.input_shapes[0])
    tracker = Tracker(count, RULES, exact)
    coordinates = torch.arange(FIRST, FIRST + count, dtype=torch.float64, device=leaf.device)
    tracker.mark(leaf, coordinates.reshape(request.input_shapes[0]).expand(leaf.shape))
    tracker.ignore(request.leaves[0])
    for tensor in tensors((request.beside(request.args), request.kwargs)):
        _mark_other(tracker, tensor)
    with replaying(state), unasked():
        outcome = _first(evaluator, leaf, tracker) if order == 1 else _gradient(evaluator, leaf, tracker)
    pattern = _pattern(tracker, outcome, request)
    pattern = pattern.made_symmetric() if order == 2 else pattern
    return Found(pattern, tracker.looked_at(), (*tracker.dense,), precision.coarsest)


def _pattern(tracker: Tracker, outcome: torch.Tensor, request: Request) -> SparsityPattern:
    """The entries of all samples and of all parts of unions, each once."""
    shape = request.sample_shape(outcome)
    count = math.prod(shape)
    numbers = np.concatenate([as_integers(part).reshape(-1) for part in tracker.united([outcome]).parts])
    rows = np.tile(np.arange(count), len(numbers) // max(count, 1))
    some = numbers >= FIRST
    rows, numbers = different_pairs(rows[some], numbers[some], len(tracker.sets))
    members, places = tracker.sets.listed(numbers)
    return SparsityPattern.of_entries(rows[places], members, shape, request.input_shapes[0])


def _mark_other(tracker: Tracker, tensor: torch.Tensor) -> None:
    """An argument that is not differentiated by: an index or a mask, or numbers that may be others next time."""
    if tensor.is_floating_point() or tensor.is_complex():
        tracker.mark(tensor, torch.tensor(float(EMPTY)))
    else:
        tracker.held[address(tensor)] = Held.of(tensor)


def _first(evaluator: Evaluator, leaf: torch.Tensor, tracker: Tracker) -> torch.Tensor:
    """The output."""
    with tracker:
        return evaluator.values([leaf])[0]


def _gradient(evaluator: Evaluator, leaf: torch.Tensor, tracker: Tracker) -> torch.Tensor:
    """The gradient of the sum of the output."""
    with tracker, torch.enable_grad():
        given = leaf.requires_grad_()
        outputs, _ = evaluator.evaluate(given, others_copied=True)
        if not outputs[0].requires_grad:
            return torch.zeros_like(leaf)
        (found,) = torch.autograd.grad(outputs[0].sum(), given, allow_unused=True, materialize_grads=True)
    return found.detach()


def refuse_several(count: int, what: str) -> None:
    """Refuse a function of several tensors, or that returns several."""
    if count != 1:
        raise ShapeError(
            f"f {what} {count} tensors, but a sparsity pattern is of one input and one output; flatten them into "
            "one tensor, or ask for each by a function of its own"
        )


def _is_as_it_was(held: Held) -> bool:
    tensor = held.reference()
    return tensor is not None and held.is_now(Met.now(tensor))
