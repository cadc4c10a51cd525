"""What is called too early or too late: a transform taken for its result, and what makes it taken for the transform."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..errors import ArgumentTypeError

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
    """What makes a transform, where arguments of ``f`` among its own are refused in a sentence."""
    kinds = [parameter.kind for parameter in inspect.signature(make).parameters.values()]
    count = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = ["f", *list(inspect.signature(make).parameters)[1:count]]

    @functools.wraps(make)
    def made(*args: Any, **keywords: Any) -> Any:
        if len(args) > count:
            raise ArgumentTypeError(_too_many(make.__name__, names, args[count]))
        return make(*args, **keywords)

    return made  # type: ignore[return-value]


def _too_many(maker: str, names: list[str], given: Any) -> str:
    what, call = type(given).__name__, f"{maker}({', '.join(names)}"
    if isinstance(given, torch.Tensor):
        what = f"Tensor of shape {tuple(given.shape)}"
    meant = f"call what it returns, as in {call}{', ...' if len(names) > 1 else ''})(x)"
    if isinstance(given, int) and not isinstance(given, bool):
        meant = f"name what it is, as in argnums={given}"
    return f"{maker} takes keywords only after {' and '.join(names)}, but was given a {what}; {meant}"
