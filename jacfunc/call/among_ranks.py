"""What a function must not have in it where several processes work together, and who is warned: asked at a look.

Which modules these are is in ``modules/wrappers.py``.  A call that is known was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..core import trees
from ..core.meshes import DTENSOR, MODULES
from ..errors import ArgumentTypeError
from ..modules.wrappers import refuse_wrappers, warn_of_own_gradients
from .request import Request

MIXED = "mixed torch.Tensor and DTensor"
"""How torch says that an operation was given both."""


@contextmanager
def looked_at(request: Request) -> Iterator[None]:
    """While the function of a request is looked at, by a plain forward, which may find modules in it."""
    refuse_wrappers(request.fingerprint.tree())
    try:
        yield
    except Exception as error:
        if DTENSOR in MODULES and MIXED in str(error):
            raise ArgumentTypeError(
                "f mixes DTensors with plain tensors; give f DTensors by its arguments only and beside a batch that "
                "is one (distribute_tensor(x, mesh, [Shard(0)]), parameters by make_functional), or plain tensors only "
                "(x.full_tensor()), or, for a module that fully_shard has sharded, compute the derivative inside of "
                "its forward (see jacfunc.nn)"
            ) from error
        raise
    refuse_wrappers(request.fingerprint.hidden)
    _warn(request)


def _warn(request: Request) -> None:
    positions = {argument.position for argument in request.arguments}
    others = [item for place, item in enumerate(request.args) if place not in positions]
    held = (parameter for module in request.fingerprint.tree() for parameter in module._parameters.values())
    warn_of_own_gradients(lambda: [*trees.tensors((others, request.kwargs)), *held])
