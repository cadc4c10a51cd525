"""What ``torch.utils.checkpoint`` runs again in the backward runs as it ran first: same tensors, same operations.

Checkpointing calls its function a second time when the evaluation that it belongs to has ended.  Every function that
is checkpointed between ``begin(rebind)`` and ``end()`` is called as ``rebind(function)`` then.  Meanwhile two names of
torch's checkpoint module are exchanged; other threads' checkpoints are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..core import caches
from ..core.torch_private import CHECKPOINT_FRAME, CHECKPOINTING

Function = Callable[..., Any]
Rebinding = Callable[[Function], Function]


class _Function:
    """In place of the autograd function of ``checkpoint(use_reentrant=True)``."""

    @staticmethod
    def apply(function: Function, *rest: Any) -> Any:
        return ORIGINAL["CheckpointFunction"].apply(_rebound(function), *rest)


def _frame(function: Function, *rest: Any) -> Any:
    """In place of the class by which ``checkpoint(use_reentrant=False)`` remembers its function."""
    return ORIGINAL[CHECKPOINT_FRAME](_rebound(function), *rest)


REPLACED = {CHECKPOINT_FRAME: _frame, "CheckpointFunction": _Function}
# The former is private; test_functional.py notices when it is gone.
ORIGINAL: dict[str, Any] = {name: CHECKPOINTING[name] for name in REPLACED if name in CHECKPOINTING}


def _rebound(function: Function) -> Function:
    for rebind in caches.AROUND.rebindings:
        function = rebind(function)
    return function


def begin(rebind: Rebinding) -> None:
    """From now on checkpointed functions of this thread are ``rebind(function)``; ends with :func:`end`."""
    caches.AROUND.rebindings.append(rebind)
    caches.AROUND_COUNT.change(1, _exchange)


def end() -> None:
    """Undo the last :func:`begin` of this thread."""
    caches.AROUND.rebindings.pop()
    caches.AROUND_COUNT.change(-1, _exchange)


def _exchange(on: bool) -> None:
    CHECKPOINTING.update({name: REPLACED[name] for name in ORIGINAL} if on else ORIGINAL)


def within(context: Callable[[], AbstractContextManager[Any]], function: Function) -> Function:
    """The function, each call of which is within a context of its own."""

    def again(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return again
