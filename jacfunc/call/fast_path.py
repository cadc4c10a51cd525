"""Calls like an earlier one: which these are, and their request, neither checked nor planned anew.

A small call would spend a tenth of its time on that.  What is asked instead is all that a check or a plan depends on
and that can change: what the function is made of, shapes, dtypes, modes.  What is compiled is in ``compiled.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..core import caches
from ..core.levels import inside_transform
from ..modules.fingerprint import Fingerprint
from ..modules.functional import FunctionalModule
from ..options import Options
from .plan import Plan
from .replay import Replay, alone
from .request import Request

Kind = tuple[object, ...]


def kind_of(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kind | None:
    """What tells calls of an adapted module apart, as quickly as may be; None where that takes as long as looking.

    Hooks are among it, and whatever else Dynamo does not ask, and what compilations and plans are looked up by.
    """
    if type(f) is not FunctionalModule or kwargs:
        return None
    return _kind(f.shape(), args[f.state_arguments :])


def _kind(shape: object, arguments: tuple[Any, ...]) -> Kind | None:
    kind: Kind = (caches.RULES_ENTERED.number, shape, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    for argument in arguments:
        if type(argument) is not torch.Tensor:
            return None
        kind += (argument.shape, argument.dtype, argument.device, argument.layout, argument.is_inference())
    return kind


class Known(NamedTuple):
    """What is known of a call before it is checked.

    Attributes:
        fingerprint: what its function is made of.
        kind: what tells it from calls of other kinds, those of other transforms among them; None where that is unknown.
        shape: which modules are in the function, and their modes; part of the kind.
        call: its request, and the plan that an earlier call of its kind came by, if there was one.
        results: what the call returns, where it was replayed.
    """

    fingerprint: Fingerprint | None = None
    kind: Kind | None = None
    shape: object = None
    call: tuple[Request, Plan] | None = None
    results: Any = None


NOTHING = Known()


def known_call(transform: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Known:
    """What is known of a call of a transform."""
    f, options = transform.transformed, transform.options
    if not args or kwargs or inside_transform():
        return NOTHING
    if type(f) is FunctionalModule:
        fingerprint = Fingerprint.by(f, ())
        kind = kind_of(f, args, kwargs) if type(args[0]) is dict else None
    else:
        batch = _batch(args, options)
        if batch is None:
            return NOTHING
        fingerprint = Fingerprint.by(f, batch)
        kind = _kind(fingerprint.shape(), args)
    if kind is None:
        return Known(fingerprint)
    shape, kind = kind[1], (kind, transform.quantity.identity, options.planned)
    known: tuple[Request, Plan, Replay | None] | None = caches.FAST_CALLS.peek(fingerprint.key, kind)
    if known is None:
        return Known(fingerprint, kind, shape)
    request, plan, replay = known
    if replay is not None and alone(options) and (results := replay.again(f, *args)) is not None:
        return Known(results=results)
    return Known(fingerprint, kind, shape, (request.of(f, options, args, fingerprint), plan))


def _batch(args: tuple[Any, ...], options: Options) -> tuple[int, ...] | None:
    """The shape of the sample axes of the one argument that is differentiated, if that is a tensor."""
    numbers, count = options.numbers, len(args)
    differentiated = args[numbers[0]] if len(numbers) == 1 and -count <= numbers[0] < count else None
    return differentiated.shape[: options.batch_dims] if type(differentiated) is torch.Tensor else None


def remember_call(known: Known, request: Request, plan: Plan) -> None:
    """Remember the request and its plan for calls of this kind, where nothing in it is to be found out at each call.

    A call in which modules were found that nobody knew of was of another kind than it seemed.
    """
    if not plan.lasting or plan.findings.random or len(request.arguments) != 1:
        return
    if known.shape != request.signature[-1]:
        return
    fingerprint = request.fingerprint
    caches.FAST_CALLS.put(
        fingerprint.key, fingerprint.parts, known.kind, (request.of_its_kind(), plan, Replay.of(request, plan))
    )
