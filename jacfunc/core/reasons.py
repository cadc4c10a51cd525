"""Why a route failed, in the words of the error that stopped it: what it says, and where in the function it arose."""

from __future__ import annotations

import contextlib
import re
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optree
import torch
from torch import nn

from .caches import computed_once
from .torch_private import HIGHER_ORDER, MODULE_CALL

UNIMPLEMENTED = r"derivative for '?(?:aten::)?(\w+)'? is not implemented"
"""How torch says that it has no derivative of an operation."""

OPERATIONS = (
    (r"torch cannot transform the operator (\S+)", "the operator {}"),
    (r"backward through (\S+?)(?:\.default)? but no autograd formula", "the operator {}"),
    (r"the operator (\S+?)(?:\.default)? (?:for a constant|is applied)", "the operator {}"),
    (UNIMPLEMENTED, "{}"),
    (r"(\w*scaled_dot_product\w*)", "{}"),
    (r"(autograd\.Function)", "an {}"),
    (r"^(\w+) (?:has no rule|of complex numbers)", "{}"),
    (r"^(\w+) is zero here", "{} where it is zero"),
)
"""How reasons name the operation that is the trouble, the surest first."""


def operation(reasons: Sequence[str]) -> str:
    """The operation that some reasons are about, as far as they name one."""
    for pattern, named in OPERATIONS:
        for why in reasons:
            if found := re.search(pattern, why):
                return named.format(found[1])
    return "an operation"


def together(reasons: Sequence[tuple[str, str]]) -> str:
    """Routes and why they failed, those that failed for one reason together."""
    routes: dict[str, list[str]] = {}
    for route, why in reasons:
        if route not in routes.setdefault(why, []):
            routes[why].append(route)
    return "; ".join(f"{' and '.join(refused)}: {why}" for why, refused in routes.items())


def name_of(function: Callable[..., Any]) -> str:
    """What a function of the user's is called in messages."""
    return getattr(function, "__name__", None) or repr(function)


def a_type(value: object) -> str:
    """The class of what was found where something else was expected, with the article that it is read with."""
    name = type(value).__name__
    return f"an {name}" if re.match(VOWEL, name) else f"a {name}"


VOWEL = r"[AEIOaeio]|[Uu]n(?!i)[a-z]|ndarray$|[FHLMNRSX](?:[A-Z0-9]|$)"
"""How names begin that are read with a vowel in front: ``int``, ``Unflatten``, ``LSTM``; not ``uint8`` or ``UNet``."""


def note(error: Exception, transform: str, function: Callable[..., Any], args: Sequence[Any], remedy: str = "") -> None:
    """Add to an error of the user's function which call evaluated it, on what, and what may be done."""
    told = (
        f"jacfunc: raised inside f while {transform}({name_of(function)}) evaluated it on {', '.join(map(_told, args))}"
        f"{remedy}"
    )
    add_note(error, told)


def add_note(error: Exception, told: str) -> None:
    """Add a sentence to an error that is handed on, once."""
    with contextlib.suppress(Exception):  # an error that takes no note is handed on as it is
        if told not in getattr(error, "__notes__", ()):
            error.add_note(told)


def _told(argument: Any) -> str:
    if isinstance(argument, torch.Tensor):
        return f"a tensor of shape {tuple(argument.shape)}"
    if isinstance(argument, bool | int | float | str | None):
        return repr(argument)[:64]
    return a_type(argument)


def place(error: BaseException) -> str:
    """In which module of the user's the error arose, if in one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == MODULE_CALL]
    modules = [module for module in found if isinstance(module, nn.Module)]
    if not modules:
        return ""
    path = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    return f" (in the {type(modules[-1]).__name__} {path!r})" if path else f" (in the {type(modules[-1]).__name__})"


def reason(error: Exception) -> str:
    """What an error says, and the higher-order operator (``torch.cond``) that it arose in, if in one."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    operator = next((Path(file).stem for file in files if HIGHER_ORDER in file), None)
    said = first_line(error)
    return said if operator is None else f"torch cannot transform the operator {operator} ({said})"


def line_of(error: Exception) -> str:
    """Where in the user's function Dynamo stopped, as its message says."""
    _, _, traced = str(error).partition("from user code:")
    found = [lines for lines in re.findall(r'File "(.*?)", line (\d+), in (\S+)', traced) if not ours(lines[0])]
    return f" (in {found[-1][2]}, line {found[-1][1]} of {Path(found[-1][0]).name})" if found else ""


LIBRARIES = tuple(folder for module in (torch, optree) for folder in module.__path__)


@computed_once(4096, traced=False)
def ours(file: str) -> bool:
    """Whether a file is torch's, optree's, of Python's own library, or this package's."""
    library = file.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in file
    return library or file.startswith((str(Path(__file__).parents[1]), *LIBRARIES))


def otherwise(error: Exception) -> str:
    """What is told of a function that ran with tensors and failed with jets, though no operation was refused."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    users = [(code, line) for code, line in frames if not ours(code.co_filename)]
    if not users:
        return f"{reason(error)}{place(error)}"
    code, line = users[-1]
    said = (
        f"{type(error).__name__}: {first_line(error)}, in {code.co_name}, line {line} of {Path(code.co_filename).name}"
    )
    return f"{OTHERWISE} ({said}){place(error)}"


OTHERWISE = "f treats what is no torch.Tensor otherwise, as by isinstance"


def first_line(error: Exception) -> str:
    """The first sentence of what an error says, or its class."""
    sentence = re.split(r"\n|(?<=[a-z)\"'])\. ", str(error).strip())[0].rstrip(".")
    return sentence or type(error).__name__
