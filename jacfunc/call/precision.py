"""How many digits are left in a derivative of an order and dtype, and the warning where they are few."""

from __future__ import annotations

import torch

from ..core.warned import warn
from ..errors import PrecisionWarning
from .request import Request

GROWTH = 4.0
"""By how much rounding grows with each order, measured on tanh networks (``docs/guides/partials.md``)."""

TOLERATED = 0.01
"""The relative error from which on a derivative is warned of."""


def expected_error(order: int, dtype: torch.dtype) -> float:
    """Of a derivative of this order, relative to the largest entry."""
    return float(torch.finfo(dtype).eps * GROWTH**order)


def warn_of_rounding(request: Request, order: int) -> None:
    """Warn, once for a function and signature, where an order is more than the dtype can carry."""
    dtype = max((leaf.dtype for leaf in request.leaves), key=lambda dtype: torch.finfo(dtype).eps)
    error = expected_error(order, dtype)
    if order > 1 and error > TOLERATED:  # a first one is about as good as any other number of the dtype
        warn(
            f"a derivative of order {order} in {dtype} has a relative error of about {error:.0%}; use a wider dtype "
            "such as torch.float64",
            PrecisionWarning,
        )
