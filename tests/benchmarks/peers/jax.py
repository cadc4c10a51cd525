"""JAX and folx in the environment that has them: this side of the worker process, which ``jax_worker.py`` is."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import jacfunc._demo.memory

from ..contender import Contender, Running
from ..equations import ALLEN_CAHN
from ..quiet import PAGES_KEPT
from ..workloads import DIAGONAL, DIVERGENCE, FORCES, JACOBIAN, LAPLACIAN, Problem
from .jax_worker import METHODS, Method
from .local import of_one_output

PARTICLES = ("slater30", "particles48")
WORKER = ["-P", str(Path(__file__).with_name("jax_worker.py"))]
"""Without its folder on the path, where this file would be taken for JAX."""


class Remote:
    """One method on one problem, in a process of its own."""

    def __init__(self, python: Path, method: str, problem: Problem) -> None:
        self.folder = tempfile.TemporaryDirectory()
        command = [str(python), *WORKER, jacfunc._demo.memory.__file__]
        pipe, kept = subprocess.PIPE, {**os.environ, **PAGES_KEPT}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=kept)
        try:
            self._ask(do="prepare", method=method, **_told(problem), arrays=self._save(problem))
        except BaseException:
            self.close()
            raise

    def _save(self, problem: Problem) -> str:
        named = {f"{number:03} {name}": array for number, (name, array) in enumerate(problem.net.named_parameters())}
        named |= {f"buffer {name}": array for name, array in problem.net.named_buffers()}
        arrays = {name: array.detach().numpy() for name, array in named.items()}
        file = Path(self.folder.name) / "problem.npz"
        np.savez(file, x=problem.x.flatten(1).numpy(), **arrays)
        return str(file)

    def _ask(self, **question: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ImportError(answer["error"]) if answer["absent"] else RuntimeError(answer["error"])
        return answer["answer"]

    def result(self) -> torch.Tensor:
        file = str(Path(self.folder.name) / "result.npy")
        self._ask(do="result", file=file)
        return torch.from_numpy(np.load(file))

    def times(self, calls: int) -> list[float]:
        return list(self._ask(do="times", calls=calls))

    def growth(self) -> int | None:
        return self._ask(do="growth")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()


def _told(problem: Problem) -> dict[str, str]:
    workload = problem.workload
    return {"network": workload.network, "kind": workload.kind, "part": workload.part}


def _starting(python: Path | None, method: str) -> Callable[[Problem], Running]:
    def start(problem: Problem) -> Running:
        if python is None:
            raise ImportError("no second environment was given, see --peers")
        return Remote(python, method, problem)

    return start


def contenders(python: Path | None) -> list[Contender]:
    """All of them, whether or not there is an environment to run them in: who is absent is reported."""
    kinds = {
        "first": (DIAGONAL, JACOBIAN, DIVERGENCE, FORCES),
        "laplacian": (LAPLACIAN,),
        "sparse": (LAPLACIAN,),
        "residual": (ALLEN_CAHN,),
    }
    found = []
    for name, method in METHODS.items():
        heavy = _cannot(name, method)
        start = _starting(python, name)
        found.append(
            Contender(name, method.family, kinds[method.order], start, compiled=True, common=method.common, heavy=heavy)
        )
    return found


def _cannot(name: str, method: Method) -> Callable[[Problem], str]:
    """Why a method is not tried on a problem."""
    if name == "JAX jit jvp of grad":
        return of_one_output
    if method.order == "sparse":  # no row of a dense network is known to be zero
        return lambda problem: "" if problem.workload.network in PARTICLES else "for particles"
    return lambda problem: ""


def versions(python: Path | None) -> dict[str, str]:
    """Of what is installed there."""
    if python is None:
        return {}
    told = subprocess.run([str(python), *WORKER, "--versions"], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(told))
