"""The folders of ``jacfunc/``: what is in one imports from those below it only, and no two modules need each other."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import jacfunc

ROOT = Path(jacfunc.__file__).parent
FOLDERS = ("core", "evaluation", "jet", "modules", "routes", "call", "structure", "api", "nn", "training", "estimate")
"""From the bottom to the top; each has a sentence in its ``__init__.py``."""
BELOW = ("errors", "keywords", "options")
"""Modules beside the folders that all of them may import; whatever else is there is above them."""
PACKAGES = {path.parent.relative_to(ROOT).parts for path in ROOT.rglob("__init__.py")}
MODULES = {
    path.relative_to(ROOT).with_suffix("").parts: path for path in ROOT.rglob("*.py") if path.name != "__init__.py"
} | {package: ROOT.joinpath(*package, "__init__.py") for package in PACKAGES}


def imported(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The modules of this package that one imports, at its head or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            around = module if module in PACKAGES else module[:-1]
            below = node.module.split(".") if node.module else ()
            start = (*around[: len(around) - node.level + 1], *below)
            found |= {(*start, alias.name) if (*start, alias.name) in MODULES else start for alias in node.names}
    return found


def floor(module: tuple[str, ...]) -> int:
    if module[:1] in {(name,) for name in BELOW}:
        return -1
    return FOLDERS.index(module[0]) if module and module[0] in FOLDERS else len(FOLDERS)


@pytest.mark.parametrize("module", sorted(MODULES), ids=".".join)
def test_imports_go_down(module):
    higher = {".".join(other) for other in imported(module) if floor(other) > floor(module)}
    assert not higher


def test_no_two_modules_need_each_other():
    graph = {module: imported(module) - {module} for module in MODULES}
    assert tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", sorted(MODULES), ids=".".join)
def test_a_module_is_read_at_one_sitting(module):
    lines = MODULES[module].read_text().splitlines()
    assert len(lines) <= LONGEST


LONGEST = 400


def written(source):
    """The attributes that are written of something other than ``self``, as they are written."""
    targets = []
    for node in ast.walk(ast.parse(source)):
        targets += node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
    found = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Attribute)]
    return {
        ast.unparse(node) for node in found if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) != "self"
    }


def test_what_passes_from_room_to_room_is_written_by_none_of_them():
    """Requests, plans, findings and modes: only torch, the caches and functions made on the spot are written to."""
    for module, path in MODULES.items():
        if module[:1] in {("call",), ("routes",)}:
            assert {name for name in written(path.read_text()) if name not in WRITTEN} == set(), module
    assert written("plan.settled = True; self.x = 1; a, request.plan = 1, 2") == {"plan.settled", "request.plan"}


WRITTEN = {
    "call.__code__",  # of a function made there
    "call.scopes",
    "call.writes",
    "call.programs",
    "_refuse_changed._dynamo_marked_constant",
    "caches.TOOLCHAIN.asked",
    "caches.TOOLCHAIN.thread",
    "settled.only",
    "propagation.alive",  # what travels with the jets
    "propagation.origin",
    "propagation.whole",
    "propagation.hot",
    "propagation.parted",
    "propagation.recorder",
    "outer.coarsest",
}


def test_every_folder_says_what_lives_there():
    for package in PACKAGES:
        assert ast.get_docstring(ast.parse(MODULES[package].read_text())), package


def test_the_check_sees_an_import_that_goes_up(monkeypatch, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from ..api import transforms\n    from ..call.run import run\n")
    monkeypatch.setitem(MODULES, ("core", "wrong"), wrong)
    with pytest.raises(AssertionError, match="transforms"):
        test_imports_go_down(("core", "wrong"))
    assert imported(("core", "wrong")) == {("api", "transforms"), ("call", "run")}
