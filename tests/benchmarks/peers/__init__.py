"""Who competes with jacfunc: a file for each family, and here the list of all of them."""

from __future__ import annotations

from pathlib import Path

from ..contender import Contender
from ..ours import CONTENDERS, FORWARD, METHODS
from . import deepxde, hand, jax, omnibias, torch_func


def contenders(second: Path | None = None) -> list[Contender]:
    """Everyone, ours first; ``second`` is the Python of the environment that has JAX."""
    torch_peers = [*torch_func.CONTENDERS, *hand.CONTENDERS, *deepxde.CONTENDERS, *omnibias.CONTENDERS]
    return [*CONTENDERS, *METHODS, FORWARD, *torch_peers, *jax.contenders(second)]
