"""What ``explain`` says of an estimate: how it is made, what the exact result would cost, how far it may be off."""

from __future__ import annotations

from typing import Any

import torch

from ..api.coordinates import undrawn
from ..call.request import requested
from ..core.unasked import unasked
from .estimator import PILOT, Estimator

USES = {
    "hutchinson": "products with each",
    "hutch++": "a third to find a subspace, a third within it, a third for the rest",
    "xtrace": "half to find a subspace, half within it, each left out once",
    "xdiag": "half to find a subspace, half with the transposed matrix, each left out once",
}
"""What the probes of each estimator are for."""


def told(made: Estimator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, str]]:
    """How it is made, and how far it may be off, by a pilot that leaves all generators as they are."""
    how = made.probing
    with requested(made.transformed, made.options, args, kwargs) as request:
        with undrawn(request.leaves, how.generator), unasked(), torch.no_grad():
            at = made.maps.at(request)
            probes = made.count(at)
            few = probes if how.estimator != "hutchinson" else max(2, min(PILOT, probes))
            found = made.compute(made, at, made.drawn(at.x, few))
        error = float(found.standard_error.square().mean().sqrt())
    if how.estimator == "hutchinson":
        error *= (few / probes) ** 0.5
        by = f"a pilot of {few} probes"
    else:
        by = "one estimate"
    return [
        ("probes", f"{probes} ({how.probe}) by {how.estimator}: {USES[how.estimator]}"),
        ("expected error", f"about {error:.2g}, the root mean square over samples, by {by}"),
    ]
