"""What one process raises at the first call of a module, raised by all of them, so that none waits for the others.

Gradients are reduced in the backward, to which a process that raised never comes.  So at the first call inside a
wrapper, where the function is looked at, all processes ask each other once whether any raised.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn

from .. import errors
from ..api.meshed import refuse_cut_samples
from ..core import caches
from ..core.levels import compiling
from ..core.ranks import count, summed
from ..modules.strangers import refuse_strangers
from ..modules.wrappers import inside_wrapper
from .connected import refuse_out_of_sight


def settled(
    module: nn.Module, derived: Callable[..., Any], given: tuple[Any, ...], compute: Callable[[], Any]
) -> tuple[Any, bool]:
    """What is computed, or what another process raised instead; and whether they have asked each other.

    ``derived`` is what computes it, of what is ``given``.
    """
    if not _reduced(module):
        return compute(), False
    result, error = None, None
    try:
        refuse_cut_samples(given)
        result = compute()
        refuse_out_of_sight(result)
        refuse_strangers(result, given, derived)
    except Exception as raised:
        error = raised
    _raise_alike(error, next((parameter.device for parameter in module.parameters()), torch.device("cpu")))
    return result, True


def _reduced(module: nn.Module) -> bool:
    """Whether all processes call this together, as a wrapper has them do in training."""
    if compiling() or not torch.is_grad_enabled() or not module.training or count() == 1:
        return False
    if caches.ACCUMULATING.now:  # where a process without points calls nothing, and errors are told in the end
        return False
    return inside_wrapper()


def _raise_alike(error: Exception | None, device: torch.device) -> None:
    if summed([error is not None], device) == [0.0]:
        return
    told: list[Any] = [None] * count()
    distributed.all_gather_object(told, None if error is None else (type(error).__name__, str(error)))
    if error is not None:
        raise error
    rank, (name, message) = next((rank, found) for rank, found in enumerate(told) if found is not None)
    raise _kind(name)(f"{message} (raised on rank {rank})")


def _kind(name: str) -> type[Exception]:
    """The class of an error of this name, if it is one of ours or of Python's."""
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError
