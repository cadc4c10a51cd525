"""Trained tensors that take part in a derivative and whose gradients no wrapper adds up, as no parameters of it.

DDP and FSDP reduce the gradients of the parameters of the module that they wrap.  A coefficient that an equation only
closes over is none of them: each rank would train one of its own.  Which tensors get a gradient is told by autograd's
graph of a result, wherever the function has them from.  Asked at a look, and where there are several processes only.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..core import caches, ranks, trees
from ..core.graphs import leaves
from ..core.levels import compiling, inside_transform
from ..core.torch_private import AFTER_HOOKS, GRADIENT_HOOKS, sharded_groups, unsharded
from ..core.warned import warn
from ..errors import ArgumentTypeError, UnreducedGradientsWarning
from .fingerprint import Fingerprint
from .wrappers import inputs_of_wrappers, kind_of, kinds, of_fsdp, running

Tensor = torch.Tensor


def refuse_strangers(result: Any, given: Any, function: Callable[..., Any]) -> None:
    """Inside a wrapper, refuse a result that trains parameters which the wrapper does not know, or warn of them.

    ``given`` are the arguments of what was computed: what is behind them is not the wrapper's, as points that are
    trained.  ``function`` is what the result is of; a wrapper in it reduces gradients of its own.
    """
    if ranks.count() == 1 or not torch.is_grad_enabled() or compiling() or inside_transform():
        return
    if caches.ACCUMULATING.now:  # which adds up whatever its losses train, or refuses
        return
    around = running()
    if not around:
        return
    outside = trees.tensors((given, inputs_of_wrappers()))
    strangers = _without_known(trained(result, outside), around, function)
    certain = next((each for each in strangers if isinstance(each, nn.Parameter)), None)
    if certain is not None:
        raise ArgumentTypeError(
            f"{_told(certain)} is trained by this derivative but is no parameter of the module that "
            f"{kind_of(around[0])} wraps, which does not add up its gradient over the ranks; register it in a module "
            "there (self.nu = nn.Parameter(...), for fully_shard of shape (1,)), freeze it, or add its gradient up in "
            "a hook of its own (register_hook)"
        )
    if strangers:  # it may be one that f made for a derivative of its own, and that somebody keeps
        warn(
            f"{_told(strangers[0])} is trained by this derivative but is no parameter of the module that "
            f"{kind_of(around[0])} wraps, so its gradient will be of this rank's own samples; register it there "
            "(self.nu = nn.Parameter(...)), or add its gradient up in a hook of its own (register_hook)",
            UnreducedGradientsWarning,
        )


def trained(result: Any, outside: Iterable[Tensor] = ()) -> list[Tensor]:
    """The leaves of a result's graph that somebody trains, without those ``outside`` and what these are computed of.

    Without a parameter that has a hook of its own, in which its gradient is added up as far as anybody knows, and
    without a leaf that a function made on its way, to differentiate by it: nothing but the graph refers to that.
    """
    outside, seen = list(outside), set[Any]()
    apart = {id(each) for each in (*outside, *leaves(outside, seen))}
    found = [leaf for leaf in leaves(trees.tensors(result), seen) if id(leaf) not in apart and not _hooked(leaf)]
    return [leaf for leaf in found if isinstance(leaf, nn.Parameter) or _referred_to(leaf, found)]


def _hooked(leaf: Tensor) -> bool:
    return any(getattr(leaf, name, None) for name in (GRADIENT_HOOKS, AFTER_HOOKS))


def _without_known(found: list[Tensor], around: list[nn.Module], function: Callable[..., Any]) -> list[Tensor]:
    """Those that are no parameters of the wrappers around, nor of wrappers in the function."""
    if not found:
        return []
    classes, sharded = kinds(), of_fsdp("FSDPModule")
    others = [module for module in Fingerprint.by(function, ()).tree() if isinstance(module, classes)]
    known = {id(parameter) for module in (*around, *others) for parameter in module.parameters()}
    for module in others:
        if isinstance(module, sharded):  # which takes these out after its forward
            known |= {id(whole) for group in sharded_groups(module) for whole in unsharded(group)}
    flat = of_fsdp("FlatParameter")
    return [leaf for leaf in found if id(leaf) not in known and not isinstance(leaf, flat)]


def _referred_to(leaf: Tensor, found: list[Tensor]) -> bool:
    """Whether an object refers to a leaf, apart from calls that are under way."""
    ours = {id(found), id(sys._getframe())}
    return any(
        id(each) not in ours and not isinstance(each, types.FrameType | types.GeneratorType)
        for each in gc.get_referrers(leaf)
    )


def _told(leaf: Tensor) -> str:
    shape = f"a tensor of shape {tuple(leaf.shape)}"
    name = _name(leaf)
    return f"{name!r}, {shape}," if name else shape


def _name(leaf: Tensor) -> str | None:
    """What a variable or an attribute calls it."""
    for holder in gc.get_referrers(leaf):
        if isinstance(holder, types.CellType):
            for cells in gc.get_referrers(holder):
                for function in gc.get_referrers(cells) if isinstance(cells, tuple) else ():
                    if isinstance(function, types.FunctionType) and function.__closure__ is cells:
                        named = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
                        return next(name for name, cell in named if cell is holder)
        elif isinstance(holder, dict):
            for name, value in holder.items():
                if value is leaf and isinstance(name, str) and name.isidentifier():
                    return name
    return None
