"""What surrounds the current call: torch.func levels, torch.compile, inference mode, gradient mode.

What is asked of torch that has no public name comes from ``torch_private.py``, as everywhere.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.torch_version import TorchVersion

from . import caches
from .torch_private import (
    DYNAMO,
    FAKE,
    GLOBAL_HOOKS,
    JVP,
    LEVELS_TRACED,
    VMAP,
    WithoutModesOrClasses,
    any_thread_exports,
    batch_dim,
    dispatch_mode,
    dual_level,
    is_batched,
    is_forward_mode_on,
    is_tracked,
    is_wrapped,
    is_zero_tensor,
    level_count,
    level_of,
    level_stack,
    run_engine,
    set_grad,
    unwrapped,
)

compiling = torch.compiler.is_dynamo_compiling
"""Whether ``torch.compile`` is tracing this call.

``torch.compiler.is_compiling`` will not do: it is true in every thread while one of them compiles.
"""


def tracing() -> bool:
    """Whether this call is recorded by ``torch.compile``, ``torch.export`` or ``make_fx`` (``torch.func.linearize``).

    Then no value can be looked at, and nothing may be remembered of the tensors that stand for them.
    """
    return compiling() or get_proxy_mode() is not None or (any_thread_exports() and exporting())


def exporting() -> bool:
    """Whether this call is recorded by ``torch.export``, whose program can hold torch's own operations only.

    The question to torch is answered for all threads; the one that exports has fake tensors, or is traced by Dynamo.
    """
    return any_thread_exports() and (compiling() or dispatch_mode(FAKE) is not None)


def grad_mode(on: bool) -> AbstractContextManager[Any]:
    """Gradients on or off for what this package does itself, which no exported program shows: it would be a region.

    Dynamo shows them all; but without a graph is only a matter of time.
    """
    if not exporting():
        return torch.enable_grad() if on else torch.no_grad()
    if not compiling():
        return _unseen_grad_mode(on)
    return torch.enable_grad() if on and not torch.is_grad_enabled() else nullcontext()


@contextmanager
def _unseen_grad_mode(on: bool) -> Iterator[None]:
    before = torch.is_grad_enabled()
    _set_unseen(on)
    try:
        yield
    finally:
        _set_unseen(before)


def _set_unseen(on: bool) -> None:
    with WithoutModesOrClasses():  # by which a mode of the exporter would be told
        set_grad(on)


def dynamo_loaded() -> bool:
    """Whether all of ``torch.compile`` is loaded, which takes seconds: by us only where something is compiled."""
    return compiling() or DYNAMO in sys.modules


def untraced(function: Callable[..., Any], why: str, *args: Any, **keywords: Any) -> Any:
    """The result of what ``torch.compile`` came across and cannot trace: its graph ends before, and goes on after.

    With ``fullgraph=True`` that is an error, which says ``why``.
    """
    sys.modules[DYNAMO].graph_break(msg=why)
    return torch.compiler.disable(function)(*args, **keywords)  # type: ignore[no-untyped-call]


def run_backward(
    outputs: tuple[torch.Tensor, ...],
    cotangents: tuple[torch.Tensor, ...],
    leaves: tuple[torch.Tensor, ...],
    recorded: bool,
) -> tuple[torch.Tensor | None, ...]:
    """``torch.autograd.grad`` without the comparison of shapes before it, which loads sympy to that end."""
    return run_engine(outputs, cotangents, True, recorded, leaves, allow_unreachable=True, accumulate_grad=False)


def fixed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose sizes ``torch.compile`` takes for constants: it would let them vary from the second one on."""
    return tuple([len(range(size)) for size in shape])


TIES_SHARED = TorchVersion(torch.__version__) >= TorchVersion("2.14")
"""Whether equal operands of ``clamp``, ``fmax`` and ``fmin`` share a derivative; a bound that is a number takes it."""


def inside_transform() -> bool:
    """Whether a torch.func transform (grad, vjp, jvp, vmap) is running around this call, as far as can be told."""
    if not LEVELS_TRACED and compiling():
        return True
    return bool(level_count())


def inside_vmap() -> bool:
    """Whether one of the surrounding transforms is ``torch.func.vmap``, whose values cannot be looked at."""
    return any(level.key() == VMAP for level in level_stack() or ())


def inside_jvp() -> bool:
    """Whether one of the surrounding transforms is ``torch.func.jvp``."""
    return any(level.key() == JVP for level in level_stack() or ())


def derivatives_inside(entered: int) -> int:
    """How many transforms that differentiate are around this call, but for the outermost ones, so many."""
    return sum(level.key() != VMAP for level in (level_stack() or ())[entered:])


def hooks_around() -> tuple[int, ...]:
    """The numbers of the hooks that torch has for all modules, but for those of this package."""
    if not any(GLOBAL_HOOKS):
        return ()
    return tuple([number for hooks in GLOBAL_HOOKS for number in hooks if number not in caches.OWN_HOOKS])


def inside_function() -> bool:
    """Whether the forward of an ``autograd.Function`` is around this call.

    torch switches both modes of differentiation off for it, and ``no_grad`` only one; an evaluation that is told of a
    ``no_grad`` switches the other one off as well, and says so.
    """
    off = not is_forward_mode_on() and not torch.is_inference_mode_enabled()
    return off and not caches.AROUND.told_off


@functools.cache
def load_forward_mode() -> None:
    """Let torch load what its first ``jvp`` loads, without what it warns of itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


def is_dual(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a tangent of ``torch.autograd.forward_ad``, whose levels are those of all threads."""
    return dual_level() >= 0 and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def tracked(tensor: torch.Tensor, strictly: bool = True) -> bool:
    """Whether torch.func may differentiate what a tensor depends on; ``strictly``: whether a pullback does."""
    while is_wrapped(tensor):
        if tensor.requires_grad or (not strictly and is_tracked(tensor)):
            return True
        tensor = unwrapped(tensor)
    return False


def one_of(item: Any) -> Any:
    """An argument without the wrappers of transforms: of what a ``vmap`` maps over, the first one."""
    while isinstance(item, torch.Tensor) and is_wrapped(item):
        item = unwrapped(item).select(batch_dim(item), 0) if is_batched(item) else unwrapped(item)
    return item


def in_a_graph(tensor: torch.Tensor) -> bool:
    """Whether autograd, or torch.func, may differentiate what a tensor depends on."""
    return tensor.requires_grad or (not compiling() and tracked(tensor, strictly=False))


def apart(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory of its own, no more than its numbers, and these are there: zeros may do without."""
    try:
        return tensor.untyped_storage().nbytes() == tensor.nbytes and not is_zero_tensor(tensor)
    except NotImplementedError:  # of a transform's wrapper, for which nobody else should have to ask
        return apart(unwrapped(tensor))


def ended(tensor: torch.Tensor) -> bool:
    """Whether a tensor is the wrapper of a torch.func transform that is over, with which nothing can be done."""
    if compiling() or not is_wrapped(tensor):
        return False
    running = {level.level(): level.key() for level in level_stack() or ()}
    kind = running.get(level_of(tensor))
    return kind is None or (kind == VMAP) != is_batched(tensor)


def differentiated_again() -> bool:
    """Whether a graph is recorded of the current call, or a torch.func transform runs around it."""
    return torch.is_grad_enabled() or inside_transform()


@contextmanager
def recording() -> Iterator[bool]:
    """Leave inference mode, in which nothing can be differentiated; yields whether it was left.

    The caller's gradient mode is kept, and inference mode becomes ``no_grad``: it decides whether the result
    records a graph and nothing else.
    """
    if not torch.is_inference_mode_enabled():
        yield False
        return
    with torch.inference_mode(False), torch.no_grad():
        yield True
