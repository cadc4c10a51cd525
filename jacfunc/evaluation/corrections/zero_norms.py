"""Norms that are zero: by torch the second derivative of whatever is made of them is that of a constant.

``exp(-r^2)`` has one, and no word is said.  Jets know it (``jet/roots.py``), so what else differentiates more than once
refuses.
"""

from __future__ import annotations

from typing import Any

import torch

from ...core import caches
from ...core.levels import compiling, derivatives_inside, tracked
from ...core.torch_private import c_torch, innermost, outside_transforms
from ...errors import UnsupportedOperationError

_T, _L = torch.Tensor, torch.linalg
PLACES: dict[Any, int | None] = {
    **dict.fromkeys([_L.vector_norm, _L.norm, _L.matrix_norm, torch.norm, c_torch.norm, _T.norm], 1),
    **dict.fromkeys([torch.dist, _T.dist, torch.pairwise_distance, torch.nn.functional.pairwise_distance], 2),
    **dict.fromkeys([torch.frobenius_norm, torch.std, _T.std, torch.std_mean, torch.hypot, _T.hypot], None),
    **dict.fromkeys([torch.abs, torch.absolute, _T.abs, _T.absolute, _T.__abs__], None),
}
"""Norms, and where the order is among their arguments, if anywhere; absolute values are those of complex numbers."""
EUCLIDEAN = (2, "fro", None)
"""Orders of a norm that is the root of a sum of squares."""
ONCE = 1
"""Derivatives that torch has right: of a norm that is zero the first one is zero."""


class Differentiated:
    """A context in which what is evaluated is differentiated so often more, by jets or ``by_tensors``."""

    __slots__ = ("before", "by_tensors", "order")

    def __init__(self, order: int, by_tensors: bool) -> None:
        self.order, self.by_tensors = order, by_tensors

    def __enter__(self) -> None:
        around = caches.AROUND
        self.before = around.order, around.by_tensors
        around.order += self.order
        around.by_tensors += self.by_tensors

    def __exit__(self, *raised: object) -> None:
        caches.AROUND.order, caches.AROUND.by_tensors = self.before


def refuse_zeros(function: Any, args: Any, kwargs: Any, result: Any, entered: int) -> None:
    """Refuse a norm that is zero where it is differentiated more than once: by whom f was evaluated, and by f itself.

    ``entered``: how many transforms of torch.func were around the evaluation.
    """
    if compiling() or not caches.AROUND.order or function not in PLACES:
        return
    if not _is_euclidean(args, kwargs, PLACES[function]) or ("abs" in function.__name__ and not args[0].is_complex()):
        return
    for tensor in result[:1] if isinstance(result, tuple) else (result,):
        refuse_where(tensor.detach() == 0, tensor, function.__name__, derivatives_inside(entered))


def refuse_where(zero: torch.Tensor, norm: torch.Tensor, name: str, inside: int = 0) -> None:
    """Refuse a norm that is zero in some places, where it is differentiated more than once."""
    if compiling() or caches.AROUND.order + inside <= ONCE or not isinstance(norm, torch.Tensor):
        return
    if (innermost(norm).requires_grad or tracked(norm, strictly=False)) and _any(zero):
        raise UnsupportedOperationError(
            f"{name} is zero here, where only jets (method='taylor') have its second derivatives"
        )


def _any(where: torch.Tensor) -> bool:
    with outside_transforms():  # a vmap would not let it be looked at
        return bool(innermost(where).any())


def _is_euclidean(args: Any, kwargs: Any, place: int | None) -> bool:
    named = [kwargs[name] for name in ("ord", "p") if kwargs and name in kwargs]
    given = args[place] if place is not None and len(args) > place else None
    return (named[0] if named else given) in EUCLIDEAN
