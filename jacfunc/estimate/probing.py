"""How an estimate is made: its keywords, checked when it is made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch

from ..api.coordinates import refuse_generator
from ..core.keywords_only import keywords_only
from ..errors import ArgumentError
from ..options import Options, check_flag
from ..training.blocks import check_tqdm
from .keywords import Method, Probe
from .probes import refuse_count, refuse_probe

LEAST = {"hutchinson": 1, "hutch++": 3, "xtrace": 2, "xdiag": 2}
"""How many products a method takes at least."""

PARTS = {"hutchinson": 1, "hutch++": 3, "xtrace": 2, "xdiag": 2}
"""Of how many parts the first is that of the probes which it starts with."""


@dataclass(frozen=True)
class Probing:
    """How an estimate is made.

    Attributes:
        probes: how many products with the matrix of each sample; None where a tolerance decides.
        probe: how test vectors are drawn.
        estimator: by which method.
        tolerance: the standard error that is to be reached; None for as many probes as were asked for.
        max_probes: at most so many for that.
        generator: what they are drawn by; torch's own if None.
        fixed: test vectors that were drawn before.
        squared_residual: whether two independent estimates are wanted.
        progress: whether a bar shows how many probes are done.
    """

    probes: int | None = None
    probe: Probe = "rademacher"
    estimator: Method = "hutchinson"
    tolerance: float | None = None
    max_probes: int = 10_000
    generator: torch.Generator | None = None
    fixed: torch.Tensor | None = None
    squared_residual: bool = False
    progress: bool = False

    def refuse(self, name: str, estimators: tuple[str, ...]) -> None:
        """Refuse what cannot be meant."""
        refuse_probe(self.probe)
        if self.estimator not in estimators:
            raise ArgumentError(
                f"estimator={self.estimator!r} is none of estimate.{name}; choose one of "
                f"{', '.join(map(repr, estimators))}"
            )
        refuse_generator(self.generator)
        for flag in ("squared_residual", "progress"):
            check_flag(flag, getattr(self, flag))
        if self.progress:
            check_tqdm()
        self._refuse_counts()
        if self.estimator != "hutchinson" and self.probe == "orthogonal":
            raise ArgumentError(
                f"probe='orthogonal' with estimator={self.estimator!r}, whose test vectors have to be independent of "
                "each other; choose another kind, or estimator='hutchinson'"
            )

    def _refuse_counts(self) -> None:
        refuse_count("max_probes", self.max_probes)
        given = [name for name in ("probes", "tolerance", "fixed") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"both {' and '.join(given)}" if given else "none of probes=, tolerance= and fixed="
            raise ArgumentError(f"{found} came in; pass one of them: how many probes, or what decides on that")
        if self.probes is not None:
            refuse_count("probes", self.probes)
            if self.probes < LEAST[self.estimator]:
                raise ArgumentError(
                    f"probes={self.probes} with estimator={self.estimator!r}, which needs {LEAST[self.estimator]} or "
                    "more; pass more, or take 'hutchinson'"
                )
        if self.tolerance is not None:
            aim = self.tolerance
            if isinstance(aim, bool) or not isinstance(aim, int | float) or not 0 < aim < math.inf:
                raise ArgumentError(f"tolerance={self.tolerance!r} is not a standard error, a number above 0")
            if self.estimator != "hutchinson":
                raise ArgumentError(
                    f"tolerance= with estimator={self.estimator!r}, of which a few probes do not tell how many are "
                    "needed; pass probes=, or take 'hutchinson'"
                )
            if self.probe == "coordinate":
                raise ArgumentError(
                    "tolerance= with probe='coordinate', whose standard error knows nothing of coordinates that were "
                    "not drawn; take another kind of probe, or probes="
                )
        if self.fixed is not None and self.generator is not None:
            raise ArgumentError("generator= with fixed=; there is nothing to draw, so leave it out")
        if self.fixed is not None and self.squared_residual:
            raise ArgumentError("squared_residual=True with fixed=; two estimates of the same probes are the same")

    def told(self) -> list[str]:
        """What is not as by default, as it is written."""
        shown = [] if self.probes is None else [f"probes={self.probes}"]
        shown += [] if self.tolerance is None else [f"tolerance={self.tolerance:g}"]
        shown += [] if self.fixed is None else ["fixed=.."]
        shown += [f"probe={self.probe!r}"] * (self.probe != "rademacher")
        shown += [f"estimator={self.estimator!r}"] * (self.estimator != "hutchinson")
        return shown + ["squared_residual=True"] * self.squared_residual


F = TypeVar("F", bound=Callable[..., Any])


def with_keywords(make: F) -> F:
    """Refuse unknown keywords, and show those of an estimate where ``help`` looks for them."""
    given = inspect.signature(make, eval_str=False)
    own = [each for each in given.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    shown = [each for each in (*fields(Probing), *fields(Options)) if each.init and each.name != "out_dims"]
    shared = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in shown
    ]
    make.__signature__ = given.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return keywords_only(make)
