"""``check_independent``: the check that every transform makes at its first call, by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..call.independence import probe_now
from ..call.request import as_function, requested
from ..core.keywords_only import keywords_only
from ..keywords import Keywords
from ..options import Options
from .places import in_front
from .segments import segmented
from .transform import Transform
from .transforms import BATCH_JAC


@dataclass(frozen=True)
class _Check:
    transform: Transform

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        transform, own = self.transform.resolved(args, kwargs)
        with requested(transform.transformed, transform.options, own, kwargs) as request:
            return probe_now(request)


@keywords_only
def check_independent(
    f: Callable[..., Any],
    *,
    argnums: int | tuple[int, ...] = -1,
    batch_dims: int = 1,
    out_dims: int | None = None,
    has_aux: bool = False,
    check_tolerance: float | None = None,
    segments: torch.Tensor | None = None,
) -> Callable[..., bool]:
    """Whether the samples of a batch are computed independently: True, or an error that says what couples them.

    The batch is evaluated once, then a few times with some of its samples replaced by others and by outliers; the
    output of a sample must not move beyond rounding between two evaluations that give it the same value.  Every
    transform does this by itself on the first call for a function and the kind of its arguments (``check=True``).  A
    coupling that is inactive at the given data, as in ``relu(x.mean() - 3)`` far below its kink, cannot be seen.

    Args:
        f: a function or an ``nn.Module``, ``x`` of shape ``(N, *I)`` to ``y`` of shape ``(N, *O)``.
        argnums: the positional arguments that carry the samples to replace.
        batch_dims: how many leading axes are sample axes.
        out_dims: the axis of the outputs that the samples lie on; None for the first.
        has_aux: ``f`` returns ``(output, aux)``; aux is not looked at.
        check_tolerance: by which part of its size an output may move; None for rounding alone.
        segments: for rows of segments, as in :func:`diag_jac`: whether these are independent.

    Returns:
        A function of the same arguments as ``f`` that returns True.

    Raises:
        CoupledSamplesError: names an output that moved and what usually causes it.
        JacfuncError: for arguments that cannot be a batch of samples.

    Example:
        >>> import torch
        >>> from jacfunc import check_independent
        >>> check_independent(lambda x: x.softmax(dim=1))(torch.randn(4, 3))
        True
        >>> check_independent(lambda x: x - x.mean(dim=0))(torch.randn(4, 3))
        Traceback (most recent call last):
        ...
        jacfunc.errors.CoupledSamplesError: ...
    """
    keywords: Keywords = {
        "argnums": argnums,
        "batch_dims": batch_dims,
        "out_dims": out_dims,
        "has_aux": has_aux,
        "check_tolerance": check_tolerance,
    }
    options = Options.of("check_independent", keywords)
    return _Check(segmented(Transform(in_front(as_function(f), options), BATCH_JAC, options), segments))
