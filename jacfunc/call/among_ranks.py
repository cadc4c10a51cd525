"""What a function must not have in it where several processes work together, and who is warned: asked at a look.

Which modules these are is in ``modules/wrappers.py``.  A call that is known was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..core import trees
from ..core.meshes import DTENSOR, MODULES, is_meshed, told
from ..errors import ArgumentTypeError
from ..modules.strangers import refuse_strangers
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
    if DTENSOR in MODULES:
        _refuse_cut_parameters(request)
    _warn(request)


def judge(request: Request, results: Mapping[Any, Any]) -> None:
    """Refuse results of a function that was looked at which train what a wrapper around does not know."""
    if request.within is None:
        refuse_strangers(list(results.values()), request.leaves, request.function)


def _refuse_cut_parameters(request: Request) -> None:
    """Refuse tensor parallel weights: ranks add up within the forward, where they differentiate at other directions."""
    for module in (*request.fingerprint.modules, *request.fingerprint.hidden):
        for name, parameter in module.named_parameters():
            if is_meshed(parameter) and not _is_whole(parameter):
                raise ArgumentTypeError(
                    f"the parameter {name!r} of {type(module).__name__}, which f uses, is {told(parameter)}, and no "
                    "derivative goes through a forward in which ranks exchange numbers (tensor parallel); keep the "
                    "parameters whole, and cut the points (DistributedDataParallel) or, between steps, the parameters "
                    "(fully_shard) of jacfunc.nn.Equation(net, ...)"
                )


def _is_whole(tensor: Any) -> bool:
    return all(placement.is_replicate() for placement in tensor.placements)


def _warn(request: Request) -> None:
    held = (parameter for module in request.fingerprint.tree() for parameter in module._parameters.values())
    warn_of_own_gradients(lambda: [*trees.tensors((request.beside(request.args), request.kwargs)), *held])
