"""Where a module keeps its tensors, and putting others there for the time of one call.

A slot is a place in a container (``_parameters``, ``_buffers``, ``__dict__``) that holds a tensor; a tied
tensor has several.  Checking what the user passes is the business of ``functional.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial, wraps
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..core import caches, trees
from ..core.levels import compiling, ended
from ..core.torch_private import CACHED, CACHING, PARAMETRIZATIONS, RNN_TENSORS, is_wrapped
from ..errors import ArgumentError, ParametersError
from ..evaluation import checkpoint
from ..jet import Jet
from .attributes import COUNTS

Tensors = Mapping[str, torch.Tensor]
CONTAINERS = ("_modules", "_parameters", "_buffers")


class Slot(NamedTuple):
    """One place that holds a tensor: ``container[index]``, under the name that the user knows."""

    container: Any
    index: Any
    name: str


@dataclass(frozen=True)
class Inventory:
    """The tensors of a module tree, each named once, and the shape of the tree at the time of looking.

    ``written`` are parameters that a forward writes to (an embedding with ``max_norm``), ``empty`` the names that held
    ``None``, ``ties`` the further slots of a tied tensor, each with the first.
    """

    parameters: list[Slot]
    buffers: list[Slot]
    attributes: list[Slot]
    empty: list[Slot]
    ties: list[tuple[Slot, Slot]]
    aliases: dict[str, str]
    written: list[Slot]
    tree: Tree

    @classmethod
    def of(cls, module: nn.Module) -> Inventory:
        """Look through ``module`` once."""
        # Every path is visited, also a second one to a shared module, so that an alias is known by its name.
        paths = list(module.named_modules(remove_duplicate=False))
        first_paths = {id(child): prefix for prefix, child in reversed(paths)}
        visited = [child for prefix, child in paths if first_paths[id(child)] == prefix]
        attributes = [attribute for child in visited for attribute in _volatile_attributes(child)]
        made = cls([], [], attributes, empty=[], ties=[], aliases={}, written=[], tree=Tree.of(visited))
        firsts: dict[int, tuple[Slot, list[Slot]]] = {}
        # All parameters before any buffer: a parameter that is also registered as a buffer is swapped with it.
        for kind, slots in (("_parameters", made.parameters), ("_buffers", made.buffers)):
            for prefix, child in paths:
                again = first_paths[id(child)] != prefix
                container = getattr(child, kind)
                for key, tensor in container.items():
                    path = f"{prefix}.{key}" if prefix else key
                    slot = Slot(container, key, path)
                    if tensor is None:
                        made.empty.extend([] if again else [slot])
                        continue
                    if not compiling() and is_lazy(tensor):  # which cannot trace the question
                        raise ArgumentError(
                            f"the lazy parameter {path!r} has no shape yet; call the module on one batch first"
                        )
                    first, owner = firsts.setdefault(id(tensor), (slot, slots))
                    if first.name != path:
                        made.aliases[path] = first.name
                        slot = Slot(container, key, first.name)
                        made.ties.extend([] if again else [(slot, first)])
                    owner += [] if again else [slot]
        renormalised = {id(m._parameters) for m in visited if getattr(m, "max_norm", None) is not None}
        made.written.extend(slot for slot in made.parameters if id(slot.container) in renormalised)
        return made

    @classmethod
    def remembered(cls, module: nn.Module) -> Inventory:
        """The inventory of a module, looked up anew only when its tree has changed."""
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
            for slots in (self.parameters, self.buffers):
                for container, index, _ in slots:
                    if container[index] is None:
                        return True
            for container, index, _ in self.empty:
                if container[index] is not None:
                    return True
        except KeyError:  # under another name now
            return True
        return any(again.container[again.index] is not first.container[first.index] for again, first in self.ties)


@dataclass(frozen=True)
class Tree:
    """The modules of a tree and their containers: ``_modules``, ``_parameters`` and ``_buffers``, three for each.

    ``watched`` are the containers of the modules whose forward may do what torch's own layers do not: register
    something or call ``checkpoint``; ``homes`` are their attributes.
    """

    containers: list[Any]
    sizes: list[int]
    filled: list[tuple[dict[str, Any], str, Any]]
    children: list[tuple[Any, dict[str, nn.Module | None]]]
    homes: list[dict[str, Any]]
    watched: list[tuple[str, Any, frozenset[str]]]

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> Tree:
        """Look at modules, each without its children."""
        places = [(vars(m), kind, getattr(m, kind)) for m in modules for kind in CONTAINERS]
        watched = [m for m in modules if not _is_plain_layer(m)]
        return cls(
            [container for _, _, container in places],
            [len(container) for _, _, container in places],
            [place for place in places if len(place[2]) and place[1] in place[0]],  # a traced module has none there
            [(m._modules, dict(m._modules)) for m in modules if len(m._modules)],
            [vars(m) for m in watched],
            [(kind, getattr(m, kind), frozenset(getattr(m, kind).keys())) for m in watched for kind in CONTAINERS],
        )

    def changed(self) -> bool:
        """Whether the modules are others or have other containers, or these have more or fewer names."""
        for home, kind, container in self.filled:
            if home[kind] is not container:
                return True
        for container, children in self.children:
            if container != children:
                return True
        return list(map(len, self.containers)) != self.sizes

    def additions(self) -> list[tuple[str, Any, str]]:
        """What was registered since: the kind of container, the container, and the name in it."""
        return [
            (kind, container, key)
            for kind, container, names in self.watched
            if len(container) > len(names)
            for key in {*container.keys()} - names
        ]


def _is_plain_layer(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.") and not (
        module._buffers or module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    )


def _volatile_attributes(module: nn.Module) -> Iterator[Slot]:
    # A forward rewrites these: the pre-hooks of the old weight_norm and spectral_norm set a plain tensor, and an
    # RNN rebuilds the list that it hands its kernel whenever its parameters are not those of the last call.
    for key, value in vars(module).items():
        if isinstance(value, torch.Tensor) or (isinstance(module, nn.RNNBase) and key.startswith(RNN_TENSORS)):
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
    swap = _Swap(inventory, params, buffers)
    try:
        swap.put()
        result = call(*args, **kwargs)
    finally:
        swap.restore()
    if swap.made:
        raise ParametersError(
            f"the forward made the parameter {swap.made!r}, which was not there before; call the module itself on one "
            "batch first"
        )
    return result


def _unnoted(method: Callable[[_Swap], None]) -> Callable[[_Swap], None]:
    """What is no step of the program around it, and so is not interrupted where that turns out to be another one."""

    @wraps(method)
    def done(swap: _Swap) -> None:
        if compiling():
            return method(swap)
        caches.AROUND.unnoted += 1
        try:
            return method(swap)
        finally:
            caches.AROUND.unnoted -= 1

    return done


class _Swap:
    """The tensors of one call in their places, and what the call may change, to be put back.

    ``torch.utils.checkpoint`` calls its function again during the backward pass, when this call has ended: it gets a
    function that brings these tensors back (``checkpoint.py``).  ``parametrize.cached()`` remembers weights by module:
    this call starts with nothing remembered.
    """

    made: str | None = None
    active = True
    surrounded = False
    copies: Tensors = {}  # noqa: RUF012  # never written to

    def __init__(self, inventory: Inventory, params: Tensors | None, buffers: Tensors) -> None:
        self.inventory, self.params, self.buffers = inventory, params, buffers
        self.saved: list[tuple[Any, Any, Any]] = []

    @_unnoted
    def put(self) -> None:
        """Fill the slots."""
        inventory, params, save = self.inventory, self.params, self.saved.append
        if inventory.tree.homes and not compiling():
            self._keep_surroundings()
        if params is not None:
            for container, index, name in inventory.parameters:
                save((container, index, container[index]))
                container[index] = params[name]
        for container, index, _ in inventory.written:
            save((container, index, container[index]))
            container[index] = container[index].clone()
        if inventory.buffers:
            self.copies = {name: b if ended(b) else b.clone() for name, b in self.buffers.items()}
            for container, index, name in inventory.buffers:
                save((container, index, container[index]))
                container[index] = self.copies[name]
        for container, index, _ in inventory.attributes:
            if index in container:
                value = container[index]
                save((container, index, value))
                if isinstance(value, list):
                    container[index] = value.copy()
                elif not ended(value) and not value.requires_grad:  # a counter, a cache: no graph is lost by a copy
                    container[index] = value.clone()
        for container, index, _ in inventory.empty:
            save((container, index, None))

    def _keep_surroundings(self) -> None:
        self.surrounded = True
        self.attributes = list(map(dict.copy, self.inventory.tree.homes))
        checkpoint.begin(self.rebind)
        if PARAMETRIZATIONS[CACHING]:
            self.saved.append((PARAMETRIZATIONS, CACHED, PARAMETRIZATIONS[CACHED]))
            PARAMETRIZATIONS[CACHED] = {}

    @_unnoted
    def restore(self) -> None:
        """Put everything back, and find a parameter that was not there before."""
        inventory = self.inventory
        written: list[Any] = []
        if self.surrounded:
            checkpoint.end()
            written += [slot.container for slot in inventory.buffers if self._written(*slot)]
        for container, index, _ in inventory.empty:
            if container[index] is not None:
                written.append(container)
                if isinstance(container[index], nn.Parameter):
                    self.made = index
        for container, index, value in reversed(self.saved):  # a slot that was filled twice ends as it began
            container[index] = value
        for kind, container, key in inventory.tree.additions():
            written.append(container)
            if kind == "_parameters" or (kind == "_modules" and any(True for _ in container[key].parameters())):
                self.made = key
            del container[key]
        if self.surrounded:
            if written:
                self._restore_attributes({id(container) for container in written})
            self._drop_left_behind()
        self.active = False

    def _written(self, container: Any, index: Any, name: str) -> bool:
        copy = self.copies.get(name)
        if copy is None or index not in container or container[index] is not copy:
            return True
        return copy.is_inference() or copy._version > 0

    def _restore_attributes(self, written: set[int]) -> None:
        # What a forward notes beside a buffer that it writes ("filled up to 512") goes back together with it.
        for home, before in zip(self.inventory.tree.homes, self.attributes, strict=True):
            if any(id(home[kind]) in written for kind in CONTAINERS):
                _put_back(home, before, [*home, *before])

    def _drop_left_behind(self) -> None:
        """Put back what stood in an attribute that now holds a jet, a tensor of a transform that has ended, or a count.

        A forward runs several times for one derivative, and each time counts on.
        """
        for home, before in zip(self.inventory.tree.homes, self.attributes, strict=True):
            if len(home) != len(before) or not all(map(is_, home.values(), before.values())):
                others = [key for key, value in home.items() if value is not before.get(key)]
                passing = [key for key in others if type(home[key]) in COUNTS or _of_transform(home[key])]
                _put_back(home, before, passing)

    def rebind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with the tensors of this call also when it is called after its end."""

        def again(*args: Any, **kwargs: Any) -> Any:
            if self.active:
                return function(*args, **kwargs)
            with locked():
                return call_with(function, args, kwargs, self.inventory, self.params, self.buffers)

        return again


def _put_back(home: dict[str, Any], before: dict[str, Any], keys: Iterable[str]) -> None:
    """Let what ``home`` has under some names be as it was before."""
    for key in keys:
        if key in before:
            home[key] = before[key]
        else:
            del home[key]


def _of_transform(value: Any) -> bool:
    """Whether anything in a tree is of use only while a transform runs."""
    return any(
        type(leaf) is Jet or (isinstance(leaf, torch.Tensor) and is_wrapped(leaf)) for leaf in trees.flatten(value)[0]
    )


def call_guarded(
    call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], modules: Sequence[nn.Module]
) -> Any:
    """``call(*args, **kwargs)`` while the buffers of ``modules`` are copies, so that no forward can change them."""
    with locked():  # without buffers too: another thread may be calling the same module with other parameters
        for module in modules:
            inventory = Inventory.remembered(module)
            if (
                inventory.buffers
                or inventory.attributes
                or inventory.empty
                or inventory.written
                or inventory.tree.homes
            ):
                call = partial(_with_copies, call, inventory)
        return call(*args, **kwargs)


def _with_copies(call: Callable[..., Any], inventory: Inventory, /, *args: Any, **kwargs: Any) -> Any:
    return call_with(call, args, kwargs, inventory, None, held(inventory.buffers))


def exchanged(inventory: Inventory) -> _Swap:
    """A swap that has put copies of all buffers into their places, to be restored by the caller."""
    swap = _Swap(inventory, None, held(inventory.buffers))
    swap.put()
    return swap


def held(slots: Iterable[Slot]) -> dict[str, torch.Tensor]:
    """What the slots hold now, by name."""
    return {name: container[index] for container, index, name in slots}
