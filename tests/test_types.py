"""What type checkers and editors tell a user: the type of every result, wrong uses, and keywords with their meaning."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

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


# -------------------------------------------------------------------- the calls that all transforms have alike

OF_TREES = """
assert_type(T(net)(x), Tensor)
assert_type(T(f)(params, x), Tensor)
assert_type(T(net, return_value=True)(x), Pair)
assert_type(T(square)(x), Tensor)
assert_type(T(scaled)(2.0, x), Tensor)
assert_type(T(squares)(x), Tree)
assert_type(T(squares, return_value=True)(x), tuple[Tree, Tree])
assert_type(T(with_aux, has_aux=True)(x), tuple[Tensor, Tree])
assert_type(T(with_aux, has_aux=True, return_value=True)(x), tuple[Tensor, Tensor, Tree])
assert_type(T(torch.mul, argnums=(0, 1))(x, x), tuple[Tensor, ...])
"""
GRADIENTS = """
assert_type(T(net, return_gradient=True)(x), Pair)
assert_type(T(net, return_gradient=True, return_value=True)(x), Three)
assert_type(T(square, return_gradient=True)(x), Pair)
assert_type(T(squares, return_gradient=True, return_value=True)(x), tuple[Tree, Tree, Tree])
assert_type(T(with_aux, return_gradient=True, has_aux=True)(x), tuple[Tensor, Tensor, Tree])
assert_type(
    T(with_aux, return_gradient=True, has_aux=True, return_value=True)(x), tuple[Tensor, Tensor, Tensor, Tree]
)
"""
OF_FIELDS = """
assert_type(T(net)(x), Tensor)
assert_type(T(scaled)(2.0, x), Tensor)
assert_type(T(square, return_value=True)(x), Pair)
assert_type(T(with_aux, has_aux=True)(x), tuple[Tensor, Tree])
assert_type(T(with_aux, has_aux=True, return_value=True)(x), tuple[Tensor, Tensor, Tree])
"""
NAMED = """
assert_type(T(scaled, READ, NAMES)(2.0, x), GIVEN)
assert_type(T(net, READ, NAMES)(x), GIVEN)
assert_type(T(torch.stack, READ, NAMES, argnums=0)([x[:, 0], x[:, 1]], 1), GIVEN)
assert_type(T(square, READ, NAMES, return_value=True)(x), tuple[GIVEN, Tensor])
assert_type(T(with_aux, READ, NAMES, has_aux=True)(x), tuple[GIVEN, Tree])
assert_type(T(with_aux, READ, NAMES, has_aux=True, return_value=True)(x), tuple[GIVEN, Tensor, Tree])
"""
LAMBDAS = """
assert_type(T(lambda x: x**2)(x), Tensor)
"""


def everything() -> str:
    """The calls above, of every transform that has them."""
    trees = ("diag_jac", "batch_jac", "hess_diag", "biharmonic", "hessian", "laplacian")
    along = "".join(
        line.replace("x), ", "x, x), ") for line in OF_TREES.splitlines(keepends=True) if "argnums" not in line
    )
    named = NAMED.replace("NAMES", 'inputs="t x", outputs="u v"')
    return "".join(
        [
            *(OF_TREES.replace("T(", f"{name}(") for name in trees),
            *(GRADIENTS.replace("T(", f"{name}(") for name in ("hessian", "laplacian")),
            *(OF_FIELDS.replace("T(", f"{name}(") for name in ("divergence", "curl")),
            re.sub(r"\bT\(", "directional(", along),
            named.replace("T(", "partials(").replace("READ", '"u v_t"').replace("GIVEN", "Derivatives"),
            named.replace("T(", "residual(").replace("READ", "heat").replace("GIVEN", "Tensor"),
        ]
    )


LAMBDAS_OF = ("diag_jac", "batch_jac", "hess_diag", "biharmonic", "hessian", "laplacian", "divergence", "curl")


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_knows_the_type_of_every_result_and_refuses_what_is_wrong(checker, tmp_path) -> None:
    assert len(marked()) > 20
    every = tmp_path / "every.py"
    lines = (ROOT / FILES[0]).read_text() + everything()
    if checker is pyright:  # mypy looks at a lambda before it knows what it is given
        lines += "".join(LAMBDAS.replace("T(", f"{name}(") for name in LAMBDAS_OF)
    every.write_text(lines)
    assert checker(*FILES, str(every)) == marked()


def agrees(value: Any, kind: Any) -> None:
    """That a value is of a type, whose parts are looked at too."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple and parts[-1] is not Ellipsis:
        assert isinstance(value, tuple)
        assert len(value) == len(parts)
        for each, part in zip(value, parts, strict=True):
            agrees(each, part)
    elif origin is dict:
        assert isinstance(value, dict)
        for each in value.values():
            agrees(each, parts[1])
    elif kind is not Any:
        assert isinstance(value, origin or kind)


def test_results_are_what_checkers_are_told(monkeypatch) -> None:
    monkeypatch.setattr(typed_user, "assert_type", agrees)
    typed_user.run()
    exec(everything(), {**vars(typed_user), "assert_type": agrees})


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
