"""Every Python block of README.md and of the documentation runs, from top to bottom of its page.

A block with prompts (``>>>``) must also print what it shows.
"""

from __future__ import annotations

import doctest
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jacfunc.core import caches

ROOT = Path(__file__).parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
BLOCK = re.compile(r"^(?P<start> *`{3,}) *python\b[^\n]*\n(?P<code>.*?)^(?P=start) *$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCED = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})[^`\n]*\n(?P<code>.*?)^ *(?P=fence) *$", re.MULTILINE | re.DOTALL)
WIDEST = 80
"""Columns that a code block of the site shows without a scrollbar, which would hide the end of a line."""
STILL_WIDE = {"README.md", "index.md", "CONTRIBUTING.md", "partials.md"}


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """The Python blocks of a page and the lines before each."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start("code")), textwrap.dedent(match["code"])


def run_block(page: Path, line: int, code: str, namespace: dict[str, Any]) -> None:
    if not code.lstrip().startswith(">>>"):
        # Empty lines in front make a traceback point to the line of the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(code, namespace, page.name, str(page), line)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    namespace.update(test.globs)
    assert result.failed == 0, "".join(report)


def test_pages_are_found() -> None:
    assert "index.md" in {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    dtype, rules = torch.get_default_dtype(), dict(caches.RULES)
    try:
        for line, code in blocks(page):
            run_block(page, line, code, namespace)
    finally:
        torch.set_default_dtype(dtype)
        caches.RULES.clear()
        caches.RULES.update(rules)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in STILL_WIDE], ids=lambda page: page.name)
def test_no_line_of_a_code_block_needs_a_scrollbar(page: Path) -> None:
    assert too_wide(page) == []


def too_wide(page: Path) -> list[str]:
    """The lines of code blocks, of any language, that are wider than what is shown, with their numbers."""
    text = page.read_text(encoding="utf-8")
    return [
        f"{number}: {line}"
        for match in FENCED.finditer(text)
        for number, line in enumerate(match["code"].splitlines(), text.count("\n", 0, match.start("code")) + 1)
        if len(line) - len(match["indent"]) > WIDEST
    ]


def test_wide_lines_are_found(tmp_path: Path) -> None:
    page, fits = tmp_path / "page.md", "x" * WIDEST
    lines = [
        f"{fits}y",
        "```console",
        fits,
        f"{fits}y",
        "```",
        f"{fits}y",
        "- b",
        "  ```",
        f"  {fits}",
        f"  {fits}y",
        "  ```",
    ]
    page.write_text("\n".join(lines) + "\n", "utf-8")
    assert too_wide(page) == [f"4: {fits}y", f"10:   {fits}y"]


def test_the_layout_names_every_file() -> None:
    table = (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = ROOT / "jacfunc"
    files = {str(file.relative_to(package).as_posix()) for file in package.rglob("*.py")}
    assert set(re.findall(r"^\| `(\S+\.py)` \|", table, re.MULTILINE)) == files


def test_blocks_are_found_with_their_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```python\na = 1\n```\n```text\nno code\n```\n- b\n\n  ```python\n  b = 2\n  ```\n", "utf-8"
    )
    assert list(blocks(page)) == [(3, "a = 1\n"), (11, "b = 2\n")]


def test_a_wrong_output_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Expected"):
        run_block(tmp_path / "page.md", 0, ">>> 1 + 1\n3\n", {})


def test_prompts_share_the_names_of_the_page(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    run_block(tmp_path / "page.md", 0, "a = 1\n", namespace)
    run_block(tmp_path / "page.md", 0, ">>> b = a + 1\n>>> b\n2\n", namespace)
    assert namespace["b"] == 2
