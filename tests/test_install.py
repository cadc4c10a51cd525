"""The wheel, the source distribution and an editable install: what is in them, and that they work from any folder."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hatchling
import numpy
import optree
import pytest
import torch

import jacfunc

ROOT = Path(__file__).parents[1]
DEMO = ["-m", "jacfunc", "--samples", "5", "--outputs", "7", "--width", "3", "--calls", "2", "--no-memory", "--json"]
FOLDERS = ("parent", "elsewhere")
"""Where a user may stand: in the folder that holds the clone, which is called ``jacfunc`` too, or in another one."""


def run(command: list[object], folder: Path) -> str:
    """What a command prints; it finds packages where its interpreter has them installed, and nowhere else."""
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, cwd=folder, env=surroundings, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---------------------------------------------------------------- what is built


@dataclass(frozen=True)
class Built:
    """A source distribution of this folder, the files in it, and the wheel that was built of them."""

    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    hatch = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    run([*hatch, "-t", "sdist"], ROOT)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    source = folder / archive.name.removesuffix(".tar.gz")
    run([*hatch, "-t", "wheel"], source)
    (wheel,) = folder.glob("*.whl")
    return Built(source, wheel)


def files(folder: Path, *below: str) -> Iterator[str]:
    """The files of a folder that are no cache, by their paths from ``folder``."""
    for path in folder.joinpath(*below).rglob("*"):
        if path.is_file() and not {"__pycache__", ".ipynb_checkpoints", "_build"} & set(path.parts):
            yield path.relative_to(folder).as_posix()


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    about = f"jacfunc-{jacfunc.__version__}.dist-info"
    metadata = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    names = set(zipfile.ZipFile(built.wheel).namelist())
    assert names == {*files(ROOT, "jacfunc"), *metadata}
    assert "jacfunc/py.typed" in names


def test_the_source_distribution_holds_what_the_test_command_needs(built: Built) -> None:
    names = set(files(built.source))
    folders = ("jacfunc", "tests", "docs", "notebooks")
    beside = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "pyproject.toml", ".ci/run")
    assert {name for folder in folders for name in files(ROOT, folder)} | {*beside} <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {*folders, ".ci"}


def test_the_metadata_says_where_it_comes_from(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        metadata = email.message_from_bytes(wheel.read(f"jacfunc-{jacfunc.__version__}.dist-info/METADATA"))
    assert metadata["Version"] == jacfunc.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    addresses = dict(address.split(", ") for address in metadata.get_all("Project-URL"))
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {jacfunc.__version__}\n" in citation
    assert f"\nrepository-code: {addresses['Source']}\n" in citation
    assert all(address.startswith(addresses["Source"]) for address in addresses.values())


def test_the_hooks_run_the_ruff_of_the_test_command() -> None:
    constrained = set(re.findall(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    hooks = set(re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8")))
    assert hooks == constrained
    assert len(hooks) == 1


# ---------------------------------------------------------------- what is installed


@dataclass(frozen=True)
class Installed:
    """The Python of an environment with jacfunc in it, its ``site-packages``, and the folder where the package lies."""

    python: Path
    site: Path
    package: Path
    folders: Path


def environment(folder: Path) -> tuple[Path, Path]:
    """A new environment that sees what is installed here, but no package that is installed by a ``.pth`` file."""
    venv.create(folder, symlinks=os.name != "nt")
    base = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", base))
    here = {str(Path(str(module.__file__)).parents[1]) for module in (torch, optree, numpy, hatchling)}
    (site / "installed_here.pth").write_text("\n".join(sorted(here)), encoding="utf-8")
    return Path(sysconfig.get_path("scripts", "venv", base)) / "python", site


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp(request.param)
    for name in FOLDERS:
        folder.joinpath(name).mkdir()
    clone = folder / "parent" / "jacfunc"
    shutil.copytree(built.source, clone)
    python, site = environment(folder / "environment")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps"]
    editable = request.param == "editable"
    run([*pip, "--no-build-isolation", "-e", clone] if editable else [*pip, built.wheel], folder)
    return Installed(python, site, (clone if editable else site) / "jacfunc", folder)


@pytest.mark.parametrize("where", FOLDERS)
def test_python_finds_it(installed: Installed, where: str) -> None:
    asked = "import importlib.util; print(importlib.util.find_spec('jacfunc').origin)"
    found = run([installed.python, "-c", asked], installed.folders / where).strip()
    assert Path(found) == installed.package / "__init__.py"


@pytest.mark.parametrize("where", FOLDERS)
def test_a_type_checker_finds_it_and_its_types(installed: Installed, where: str) -> None:
    settings = installed.folders / "mypy.ini"  # what torch's own types are is not asked, which would take a minute
    settings.write_text("[mypy]\n[mypy-torch.*,numpy.*,optree.*]\nfollow_imports = skip\n", encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", installed.folders / "cache"]
    asked = "import jacfunc\nreveal_type(jacfunc.clear_caches)"
    told = run([*mypy, "--python-executable", installed.python, "-c", asked], installed.folders / where)
    assert 'Revealed type is "def ()"' in told


def test_other_type_checkers_find_it(installed: Installed) -> None:
    """As pyright does, they read the paths in a ``.pth`` file and run no code of it."""
    lines = [line for path in installed.site.glob("*.pth") for line in path.read_text(encoding="utf-8").split("\n")]
    assert all(Path(line).is_dir() for line in lines if line), lines


def test_the_example_runs(installed: Installed) -> None:
    assert json.loads(run([installed.python, *DEMO], installed.folders / "parent"))["passed"]
