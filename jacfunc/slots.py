"""Where a module keeps its tensors, and putting others there for the time of one call.

A slot is a place in a container (``_parameters``, ``_buffers``, ``__dict__``) that holds a tensor; a tied
tensor has several.  Checking what the user passes is the business of ``functional.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrize

from . import caches
from .levels import compiling

Tensors = Mapping[str, torch.Tensor]
Saved = list[tuple[Any, Any, Any]]


class Slot(NamedTuple):
    """One place that holds a tensor: ``container[index]``, under the name that the user knows."""

    container: Any
    index: Any
    name: str


@dataclass(frozen=True)
class Inventory:
    """The tensors of a module tree, each named once, and the shape of the tree at the time of looking.

    ``empty`` are the names that held ``None``, ``ties`` the further slots of a tied tensor, each with the first.
    """

    parameters: tuple[Slot, ...]
    buffers: tuple[Slot, ...]
    attributes: tuple[Slot, ...]
    empty: tuple[Slot, ...]
    ties: tuple[tuple[Slot, Slot], ...]
    aliases: Mapping[str, str]
    tree: Tree

    @classmethod
    def of(cls, module: nn.Module) -> Inventory:
        """Look through ``module`` once."""
        # Every path is visited, also a second one to a shared module, so that an alias is known by its name.
        paths = list(module.named_modules(remove_duplicate=False))
        first_paths = {id(child): prefix for prefix, child in reversed(paths)}
        visited = [child for prefix, child in paths if first_paths[id(child)] == prefix]
        parameters: list[Slot] = []
        buffers: list[Slot] = []
        empty: list[Slot] = []
        ties: list[tuple[Slot, Slot]] = []
        aliases: dict[str, str] = {}
        firsts: dict[int, tuple[Slot, list[Slot]]] = {}
        # All parameters before any buffer: a parameter that is also registered as a buffer is swapped with it.
        for kind, slots in (("_parameters", parameters), ("_buffers", buffers)):
            for prefix, child in paths:
                again = first_paths[id(child)] != prefix
                container = getattr(child, kind)
                for key, tensor in container.items():
                    path = f"{prefix}.{key}" if prefix else key
                    slot = Slot(container, key, path)
                    if tensor is None:
                        empty += [] if again else [slot]
                        continue
                    first, owner = firsts.setdefault(id(tensor), (slot, slots))
                    if first.name != path:
                        aliases[path] = first.name
                        slot = Slot(container, key, first.name)
                        ties += [] if again else [(slot, first)]
                    owner += [] if again else [slot]
        return cls(
            tuple(parameters),
            tuple(buffers),
            tuple(attribute for child in visited for attribute in _volatile_attributes(child)),
            tuple(empty),
            tuple(ties),
            aliases,
            Tree.of(visited),
        )

    @classmethod
    def remembered(cls, module: nn.Module) -> Inventory:
        """The same, looked up anew only when the tree has changed."""
        inventory: Inventory | None = caches.INVENTORIES.get(id(module), None)
        if inventory is None or inventory.stale():
            inventory = cls.of(module)
            caches.INVENTORIES.put(id(module), [module], None, inventory)
        return inventory

    def stale(self) -> bool:
        """Whether submodules, parameters or buffers were added, removed, replaced by others or untied since."""
        if self.tree.changed():
            return True
        try:
            for container, index, _ in self.parameters:
                if container[index] is None:
                    return True
            for container, index, _ in self.buffers:
                if container[index] is None:
                    return True
        except KeyError:  # under another name now
            return True
        for container, index, _ in self.empty:
            if container[index] is not None:
                return True
        return any(again.container[again.index] is not first.container[first.index] for again, first in self.ties)


@dataclass(frozen=True)
class Tree:
    """The containers of a module and of all below it, and what was in them at the time of looking."""

    containers: tuple[Any, ...]
    names: tuple[tuple[str, ...], ...]
    sizes: list[int]
    homes: tuple[tuple[dict[str, Any], str, Any], ...]
    children: tuple[tuple[Any, dict[str, nn.Module | None]], ...]

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> Tree:
        """Look at modules, each without its children."""
        homes = [(vars(m), kind, getattr(m, kind)) for m in modules for kind in ("_modules", "_parameters", "_buffers")]
        containers = tuple(container for _, _, container in homes)
        return cls(
            containers,
            tuple(tuple(container.keys()) for container in containers),
            [len(container) for container in containers],
            tuple(home for home in homes if len(home[2])),
            tuple((m._modules, dict(m._modules)) for m in modules if len(m._modules)),
        )

    def changed(self) -> bool:
        """Whether the modules are others or have other containers, or these have more or fewer names."""
        for home, kind, container in self.homes:
            if home[kind] is not container:
                return True
        for container, children in self.children:
            if container != children:
                return True
        return list(map(len, self.containers)) != self.sizes

    def additions(self) -> list[tuple[Any, str]]:
        """What was registered since, as container and key."""
        if list(map(len, self.containers)) == self.sizes:
            return []
        pairs = zip(self.containers, self.names, strict=True)
        return [(container, key) for container, names in pairs for key in container.keys() if key not in names]


def _volatile_attributes(module: nn.Module) -> Iterator[Slot]:
    # A forward rewrites these: the pre-hooks of the old weight_norm and spectral_norm set a plain tensor, and an
    # RNN rebuilds the list that it hands its kernel whenever its parameters are not those of the last call.
    for key, value in vars(module).items():
        if isinstance(value, torch.Tensor) or (isinstance(module, nn.RNNBase) and key.startswith("_flat_weight")):
            yield Slot(vars(module), key, key)


def locked() -> AbstractContextManager[Any]:
    """Hold the package's lock, except while ``torch.compile`` traces: it cannot follow a lock."""
    return nullcontext() if compiling() else caches.LOCK


def call_with(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    inventory: Inventory,
    params: Tensors | None,
    buffers: Tensors,
) -> Any:
    """``call(*args, **kwargs)`` while the slots hold ``params`` and copies of ``buffers``; then all is as it was.

    ``params=None`` leaves the parameters in their places.  The caller holds the lock.
    """
    saved: Saved = []
    binding = None if compiling() else _Binding(inventory, params, buffers)
    try:
        _put(saved, inventory, params, buffers)
        if binding is not None:
            binding.put(saved)
        return call(*args, **kwargs)
    finally:
        for container, index, value in saved:
            container[index] = value
        for container, index in inventory.tree.additions():
            del container[index]
        if binding is not None:
            binding.active = False


def _put(saved: Saved, inventory: Inventory, params: Tensors | None, buffers: Tensors) -> None:
    """Fill the slots, and say in ``saved`` what was in whatever the call may change."""
    if params is not None:
        for container, index, name in inventory.parameters:
            saved.append((container, index, container[index]))
            container[index] = params[name]
    if inventory.buffers:
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        for container, index, name in inventory.buffers:
            saved.append((container, index, container[index]))
            container[index] = copies[name]
    for container, index, _ in inventory.attributes:
        if index in container:
            value = container[index]
            saved.append((container, index, value))
            if isinstance(value, list):
                container[index] = value.copy()
    for container, index, _ in inventory.empty:
        saved.append((container, index, None))


class _Binding:
    """What belongs to one call although it is no part of the module: torch's own globals, put back like the slots.

    - ``torch.utils.checkpoint`` calls its function again during the backward pass, when this call has ended: it gets
      one that brings these tensors back.
    - ``parametrize.cached()`` remembers weights by module: this call starts with nothing remembered.
    """

    __slots__ = ("active", "apply_function", "buffers", "inventory", "make_frame", "params", "thread")

    def __init__(self, inventory: Inventory, params: Tensors | None, buffers: Tensors) -> None:
        self.inventory, self.params, self.buffers = inventory, params, buffers
        self.thread = get_ident()
        self.active = True
        self.make_frame = _CHECKPOINT["_CheckpointFrame"]
        self.apply_function = _CHECKPOINT["CheckpointFunction"].apply

    def put(self, saved: Saved) -> None:
        """Replace the globals, and say in ``saved`` what they were."""
        for name, value in (("_CheckpointFrame", self.frame), ("CheckpointFunction", self)):
            saved.append((_CHECKPOINT, name, _CHECKPOINT[name]))
            _CHECKPOINT[name] = value
        if parametrize._cache_enabled:
            saved.append((_PARAMETRIZE, "_cache", _PARAMETRIZE["_cache"]))
            _PARAMETRIZE["_cache"] = {}

    def frame(self, function: Callable[..., Any], *rest: Any) -> Any:
        """In place of the class by which ``checkpoint(use_reentrant=False)`` remembers its function."""
        return self.make_frame(self.bound(function), *rest)

    def apply(self, function: Callable[..., Any], *rest: Any) -> Any:
        """In place of the autograd function of ``checkpoint(use_reentrant=True)``."""
        return self.apply_function(self.bound(function), *rest)

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, which brings the tensors of this call back when it is called after the end of the call."""

        def again(*args: Any, **kwargs: Any) -> Any:
            if self.active:
                return function(*args, **kwargs)
            with locked():
                return call_with(function, args, kwargs, self.inventory, self.params, self.buffers)

        return again if get_ident() == self.thread else function


_CHECKPOINT: dict[str, Any] = vars(torch.utils.checkpoint)
_PARAMETRIZE: dict[str, Any] = vars(parametrize)


def call_guarded(
    call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], modules: Sequence[nn.Module]
) -> Any:
    """``call(*args, **kwargs)`` while the buffers of ``modules`` are copies, so that no forward can change them."""
    with locked():  # without buffers too: another thread may be calling the same module with other parameters
        for module in modules:
            inventory = Inventory.remembered(module)
            if inventory.buffers or inventory.attributes:
                call = _Guarded(call, inventory)
        return call(*args, **kwargs)


@dataclass(frozen=True)
class _Guarded:
    call: Callable[..., Any]
    inventory: Inventory

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call_with(self.call, args, kwargs, self.inventory, None, held(self.inventory.buffers))


def held(slots: Iterable[Slot]) -> dict[str, torch.Tensor]:
    """What the slots hold now, by name."""
    return {name: container[index] for container, index, name in slots}
