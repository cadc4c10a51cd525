"""Modules that run and that no walk through a function finds: in a list of an object, a property, an argument.

A plain forward tells: what is called is seen by hooks that torch has for all modules.  While such a module runs its
buffers are exchanged for copies, so that nothing of it changes; from then on it is one of the function's modules.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..core import caches
from .fingerprint import Fingerprint
from .swapping import Inventory, exchanged, locked


@contextmanager
def watched(fingerprint: Fingerprint) -> Iterator[list[nn.Module]]:
    """While it lasts, no module that runs in this thread changes; what is new among them becomes the function's.

    The list has what is new at the end, but for modules that the function made itself, which are gone by then.
    """
    watch = _Watch({id(module) for module in fingerprint.tree()})
    found: list[nn.Module] = []
    with locked():
        # Put back where its forward ends, for what surrounds that may exchange tensors as well (functional_call).
        hooks = register_module_forward_pre_hook(watch.begin), register_module_forward_hook(watch.end, always_call=True)
        numbers = {hook.id for hook in hooks}
        caches.OWN_HOOKS |= numbers
        caches.AROUND.watches.append(watch)
        try:
            yield found
        finally:
            caches.AROUND.watches.remove(watch)
            for hook in hooks:
                hook.remove()
            caches.OWN_HOOKS -= numbers
            watch.end_all()
            found += [module for reference in watch.found if (module := reference()) is not None]
            if found:
                _keep(fingerprint, found)


class _Watch:
    """What runs in this thread: the modules that are not ``known``, each once, and the swaps of those that run now."""

    def __init__(self, known: set[int]) -> None:
        self.known = known
        self.thread = threading.get_ident()
        self.found: list[weakref.ref[nn.Module]] = []
        self.running: list[tuple[nn.Module, set[int], Any]] = []

    def begin(self, module: nn.Module, _: Any) -> None:
        if threading.get_ident() != self.thread or id(module) in self.known:
            return
        if self.exchanges(module):
            return
        if not any(reference() is module for reference in self.found):
            self.found.append(weakref.ref(module))
        # By the outermost alone, whose hooks come first at the end as well.
        done = any(watch.exchanges(module) for watch in caches.AROUND.watches)
        swap = None if done else exchanged(Inventory.remembered(module))
        self.running.append((module, set(map(id, module.modules())), swap))

    def exchanges(self, module: nn.Module) -> bool:
        """Whether it is, or is part of, a module that was seen to begin and that runs."""
        return any(id(module) in below for _, below, _ in self.running)

    def end(self, module: nn.Module, *_: Any) -> None:
        if threading.get_ident() == self.thread and self.running and self.running[-1][0] is module:
            self._restore()

    def end_all(self) -> None:
        while self.running:
            self._restore()

    def _restore(self) -> None:
        swap = self.running.pop()[2]
        if swap is not None:
            swap.restore()


def _keep(fingerprint: Fingerprint, found: list[nn.Module]) -> None:
    fingerprint.hidden += [module for module in found if not any(module is other for other in fingerprint.hidden)]
    references = tuple(map(weakref.ref, fingerprint.hidden))
    caches.HIDDEN.put(fingerprint.key, fingerprint.parts, None, references)
