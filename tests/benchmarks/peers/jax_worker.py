"""The process that runs JAX and folx, asked in lines of JSON.  It runs in an environment without torch or jacfunc.

Started as ``python jax_worker.py FILE`` where FILE is ``jacfunc/_demo/memory.py``, which needs nothing but Python.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Function = Callable[[Any], Any]
NETWORKS = str(Path(__file__).with_name("jax_networks.py"))


@dataclass(frozen=True)
class Method:
    """``make`` turns the function of one sample into its derivative; ``common``: in sweeps too."""

    family: str
    order: str
    make: Callable[[Function], Function]
    common: bool = False


def _jacfwd(f: Function) -> Function:
    import jax

    return jax.jacfwd(f)


def _jacrev(f: Function) -> Function:
    import jax

    return jax.jacrev(f)


def _hessian(f: Function) -> Function:
    import jax
    import jax.numpy as jnp

    return lambda x: jnp.trace(jax.hessian(f)(x), axis1=-2, axis2=-1)


def _nested_jvp(f: Function) -> Function:
    import jax
    import jax.numpy as jnp

    def laplacian(x: Any) -> Any:
        def second(row: Any) -> Any:
            return jax.jvp(lambda x: jax.jvp(f, (x,), (row,))[1], (x,), (row,))[1]

        return jax.vmap(second)(jnp.eye(x.size)).sum(0)

    return laplacian


def _jvp_of_grad(f: Function) -> Function:
    import jax
    import jax.numpy as jnp

    gradient = jax.grad(lambda x: f(x).sum())

    def laplacian(x: Any) -> Any:
        def second(row: Any) -> Any:
            return jnp.vdot(jax.jvp(gradient, (x,), (row,))[1], row)

        return jax.vmap(second)(jnp.eye(x.size)).sum(0, keepdims=True)

    return laplacian


def _folx(f: Function) -> Function:
    import folx

    forward = folx.forward_laplacian(f)
    return lambda x: forward(x).laplacian


def _folx_sparse(f: Function) -> Function:
    """Rows that are known to be zero are not carried, as its documentation advises for particles."""
    import folx

    forward = folx.forward_laplacian(f, sparsity_threshold=0.6)
    return lambda x: forward(x).laplacian


def _allen_cahn(u: Any, u_t: Any, u_xx: Any) -> Any:
    return u_t - 0.0001 * u_xx + 5 * (u**3 - u)


def _residual_by_jvp(f: Function) -> Function:
    import jax
    import jax.numpy as jnp

    def residual(x: Any) -> Any:
        by_t, by_x = jnp.eye(2, dtype=x.dtype)
        u_t = jax.jvp(f, (x,), (by_t,))[1]
        u_xx = jax.jvp(lambda x: jax.jvp(f, (x,), (by_x,))[1], (x,), (by_x,))[1]
        return _allen_cahn(f(x), u_t, u_xx)

    return residual


def _residual_by_grad(f: Function) -> Function:
    import jax
    import jax.numpy as jnp

    gradient = jax.value_and_grad(lambda x: f(x).sum())

    def residual(x: Any) -> Any:
        (u, first), (_, second) = jax.jvp(gradient, (x,), (jnp.eye(2, dtype=x.dtype)[1],))
        return _allen_cahn(u, first[0], second[1])[None]

    return residual


def _residual_by_jet(f: Function) -> Function:
    import jax
    import jax.numpy as jnp
    from jax.experimental.jet import jet

    def residual(x: Any) -> Any:
        by_t, by_x = jnp.eye(2, dtype=x.dtype)
        u, (_, u_xx) = jet(f, (x,), ((by_x, jnp.zeros_like(x)),))
        return _allen_cahn(u, jax.jvp(f, (x,), (by_t,))[1], u_xx)

    return residual


METHODS = {
    "JAX jit(vmap(jacfwd))": Method("JAX", "first", _jacfwd),
    "JAX jit(vmap(jacrev))": Method("JAX", "first", _jacrev),
    "JAX jit nested jvp": Method("JAX", "laplacian", _nested_jvp, common=True),
    "JAX jit jvp of grad": Method("JAX", "laplacian", _jvp_of_grad),
    "JAX jit(vmap(hessian))": Method("JAX", "laplacian", _hessian),
    "folx jit": Method("folx", "laplacian", _folx, common=True),
    "folx jit, sparse": Method("folx", "sparse", _folx_sparse),
    "JAX jit nested jvp, residual": Method("JAX", "residual", _residual_by_jvp),
    "JAX jit jvp of grad, residual": Method("JAX", "residual", _residual_by_grad),
    "JAX jit jet": Method("JAX", "residual", _residual_by_jet),
}


# -------------------------------------------------------------------- one problem


class Problem:
    """The same network on the same numbers as in the process that asks."""

    def __init__(self, method: str, network: str, kind: str, part: str, arrays: str) -> None:
        import jax
        import jax.numpy as jnp
        import numpy as np

        loaded = np.load(arrays)
        jax.config.update("jax_enable_x64", loaded["x"].dtype == np.float64)
        self.x = jnp.asarray(loaded["x"])
        # Parameters are numbered as torch has them, "000 layer.weight", because all their gradients are told in this order.
        keys = sorted(key for key in loaded.files if key[0].isdigit())
        self.parameters = [jnp.asarray(loaded[key]) for key in keys]
        names = [key.partition(" ")[2] for key in keys]
        buffers = {key.partition(" ")[2]: jnp.asarray(loaded[key]) for key in loaded.files if key.startswith("buffer ")}
        make, function = METHODS[method].make, _loaded(NETWORKS).NETWORKS[network]

        def derivative(parameters: list[Any], x: Any) -> Any:
            weights = {**buffers, **dict(zip(names, parameters, strict=True))}
            return _entries(kind, jax.vmap(make(lambda sample: function(weights, sample)))(x))

        def loss(parameters: list[Any], x: Any) -> Any:
            return (derivative(parameters, x) ** 2).mean()

        self.jitted = jax.jit(jax.grad(loss) if part == "gradient" else derivative)

    def call(self) -> Any:
        import jax

        return jax.block_until_ready(self.jitted(self.parameters, self.x))

    def result(self, file: str) -> None:
        import numpy as np

        found = self.call()
        parts = [np.ravel(part) for part in found] if isinstance(found, list) else [found]
        np.save(file, np.concatenate(parts))

    def times(self, calls: int) -> list[float]:
        clock = time.process_time if os.environ.get("BENCHMARK_BY_PROCESSOR") else time.perf_counter
        found = []
        for _ in range(calls):
            start = clock()
            self.call()
            found.append(clock() - start)
        return found

    def growth(self, memory: Any) -> int | None:
        self.call()
        return memory.growth(self.call)


def _entries(kind: str, found: Any) -> Any:
    """Those entries that are asked for, of the samples' Jacobians or of what is whole already."""
    import jax.numpy as jnp

    match kind:
        case "diagonal":
            return found[..., 0] if found.shape[-1] == 1 else jnp.diagonal(found, axis1=1, axis2=2)
        case "divergence":
            return jnp.trace(found, axis1=1, axis2=2)
        case "forces":
            return found[:, 0]
    return found


# -------------------------------------------------------------------- questions and answers


def _serve(memory: Any) -> None:
    problem: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: Any = None
        try:
            match question.pop("do"):
                case "prepare":
                    problem = Problem(**question)
                case "result":
                    problem.result(**question)
                case "times":
                    answer = problem.times(**question)
                case "growth":
                    answer = problem.growth(memory)
            told = {"answer": answer}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}", "absent": isinstance(error, ImportError)}
        print(json.dumps(told), flush=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jax", "jaxlib", "folx"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _loaded(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if sys.argv[1] == "--versions":
        print(json.dumps(_versions()))
    else:
        _serve(_loaded(sys.argv[1]))
