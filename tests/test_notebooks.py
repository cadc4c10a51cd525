"""Every notebook runs from top to bottom, and is committed with its outputs.

Those that train run here with few steps; what is committed is the full run, and its printed error is held to a bar.  What
``explain`` showed is what it shows now."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIMEOUT = 300
MAX_BYTES = 400 * 1024
FEW_STEPS = "20"
BARS = {  # of each error that the full run printed in the end
    "02_burgers": [5e-3],
    "03_navier_stokes": [1e-3, 1e-3, 1e-3],  # u, v, p
    "04_beam": [1e-2],
    "05_poisson": [1e-2, 5e-2],  # in 10 and in 100 dimensions
    "06_helmholtz": [1e-2],
    "07_flow": [5e-2, 0.1],  # the likelihood in nats, the score
    "08_slater": [5e-4, 2e-3],  # the energies of two and of six electrons
    "09_deepxde": [1e-2, 3e-2, 2e-2],  # u, v, p
    "10_gray_scott": [3e-2, 1e-2],  # implicit steps, and those extrapolated
    "11_high_dimensions": [1e-2, 1e-2, 1e-2],  # in 100, in 10,000 and in 100,000
    # The score by one probe and by the exact trace; SURE beside the exact one and the truth, the denoiser chosen; a flow
    "12_estimates": [0.12, 0.12, 0.1, 0.1, 2e-2, 2e-3],
}
NEEDS = {
    "09_deepxde": ("deepxde", "test_guides.py runs such an equation against a stand-in"),
    "10_gray_scott": ("scipy", "the sparse Jacobian of such an equation is tested without a solver"),
}
"""Packages that the tests do not install, and what is tested without them."""
FRESH = """%reset -f
import matplotlib, torch
matplotlib.rcdefaults()
torch.set_default_dtype(torch.float32)
"""
"""What one notebook leaves behind in the kernel, undone for the next."""
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|Users|var)/|site-packages|[A-Z]:\\\\")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def has_result(cell: Any) -> bool:
    """Whether the cell shows something; warnings alone may come and go with versions."""
    return any(output.get("name") != "stderr" for output in cell.outputs)


def explained(cell: Any) -> list[Any]:
    """What ``explain`` shows, as text and as a table, where the cell calls it."""
    return [output.data for output in cell.outputs if "explain(" in cell.source and "data" in output]


def printed_by(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def test_notebooks_are_found() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"01_diagonals", *BARS}


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One for all notebooks of a process, for its imports take as long as a run; it starts elsewhere, on one core."""
    around = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    own = {"PYTHONPATH": str(ROOT), "JACFUNC_STEPS": FEW_STEPS, "OMP_NUM_THREADS": "1"}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path_factory.mktemp("kernel")), env={**around, **own})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_committed_with_outputs(path: Path, kernel: KernelManager) -> None:
    needed, without = NEEDS.get(path.stem, ("torch", ""))
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed; {without}")
    committed = nbformat.read(path, as_version=4)
    executed = nbformat.read(path, as_version=4)
    NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FRESH)]), km=kernel).execute()
    NotebookClient(executed, km=kernel, timeout=TIMEOUT).execute()
    for before, after in zip(code_cells(committed), code_cells(executed), strict=True):
        assert has_result(before) == has_result(after), f"run again and commit; the outputs differ in:\n{before.source}"
        assert explained(before) == explained(after), f"run again and commit; the plan is another one:\n{before.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_tidy(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "warnings are committed"
    texts = [str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert not [text for text in texts if MACHINE_PATH.search(text)], "paths of a machine are committed"
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(("stem", "bars"), BARS.items(), ids=BARS)
def test_committed_run_is_full_and_reaches_the_truth(stem: str, bars: list[float]) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    text = "".join(map(printed_by, code_cells(notebook)))
    (steps,) = re.findall(r'os\.environ\.get\("JACFUNC_STEPS", (\d+)\)', notebook.cells[1].source)
    assert "100%" in text, "the progress bar reached its end"
    assert re.search(rf"/{steps} \[|/{int(steps) // 20} \[", text), "few steps are committed, run it in full"
    *_, last = (text for cell in code_cells(notebook) if (text := printed_by(cell)))
    assert "error" in last
    errors = [float(number) for number in re.findall(r"\d\.\de[-+]\d\d", last)]
    assert len(errors) == len(bars)
    for error, bar in zip(errors, bars, strict=True):
        assert error < bar
    plots = [o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert plots, "the solution beside the truth, and the loss"
