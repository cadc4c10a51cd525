"""Whether a function is a gradient, so that its Jacobian is a Hessian: the symmetric one of one number a sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..call.evaluator import Evaluator
from ..call.request import Request, requested
from ..structure.detect import Found, detect
from .transform import Transform

GRADIENTS = ("diag_jac", "batch_jac")
"""The transforms that give the gradient of a function that returns one number a sample."""


def found_pattern(f: Callable[..., Any], request: Request, order: int, exact: bool = True) -> Found:
    """The pattern of a request's function ``f``, which is symmetric where ``f`` is known to be a gradient.

    Not ``exact``: what is always zero counts, and what ought to be symmetric (a backward of the user's own) may not be.
    """
    found = detect(request, order, exact)
    if order == 1 and exact and found.pattern.nnz and _is_gradient(f, request):
        return replace(found, pattern=found.pattern.made_symmetric())
    return found


def _is_gradient(f: Callable[..., Any], request: Request) -> bool:
    if type(f) is not Transform or f.quantity.name not in GRADIENTS or f.quantity.key:
        return False
    with requested(f.transformed, f.options, request.args, request.kwargs) as inner:
        same = inner.options.batch_dims == request.options.batch_dims and _positions(inner) == _positions(request)
        if not same or len(inner.leaves) != 1:
            return False
        state = inner.random_state()
        values, _ = Evaluator(inner).look(state)
        state.restore()
        return len(values) == 1 and math.prod(inner.sample_shape(values[0])) == 1


def _positions(request: Request) -> list[int]:
    """Which arguments it is differentiated by: one tensor may be two of them."""
    return [argument.position for argument in request.arguments]
