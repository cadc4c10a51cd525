"""Training at scale: any number of points in flat memory, on any number of processes."""

from .accumulate import accumulate
from .reducing import reduce_gradients

__all__ = ["accumulate", "reduce_gradients"]
