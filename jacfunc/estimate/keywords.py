"""The keywords of estimates as types, as editors show them while a call is written."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ..keywords import Keywords

Probe = Literal["rademacher", "gaussian", "sphere", "coordinate", "orthogonal"]
PROBES = get_args(Probe)

Method = Literal["hutchinson", "hutch++", "xtrace", "xdiag"]


class EstimateKeywords(Keywords, total=False):
    """Those of a transform, and how the estimate is made."""

    probes: int | None
    """How many products with the matrix of each sample."""
    probe: Probe
    """How test vectors are drawn."""
    estimator: Method
    """By which method."""
    tolerance: float | None
    """The standard error that is to be reached, in place of ``probes``."""
    max_probes: int
    """At most so many for that."""
    generator: torch.Generator | None
    """What they are drawn by; torch's own if None."""
    fixed: torch.Tensor | None
    """Test vectors for every call, ``(*batch, probes, *I)``, in place of ``probes``."""
    squared_residual: bool
    """Two independent estimates, for the square of a residual."""
    progress: bool
    """A bar of the probes that are done."""
