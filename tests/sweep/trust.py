"""``python -m sweep.trust`` (from ``tests/``): the networks of ``test_trust.py`` by plain torch.func and by jacfunc.

Each cell is a value and a parameter gradient against finite differences.  Plain torch.func is what its documentation
shows: the function of one sample through ``functional_call``, ``jacfwd`` for diagonals, ``jacrev`` for blocks,
``hessian`` for second derivatives, all under ``vmap``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from differences import TRUTH, along_parameters
from test_trust import NETWORKS, ORDER_TWO, TRANSFORMS, prepared
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap

Tensor = torch.Tensor


def _one(net: torch.nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda params, x: functional_call(net, params, (x[None],))[0]


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _seconds(f: Any, params: Any, x: Tensor) -> Tensor:
    """``(3, 3)``: the second derivative of each output by each input."""
    return _diagonal(hessian(f, argnums=1)(params, x))


def _nested(f: Any, params: Any, x: Tensor) -> Tensor:
    return _diagonal(jacfwd(lambda x: _diagonal(jacfwd(f, argnums=1)(params, x)))(x))


PLAIN: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "diag_jac": lambda f, params, x: _diagonal(jacfwd(f, argnums=1)(params, x)),
    "batch_jac": lambda f, params, x: jacrev(f, argnums=1)(params, x),
    "divergence": lambda f, params, x: _diagonal(jacfwd(f, argnums=1)(params, x)).sum(),
    "hess_diag": _seconds,
    "laplacian": lambda f, params, x: _seconds(f, params, x).sum(-1),
    "nested": _nested,
}


def verdict(compute: Callable[[], Tensor], expected: Tensor, slope: float, setting: Any) -> str:
    """``right``, ``wrong`` or ``raises``."""
    params, directions, weights, tolerance = setting
    try:
        found = compute()
        gradients = torch.autograd.grad((weights * found).sum(), list(params.values()), materialize_grads=True)
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError):
        return "raises"
    scale = max(expected.abs().max().item(), 1e-3)
    value = (found - expected).abs().max().item() <= tolerance * scale
    found_slope = sum((g * d).sum().item() for g, d in zip(gradients, directions.values(), strict=True))
    return "right" if value and abs(found_slope - slope) <= 1e-5 * (abs(slope) + scale) else "wrong"


def both(name: str, quantity: str) -> tuple[str, str]:
    """The verdicts on plain torch.func and on jacfunc."""
    f, params, x = prepared(name)
    expected = TRUTH[quantity](f, params, x)
    weights = torch.randn_like(expected)
    directions = {key: torch.randn_like(p) / math.sqrt(p.numel()) for key, p in params.items()}
    slope = along_parameters(TRUTH[quantity], f, params, directions, x, weights)
    setting = (params, directions, weights, 1e-6 if quantity in ORDER_TWO else 1e-7)
    plain = vmap(lambda x: PLAIN[quantity](_one(f.module), params, x))
    return (
        verdict(lambda: plain(x), expected, slope, setting),
        verdict(lambda: TRANSFORMS[quantity](f)(params, x), expected, slope, setting),
    )


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"| network | {' | '.join(TRUTH)} |")
    print("|---" * (len(TRUTH) + 1) + "|")
    plain: list[str] = []
    ours: list[str] = []
    for name in NETWORKS:
        by_torch, by_jacfunc = zip(*(both(name, quantity) for quantity in TRUTH), strict=True)
        print(f"| {name} | {' | '.join(by_torch)} |", flush=True)
        if set(by_jacfunc) != {"right"}:
            print(f"jacfunc: {', '.join(by_jacfunc)}", flush=True)
        plain += by_torch
        ours += by_jacfunc
    counts = ", ".join(f"{plain.count(kind)} {kind}" for kind in ("right", "wrong", "raises"))
    print(f"\ntorch.func: {counts}, of {len(plain)}; jacfunc: {ours.count('right')} right of {len(ours)}")


if __name__ == "__main__":
    main()
