"""Training at scale: any number of points in flat memory, on any number of processes."""

from .accumulate import accumulate

__all__ = ["accumulate"]
