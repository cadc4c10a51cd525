"""Scripted and traced code: what it calls one by one, as its graph has it, so that every derivative is right.

After a call or two torch joins operations of such code to one node, whose backward ``torch.func`` takes for a constant:
second derivatives and the gradients of first ones are zero.  So an evaluation runs a copy of the graph, which nobody
else calls and which is never optimised.  Meanwhile two methods of torch are exchanged; other threads' calls are passed
on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..core import caches
from ..core.torch_private import ScriptMethod, function_of_graph, inline_calls, inline_forks
from ..errors import RefusedOperationError
from .checkpoint import begin, end, within
from .corrections import ENTRIES, FORGETS

SCRIPTED: tuple[Any, ...] = (torch.jit.ScriptFunction, ScriptMethod)
ORIGINAL: dict[Any, Callable[..., Any]] = {kind: kind.__call__ for kind in SCRIPTED}

SILENT = sorted({entry.name for entry in ENTRIES if entry.why is FORGETS} - {"batch_norm"})
"""What scripted code must not call; batch_norm there is right in eval mode, and coupled in training."""


ELSEWHERE = ("prim::CallMethod", "prim::CallFunction", "prim::fork", "prim::awaitable")
"""What runs other code, which torch optimises apart."""


@contextmanager
def plainly() -> Iterator[Callable[[], bool]]:
    """Scripted code that this thread calls runs plainly, also what is checkpointed; yields whether any was called."""
    here = caches.PLAINLY
    before = here.called
    here.depth += 1
    begin(partial(within, plainly))
    caches.PLAINLY_COUNT.change(1, _exchange)
    try:
        yield lambda: here.called > before
    finally:
        caches.PLAINLY_COUNT.change(-1, _exchange)
        end()
        here.depth -= 1


def _exchange(on: bool) -> None:
    for kind in SCRIPTED:
        kind.__call__ = _called if on else ORIGINAL[kind]


def _called(code: Any, /, *args: Any, **kwargs: Any) -> Any:
    """In place of calling scripted code."""
    original = ORIGINAL[type(code)]
    here = caches.PLAINLY
    if not here.depth:
        return original(code, *args, **kwargs)
    here.called += 1
    for argument in (*args, *kwargs.values()):  # a jet, which torch hands itself to for methods only
        if hasattr(argument, "__torch_function__") and not isinstance(argument, torch.Tensor):
            return argument.__torch_function__(code, (), args, kwargs)
    given = args if isinstance(code, torch.jit.ScriptFunction) else (code.owner, *args)
    bound = _bound(code, given, kwargs)
    if bound is None:  # which raises
        return original(code, *args, **kwargs)
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return ORIGINAL[torch.jit.ScriptFunction](_copy(code), *bound)


def _bound(code: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
    """All arguments by position, for a copy has neither names nor defaults; None where they do not fit."""
    rest = code.schema.arguments[len(args) :]
    named = all(a.name in kwargs or a.has_default_value() for a in rest)
    if not named or len(args) > len(code.schema.arguments) or not kwargs.keys() <= {a.name for a in rest}:
        return None
    return [*args, *(kwargs.get(a.name, a.default_value) for a in rest)]


def _copy(code: Any) -> Any:
    copies = caches.PLAIN_COPIES
    if code not in copies:
        graph = code.inlined_graph.copy()
        inline_forks(graph)  # other threads would run optimised code
        inline_calls(graph)
        _refuse(graph)
        copies[code] = function_of_graph(code.name, graph)
    return copies[code]


def _refuse(graph: Any) -> None:
    """Refuse operations whose derivatives are wrong and cannot be made right there."""
    if any(map(graph.findAllNodes, ELSEWHERE)):
        raise RefusedOperationError(
            "scripted or traced code calls a method of an interface, or code of its own that it does not contain, "
            "whose second derivatives torch takes for zero; pass the function or module before scripting"
        )
    for name in SILENT:
        if graph.findAllNodes(f"aten::{name}"):
            raise RefusedOperationError(
                f"scripted or traced code calls {name}, whose second derivatives torch gets wrong and which cannot "
                "be exchanged there; pass the function or module before scripting"
            )
