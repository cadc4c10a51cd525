"""Which guards of Dynamo's a compiled transform needs: not those for what nobody changes, two thirds of them all.

A guard is a question that is asked at every call.  What Dynamo names it after is nothing of torch's API, and told apart
here only: what is not recognised is kept, which costs time and no number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..core.torch_private import PRIVATE


def filtered(adapted: bool) -> dict[str, Callable[[Sequence[Any]], list[bool]]]:
    """The option of ``torch.compile`` that leaves guards out; ``adapted``: of a transform of an adapted module."""
    return {"guard_filter_fn": needed(adapted)}


def needed(adapted: bool) -> Callable[[Sequence[Any]], list[bool]]:
    """Which guards to keep, for each of some.

    Left out is what the modules of this package (but for the rules, which are counted) and the private ones of torch
    consist of, the builtins, and the template, which is frozen.  Of an ``adapted`` module it is the adapter, and how
    its layers are put together, which is part of what a call is remembered by.
    """
    ours = re.compile(f"{_OURS}|{_ADAPTER}" if adapted else _OURS)

    def kept(guards: Sequence[Any]) -> list[bool]:
        modules = _aliases()
        return [
            _of_a_user(guard.name)
            or not (_module_of(guard.name) in modules or ours.search(f"{guard.name} {guard.guard_type}"))
            for guard in guards
        ]

    return kept


def _aliases() -> frozenset[str]:
    """What Dynamo calls the modules whose guards are left out: exactly these, and none that is called alike."""
    package = __name__.partition(".")[0]
    names = [name for name in list(sys.modules) if name == package or name.startswith((f"{package}.", PRIVATE))]
    return frozenset(f"__import_{name.replace('.', '_dot_')}" for name in names)


def _module_of(name: str) -> str | None:
    found = _MODULE.search(name)
    return None if found is None else found[1]


def _of_a_user(name: str) -> bool:
    """Whether it is part of a rule that a user has entered, which this package only keeps."""
    return ".USER_RULES" in name


_MODULE = re.compile(r"G\['(\w+)'\]")
# ``template``, ``plan``, ``f`` and ``_refuse_changed`` are names in the function that ``compiled.py`` compiles.
_OURS = (
    r"__builtins_dict__"
    r"|___unnamed_scope_\d+_c\d+'\](\['_tuple_new'\].*)? \w+$"  # of what makes a named tuple
    r"|^G\['_refuse_changed'\] "
    r"|^(dict\()?(type\()?(template|plan)\b"
)
_ADAPTER = (
    r"^(dict\()?type\(f\)"
    r"|^f(\._layers(\.steps(\[\d+\](\.__closure__\[\d+\]\.cell_contents)?)?)?)? "
    r"|^f\._layers\.modules.*"
    r"( (EMPTY_NN_MODULE_HOOKS_DICT|DICT_KEYS_MATCH|SEQUENCE_LENGTH|TYPE_MATCH)|\[2\]\[\d+\] CONSTANT_MATCH"
    r"|\[3\] CLASS_MATCH|(\[3\]\.forward|\[4\]) CLOSURE_MATCH)$"
    r"|^type\(f\._layers\.modules(\[\d+\]|\._modules\['[^']*'\])*\) "
)
