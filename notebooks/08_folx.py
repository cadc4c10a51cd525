"""The figures of folx in ``08_slater.ipynb``: its wave function once more in JAX, timed in turn with jacfunc.

Run in an environment with torch, jacfunc, nbformat, jax and folx: ``python notebooks/08_folx.py``.  It takes the network
from the notebook, gives its weights to JAX, compares the local energies, and prints the list that the notebook shows.
"""

import importlib.metadata
import os
import statistics
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for both

import folx
import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import torch

ROUNDS, POSITIONS = 11, 200

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

cells = nbformat.read(Path(__file__).with_name("08_slater.ipynb"), as_version=4).cells
sources = [cell.source for cell in cells if cell.cell_type == "code"]
notebook = {}  # the names that its cells define
for source in sources[:3]:  # imports, the kinetic energy, the network
    exec(source, notebook)


def polynomials(r, shells):
    x, y = r[..., 0], r[..., 1]
    return jnp.stack([x**a * y ** (shell - a) for shell in range(shells) for a in range(shell + 1)], -1)


def log_psi(weights, r, shells):
    """Of one position (n, 2), line by line as the notebook's ``LogPsi.forward``."""
    each = shells * (shells + 1) // 2
    square = (r**2).sum(-1, keepdims=True)
    first, second = np.triu_indices(2 * each, 1)  # as numbers that folx can see, for its sparsity
    distance = jnp.linalg.norm(r[first] - r[second], axis=-1)
    signals = jnp.exp(-(distance**2)[..., None] * weights["decay"])
    same, other = jnp.split(weights["hears"] @ signals, 2)
    found = jnp.concatenate([r, square, same, other], -1)
    for layer in (0, 2, 4):
        found = found @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
        found = jnp.tanh(found) if layer < 4 else found
    orbitals = polynomials(r, shells) + found[..., 1:]
    determinants = jnp.linalg.slogdet(orbitals[:each])[1] + jnp.linalg.slogdet(orbitals[each:])[1]
    cusp = weights["slopes"] * distance / (1 + weights["reach"] ** 2 * distance)
    return determinants + found[..., 0].sum() + cusp.sum() - square.sum() / 2


def by_folx(net, shells, sparsity):
    weights = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in net.state_dict().items()}

    def kinetic(weights, r):
        result = folx.forward_laplacian(lambda r: log_psi(weights, r, shells), sparsity)(r)
        gradient = result.jacobian.dense_array
        return -(result.laplacian + (gradient**2).sum()) / 2

    jitted = jax.jit(jax.vmap(kinetic, (None, 0)))
    return lambda r: jax.block_until_ready(jitted(weights, r))


def by_jacfunc(net, **keywords):
    f, params = notebook["make_functional"](net)
    derivatives = notebook["laplacian"](f, return_gradient=True, **keywords)

    def energy(r):
        with torch.no_grad():
            lap, grad = derivatives(params, r)
            return -(lap + grad.square().sum((1, 2))) / 2

    return energy


def compared(shells):
    torch.manual_seed(0)
    net = notebook["LogPsi"](shells)
    torch.nn.init.normal_(net.layers[-1].weight, std=0.1)  # the network takes part
    r = torch.randn(POSITIONS, shells * (shells + 1), 2)
    ways = {
        "jacfunc": (by_jacfunc(net), r),
        "jacfunc, blocks": (by_jacfunc(net, sample_chunk_size="auto"), r),
        "folx, jit": (by_folx(net, shells, 0), jnp.asarray(r.numpy())),
        "folx, jit, sparsity 0.6": (by_folx(net, shells, 0.6), jnp.asarray(r.numpy())),
        "autograd loop": (lambda r: notebook["by_loop"](net, r), r),
    }
    truth = None
    for name, (way, x) in ways.items():
        found = np.asarray(way(x))
        truth = found if truth is None else truth
        difference = np.abs(found / truth - 1).max()
        assert difference < 1e-7, (name, difference)
    times = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (way, x) in ways.items():
            start = time.perf_counter()
            way(x)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


if __name__ == "__main__":
    loop = next(source for source in sources if "def by_loop" in source)
    exec(loop[: loop.index("\nfor ")], notebook)
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "jax", "jaxlib", "folx"))
    print(f"# {versions}, {POSITIONS} positions, medians of {ROUNDS} rounds in ms")
    for shells in (2, 4):
        print(f"{shells * (shells + 1)}: {compared(shells)},", flush=True)
