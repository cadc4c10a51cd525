"""What ``torch.compile`` is handed for a transform: a function with code of its own.

Dynamo keeps what it compiles, and which sizes it saw vary, by the code of a function.  Objects that are called have
none, and share a wrapper's: the second network of other sizes would be traced with symbolic sizes, the ninth not at
all.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

from ..core import caches
from ..core.torch_private import Traceable
from ..modules.fingerprint import Fingerprint


class Entrance(Traceable):
    """A base of callable objects that ``torch.compile`` knows by code of their own."""

    def traceable(self) -> Callable[..., Any]:
        """What is traced in place of calling this."""
        return entrance(self)


def entrance(transform: Any) -> Callable[..., Any]:
    """The transform as a function whose code is that of all transforms that are made like it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return transform(*args, **kwargs)

    made = Fingerprint.by(transform, ())
    known: CodeType | None = caches.CODES.get(made.key, repr(transform))
    call.__code__ = known or own_code(call.__code__)
    if made.watchable:
        caches.CODES.put(made.key, made.parts, repr(transform), call.__code__)
    return call


def own_code(code: CodeType) -> CodeType:
    """Code that counts as another: by its name too, by which Dynamo lets numbers vary that once were not the same."""
    return code.replace(co_name=f"{code.co_name}_{next(caches.TRACED)}")
