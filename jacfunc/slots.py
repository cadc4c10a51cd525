"""Where a module keeps its tensors, and putting others there for the time of one call.

A slot is a place in a container (``_parameters``, ``_buffers``, ``__dict__``) that holds a tensor; a tied
tensor has several.  Checking what the user passes is the business of ``functional.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import caches
from .levels import compiling


@dataclass(frozen=True)
class Slot:
    """One place that holds a tensor: ``container[index]``, under the name that the user knows."""

    container: Any
    index: Any
    name: str


@dataclass(frozen=True)
class Inventory:
    """The tensors of a module tree, each named once, and the shape of the tree at the time of looking."""

    parameters: tuple[Slot, ...]
    buffers: tuple[Slot, ...]
    attributes: tuple[Slot, ...]
    aliases: Mapping[str, str]
    structure: tuple[tuple[Any, Any], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Inventory:
        """Look through ``module`` once."""
        names: dict[int, str] = {}
        aliases: dict[str, str] = {}
        found: dict[str, list[Slot]] = {"_parameters": [], "_buffers": []}
        attributes: list[Slot] = []
        structure: list[tuple[Any, Any]] = []
        # Every path is visited, also a second one to a shared module, so that an alias is known by its name.
        for prefix, child in module.named_modules(remove_duplicate=False):
            first_visit = id(child) not in names
            names.setdefault(id(child), prefix)
            for kind, slots in found.items():
                container = getattr(child, kind)
                for key, tensor in container.items():
                    if tensor is None:
                        continue
                    path = f"{prefix}.{key}" if prefix else key
                    name = names.setdefault(id(tensor), path)
                    if name != path:
                        aliases[path] = name
                    if first_visit:
                        slots.append(Slot(container, key, name))
            if first_visit:
                structure += [(child._modules, dict(child._modules)), *_keys(child)]
                attributes += _volatile_attributes(child)
        return cls(
            tuple(found["_parameters"]),
            tuple(found["_buffers"]),
            tuple(attributes),
            aliases,
            tuple(structure),
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
        """Whether submodules, parameters or buffers were added, removed or replaced since."""
        return any(
            (container != seen) if isinstance(seen, dict) else (len(container) != seen)
            for container, seen in self.structure
        )


def _keys(module: nn.Module) -> list[tuple[Any, int]]:
    return [(container, len(container)) for container in (module._parameters, module._buffers)]


def _volatile_attributes(module: nn.Module) -> Iterator[Slot]:
    # A forward rewrites these: the pre-hooks of the old weight_norm and spectral_norm set a plain tensor, and an
    # RNN rebuilds the list that it hands its kernel whenever its parameters are not those of the last call.
    for key, value in vars(module).items():
        if isinstance(value, torch.Tensor) or (isinstance(module, nn.RNNBase) and key.startswith("_flat_weight")):
            yield Slot(vars(module), key, key)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the package's lock, except while ``torch.compile`` traces: it cannot follow a lock."""
    if compiling():
        yield
    else:
        with caches.LOCK:
            yield


def call_with(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    slots: Iterable[Slot],
    values: Mapping[str, torch.Tensor],
    restored: Iterable[Slot] = (),
) -> Any:
    """``call(*args, **kwargs)`` while each slot holds the value of its name; afterwards all is as it was.

    ``restored`` names slots that are only put back.  The caller holds the lock.
    """
    saved = []
    try:
        for slot in slots:
            container, index = slot.container, slot.index
            saved.append((container, index, container[index]))
            container[index] = values[slot.name]
        for slot in restored:
            saved.append((slot.container, slot.index, slot.container[slot.index]))
        return call(*args, **kwargs)
    finally:
        for container, index, value in saved:
            container[index] = value


def call_guarded(
    call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], modules: Sequence[nn.Module]
) -> Any:
    """``call(*args, **kwargs)`` while the buffers of ``modules`` are copies, so that no forward can change them."""
    inventories = [Inventory.remembered(module) for module in modules]
    if not any(inventory.buffers or inventory.attributes for inventory in inventories):
        return call(*args, **kwargs)
    with locked():
        for inventory in inventories:
            copies = {slot.name: slot.container[slot.index].clone() for slot in inventory.buffers}
            call = _Guarded(call, inventory, copies)
        return call(*args, **kwargs)


@dataclass(frozen=True)
class _Guarded:
    call: Callable[..., Any]
    inventory: Inventory
    copies: dict[str, torch.Tensor]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call_with(self.call, args, kwargs, self.inventory.buffers, self.copies, self.inventory.attributes)
