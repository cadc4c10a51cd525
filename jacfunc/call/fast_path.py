"""Calls of a module like an earlier one: which these are, and their request, neither checked nor planned anew.

A small call would spend a tenth of its time on that.  What is asked instead is all that a check or a plan depends on
and that can change: shapes, dtypes, modes, the module and its layers.  What is compiled is in ``compiled.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..core import caches
from ..core.levels import inside_transform
from ..modules.functional import FunctionalModule
from .plan import Plan
from .request import Request

Kind = tuple[object, ...]


def kind_of(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kind | None:
    """What tells calls of ``f`` apart, as quickly as may be; None where that takes as long as looking.

    Hooks are among it, and whatever else Dynamo does not ask, and what compilations and plans are looked up by.
    """
    if type(f) is not FunctionalModule or kwargs:
        return None
    kind: list[object] = [caches.RULES_ENTERED.number, f.shape()]
    kind += [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    for argument in args[f.state_arguments :]:
        if type(argument) is not torch.Tensor:
            return None
        kind += (argument.shape, argument.dtype, argument.device, argument.layout, argument.is_inference())
    return tuple(kind)


class Known(NamedTuple):
    """The request of a call, and the plan that an earlier call of its kind came by."""

    request: Request
    plan: Plan


def known_call(transform: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Kind | None, Known | None]:
    """The kind of a call, None where it is not to be remembered, and what is known, if an earlier one was of it."""
    if not args or type(args[0]) is not dict or inside_transform():
        return None, None
    kind = kind_of(transform.transformed, args, kwargs)
    known: Known | None = caches.FAST_CALLS.get(transform, kind)
    return kind, None if known is None else Known(known.request.of(args), known.plan)


def remember_call(transform: Any, kind: Kind, request: Request, plan: Plan) -> None:
    """Remember the request and its plan for calls of this kind, where nothing in it is to be found out at each call."""
    if not plan.lasting or plan.findings.random or len(request.arguments) != 1:
        return
    caches.FAST_CALLS.put(transform, kind, Known(request.without_arguments(), plan))
