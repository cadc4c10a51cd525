"""NaN of a branch that is not taken: where it is found, and what may stand in its place.

Rows multiply the zero of ``torch.where`` by the infinity of the branch that it left out; another route may not.
"""

from __future__ import annotations

import torch

from ..core.closeness import agree
from ..core.levels import inside_transform
from ..core.unasked import unasked
from ..evaluation.rng import RandomState
from ..routes.points import REFUSED, moved
from .evaluator import Evaluator, OutputsChangedError
from .quantity import Outcome


def has_nan(outcome: Outcome, settled: bool) -> bool:
    """Whether a derivative is NaN that no output explains; of what is not on a CPU, which waits, at first only."""
    if inside_transform():
        return False
    looked_at = [result for result in outcome.results.values() if result.is_cpu or not settled]
    if all(map(torch.equal, looked_at, looked_at)):  # the quickest question that NaN answers with no
        return False
    return not any(bool(output.isnan().any()) for output in outcome.evaluation.outputs)


def completes(other: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether it has no NaN, and what the result has where that is none."""
    return not bool(other.isnan().any()) and agree(other, torch.where(result.isnan(), other, result))


@unasked()
def has_values_around(evaluator: Evaluator, state: RandomState) -> bool:
    """Whether f is no NaN a small step before and after each sample."""
    leaves = evaluator.request.leaves
    step = max(torch.finfo(leaf.dtype).eps for leaf in leaves) ** (1 / 3)
    for sign in (-step, step):
        state.restore()
        try:
            values = evaluator.values(moved(leaves, sign))
        except (*REFUSED, OutputsChangedError):
            return False
        if any(bool(output.isnan().any()) for output in values):
            return False
    return True
