"""What is added to an error of the user's function: which call evaluated it, on what, and the usual way out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ..core import reasons
from ..errors import JacfuncError
from .request import Request

ABOUT_SHAPES = r"shape|\bsizes?\b|dim(?:ension)?s?\b|\b[0-9]-?D\b|out of range"
"""How torch writes of shapes that do not fit."""
OF_DERIVATIVES = r"'Tensor' object has no attribute '\w+_\w+'"
"""How Python writes of a name that means a derivative."""
ABOUT_DTYPES = r"same dtype|expected .*scalar type"
"""How torch writes of numbers that are stored in other ways."""
TOO_FEW = r"missing \d+ required positional argument"
"""How Python writes of fewer."""
TOO_MANY = r"takes .*positional arguments? but"
"""How Python writes of more arguments than a function takes."""


def note(error: Exception, transform: str, request: Request) -> None:
    """Add it to an error that was raised while a request was evaluated."""
    reasons.note(error, transform, request.function, request.args, _way_out(error, request, transform))


@contextmanager
def noted(transform: str, request: Request) -> Iterator[None]:
    """:func:`note` of whatever is raised, but of what this package says itself."""
    try:
        yield
    except JacfuncError:
        raise
    except Exception as error:
        note(error, transform, request)
        raise


def _way_out(error: Exception, request: Request, transform: str) -> str:
    """What may be done where the arguments are those of another function: of one sample, or without parameters."""
    if _says(error, TypeError, TOO_FEW):
        return f"; pass all arguments of f ({len(request.args)} came), or let it take one tensor of all coordinates"
    if _says(error, RuntimeError, ABOUT_DTYPES):
        own, other = (
            request.leaves[0].dtype,
            torch.float64 if request.leaves[0].dtype is torch.float32 else torch.float32,
        )
        return f"; {request.input_paths()[0]} is {own}, so convert it with .to({other}), or f's own tensors to {own}"
    if transform == "partials" and _says(error, AttributeError, OF_DERIVATIVES):
        return "; f is given tensors, and an equation the derivatives by name, in this order: residual(f, equation, ..)"
    if request.of_module:
        return _arguments_of_a_module(request) if _says(error, TypeError, TOO_MANY) else ""
    if request.options.batch_dims == 1 and _says(error, (RuntimeError, IndexError, ValueError), ABOUT_SHAPES):
        return f"; f gets the whole batch, so pass {request.mapped()} if it is a function of one sample"
    return ""


def _says(error: Exception, kind: type[Exception] | tuple[type[Exception], ...], pattern: str) -> bool:
    return isinstance(error, kind) and re.search(pattern, str(error)) is not None


def _arguments_of_a_module(request: Request) -> str:
    given = request.args[request.state_arguments :]
    if any(isinstance(argument, Mapping) for argument in given):
        return "; a module takes no parameters: leave them out, or write f, params = make_functional(module) and pass f"
    if len(given) > 1 and all(isinstance(argument, torch.Tensor) for argument in given):
        columns = all(argument.dim() > 1 for argument in given)
        join = "torch.cat" if columns else "torch.stack"
        return f"; if it takes one tensor with all of them, (N, d), join them by {join}(.., dim=1)"
    return ""
