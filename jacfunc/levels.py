"""What surrounds the current call: torch.func levels, torch.compile, inference mode, gradient mode.

The only file that touches torch's private functorch interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.torch_version import TorchVersion

compiling = torch.compiler.is_dynamo_compiling
"""Whether ``torch.compile`` is tracing this call.

``torch.compiler.is_compiling`` will not do: it is true in every thread while one of them compiles.
"""


def tracing() -> bool:
    """Whether this call is recorded by ``torch.compile``, ``torch.export`` or ``make_fx`` (``torch.func.linearize``).

    Then no value can be looked at, and nothing may be remembered of the tensors that stand for them.
    """
    return compiling() or get_proxy_mode() is not None or exporting()


def exporting() -> bool:
    """Whether this call is recorded by ``torch.export``, whose program can hold torch's own operations only.

    The question to torch is answered for all threads; the one that exports has fake tensors, or is traced by Dynamo.
    """
    return torch.compiler.is_exporting() and (compiling() or _dispatch_mode(FAKE) is not None)


_dispatch_mode, FAKE = torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey.FAKE


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
    with torch._C.DisableTorchFunction():  # by which a mode of the exporter would be told
        torch._C._set_grad_enabled(on)


def fixed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose sizes ``torch.compile`` takes for constants: it would let them vary from the second one on."""
    return tuple([len(range(size)) for size in shape])


LEVELS_TRACED = TorchVersion(torch.__version__) >= TorchVersion("2.13")
"""Whether Dynamo follows a question for the levels around a call."""


def inside_transform() -> bool:
    """Whether a torch.func transform (grad, vjp, jvp, vmap) is running around this call, as far as can be told."""
    if not LEVELS_TRACED and compiling():
        return True
    return bool(torch._C._functorch.get_dynamic_layer_stack_depth())


def inside_vmap() -> bool:
    """Whether one of the surrounding transforms is ``torch.func.vmap``, whose values cannot be looked at."""
    stack = torch._C._functorch.get_interpreter_stack()
    return stack is not None and any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


def inside_jvp() -> bool:
    """Whether one of the surrounding transforms is ``torch.func.jvp``."""
    stack = torch._C._functorch.get_interpreter_stack()
    return stack is not None and any(level.key() == torch._C._functorch.TransformType.Jvp for level in stack)


def is_dual(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a tangent of ``torch.autograd.forward_ad``, whose levels are those of all threads."""
    on = forward_ad._current_level >= 0
    return on and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def tracked(tensor: torch.Tensor, strictly: bool = True) -> bool:
    """Whether torch.func may differentiate what a tensor depends on; ``strictly``: whether a pullback does."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if tensor.requires_grad or (not strictly and torch._C._functorch.is_gradtrackingtensor(tensor)):
            return True
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return False


def differentiated_again() -> bool:
    """Whether a graph is recorded of the current call, or a torch.func transform runs around it."""
    return torch.is_grad_enabled() or inside_transform()


@contextmanager
def recording() -> Iterator[bool]:
    """Leave inference mode, in which nothing can be differentiated; yields whether it was left.

    The caller's gradient mode is kept, and inference mode becomes ``no_grad``: it decides whether the result
    records a graph and nothing else.
    """
    with ExitStack() as stack:
        left = torch.is_inference_mode_enabled()
        if left:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield left
