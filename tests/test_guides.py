"""The blocks of the guides that need another package, against that package where it is installed.

Such a block is fenced as ``py`` with the package's name.  It runs after the ``python`` blocks before it on its page, which
``test_docs.py`` runs everywhere.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standins
import torch

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(?:python|py (?P<package>\w+))\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES = ["deepxde", "neurodiffeq", "physicsnemo"]
NOT_INSTALLED = "the package is not installed; the same equation runs against a stand-in or a plain network"


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page or a package may set for the whole process."""
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


def run(page: str, package: str) -> dict[str, Any]:
    """All that needs no package, and what needs this one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for match in BLOCK.finditer(text):
        code = textwrap.dedent(match["code"])
        if match["package"] not in (None, package) or code.startswith(">>>"):
            continue
        count += match["package"] is not None
        line = text.count("\n", 0, match.start("code"))
        exec(compile("\n" * line + code, page, "exec"), namespace)
    assert count, f"{page} has no block for {package}"
    return namespace


def compare(namespace: dict[str, Any]) -> None:
    """The same values, and the same gradients of the parameters."""
    before, after = namespace["before"], namespace["after"]
    assert before.shape == (*after.shape, 1)
    torch.testing.assert_close(after, before[:, 0], rtol=1e-9, atol=1e-12)
    weights = list(namespace["net"].parameters())
    wanted, found = (
        torch.autograd.grad(output.square().mean(), weights, materialize_grads=True) for output in (before, after)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("package", PACKAGES)
def test_before_and_after_beside_a_stand_in(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in standins.modules(package).items():
        monkeypatch.setitem(sys.modules, name, made)
    compare(run("coming-from.md", package))


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("package", PACKAGES)
def test_before_and_after_beside_the_package(package: str) -> None:
    pytest.importorskip(package, reason=NOT_INSTALLED)
    compare(run("coming-from.md", package))


@pytest.mark.usefixtures("as_before")
def test_before_and_after_of_nested_gradients() -> None:
    text = (DOCS / "coming-from.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(code, namespace)
    compare(namespace)
