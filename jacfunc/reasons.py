"""Why a route failed, in the words of the error that stopped it: what it says, and where in the function it arose."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from torch import nn


def place(error: BaseException) -> str:
    """In which module of the user's the error arose, if in one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "_call_impl"]
    modules = [module for module in found if isinstance(module, nn.Module)]
    if not modules:
        return ""
    path = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    return f" (in the {type(modules[-1]).__name__} {path!r})" if path else f" (in the {type(modules[-1]).__name__})"


def reason(error: Exception) -> str:
    """What an error says, and the higher-order operator (``torch.cond``) that it arose in, if in one."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    operator = next((Path(file).stem for file in files if "_higher_order_ops" in file), None)
    said = first_line(error)
    return said if operator is None else f"torch cannot transform the operator {operator} ({said})"


def first_line(error: Exception) -> str:
    """The first sentence of what an error says, or its class."""
    sentence = re.split(r"\n|(?<=[a-z)\"'])\. ", str(error).strip())[0].rstrip(".")
    return sentence or type(error).__name__
