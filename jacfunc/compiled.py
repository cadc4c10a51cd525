"""``compile=True``: a transform under ``torch.compile``, compiled once for a function and a kind of arguments.

Which route is compiled, whether samples are independent, and that the compiled numbers are the eager ones is found out
at the first call; what a call does is in ``transforms.py`` and ``run.py``, which ``torch.compile`` traces.  Later calls
of a module for arguments of the same shapes ask the guards of Dynamo alone, and look again where something has changed.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from . import caches, trees
from .closeness import agree
from .errors import UnsupportedOperationError
from .functional import FunctionalModule
from .levels import differentiated_again, inside_transform
from .options import METHODS
from .reasons import line_of, together
from .request import Request, requested
from .settled import kind_of

Transform = Any
Call = Callable[..., Any]


def call_compiled(transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a transform for these arguments, compiled; eager inside of ``torch.func``, which takes no other."""
    if inside_transform():
        return _eager(transform)(*args, **kwargs)
    kind = kind_of(transform.transformed, args, kwargs)
    if kind is None:
        return _looked_at(transform, args, kwargs)[1]
    settled = caches.SETTLED_CALLS.setdefault(transform, {})
    known = settled.get(kind, _unknown)
    call: Call | None = known()
    if call is not None:
        with suppress(TorchDynamoException):
            return _as_it_is(call, args, kwargs)
    found, result = _looked_at(transform, args, kwargs)
    if found is not None and known is not _unclear:
        settled[kind] = weakref.ref(found) if call is None or call is found else _unclear
        if len(settled) > caches.MAX_SIGNATURES:
            del settled[next(iter(settled))]
    return result


def _unknown() -> None:
    """In place of the reference to a call: of a kind that is new."""


def _unclear() -> None:
    """The same for a kind that turned out to be two: each would be traced in vain for the other, time and again."""


def _as_it_is(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result without compiling; if Dynamo would, something that was looked at has changed, and it raises."""
    settled = caches.SETTLED
    settled.only = True
    try:
        return call(*args, **kwargs)
    finally:
        settled.only = False


class _ChangedError(Exception):
    """What is called was compiled for something else."""


def _looked_at(transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call | None, Any]:
    """What is called for these arguments, if it can be remembered, and its result."""
    if not torch.is_inference_mode_enabled():
        request = Request(transform.transformed, transform.options, args, kwargs)
        if not request.inference:
            return _called(transform, request)
    with requested(transform.transformed, transform.options, args, kwargs) as request:
        return _called(transform, request)


def _called(transform: Transform, request: Request) -> tuple[Call | None, Any]:
    key, signature = request.captured.key, _signature(transform, request)
    known: Call | None = caches.COMPILED.get(key, signature)
    if known is not None:
        with suppress(TorchDynamoException):  # of what cannot be traced any more, or is refused: by its own words below
            return known, known(*request.args, **request.kwargs)
    call, result = _compiled(_eager(transform), request)
    if not request.captured.rememberable:
        return None, result
    caches.COMPILED.put(key, request.captured.parts, signature, call)
    return call, result


def _eager(transform: Transform) -> Transform:
    return replace(transform, options=transform.options.eager)


def _signature(transform: Transform, request: Request) -> tuple[object, ...]:
    options, surroundings = transform.options, (differentiated_again(), caches.RULES_ENTERED.number)
    return (transform.wanted.identity, options.planned, options.return_value, request.signature, *surroundings)


def _compiled(eager: Transform, request: Request) -> tuple[Call, Any]:
    """The first route that can be traced and gives what the eager one does, and its result for this request."""
    truth, plan = eager.outcome(request)
    methods = dict.fromkeys([plan.route, *METHODS[1:]] if eager.options.method == "auto" else [eager.options.method])
    reasons = []
    for method in methods:
        if method not in METHODS:
            reasons.append((method, "it has no trace"))
            continue
        call = _traced(replace(eager, options=replace(eager.options, method=method, check=False)))
        try:
            result = call(*request.args, **request.kwargs)
        except (TorchDynamoException, UnsupportedOperationError) as error:
            reasons.append((method, f"{str(error).strip().splitlines()[0]}{line_of(error)}"))
            continue
        if plan.random or _close(result, truth):
            return call, result
        reasons.append((method, "other numbers than the eager ones"))
    raise UnsupportedOperationError(
        f"{eager.wanted.name} of f cannot be compiled: {reasons[-1][1]}; leave compile=True out, or replace what is "
        f"named here (no route that torch.compile traces: {together(reasons)})"
    )


def _traced(transform: Transform) -> Call:
    def call(*args: Any, **kwargs: Any) -> Any:
        return transform(*args, **kwargs)

    adapted = isinstance(transform.transformed, FunctionalModule)
    # Code and a name of its own: torch.compile counts how often a code is compiled, and lets numbers vary that were not
    # the same in all calls by a name, for all functions made here together.
    call.__code__ = call.__code__.replace(co_name=f"call_{next(caches.TRACED)}")
    return torch.compile(call, fullgraph=True, options={"guard_filter_fn": _needed(adapted)})


def _needed(adapted: bool) -> Callable[[Sequence[Any]], list[bool]]:
    """Which guards of Dynamo's to keep: not those for what nobody changes, two thirds of them all.

    That is what the modules of this package (but for the rules, which are counted) and the private ones of torch
    consist of, the builtins, and the transform itself, which is frozen.  Of an ``adapted`` module it is the adapter,
    and how its layers are put together, which is part of what a call is remembered by.
    """
    ours = re.compile(f"{_OURS}|{_ADAPTER}" if adapted else _OURS)

    def needed(guards: Sequence[Any]) -> list[bool]:
        if caches.SETTLED.only:
            raise _ChangedError
        return [ours.search(f"{guard.name} {guard.guard_type}") is None for guard in guards]

    return needed


_OURS = (
    r"__import_(jacfunc|torch_dot__)|__builtins_dict__|___unnamed_scope"  # of modules, and of what makes a named tuple
    r"|^(dict\()?(type\()?transform\b(?!\.transformed\b)"
)
_ADAPTER = (
    r"^(dict\()?type\(transform\.transformed\)"
    r"|^transform\.transformed(\._layers(\.steps(\[\d+\](\.__closure__\[\d+\]\.cell_contents)?)?)?)? "
    r"|^transform\.transformed\._layers\.modules.*"
    r"( (EMPTY_NN_MODULE_HOOKS_DICT|DICT_KEYS_MATCH|SEQUENCE_LENGTH|TYPE_MATCH)|\[2\]\[\d+\] CONSTANT_MATCH"
    r"|\[3\] CLASS_MATCH)$"
    r"|^type\(transform\.transformed\._layers\.modules(\[\d+\]|\._modules\['[^']*'\])*\) "
)


def _close(found: Any, truth: Any) -> bool:
    """Whether compiled numbers are the eager ones but for the order in which they were rounded."""
    return all(map(agree, trees.tensors(found), trees.tensors(truth)))
