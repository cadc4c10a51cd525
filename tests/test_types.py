"""What type checkers and editors tell a user: the type of every result, wrong uses, and keywords with their meaning."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typed_user
from language_server import LanguageServer

import jacfunc
from jacfunc import keywords
from jacfunc.options import Options

ROOT = Path(__file__).parents[1]
FILES = ("tests/typed_user.py", "tests/typed_wrong.py")
Errors = set[tuple[str, int]]
"""Files, and lines in them."""


def mypy(*files: str) -> Errors:
    """The lines that mypy refuses."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--no-error-summary", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = re.findall(r"^(\S+?):(\d+): error: ", done.stdout, re.MULTILINE)
    return {(Path(file).name, int(line)) for file, line in found}


def pyright(*files: str) -> Errors:
    """The lines that pyright refuses; each file asks for its strict mode."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = [each for each in json.loads(done.stdout)["generalDiagnostics"] if each["severity"] != "information"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found}


def marked() -> Errors:
    """The lines that are marked as wrong."""
    lines = [(Path(file).name, line) for file in FILES for line in enumerate((ROOT / file).read_text().split("\n"), 1)]
    return {(name, number) for name, (number, text) in lines if text.endswith("# wrong")}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_knows_the_type_of_every_result_and_refuses_what_is_wrong(checker) -> None:
    assert len(marked()) > 20
    assert checker(*FILES) == marked()


def test_what_checkers_are_shown_runs() -> None:
    typed_user.run()


def test_a_type_is_known_for_every_public_function() -> None:
    used = (ROOT / FILES[0]).read_text()
    functions = {name for name in jacfunc.__all__ if inspect.isfunction(getattr(jacfunc, name))}
    assert {name for name in functions if f"{name}(" not in used} == {"clear_caches", "register_rule"}


# -------------------------------------------------------------------- what editors show


def meanings() -> dict[str, set[str]]:
    """What the types of keywords say of each."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(Path(keywords.__file__).read_text())):
        if isinstance(node, ast.ClassDef):
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            for field in fields:
                text = node.body[node.body.index(field) + 1]
                assert isinstance(text, ast.Expr), ast.unparse(field)
                assert isinstance(text.value, ast.Constant), ast.unparse(field)
                found.setdefault(ast.unparse(field.target), set()).add(" ".join(str(text.value.value).split()))
    return found


def test_a_keyword_has_one_meaning_which_the_docstring_tells_too() -> None:
    listed = re.findall(r"- ``(\w+)=(.*?)``: (.*?\.)(?=\s+-|\n\n)", inspect.getdoc(jacfunc.diag_jac) or "", re.DOTALL)
    told = {name: " ".join(text.split()) for name, _, text in listed}
    assert set(told) == set(keywords.Keywords.__annotations__)
    assert {name: eval(default) for name, default, _ in listed} == {name: getattr(Options(), name) for name in told}
    for name, text in told.items():
        assert {each.lower() for each in meanings()[name]} == {text.lower()}, name


SHOWN = """
from jacfunc import laplacian, partials
from torch import Tensor


def f(x: Tensor) -> Tensor:
    return x


laplacian(f, method="taylor", return_value=True)
partials(f, "u", inputs="x", outputs="u", chunk_size=1)
"""


def test_an_editor_shows_every_keyword_and_its_meaning() -> None:
    with LanguageServer(ROOT, SHOWN) as server:
        for name in ("method", "return_value", "chunk_size"):
            (meaning,) = meanings()[name]
            shown = " ".join(server.hover(f"{name}=").replace("`", "").split())
            assert meaning.replace("`", "") in shown, shown
        shown = server.hover("laplacian(")
        assert "The Laplacian of every output" in shown
        assert "-> Transform[tuple[Y@laplacian, Y@laplacian]]" in shown
        for call, own in (("laplacian(", {"segments"}), ("partials(", {"inputs", "outputs", "grid"})):
            signatures = server.signatures(call)
            names = {*keywords.Keywords.__annotations__, "f", *own}
            assert all(names <= set(re.findall(r"(\w+): ", label)) for label in signatures), signatures
