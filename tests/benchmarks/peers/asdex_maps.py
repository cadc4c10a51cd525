"""The maps of ``benchmarks.sparse`` in JAX, their patterns and values by asdex: a script, which prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import asdex
import jax
import jax.numpy as jnp
import numpy as np

RANDOM = np.random.default_rng(0)
WEIGHTS = [jnp.asarray(RANDOM.normal(size=size), jnp.float32) for size in ((8, 1, 3, 3), (1, 8, 3, 3))]


def reaction_diffusion(flat: Any) -> Any:
    u = flat.reshape(256, 256)
    around = jnp.roll(u, 1, -1) + jnp.roll(u, -1, -1) + jnp.roll(u, 1, -2) + jnp.roll(u, -1, -2)
    return (around - 4 * u + u - u**3).reshape(-1)


def stencil(u: Any) -> Any:
    padded = jnp.pad(u, 1)
    return padded[2:] - 2 * u + padded[:-2] + u**3


def convolutions(flat: Any) -> Any:
    def layer(x: Any, weight: Any) -> Any:
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME")

    return layer(jnp.tanh(layer(flat.reshape(1, 1, 64, 64), WEIGHTS[0])), WEIGHTS[1]).reshape(-1)


MAPS = {
    "reaction-diffusion": (reaction_diffusion, 65_536),
    "stencil": (stencil, 100_000),
    "convolutions": (convolutions, 4_096),
    "elementwise": (lambda u: jnp.sin(u) * u, 65_536),
}


def main(name: str) -> None:
    f, size = MAPS[name]
    x = jnp.asarray(RANDOM.random(size), jnp.float32)
    patterns, calls = [], []
    for _ in range(3):
        jax.clear_caches()
        start = time.perf_counter()
        coloured = asdex.jacobian_coloring(f, x)
        patterns.append(1e3 * (time.perf_counter() - start))
    jacobian = asdex.jacobian_from_coloring(f, coloured)
    values = jax.jit(lambda x: jacobian(x).data)
    for _ in range(5):
        values(x).block_until_ready()
    for _ in range(40):
        start = time.perf_counter()
        values(x).block_until_ready()
        calls.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"colours": coloured.num_colors, "pattern": min(patterns), "values": statistics.median(calls)}))


if __name__ == "__main__":
    main(sys.argv[1])
