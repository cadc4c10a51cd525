"""``compile=True``: a transform under ``torch.compile``, compiled once for a function and a kind of arguments.

Which route is compiled, whether samples are independent, and that the compiled numbers are the eager ones is found out
at the first call; what a call does is in ``transforms.py`` and ``run.py``, which ``torch.compile`` traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from . import caches, trees
from .closeness import agree
from .errors import UnsupportedOperationError
from .levels import differentiated_again, inside_transform
from .options import METHODS
from .request import Request, requested

Transform = Any
Call = Callable[..., Any]


def call_compiled(transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a transform for these arguments, compiled; eager inside of ``torch.func``, which takes no other."""
    if inside_transform():
        return _eager(transform)(*args, **kwargs)
    if not torch.is_inference_mode_enabled():
        request = Request(transform.transformed, transform.options, args, kwargs)
        if not request.inference:
            return _called(transform, request)
    with requested(transform.transformed, transform.options, args, kwargs) as request:
        return _called(transform, request)


def _called(transform: Transform, request: Request) -> Any:
    key, signature = request.captured.key, _signature(transform, request)
    known: Call | None = caches.COMPILED.get(key, signature)
    if known is not None:
        return known(*request.args, **request.kwargs)
    call, result = _compiled(_eager(transform), request)
    if request.captured.rememberable:
        caches.COMPILED.put(key, request.captured.parts, signature, call)
    return result


def _eager(transform: Transform) -> Transform:
    return replace(transform, options=transform.options.eager)


def _signature(transform: Transform, request: Request) -> tuple[object, ...]:
    options = transform.options
    return (transform.wanted.identity, options.planned, options.return_value, request.signature, differentiated_again())


def _compiled(eager: Transform, request: Request) -> tuple[Call, Any]:
    """The first route that can be traced and gives what the eager one does, and its result for this request."""
    truth, plan = eager.outcome(request)
    methods = dict.fromkeys([plan.route, *METHODS[1:]] if eager.options.method == "auto" else [eager.options.method])
    reasons = []
    for method in methods:
        if method not in METHODS:
            reasons.append(f"{method}: it has no trace")
            continue
        call = _traced(replace(eager, options=replace(eager.options, method=method, check=False)))
        try:
            result = call(*request.args, **request.kwargs)
        except (TorchDynamoException, UnsupportedOperationError) as error:
            reasons.append(f"{method}: {str(error).strip().splitlines()[0]}")
            continue
        if plan.random or _close(result, truth):
            return call, result
        reasons.append(f"{method}: other numbers than the eager ones")
    raise UnsupportedOperationError(
        f"{eager.wanted.name} with compile=True found no route that torch.compile traces ({'; '.join(reasons)}); leave "
        "compile=True out"
    )


def _traced(transform: Transform) -> Call:
    def call(*args: Any, **kwargs: Any) -> Any:
        return transform(*args, **kwargs)

    # Code of its own: torch.compile counts how often a code is compiled, for all functions made here together.
    call.__code__ = call.__code__.replace()
    return torch.compile(call, fullgraph=True, options={"guard_filter_fn": _needed})


def _needed(guards: Sequence[Any]) -> list[bool]:
    """Which guards of Dynamo's to keep: not those for what this package's own modules consist of, half of them all.

    Rules may be registered, so their table is watched.
    """
    return ["__import_jacfunc" not in guard.name or "RULES" in guard.name for guard in guards]


def _close(found: Any, truth: Any) -> bool:
    """Whether compiled numbers are the eager ones but for the order in which they were rounded."""
    return all(map(agree, trees.tensors(found), trees.tensors(truth)))
