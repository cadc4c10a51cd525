"""The networks of ``networks.py`` once more for JAX: functions of one sample ``(d,)``, from weights by their torch names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Weights = dict[str, Any]
Activation = Callable[[Any], Any]


def linear(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}weight"].T + w[f"{name}bias"]


def dense(w: Weights, prefix: str, x: Any, activation: Activation) -> Any:
    """Linear layers at every other place, as in an ``nn.Sequential``."""
    places = sorted({int(name[len(prefix) :].split(".")[0]) for name in w if name.startswith(prefix)})
    for place in places[:-1]:
        x = activation(linear(w, f"{prefix}{place}.", x))
    return linear(w, f"{prefix}{places[-1]}.", x)


def tanh(w: Weights, x: Any) -> Any:
    return dense(w, "", x, jnp.tanh)


def siren(w: Weights, x: Any) -> Any:
    return dense(w, "", x, jnp.sin)


def silu(w: Weights, x: Any) -> Any:
    return dense(w, "", x, jax.nn.silu)


def softplus(w: Weights, x: Any) -> Any:
    return dense(w, "", x, jax.nn.softplus)


def slater(w: Weights, x: Any) -> Any:
    x = x.reshape(10, 3)
    envelope = jnp.exp(-0.5 * (x**2).sum(-1, keepdims=True))
    return jnp.linalg.slogdet(dense(w, "orbitals.", x, jnp.tanh) * envelope)[1][None]


def norm(w: Weights, name: str, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}weight"] + w[f"{name}bias"]


def attention(w: Weights, name: str, x: Any, heads: int) -> Any:
    tokens, width = x.shape
    qkv = x @ w[f"{name}in_proj_weight"].T + w[f"{name}in_proj_bias"]
    q, k, v = (part.reshape(tokens, heads, width // heads) for part in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("qhd,khd->hqk", q, k) / jnp.sqrt(jnp.asarray(width // heads, x.dtype))
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores, axis=-1), v).reshape(tokens, width)
    return linear(w, f"{name}out_proj.", mixed)


def exact_gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def particles(w: Weights, x: Any) -> Any:
    h = linear(w, "embed.", x.reshape(16, 3))
    for number in range(2):
        at = f"encoder.layers.{number}."
        h = h + attention(w, f"{at}self_attn.", norm(w, f"{at}norm1.", h), 4)
        h = h + linear(w, f"{at}linear2.", exact_gelu(linear(w, f"{at}linear1.", norm(w, f"{at}norm2.", h))))
    return linear(w, "head.", h.mean(0))


def transformer(w: Weights, x: Any) -> Any:
    h = linear(w, "embed.", x.reshape(8, 4))
    h = norm(w, "layer.norm1.", h + attention(w, "layer.self_attn.", h, 4))
    h = norm(w, "layer.norm2.", h + linear(w, "layer.linear2.", jax.nn.relu(linear(w, "layer.linear1.", h))))
    return linear(w, "head.", h).reshape(-1)


def convolutions(w: Weights, x: Any) -> Any:
    h = x.reshape(1, 1, 16, 16)
    for place in (0, 2, 4):
        h = jax.lax.conv(h, w[f"{place}.weight"], (1, 1), "SAME") + w[f"{place}.bias"][None, :, None, None]
        h = jax.nn.silu(h) if place < 4 else h
    return h.reshape(-1)


def blocks(w: Weights, x: Any) -> Any:
    h = linear(w, "0.", x)
    for number in (1, 2, 3):
        h = h + linear(w, f"{number}.outer.", exact_gelu(linear(w, f"{number}.inner.", norm(w, f"{number}.norm.", h))))
    return linear(w, "4.", h)


def gated(w: Weights, x: Any) -> Any:
    angles = x @ w["frequencies"]
    h = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    u, v = jnp.tanh(linear(w, "u.", h)), jnp.tanh(linear(w, "v.", h))
    for number in range(4):
        z = jnp.tanh(linear(w, f"layers.{number}.", h))
        h = z * u + (1 - z) * v
    return linear(w, "head.", h)


def deeponet(w: Weights, x: Any) -> Any:
    return dense(w, "branch.", w["sensors"], jnp.tanh) @ dense(w, "trunk.", x, jnp.tanh)


def gru(w: Weights, x: Any) -> Any:
    def step(h: Any, row: Any) -> tuple[Any, None]:
        of_input = w["layer.weight_ih_l0"] @ row + w["layer.bias_ih_l0"]
        of_state = w["layer.weight_hh_l0"] @ h + w["layer.bias_hh_l0"]
        (a, b, c), (d, e, f) = jnp.split(of_input, 3), jnp.split(of_state, 3)
        reset, keep = jax.nn.sigmoid(a + d), jax.nn.sigmoid(b + e)
        return (1 - keep) * jnp.tanh(c + reset * f) + keep * h, None

    last, _ = jax.lax.scan(step, jnp.zeros(32, x.dtype), x.reshape(8, 4))
    return linear(w, "head.", last)


def radial(w: Weights, x: Any) -> Any:
    distances = ((x - w["centres"]) ** 2).sum(-1)
    return linear(w, "head.", jnp.exp(-jnp.exp(w["logarithms"]) * distances))


def messages(w: Weights, x: Any) -> Any:
    """All pairs of nodes in two axes, with the diagonal, which is no edge, left out of the sums."""
    x, h = x.reshape(6, 3), w["kind"]
    distances = ((x[:, None] - x[None]) ** 2).sum(-1, keepdims=True)
    for number in range(2):
        to, of = jnp.broadcast_to(h[:, None], (6, *h.shape)), jnp.broadcast_to(h[None], (6, *h.shape))
        told = dense(w, f"layers.{number}.net.", jnp.concatenate([to, of, distances], -1), jax.nn.silu)
        h = h + (told * (1 - jnp.eye(6, dtype=x.dtype))[..., None]).sum(1)
    return dense(w, "head.", h, jax.nn.silu).sum(0)


NETWORKS: dict[str, Callable[[Weights, Any], Any]] = {
    "": tanh,
    "small": tanh,
    "siren2": siren,
    "slater30": slater,
    "particles48": particles,
    "conv256": convolutions,
    "layernorm10": blocks,
    "flow64": softplus,
    "gated": gated,
    "silu3": silu,
    "double3": tanh,
    "attention32": transformer,
    "deeponet2": deeponet,
    "gru32": gru,
    "rbf2": radial,
    "pyg18": messages,
}
