"""Type variables with defaults, which Python has from 3.13 on and type checkers know everywhere."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # type checkers bring it along; at run time nothing needs it
else:

    def TypeVar(name: str, *, default: Any = None, **keywords: Any) -> Any:  # noqa: N802  # a class to type checkers
        """Make a type variable; its default is for type checkers alone."""
        return typing.TypeVar(name, **keywords)


__all__ = ["TypeVar"]
