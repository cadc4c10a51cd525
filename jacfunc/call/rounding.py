"""How much of what comes out is rounding: plain forwards in which whatever samples are mixed in is shaken a little.

Of a kernel that subtracts the mean of a batch, a sum whose terms cancel, a solve, rounding is more than that of what
comes out, and it depends on the other samples.  So each result within an operation that mixes samples, and of all that
is computed of it, moves by a unit in its last place or so, what is summed up inside before that.  What outputs move by
is what rounding may do to them there.  What no sample influenced but its own, and what is exact, is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core import trees
from ..core.torch_private import DispatchMode, is_mutable
from ..evaluation.rng import RandomState
from ..evaluation.sample_axis import Prover
from ..routes.points import REFUSED
from .evaluator import Evaluator
from .probes import Evaluated, evaluated

Tensors = Sequence[torch.Tensor]

SEED = 20260613
DRAWS = 4
"""How often all is shaken by a unit, and by many."""
UNITS, LEAST = 256, 4
"""How many these are, and by how much more outputs move then at least, unless they jump."""
OUTLIERS = 1e5
"""How many times as large rounding may be where there are outliers."""
EXACT = frozenset(
    ["clone", "copy", "to_copy", "lift_fresh", "cat", "stack", "index", "index_select", "gather", "where", "flip"]
    + ["roll", "repeat", "constant_pad_nd", "fill", "zero", "masked_fill", "index_put", "scatter", "sort", "topk"]
    + ["neg", "abs", "relu", "sign", "floor", "ceil", "round", "trunc", "max", "min", "amax", "amin", "maximum"]
    + ["minimum", "clamp", "clamp_min", "clamp_max", "cummax", "cummin", "median", "kthvalue", "mode", "take"]
    + ["masked_select", "embedding", "unbind_copy", "tril", "triu", "diag_embed", "unsafe_index", "select_scatter"]
    + ["slice_scatter", "diagonal_scatter", "as_strided_scatter", "index_copy", "masked_scatter", "empty_like"]
)
"""Operations that take numbers as they are, in ATen's names."""
DISTANCES = "euclidean_dist"
"""What distances between many points are computed by."""
INTEGERS = 2.0**20
"""Whole numbers up to this size are counts, indices and sums of these, which are exact."""


def may_be_rounding(evaluator: Evaluator, own: Evaluated, change: float, state: RandomState) -> bool:
    """Whether rounding may do so much where others are outliers, by what a forward at the samples as they are tells."""
    try:
        noise = _shaken(evaluator, own, state, torch.Generator().manual_seed(SEED), UNITS, 1)
    except REFUSED:
        return False
    return change * UNITS <= OUTLIERS * max((float(each.max()) for each in noise if each.numel()), default=0.0)


def noise_of(evaluator: Evaluator, evaluations: Sequence[Evaluated], state: RandomState) -> list[Tensors] | None:
    """By how much rounding may move the outputs of each of these evaluations; None where that cannot be told.

    Of an output leaf that jumps for numbers so near nothing is told: zeros.
    """
    near, far = [], []
    generator = torch.Generator().manual_seed(SEED)
    try:
        for evaluation in evaluations:
            near.append(_shaken(evaluator, evaluation, state, generator, 1, DRAWS))
            far.append(_shaken(evaluator, evaluation, state, generator, UNITS, DRAWS))
    except REFUSED:
        return None
    steady = [_total(more) >= LEAST * _total(less) for less, more in zip(_by_leaf(near), _by_leaf(far), strict=True)]
    return [
        [torch.maximum(less, more / UNITS) * holds for less, more, holds in zip(*each, steady, strict=True)]
        for each in zip(near, far, strict=True)
    ]


def _by_leaf(found: Sequence[Tensors]) -> list[Tensors]:
    return list(zip(*found, strict=True))


def _total(tensors: Tensors) -> float:
    return sum(float(tensor.sum()) for tensor in tensors)


def _shaken(
    evaluator: Evaluator, evaluation: Evaluated, state: RandomState, generator: torch.Generator, units: int, draws: int
) -> Tensors:
    """By how much the outputs of an evaluation move at most in some where so many units are."""
    moved = [torch.zeros_like(output, dtype=torch.float64) for output in evaluation.outputs]
    for _ in range(draws):
        mixing = _Mixing(evaluator.request.samples)
        with evaluator.aside(), _Shaking(mixing, generator, units):
            evaluator.note(mixing)
            found = evaluated(evaluator, evaluation.leaves, state).outputs
        changes = [(new - old).abs().double() for new, old in zip(found, evaluation.outputs, strict=True)]
        finite = [change.nan_to_num(0.0, 0.0, 0.0) for change in changes]
        moved = [torch.maximum(*pair) for pair in zip(moved, finite, strict=True)]
    return moved


class _Mixing(Prover):
    """Tells while an operation runs whether other samples are in what it computes."""

    mixing = False

    def before(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """An operation is about to run."""
        super().before(function, args, kwargs)
        self.mixing = self.taints or (bool(self.operands) and not self.keeps)

    def leave(self) -> None:
        """It runs no more."""
        super().leave()
        self.mixing = False


class _Shaking(DispatchMode):
    """Moves what is computed while samples are mixed by so many units in the last place, at random."""

    def __init__(self, mixing: _Mixing, generator: torch.Generator, units: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mixing, self.generator, self.units = mixing, generator, units

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__.strip("_")
        if not self.mixing.mixing or func.is_view or name in EXACT:
            return func(*args, **kwargs)
        if name == DISTANCES:
            return self._distances(func(*args), *args)
        if is_mutable(func):
            result = func(*args, **kwargs)
            for tensor in trees.tensors(result):
                tensor.copy_(self._moved(tensor))
            return result
        if torch.Tag.pointwise not in func.tags:
            args = trees.mapped(self._moved, args)
        return trees.mapped(self._moved, func(*args, **kwargs))

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            return tensor
        whole = (tensor == tensor.round()) & (tensor.abs() < INTEGERS)
        return torch.where(whole, tensor, tensor + tensor * self._steps(tensor))

    def _steps(self, like: torch.Tensor) -> torch.Tensor:
        wave = torch.rand(like.shape, generator=self.generator, dtype=torch.float64).mul_(2).sub_(1)
        return (wave * (self.units * torch.finfo(like.dtype).eps)).to(like)

    def _distances(self, result: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Of squares less products: their rounding is that of the squares, however near two points are."""
        squares = one.square().sum(-1)[..., :, None] + other.square().sum(-1)[..., None, :]
        return (result.square() + squares * self._steps(squares)).clamp(min=0).sqrt()
