"""What is called too early or too late: a transform taken for its result, and what makes it taken for the transform."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..core.reasons import a_type
from ..errors import ArgumentTypeError
from ..options import SHARED, no_keyword

Made = TypeVar("Made", bound=Callable[..., Any])


class Uncalled:
    """A function of the arguments of ``f``: an attribute that only its result has says so."""

    if not TYPE_CHECKING:  # which knows what there is

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(self._missing(name))

    def _missing(self, name: str) -> str:
        if name.startswith("_") or not (hasattr(torch.Tensor, name) or name in self._results()):
            return f"{type(self).__name__!r} object has no attribute {name!r}"
        return (
            f"{self!r} is a function of the arguments of f, not yet its result; call it first, as in g(x).{name} "
            f"instead of g.{name}"
        )

    def _results(self) -> tuple[str, ...]:
        """Further attributes of the result."""
        return ()


def keywords_only(make: Made) -> Made:
    """What makes a transform, where arguments of ``f`` among its own and unknown keywords are refused."""
    parameters = inspect.signature(make).parameters.values()
    positional = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    names, count = [each.name for each in positional], len(positional)
    optional = [each.name for each in positional if each.default is not inspect.Parameter.empty]
    alone = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    shared = SHARED if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters) else ()
    required = [
        each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is each.empty
    ]
    known = (*optional, *alone, *shared)
    allowed = frozenset([*names, *known])

    @functools.wraps(make)
    def made(*args: Any, **keywords: Any) -> Any:
        if len(args) > count:
            raise ArgumentTypeError(_too_many(make.__name__, names, known, args[count]))
        if known:
            for keyword in keywords:
                if keyword not in allowed:
                    raise ArgumentTypeError(no_keyword(make.__name__, keyword, known))
        for keyword in required:
            if keyword not in keywords:
                raise ArgumentTypeError(f"{make.__name__} needs {keyword}=, {NEEDED[keyword]}")
        return make(*args, **keywords)

    return made  # type: ignore[return-value]


NEEDED = {
    "inputs": "a name for each coordinate, as in inputs='t x'",
    "outputs": "a name for each output of f, as in outputs='u'",
}
"""What the keywords are that have no default."""

NAMED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (bool, ("return_gradient", "return_value")),
    (int, ("argnums",)),
    (str, ("inputs", "method")),
)
"""Which keyword something of a type was probably meant for, where it was given without a name."""


def _too_many(maker: str, names: list[str], keywords: Sequence[str], given: Any) -> str:
    what = f"a Tensor of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else a_type(given)
    if not keywords:  # explain, whose argument is a transform
        return f"{maker} takes one {names[0]} alone, but was given {what} after it; write {maker}(diag_jac(f))(x)"
    call = f"{maker}({', '.join(names)}{', ...' if len(names) > 1 else ''})"
    meant = f"call what it returns, as in {call}(x)"
    fitting = next((named for kind, named in NAMED if isinstance(given, kind)), ())
    if name := next((each for each in fitting if each in keywords), ""):
        meant = f"name it, as in {name}={given!r}"
    return f"{maker} takes keywords only after {' and '.join(names)}, but was given {what}; {meant}"
