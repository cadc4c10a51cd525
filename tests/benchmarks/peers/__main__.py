"""``python -m benchmarks.peers FOLDER`` (from ``tests/``): install the peers, JAX and folx into a new environment there.

DeepXDE and omnibias-torch go into the environment that runs this, which keeps its own torch and NumPy.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = ["deepxde==1.15.0", "omnibias-torch==0.5.0rc1"]
THERE = ["jax", "jaxlib", "folx"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the environment of JAX and folx is made")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name) / "kept.txt"
        # Left to itself, pip may exchange the torch that is measured for another build of gigabytes.
        pins = [f"{package}=={importlib.metadata.version(package)}\n" for package in ("torch", "numpy", "matplotlib")]
        kept.write_text("".join(pins), encoding="utf-8")
        _install(Path(sys.executable), ["--constraint", str(kept), *HERE])
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    _install(python, THERE)
    print(f"python -m benchmarks --peers {python}")


def _install(python: Path, arguments: list[str]) -> None:
    subprocess.run([str(python), "-m", "pip", "install", *arguments], check=True)


if __name__ == "__main__":
    main()
