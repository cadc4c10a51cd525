"""A sparsity pattern that is found is held against random probing before it is returned.

Outputs of whose entries none is in a random set of columns do not change along it.  Sets of half of the columns, of a
quarter and so on tell of rows with few entries and with many, all in one pass; a full row has nothing to tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..call.request import Request
from ..core.unasked import unasked
from ..errors import UnsupportedOperationError
from ..options import Options
from ..structure.compressed import AlongColumns, along
from ..structure.pattern import SparsityPattern
from .gradients import found_pattern
from .kinds import COLUMNS
from .transform import Transform

SETS = 8
"""So many sets of columns, the last of which has one of 256."""
ROUNDING = 1000.0
"""So many units of the last digit of the largest number count as none."""


def probed_pattern(f: Callable[..., Any], request: Request, gradient: Transform | None) -> SparsityPattern:
    """The pattern of the Jacobian of a request's function ``f``, or of its Hessian by its ``gradient``."""
    order = 1 if gradient is None else 2
    for exact in (True, False):
        pattern = found_pattern(f, request, order, exact).pattern
        if not request.samples or _is_right(gradient or f, request, pattern):
            return pattern
    raise UnsupportedOperationError(
        "the sparsity pattern of f lacks entries: an output changes along inputs that it was not seen to depend on, so "
        "f does something else when it is followed; use batch_jac for its whole Jacobian"
    )


def _is_right(f: Callable[..., Any], request: Request, pattern: SparsityPattern) -> bool:
    """Whether all that may not change along random columns does not."""
    x, options = request.leaves[0].detach(), replace(along(request.options.eager.whole), method="auto", check=False)
    draws = np.random.default_rng(0)
    chosen = draws.random((SETS, pattern.shape[1])) < 0.5 ** np.arange(1, SETS + 1)[:, None]
    seeds = torch.from_numpy(chosen * (0.5 + draws.random(chosen.shape))).to(x)
    args = (*request.args, x.new_zeros(*request.batch, SETS))
    state = request.random_state()
    try:
        with unasked(), torch.no_grad():
            found = Transform(AlongColumns(f, request.options.numbers[0], seeds), COLUMNS, options)(
                *args, **request.kwargs
            )
    except UnsupportedOperationError:  # no route to its derivative, and so nothing to be held against
        return True
    finally:
        state.restore()
    changes = found[0] if options.has_aux else found
    largest = changes.abs().nan_to_num(0.0, 0.0, 0.0).reshape(-1, SETS, pattern.shape[0]).amax(0).cpu().numpy()
    rows, columns = pattern.arrays
    room = ROUNDING * torch.finfo(changes.dtype).eps * largest.max(initial=0.0)
    return not any(
        (largest[place][np.bincount(rows[chosen[place][columns]], minlength=pattern.shape[0]) == 0] > room).any()
        for place in range(SETS)
    )


@dataclass(frozen=True, eq=False)
class SumOfOutputs:
    """The sum of all outputs of a sample, whose Hessian a pattern of the second order is of."""

    transformed: Callable[..., Any]
    options: Options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The sum, and an aux if there is one."""
        found = self.transformed(*args, **kwargs)
        output, *aux = found if self.options.has_aux else (found,)
        total = output.reshape((*output.shape[: self.options.batch_dims], -1)).sum(-1)
        return (total, *aux) if aux else total

    def _fingerprint(self) -> tuple[object, ...]:
        return ("sum of outputs", self.transformed)
