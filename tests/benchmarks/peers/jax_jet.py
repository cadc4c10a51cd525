"""The step of ``benchmarks.sampled`` in JAX: ``jax.experimental.jet`` along sampled coordinates, under ``jit``; prints JSON."""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet

POINTS, WIDTH, COORDINATES, STEPS = 100, 128, 16, 15


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def highest() -> float:
    told = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert told is not None
    return int(told[1]) / 1024


def main(dimensions: int) -> None:
    key = jax.random.PRNGKey(0)
    sizes = (dimensions, WIDTH, WIDTH, WIDTH, 1)
    params = []
    for pair in itertools.pairwise(sizes):
        key, own = jax.random.split(key)
        params.append((jax.random.uniform(own, pair, minval=-1, maxval=1) / pair[0] ** 0.5, jnp.zeros(pair[1])))
    x = jax.random.normal(key, (POINTS, dimensions)) * 0.7 / dimensions**0.5

    def u(params: Any, x: Any) -> Any:
        hidden = x
        for weight, bias in params[:-1]:
            hidden = jnp.tanh(hidden @ weight + bias)
        weight, bias = params[-1]
        return (1 - jnp.sum(x**2)) * (hidden @ weight + bias)[0]

    def second(params: Any, x: Any, place: Any) -> Any:
        v = jnp.zeros(dimensions).at[place].set(1.0)
        _, (_, found) = jet.jet(lambda x: u(params, x), (x,), ((v, jnp.zeros(dimensions)),))
        return found

    def loss(params: Any, key: Any) -> Any:
        places = jax.random.choice(key, dimensions, (COORDINATES,), replace=False)
        each = jax.vmap(lambda x: jax.vmap(lambda place: second(params, x, place))(places).sum())(x)
        value = jax.vmap(lambda x: u(params, x))(x)
        return jnp.mean((each * dimensions / COORDINATES + jnp.sin(value)) ** 2)

    def step(state: Any, key: Any) -> Any:
        params, first, squares, count = state
        gradients = jax.grad(loss)(params, key)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        squares = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, squares, gradients)
        count = count + 1

        def moved(p: Any, m: Any, s: Any) -> Any:
            return p - 1e-3 * (m / (1 - 0.9**count)) / (jnp.sqrt(s / (1 - 0.999**count)) + 1e-8)

        return jax.tree.map(moved, params, first, squares), first, squares, count

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
    jax.block_until_ready(state)
    before, times, whole, between = resident(), [], 0.0, 0.0
    compiled = jax.jit(step, donate_argnums=0)
    for number in range(STEPS + 5):
        key, own = jax.random.split(key)
        if number == 5:
            whole, between = highest(), resident()
            Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        state = jax.block_until_ready(compiled(state, own))
        if number >= 5:
            times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"ms": statistics.median(times), "MB": whole - before, "step MB": highest() - between}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
