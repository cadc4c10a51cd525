"""Docstrings: those of the public functions have every section, those of the rest stand alone where an editor shows them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jacfunc
from jacfunc import errors

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in jacfunc.__all__ if inspect.isfunction(getattr(jacfunc, name))]
SECTIONS = ("Args", "Returns", "Raises", "Example")
WITHOUT = {"clear_caches": {"Args", "Returns", "Raises"}, "explain": set()}
"""Sections that a function has nothing for."""


def sections(text: str) -> dict[str, str]:
    """The sections of a docstring, each without its heading."""
    found = re.split(r"^(Args|Returns|Raises|Warns|Example):\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def missing(function: Any, without: set[str] = frozenset()) -> list[str]:
    """What a docstring lacks: a section, an argument in it, or an error that there is."""
    text = sections(function.__doc__ or "")
    lacking = [section for section in SECTIONS if section not in text and section not in without]
    own = [name for name, kind in parameters(function).items() if kind is not inspect.Parameter.VAR_KEYWORD]
    described = re.findall(r"^    \**(\w+):", text.get("Args", ""), re.MULTILINE)
    lacking += [name for name in own if name not in described]
    lacking += [name for name in described if name not in (*own, "keywords")]
    raised = re.findall(r"^    (\w+):", text.get("Raises", ""), re.MULTILINE)
    lacking += [name for name in raised if not hasattr(errors, name)]
    return lacking


def parameters(function: Any) -> dict[str, Any]:
    """Those that it is written with, not the shared ones that ``help`` shows."""
    written = inspect.unwrap(function)
    code = written.__code__
    own = inspect.Signature.from_callable(written, follow_wrapped=False).parameters
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    return {name: own[name].kind for name in code.co_varnames[:count] if name in own}


def documented() -> Iterator[tuple[str, str]]:
    """Every docstring of the package, and where it is."""
    for file in sorted((ROOT / "jacfunc").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value.value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_every_section(name: str) -> None:
    assert not missing(getattr(jacfunc, name), WITHOUT.get(name, set()))


def test_a_docstring_stands_alone() -> None:
    found = dict(documented())
    assert len(found) > 1000
    assert not [where for where, text in found.items() if re.match(r"\s*(The same|Like|As above|See)\b", text)]


def test_a_docstring_begins_with_one_line() -> None:
    assert not [where for where, text in documented() if "\n" in text.strip() and text.strip().split("\n")[1].strip()]


def test_what_is_missing_is_found() -> None:
    def of(a: int, *, b: int = 0) -> int:
        """One line.

        Args:
            a: a number.
            c: another that is not there.

        Raises:
            ShapeError: at times.
            NoSuchError: never.
        """
        return a + b

    assert missing(of) == ["Returns", "Example", "b", "c", "NoSuchError"]
    assert missing(of, {"Returns", "Example"}) == ["b", "c", "NoSuchError"]


def test_examples_fit_beside_the_menu_of_the_site() -> None:
    """Lines of at most 80 columns, as in the code blocks of the pages."""
    wide = [
        f"{where}: {line.strip()}"
        for where, text in documented()
        for line in text.splitlines()
        if line.strip().startswith((">>>", "...")) and len(line.strip()) > 80
    ]
    assert not wide
