"""The blocks of the guides that need another package, against that package where it is installed.

Such a block is fenced as ``py`` with the package's name.  It runs after the ``python`` blocks before it on its page, which
``test_docs.py`` runs everywhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standins
import torch

from jacfunc import residual

DOCS = Path(__file__).parents[1] / "docs" / "guides"
BLOCK = re.compile(r"^```(?:python|py (?P<package>\w+))\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES = ["deepxde", "neurodiffeq", "physicsnemo"]
EXPORTER_NOT_INSTALLED = "the package is not installed; the same programs are saved, loaded and run without it"
FRAMEWORKS = {"deepxde": "pde", "pina": "inside"}
BESIDE_PLAIN_TORCH = {
    "from-jax.md": ["jax", "folx"],
    "flows.md": ["torchdiffeq", "zuko"],
    "molecules.md": ["torch_geometric", "torchani"],
    "transformers.md": ["transformers"],
    "gaussian-processes.md": ["gpytorch"],
    "sparse.md": ["scipy"],
}
"""Pages that have blocks for these packages beside others of plain torch, which run everywhere."""
NOT_INSTALLED = "the package is not installed; the same equation runs against a stand-in or a plain network"


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page or a package may set for the whole process."""
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


def blocks(page: str, package: str) -> Iterator[str]:
    """All that needs no package, and what needs this one, each with so many empty lines before it as the page has."""
    text = (DOCS / page).read_text(encoding="utf-8")
    count = 0
    for match in BLOCK.finditer(text):
        code = textwrap.dedent(match["code"])
        if match["package"] not in (None, package) or code.startswith(">>>"):
            continue
        count += match["package"] is not None
        yield "\n" * text.count("\n", 0, match.start("code")) + code
    assert count, f"{page} has no block for {package}"


def run(page: str, package: str, exchanged: str | None = None) -> dict[str, Any]:
    """What the page leaves behind; the function ``own`` stands in for one that is ``exchanged``."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for code in blocks(page, package):
        exec(compile(code, page, "exec"), namespace)
        if exchanged in namespace:
            namespace[exchanged] = namespace["own"]
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


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("package", FRAMEWORKS)
def test_training_in_a_framework(package: str) -> None:
    """The script of the guide trains the same network with either equation."""
    pytest.importorskip(package, reason=NOT_INSTALLED)
    ours = run("training-scripts.md", package)
    theirs = run("training-scripts.md", package, exchanged=FRAMEWORKS[package])
    assert ours["burgers"].names and not theirs["burgers"].names  # the second never called it
    tolerance = 1e-8 if package == "deepxde" else 1e-4  # PINA's in float32
    for trained, wanted in zip(ours["net"].parameters(), theirs["net"].parameters(), strict=True):
        torch.testing.assert_close(trained, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("as_before")
@pytest.mark.filterwarnings("ignore:The extensions")  # what TorchANI does without
@pytest.mark.parametrize(
    ("page", "package"), [(page, package) for page, packages in BESIDE_PLAIN_TORCH.items() for package in packages]
)
def test_numbers_beside_the_package(page: str, package: str) -> None:
    """The page itself compares the numbers."""
    pytest.importorskip(package, reason="the package is not installed; the page compares what it can without it")
    run(page, package)


@pytest.mark.slow
def test_compiled(tmp_path: Path) -> None:
    """The page itself compares the numbers; as a script, since Dynamo looks for globals in the module of that name."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(code.lstrip("\n") for code in blocks("from-jax.md", "inductor")), encoding="utf-8")
    subprocess.run([sys.executable, script], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("package", ["onnxruntime", "inductor"])
def test_exported(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page itself compares the numbers."""
    if package == "onnxruntime":
        pytest.importorskip("onnxscript", reason=EXPORTER_NOT_INSTALLED)
        pytest.importorskip(package, reason=EXPORTER_NOT_INSTALLED)
    monkeypatch.chdir(tmp_path)
    run("exporting.md", package)


@pytest.mark.parametrize("late", [False, True])
def test_a_network_as_deepxde_makes_and_treats_it(late: bool) -> None:
    """Transforms in attributes, put there before or after, and an attribute written at every step."""
    torch.manual_seed(0)
    net = standins.FNN([3, 10, 1])
    equation = residual(net, lambda d: d.u_t + d.u * d.u_x - 0.1 * d.u_xx, inputs="x t", outputs="u")
    x = torch.rand(40, 2, dtype=torch.float64)
    if late:
        net.input_transform = lambda x: torch.cat([x, x[:, :1]], 1)
        equation(x)  # looked at with another transform
    net.input_transform = lambda x: torch.cat([x.sin(), x[:, :1].cos()], 1)
    net.output_transform = lambda x, u: (1 - x[:, :1] ** 2) * u
    forwards = []
    net.register_forward_hook(lambda *_: forwards.append(1))
    counts = []
    for step in range(4):
        net.train(step % 2 == 0)
        net.auxiliary_vars = None if step < 2 else torch.rand(40, 1)
        forwards.clear()
        found = equation(x.requires_grad_())
        counts.append(len(forwards))
        u = net(x)
        first = standins.jacobian(u, x)
        wanted = first[:, 1:] + u * first[:, :1] - 0.1 * standins.hessian(u, x)
        weights = list(net.parameters())
        torch.testing.assert_close(found, wanted[:, 0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(found.square().mean(), weights),
            torch.autograd.grad(wanted.square().mean(), weights),
            rtol=1e-9,
            atol=1e-12,
        )
    assert counts[-2:] == [1, 1], counts
