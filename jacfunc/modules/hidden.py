"""Modules that run and that no walk through a function finds: in a list of an object, a property, an argument.

A plain forward tells: what is called is seen by hooks that torch has for all modules.  While such a module runs its
buffers are exchanged for copies, so that nothing of it changes; from then on it is one of the function's modules.

Of what is used without being called, as by ``net.forward(x)`` or for its buffers, Python tells as a debugger is told:
a module's tensors and children are read by a method of its own.  That is stopped before it has begun, and the function
is evaluated again, with copies in the module from the start.  Where a debugger and a profiler run it is not told.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..core import caches
from ..errors import JacfuncError
from .attributes import Contents, contents_of, put_back
from .fingerprint import Fingerprint
from .swapping import Inventory, exchanged, locked


def _codes(*methods: Any) -> frozenset[int]:
    return frozenset(id(method.__code__) for method in methods)


USING = _codes(nn.Module.__getattr__, nn.Module.__setattr__, nn.Module.__delattr__)
MAKING = _codes(nn.Module.__init__, nn.Module.__setstate__)
"""The code of the methods by which a module is used without being called, and by which it is made or copied."""


class ModuleUsedError(JacfuncError):
    """A module that is not known was about to be used without being called: evaluate again, for now it is known."""


@contextmanager
def watched(fingerprint: Fingerprint, used: bool = False) -> Iterator[Watch]:
    """While it lasts, no module that runs in this thread changes; what is new among them becomes the function's.

    ``found`` of the watch has what is new at the end, but for modules that the function made itself, which are gone by
    then.  With ``used`` modules that are not called are seen as well; the first stops all, and is what is found.
    """
    watch = Watch(fingerprint.tree())
    with locked():
        # Put back where its forward ends, for what surrounds that may exchange tensors as well (functional_call).
        hooks = register_module_forward_pre_hook(watch.begin), register_module_forward_hook(watch.end, always_call=True)
        numbers = {hook.id for hook in hooks}
        caches.OWN_HOOKS |= numbers
        caches.AROUND.watches.append(watch)
        tell = _telling() if used else None
        if tell is not None:
            tell(watch.told)
        try:
            yield watch
        except Exception:
            if watch.used is None:
                raise
        finally:
            if tell is not None:
                tell(None)
            caches.AROUND.watches.remove(watch)
            for hook in hooks:
                hook.remove()
            caches.OWN_HOOKS -= numbers
            watch.finish()
            if watch.found:
                _keep(fingerprint, watch)
        if watch.used is not None:  # even if the function catches it
            raise ModuleUsedError("a module was used that is not known yet")


def _telling() -> Callable[[Any], None] | None:
    """By what Python can tell of each call, if that is free: as it tells a debugger, of fewer things, or a profiler."""
    if sys.gettrace() is None:
        return sys.settrace
    return sys.setprofile if sys.getprofile() is None else None


class Watch:
    """What runs in this thread: modules that are not ``known``, each once, and the swaps of those that run now.

    ``used`` is the module that stopped the evaluation, if one did.
    """

    def __init__(self, known: list[nn.Module]) -> None:
        self.known = {id(module) for module in known}
        self.modes = [(module, module.training) for module in known]
        self.thread = threading.get_ident()
        self.found: list[nn.Module] = []
        self.used: nn.Module | None = None
        self.called: list[weakref.ref[nn.Module]] = []
        self.made: list[nn.Module] = []
        self.running: list[tuple[nn.Module, set[int], Any]] = []
        self.before: list[Contents] = []

    def told(self, frame: Any, event: str, _: Any) -> None:
        """What Python tells of each call."""
        if event != "call":
            return
        code = id(frame.f_code)
        if code in MAKING:
            self.made.append(frame.f_locals["self"])
        if code not in USING:
            return
        module = frame.f_locals["self"]
        if id(module) in self.known or caches.AROUND.unnoted or any(module is made for made in self.made):
            return
        if _is_graph(module):
            return
        if not any(watch.exchanges(module) for watch in caches.AROUND.watches):
            self.used = module
            raise ModuleUsedError

    def begin(self, module: nn.Module, _: Any) -> None:
        """It is about to run."""
        if threading.get_ident() != self.thread or id(module) in self.known or _is_graph(module):
            return
        if self.exchanges(module):
            return
        if not any(reference() is module for reference in self.called):
            self.called.append(weakref.ref(module))
            if not torch.is_grad_enabled():
                self.before += contents_of(module.modules())
        # By the outermost alone, whose hooks come first at the end as well.
        done = any(watch.exchanges(module) for watch in caches.AROUND.watches)
        self.running.append((module, set(map(id, module.modules())), None if done else _exchanged(module)))

    def exchanges(self, module: nn.Module) -> bool:
        """Whether it is, or is part of, a module that was seen to begin and that runs."""
        return any(id(module) in below for _, below, _ in self.running)

    def end(self, module: nn.Module, *_: Any) -> None:
        """It runs no more."""
        if threading.get_ident() == self.thread and self.running and self.running[-1][0] is module:
            self._restore()

    def finish(self) -> None:
        """Nothing runs any more."""
        while self.running:
            self._restore()
        put_back(self.before)
        self.made.clear()
        if self.used is None:
            self.found += [module for reference in self.called if (module := reference()) is not None]
        else:
            self.found.append(self.used)
            for module, training in self.modes:
                if module.training is not training:  # which it was about to switch back
                    module.training = training

    def _restore(self) -> None:
        swap = self.running.pop()[2]
        if swap is not None:
            swap.restore()


def _is_graph(module: nn.Module) -> bool:
    """Whether it is what torch.compile or torch.cond makes of modules, anew at times, with nothing to write to."""
    return isinstance(module, GraphModule) and next(module.buffers(), None) is None


def _exchanged(module: nn.Module) -> Any:
    caches.AROUND.unnoted += 1
    try:
        return exchanged(Inventory.remembered(module))
    finally:
        caches.AROUND.unnoted -= 1


def _keep(fingerprint: Fingerprint, watch: Watch) -> None:
    hidden = fingerprint.hidden
    hidden += [module for module in watch.found if not any(module is other for other in hidden)]
    fingerprint.used = fingerprint.used or watch.used is not None
    references = tuple(map(weakref.ref, hidden))
    caches.HIDDEN.put(fingerprint.key, fingerprint.parts, None, (fingerprint.used, references))
