"""An attribute that is computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Owner = TypeVar("Owner")
R = TypeVar("R")


class once(Generic[Owner, R]):  # noqa: N801  # a decorator, as property is
    """``functools.cached_property`` without its lock, which takes as long as what is asked here."""

    def __init__(self, method: Callable[[Owner], R]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: Owner, kind: type | None = None) -> R:
        value = owner.__dict__[self.method.__name__] = self.method(owner)
        return value
