"""Modules that wrap another one for several processes: refused inside of a derivative, and who is left to warn.

DDP and FSDP reduce the gradients of what goes through their own forward.  A derivative around that forward goes past
it: measured, gradients are those of one rank alone (DDP in the first step, FSDP2 in every one), later steps raise.  The
derivative belongs inside, as ``jacfunc.nn.Equation`` has it.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..core import caches, ranks
from ..core.torch_private import MODULE_CALL
from ..core.warned import warn
from ..errors import ArgumentTypeError, UnreducedGradientsWarning

PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)
FSDP = "torch.distributed.fsdp"
"""The module that has the classes of FSDP, if anybody loaded it."""
CLASSES = ("FullyShardedDataParallel", "FSDPModule")


def kinds() -> tuple[type[nn.Module], ...]:
    """The classes of modules that wrap others for several processes or devices."""
    return (*PARALLEL, *of_fsdp(*CLASSES))


def of_fsdp(*names: str) -> tuple[type[nn.Module], ...]:
    """Classes of FSDP by their names; none where nobody loaded it."""
    module = sys.modules.get(FSDP)
    return () if module is None else tuple([getattr(module, name) for name in names])


def refuse_wrapper(module: Any, what: str) -> None:
    """Refuse a module that is a wrapper, or has one below it, as what is differentiated."""
    if isinstance(module, kinds()):
        raise ArgumentTypeError(f"{what} is {_told(module)}{_way_out(module)}")
    for name, child in module.named_modules():
        if isinstance(child, kinds()):
            raise ArgumentTypeError(f"the submodule {name!r} of {what} is {_told(child)}{_way_out(child)}")


def refuse_wrappers(modules: Iterable[nn.Module]) -> None:
    """Refuse wrappers among the modules of a function, but for those whose forward it is called in."""
    wrapping = [module for module in modules if isinstance(module, kinds())]
    around = [id(module) for module, _ in _running()] if wrapping else []
    for module in wrapping:
        if id(module) not in around:  # else it is there for what f is written in, as self
            raise ArgumentTypeError(f"f uses {_told(module)}{_way_out(module)}")


def warn_of_own_gradients(tensors: Callable[[], Iterable[Any]]) -> None:
    """Warn, once in a process, where parameters are differentiated of which no wrapper adds up the gradients.

    Asked at the first look at a function only, and where there is one process nothing is asked.
    """
    if caches.WARNED.gradients or ranks.count() == 1 or not torch.is_grad_enabled():
        return
    if not any(isinstance(each, torch.Tensor) and each.requires_grad and each.is_leaf for each in tensors()):
        return
    if caches.ACCUMULATING.now or caches.ACCUMULATING.warned or inside_wrapper():
        return
    caches.WARNED.gradients = True
    warn(
        f"parameters are differentiated on one of {ranks.count()} ranks outside of the forward of any wrapper, so "
        "their gradients will be of this rank's own samples, and nobody adds them up; put the derivative inside, "
        "DistributedDataParallel(jacfunc.nn.Equation(net, ...)), or add them up by hand (torch.distributed.all_reduce) "
        "and filter this warning",
        UnreducedGradientsWarning,
    )


def inside_wrapper() -> bool:
    """Whether this runs in the forward of a wrapper, which reduces the gradients of what is computed there."""
    return any(not isinstance(module, nn.DataParallel) for module, _ in _running())


def running() -> list[nn.Module]:
    """The wrappers in whose forward this runs, innermost first."""
    # DataParallel reduces for the devices of its own process.
    found = {id(module): module for module, _ in _running() if not isinstance(module, nn.DataParallel)}
    return list(found.values())


def kind_of(wrapper: nn.Module) -> str:
    """What a sentence calls a wrapper."""
    return "fully_shard" if isinstance(wrapper, of_fsdp("FSDPModule")) else type(wrapper).__name__


def inputs_of_wrappers() -> list[Any]:
    """What these were called with, as far as a frame of torch's has it."""
    found = []
    for _, frame in _running():
        if frame.f_code.co_name == MODULE_CALL:
            found += [frame.f_locals.get("args"), frame.f_locals.get("kwargs")]
    return found


_WAY_OUT = (
    ", which adds up gradients of its own forward only, and a derivative goes around that; put the derivative inside, "
    "as in DistributedDataParallel(Equation(net, ...)) (see jacfunc.nn)"
)
_WHOLE = (
    ", which gathers and frees its parameters while f is differentiated; shard the module that computes the derivative "
    "as one, as in fully_shard(Equation(net, ...)) (see jacfunc.nn), and nothing inside of it"
)


def _way_out(module: Any) -> str:
    return _WAY_OUT if isinstance(module, PARALLEL) else _WHOLE


def _told(module: Any) -> str:
    name = type(module).__name__
    return f"{name}, a module of fully_shard" if isinstance(module, of_fsdp("FSDPModule")) else f"a {name}"


def _running() -> Iterator[tuple[nn.Module, types.FrameType]]:
    """The wrappers whose forward this thread is in, innermost first: those that are ``self`` of a frame around."""
    classes, frame = kinds(), inspect.currentframe()
    while frame is not None:
        # Without the locals of all frames, which are copied: a method's first argument is its self.
        if frame.f_code.co_argcount and frame.f_code.co_varnames[0] == "self":
            own = frame.f_locals.get("self")
            if isinstance(own, classes):
                yield own, frame
        frame = frame.f_back
