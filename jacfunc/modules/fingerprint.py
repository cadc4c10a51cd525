"""What a function is, beyond its identity: its code, what it closes over, and the modules in it.

Used to remember findings by function, also for a lambda made anew at every step, and to find the modules whose
buffers an evaluation must not touch.  Values of tensors are never looked at, only their shapes.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core import caches
from ..core.caches import computed_once
from ..core.levels import hooks_around
from ..evaluation.rng import GENERATORS

Shape = tuple[int, ...]
Values = (int, float, complex, str, bytes, bool, type(None), Enum, torch.dtype, torch.device)
PLAIN = frozenset([int, float, complex, bool, str])
"""Values that may be others at each call, and change what runs if they matter."""
PROXIES = frozenset(weakref.ProxyTypes)
REFERRING = PROXIES | {types.MethodType, weakref.ref, weakref.WeakMethod}
"""What stands for one object: that is looked at in its place."""
DEPTH = 32
WIDTH = 64


def unproxied(item: Any) -> Any:
    """What a weak proxy is of, None if that is gone; else the item itself."""
    if type(item) not in PROXIES:
        return item
    try:
        return item.__init__.__self__  # a method of the object, which is no other's
    except ReferenceError:
        return None


def _referred(item: Any) -> Any:
    """What a bound method, a weak reference or a proxy is of; else the item itself."""
    while type(item) in REFERRING:
        item = unproxied(item)
        if isinstance(item, weakref.ref):
            item = item()
        elif isinstance(item, types.MethodType):
            item = item.__self__
    return item


def tensor_signature(tensor: torch.Tensor, batch: Shape) -> Hashable:
    """Shape without the leading sample axes, dtype, device and class: what a plan may depend on."""
    shape = tuple(tensor.shape)
    if batch and shape[: len(batch)] == batch:
        shape = (-1, *shape[len(batch) :])
    return (shape, tensor.dtype, tensor.device, type(tensor))


@dataclass
class Fingerprint:
    """What was found in a function.

    ``scopes``: the namespaces, of no module, of functions that were executed; ``arrays``: whether it holds some of
    numpy, its modules aside; ``hidden``: modules that were seen to run and are not found in it (``hidden.py``),
    ``used``: some of them without being called; ``numbers``: numbers and strings, no part of the key, since what runs
    tells those apart that matter; ``may_draw``: its code, or that of an object in it, has names of what draws random
    numbers; ``watchable``: whether it is known when an object in it ends.
    """

    key: Hashable = None
    parts: list[object] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    hidden: list[nn.Module] = field(default_factory=list)
    used: bool = False
    random: list[Any] = field(default_factory=list)
    scopes: list[dict[str, Any]] = field(default_factory=list)
    watchable: bool = True
    arrays: bool = False
    numbers: list[Any] = field(default_factory=list)
    may_draw: bool = False

    @classmethod
    def by(cls, function: Callable[..., Any], batch: Shape) -> Fingerprint:
        """Look through ``function``; ``batch`` is the shape of the sample axes, which signatures leave out.

        What has ``fingerprint_once`` stays what it is: that of a module's adapter depends on the module alone.
        """
        once: list[Fingerprint] = getattr(function, "fingerprint_once", [])
        if not once:
            fingerprint = cls()
            fingerprint.key = _Walk(fingerprint, batch).key(function, 0)
            fingerprint.used, references = caches.HIDDEN.get(fingerprint.key, None) or (False, ())
            fingerprint.hidden += [module for reference in references if (module := reference()) is not None]
            once.append(fingerprint)
        return once[0]

    def shape(self) -> tuple[Hashable, ...]:
        """Of every module in the function what :func:`shape_of` says."""
        return shape_of(self.tree())

    def has_arrays(self) -> bool:
        """Whether the function or a module in it holds a numpy array."""
        held = chain.from_iterable(vars(module).values() for module in self.tree())
        return self.arrays or any(isinstance(item, np.ndarray) for item in held)

    def generators(self) -> Iterator[Any]:
        """The function's own random generators, those that its modules hold among them."""
        held = chain.from_iterable(vars(module).values() for module in self.tree())
        yield from {id(item): item for item in chain(self.random, held) if isinstance(item, GENERATORS)}.values()

    def tree(self) -> list[nn.Module]:
        """Every module in the function and below it, once."""
        # Not module.modules(), which names every one of them and takes most of a small call's time.
        found: dict[int, nn.Module] = {}
        left: list[nn.Module | None] = [*self.modules, *self.hidden]
        while left:
            module = left.pop()
            if module is not None and id(module) not in found:
                found[id(module)] = module
                left += module._modules.values()
        return list(found.values())


def shape_of(modules: list[nn.Module]) -> tuple[Hashable, ...]:
    """Of each module which it is, its mode, its forward, and what was put around that, or around all modules."""
    shapes: list[Hashable] = [hooks_around()]
    for m in modules:
        around = m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks
        hooks = tuple(map(tuple, around)) if any(around) else None  # by the numbers that torch gives to no others
        kind = type(m)
        own = m.__dict__.get("forward")
        forwards = getattr(kind, "forward", None), id(own), kind.__call__  # no scripted class has a forward
        shapes.append((id(m), kind, m.training, hooks, forwards))
    return tuple(shapes)


@dataclass(frozen=True)
class _Walk:
    fingerprint: Fingerprint
    batch: Shape
    seen: dict[int, int] = field(default_factory=dict)

    def key(self, item: Any, depth: int) -> Hashable:
        if type(item) in PROXIES:
            item = unproxied(item)
        if isinstance(item, Values):
            return self.value(item)
        if isinstance(item, torch.Tensor):
            return tensor_signature(item, self.batch)
        if isinstance(item, types.ModuleType):
            return item.__name__
        if isinstance(item, GENERATORS):
            self.fingerprint.random.append(item)
            return type(item).__name__
        self.fingerprint.arrays |= isinstance(item, np.ndarray)
        if id(item) in self.seen or depth > DEPTH:
            return ("again", self.seen.get(id(item)))
        self.seen[id(item)] = len(self.seen)
        return (type(item), *self.inside(item, depth + 1))

    def value(self, item: Any) -> Hashable:
        if type(item) not in PLAIN:
            return (type(item), item)
        self.fingerprint.numbers.append(item)
        return (type(item),)

    def inside(self, item: Any, depth: int) -> Iterator[Hashable]:
        if isinstance(item, nn.Module):
            self.fingerprint.modules.append(item)
            self.fingerprint.may_draw = self.fingerprint.may_draw or _module_draws(item)
            yield self.part(item)
        elif isinstance(item, types.FunctionType):
            yield from self.function(item, depth)
        elif isinstance(item, types.MethodType):
            yield from (self.key(part, depth) for part in (item.__func__, item.__self__))
        elif isinstance(item, weakref.ref):
            yield self.key(item(), depth)
        elif isinstance(item, functools.partial):
            yield from (self.key(part, depth) for part in (item.func, item.args, item.keywords))
        elif isinstance(item, dict | list | tuple | set | frozenset):
            yield from self.collection(item, depth)
        elif hasattr(type(item), "_fingerprint"):
            for part in item._fingerprint():  # whose options are no numbers of a function
                yield part if isinstance(part, (*Values, tuple)) else self.key(part, depth)
        else:
            yield from self.instance(item)

    def collection(self, item: Any, depth: int) -> Iterator[Hashable]:
        if len(item) > WIDTH:
            yield (id(item), len(item))
        elif isinstance(item, dict):
            yield from ((self.key(name, depth), self.key(value, depth)) for name, value in item.items())
        else:
            yield from (self.key(value, depth) for value in item)

    def function(self, function: types.FunctionType, depth: int) -> Iterator[Hashable]:
        yield function.__code__
        self.fingerprint.may_draw = self.fingerprint.may_draw or _draws(function.__code__)
        if function.__globals__ is not getattr(sys.modules.get(function.__module__), "__dict__", None):
            self.fingerprint.scopes.append(function.__globals__)
        for cell in function.__closure__ or ():
            try:
                yield self.key(cell.cell_contents, depth)
            except ValueError:  # a cell that is still empty
                yield "empty"
        for given in (function.__defaults__, function.__kwdefaults__):
            yield None if given is None else self.key(given, depth)
        if not _installed(function.__code__.co_filename):
            for name in _global_names(function.__code__):
                if name in function.__globals__:
                    yield (name, self.key(function.__globals__[name], depth))

    def instance(self, item: Any) -> Iterator[Hashable]:
        # An object's own attributes may hold modules, whose buffers have to be protected as well.
        if not isinstance(item, type):
            self.fingerprint.may_draw = self.fingerprint.may_draw or _methods_draw(type(item))
            for held in getattr(item, "__dict__", {}).values():
                if isinstance(held, FUNCTIONS):
                    self.fingerprint.may_draw = self.fingerprint.may_draw or _function_draws(held)
                value = _referred(held)
                self.fingerprint.arrays |= isinstance(value, np.ndarray)
                if isinstance(value, GENERATORS):
                    self.fingerprint.random.append(value)
                if isinstance(value, nn.Module) and id(value) not in self.seen:
                    self.seen[id(value)] = len(self.seen)
                    self.fingerprint.modules.append(value)
        yield self.part(item)

    def part(self, item: Any) -> Hashable:
        if type(item).__weakrefoffset__:
            self.fingerprint.parts.append(item)
            return id(item)
        # Its identity may be given to another object later; what runs tells whether that does the same.
        self.fingerprint.watchable = False
        return (type(item),)


@computed_once(1024, traced=False)
def _installed(filename: str) -> bool:
    return "site-packages" in filename or "dist-packages" in filename


# fmt: off
DRAWING = frozenset([
    "random", "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "normal",
    "multinomial", "poisson", "uniform_", "normal_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_",
    "log_normal_", "dropout", "rrelu", "gumbel_softmax", "sample", "rsample", "choice", "shuffle", "gauss", "uniform",
])
# fmt: on
"""Names that code which draws random numbers has somewhere."""
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
"""What is called, and has code that tells of it."""
ITEMS = frozenset([dict, OrderedDict, list, tuple, set])
"""What a module holds functions in, as its hooks."""


@computed_once(1024, traced=False)
def _draws(code: types.CodeType) -> bool:
    return not DRAWING.isdisjoint(_global_names(code))


def _module_draws(module: nn.Module) -> bool:
    known: bool | None = caches.DRAWS.get(module)
    if known is None:
        known = caches.DRAWS[module] = any(map(_layer_draws, module.modules()))
    return known


def _layer_draws(module: nn.Module) -> bool:
    """Whether a method of a module draws, or a function that it holds, as a hook or its own forward."""
    if _methods_draw(type(module)):
        return True
    items = vars(module).values()
    held = chain(items, *(item.values() if isinstance(item, dict) else item for item in items if type(item) in ITEMS))
    return any(_function_draws(item) for item in held if isinstance(item, FUNCTIONS))


def _function_draws(function: Any) -> bool:
    while not isinstance(function, types.FunctionType):
        function = getattr(function, "func", None) or getattr(function, "__func__", None)
        if not callable(function):
            return False
    return _draws(function.__code__)


@computed_once(1024, traced=False)
def _methods_draw(kind: type) -> bool:
    """Whether a method of a class draws, one of its own or of a class of the user's that it derives from."""
    methods = [
        member for one in kind.__mro__ for member in vars(one).values() if isinstance(member, types.FunctionType)
    ]
    return any(_draws(method.__code__) for method in methods if not _installed(method.__code__.co_filename))


@computed_once(1024, traced=False)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return tuple(names)
