"""A sparsity pattern that is found is held against random probing before it is returned.

Outputs of whose entries none is in a random set of columns do not change along it.  Sets of half of the columns, of an
eighth and so on tell of rows with few entries and with many, all in one pass; a full row has nothing to tell.  Results
of sparse transforms are held against the same changes along columns (``compressed.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..call.quantity import Quantity
from ..call.request import Request
from ..core.unasked import unasked
from ..errors import UnsupportedOperationError
from ..options import Options
from ..structure.compressed import AlongColumns, along
from ..structure.pattern import SparsityPattern
from .gradients import found_pattern
from .kinds import COLUMNS
from .transform import Transform

EVERY = 32
"""Up to so many columns are a set each."""
PARTS = (1 / 2, 1 / 8, 1 / 32, 1 / 128)
"""How many of more columns are in each set."""
ROUNDING = 1000.0
"""So many units of the last digit of the largest number count as rounding in all others."""


def probed_pattern(f: Callable[..., Any], request: Request, gradient: Transform | None) -> SparsityPattern:
    """The pattern of the Jacobian of a request's function ``f``, or of its Hessian by its ``gradient``, without aux."""
    order, probed, options = 1, f, replace(request.options, check=False)
    if gradient is not None:
        order, probed, options = 2, gradient, replace(options, has_aux=False)
    for exact in (True, False):
        pattern = found_pattern(f, request, order, exact).pattern
        if not request.samples or _is_right(probed, request, options, pattern):
            return pattern
    raise UnsupportedOperationError(
        "the sparsity pattern of f lacks entries: an output changes along inputs that it was not seen to depend on, so "
        "f does something else when it is followed; use batch_jac for its whole Jacobian"
    )


def along_columns(
    f: Callable[..., Any], request: Request, options: Options, quantity: Quantity, seeds: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    """What is computed of a function ``f`` of a request's arguments along columns, without a graph."""
    function = AlongColumns(f, options.numbers[0], seeds)
    own = replace(along(options.eager.whole), method="auto", return_value=False)
    steps = request.leaves[0].detach().new_zeros(*request.batch, len(seeds))
    with torch.no_grad():
        found = Transform(function, quantity, own)(*request.args, steps, **request.kwargs, **kwargs)
    changes: torch.Tensor = found[0] if own.has_aux else found
    return changes


def _is_right(f: Callable[..., Any], request: Request, options: Options, pattern: SparsityPattern) -> bool:
    """Whether all that may not change along random columns does not."""
    count = pattern.shape[1]
    draws = np.random.default_rng(0).random((2, count), np.float32)
    chosen = draws[0] < np.array(PARTS, np.float32)[:, None] if count > EVERY else np.eye(count, dtype=bool)
    seeds = torch.from_numpy(chosen * (0.5 + draws[1])).to(request.leaves[0].detach())
    state = request.random_state()
    try:
        with unasked():
            changes = along_columns(f, request, options, COLUMNS, seeds)
    except UnsupportedOperationError:  # no route to its derivative, and so nothing to be held against
        return True
    finally:
        state.restore()
    largest = changes.abs().nan_to_num(0.0, 0.0, 0.0).reshape(-1, len(chosen), pattern.shape[0]).amax(0).cpu().numpy()
    rows, columns = pattern.arrays
    room = ROUNDING * torch.finfo(changes.dtype).eps * largest.max(initial=0.0)
    return not any(
        (largest[place][np.bincount(rows[chosen[place][columns]], minlength=pattern.shape[0]) == 0] > room).any()
        for place in range(len(chosen))
    )
