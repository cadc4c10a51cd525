"""What makes a transform, and other calls with many keywords: unknown ones are refused, and arguments among them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from ..errors import ArgumentTypeError
from ..options import SHARED, no_keyword
from .reasons import a_type

Made = TypeVar("Made", bound=Callable[..., Any])


def keywords_only(make: Made) -> Made:
    """A function that refuses unknown keywords, and arguments of ``f`` among its own."""
    parameters = inspect.signature(make).parameters.values()
    any_number = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    positional = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    names, count = [each.name for each in positional], sys.maxsize if any_number else len(positional)
    optional = [each.name for each in positional if each.default is not inspect.Parameter.empty]
    alone = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    shared = SHARED if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters) else ()
    required = [each.name for each in parameters if each.name in NEEDED and each.default is each.empty]
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
            if keyword not in keywords and keyword not in names[: len(args)]:
                raise ArgumentTypeError(f"{make.__name__} needs {keyword}=, {NEEDED[keyword]}")
        return make(*args, **keywords)

    return made  # type: ignore[return-value]


NEEDED = {
    "inputs": "a name for each coordinate, as in inputs='t x'",
    "outputs": "a name for each output of f, as in outputs='u'",
    "wanted": "the derivatives by name, as in partials(f, 'u_t u_xx', inputs='t x', outputs='u')",
    "equation": "as in residual(f, lambda d: d.u_t - d.u_xx, inputs='t x', outputs='u')",
}
"""What has no default beside ``f``."""

NAMED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (bool, ("return_gradient", "return_value", "snapshot")),
    (int, ("argnums",)),
    (str, ("inputs", "method")),
)
"""Which keyword something of a type was probably meant for, where it was given without a name."""

CALLED = {"make_functional": "write f, params = make_functional(module) and call f(params, x)"}
"""What is done with the result of what makes no transform."""


def _too_many(maker: str, names: list[str], keywords: Sequence[str], given: Any) -> str:
    what = f"a Tensor of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else a_type(given)
    if not keywords:  # explain, whose argument is a transform
        return f"{maker} takes one {names[0]} alone, but was given {what} after it; write {maker}(diag_jac(f))(x)"
    call = f"{maker}({', '.join(names)}{', ...' if len(names) > 1 else ''})"
    meant = CALLED.get(maker, f"call what it returns, as in {call}(x)")
    fitting = next((named for kind, named in NAMED if isinstance(given, kind)), ())
    if name := next((each for each in fitting if each in keywords), ""):
        meant = f"name it, as in {name}={given!r}"
    return f"{maker} takes keywords only after {' and '.join(names)}, but was given {what}; {meant}"
