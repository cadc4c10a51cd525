"""Every Python block of README.md and of the documentation runs, from top to bottom of its page.

A block with prompts (``>>>``) must also print what it shows.
"""

from __future__ import annotations

import doctest
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import jacfunc
from jacfunc.core import caches

ROOT = Path(__file__).parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
BLOCK = re.compile(r"^(?P<start> *`{3,}) *python\b[^\n]*\n(?P<code>.*?)^(?P=start) *$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCED = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})[^`\n]*\n(?P<code>.*?)^ *(?P=fence) *$", re.MULTILINE | re.DOTALL)
WIDEST = 80
"""Columns that a code block of the site shows without a scrollbar, which would hide the end of a line."""


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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


# -------------------------------------------------------------------- the table of the README

CALLS = re.compile(r"^\| [^|]+ \| `(?P<call>[^|]+)` \| (?P<shapes>[^|]+) \|$", re.MULTILINE)
SAMPLES = 7


def calls_by_need() -> list[tuple[str, str]]:
    """The calls of the table, and the shapes that it says."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- which call -->")[2].partition("<!-- end of which call -->")[0]
    return [(match["call"], match["shapes"]) for match in CALLS.finditer(table)]


def functions() -> dict[str, Any]:
    """What the calls of the table are made of, with the sample shapes of input and output of each function."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 400))
    f, params = jacfunc.make_functional(net)
    own = {
        "f": (f, (1,), (400,)),
        "energy": (lambda x: x.sin().prod(dim=1), (3,), ()),
        "v": (lambda x, t: (x * t).sin() * x.sum(dim=1, keepdim=True), (3,), (3,)),
        "u": (lambda tx: tx.sin().prod(dim=1, keepdim=True), (2,), (1,)),
    }
    tensors = {"x": torch.rand(SAMPLES, 3), "t": torch.rand(SAMPLES, 1), "tx": torch.rand(SAMPLES, 2)}
    return {"own": own, "params": params, "direction": torch.ones(2), **tensors}


def test_the_table_has_a_call_for_each_transform() -> None:
    used = {re.match(r"\w+", call)[0] for call, _ in calls_by_need()}
    assert used == {
        *("diag_jac", "batch_jac", "divergence", "laplacian", "hessian", "hess_diag"),
        *("partials", "residual", "directional", "sparse_jac", "estimate"),
    }


@pytest.mark.parametrize(("call", "shapes"), calls_by_need())
def test_every_call_of_the_table_gives_what_it_says(call: str, shapes: str) -> None:
    given = functions()
    own = given.pop("own")
    names = {name: function for name, (function, *_) in own.items()}
    found = eval(call, vars(jacfunc) | given | names)
    name = re.search(r"\((\w+)", call)[1]
    _, taken, returned = own[name]
    entries = math.prod(taken) * math.prod(returned)  # of functions in which every output depends on every input
    sizes = {"N": (SAMPLES,), "*I": taken, "*O": returned, "nnz": (entries,)}
    said = [
        tuple(size for symbol in shape.split(",") if symbol.strip() for size in sizes[symbol.strip()])
        for shape in re.findall(r"`\(([^)]*)\)`", shapes)
    ]
    results = list(found) if "each" in shapes or isinstance(found, tuple) else [found]
    assert [tuple(result.shape) for result in results] == (said * len(results) if "each" in shapes else said)


@pytest.mark.parametrize("shape", ["(N, *O)", "(N,)"])
def test_a_shape_in_the_table_that_is_wrong_would_fail(shape: str) -> None:
    with pytest.raises(AssertionError):
        test_every_call_of_the_table_gives_what_it_says("batch_jac(v, argnums=0)(x, t)", f"`{shape}`")
