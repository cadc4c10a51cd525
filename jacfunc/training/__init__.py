"""Training at scale: any number of points in flat memory, on any number of processes."""

from .gradients import reduce_gradients

__all__ = ["reduce_gradients"]
