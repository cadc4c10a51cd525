"""A module as a pure function: ``make_functional`` and the object it returns.

Checks what the caller passes; the swapping itself is in ``swapping.py``, and nothing here differentiates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import nn

from ..core.keywords_only import keywords_only
from ..core.levels import compiling, fixed
from ..core.reasons import a_type
from ..errors import ArgumentError, ArgumentTypeError, ParametersError
from ..jet import Jet
from ..jet.layers import PlainLayers
from ..jet.stacked import Layer
from .fingerprint import shape_of
from .swapping import Inventory, Slot, call_with, held, locked
from .wrappers import refuse_wrapper

Tensors = dict[str, torch.Tensor]
_NONE: Tensors = {}


class ModuleShape(NamedTuple):
    """What a plan for a module depends on; ``alone`` where it is built of plain layers, and nothing else runs in it."""

    alone: bool
    parts: tuple[Hashable, ...]


class FunctionalModule:
    """``f(params, *args, **kwargs)``: a module's computation as a pure function of its parameters.

    Made by :func:`make_functional`, which describes it.  The module is used live: its mode, its buffers and its
    plain attributes are those of the moment of the call.
    """

    def __init__(self, module: nn.Module, *, method: str = "forward", with_buffers: bool = False) -> None:
        self.module = module
        self.method = method
        self.with_buffers = with_buffers
        self._resized: set[str] = set()
        self.fingerprint_once: list[Any] = []
        with locked():
            self._look()

    def _look(self) -> None:
        self._inventory = Inventory.of(self.module)
        self._modules = list(self.module.modules())
        plain = self.method == "forward" and not self.with_buffers
        self._layers = PlainLayers.of(self.module, self._inventory.aliases) if plain else None
        self._parameters = _first(self._inventory.parameters)
        self._fitting = _written(held(self._parameters.values()))
        self._buffers = _first(self._inventory.buffers)
        # Through __call__ for forward, so that the module's hooks run.
        self._call: Callable[..., Any] = self.module if self.method == "forward" else getattr(self.module, self.method)

    def _refresh(self) -> None:
        if self._inventory.stale():
            self._look()

    @property
    def of_plain_layers(self) -> bool:
        """Whether the module is built of layers that are known to work on jets, and nothing else runs in it."""
        return self._layers is not None and self._layers.unchanged()

    def shape(self) -> ModuleShape:
        """What a plan for it depends on, besides its arguments: its modules and their modes."""
        alone = self.of_plain_layers
        if not alone:
            with locked():
                self._refresh()
            alone = self.of_plain_layers
        if alone:  # which have no mode
            assert self._layers is not None
            return ModuleShape(True, (self._layers.token,))
        hidden = [module for fingerprint in self.fingerprint_once for module in fingerprint.hidden]
        return ModuleShape(False, shape_of([*self._modules, *(m for found in hidden for m in found.modules())]))

    @property
    def state_arguments(self) -> int:
        """How many leading arguments are parameters (and buffers), not data."""
        return 2 if self.with_buffers else 1

    def parameters(self) -> Tensors:
        """The module's own parameters by name, live; a tied one once."""
        with locked():  # another thread's call may have put its own there
            self._refresh()
            return held(self._parameters.values())

    def buffers(self) -> Tensors:
        """The module's own buffers by name, live."""
        with locked():
            self._refresh()
            return held(self._buffers.values())

    @property
    def chain(self) -> list[Layer]:
        """The linear layers and activations that it is, one after the other; nothing where it is anything else."""
        return [] if self._layers is None else self._layers.chain

    def check(self, params: Mapping[str, torch.Tensor]) -> None:
        """Refuse other parameters than those of the module's names, shapes and kinds."""
        _check("params", params, self._parameters, self._inventory.aliases)

    def followed(self, params: Mapping[str, torch.Tensor], /, *args: Any, **kwargs: Any) -> Any:
        """The output for jets, directly after :meth:`shape`, which found that plain layers are all that runs."""
        layers = self._layers
        if layers is None or len(args) != 1 or kwargs or not layers.takes(args[0]):
            return self(params, *args, **kwargs)
        _check("params", params, self._parameters, self._inventory.aliases)
        return layers.run(params, args[0])

    def __call__(self, params: Mapping[str, torch.Tensor], /, *args: Any, **kwargs: Any) -> Any:
        """The module's output for these parameters; with buffers, ``(output, new_buffers)``."""
        with locked():
            # The one question costs a compiled function less than the other.
            if compiling() and self.of_plain_layers and _written(params) == self._fitting:
                assert self._layers is not None
                if len(args) == 1 and not kwargs:
                    return self._layers.run(params, args[0])
            self._refresh()
            _check("params", params, self._parameters, self._inventory.aliases)
            layers = self._layers
            if layers is not None and len(args) == 1 and not kwargs and layers.unchanged():
                return layers.noted(layers.run if layers.takes(args[0]) else self._swapped, params, args[0])
            if self.with_buffers:
                return self._with_buffers(params, args, kwargs)
            return self._swapped(params, *args, **kwargs)

    def _swapped(self, params: Mapping[str, torch.Tensor], /, *args: Any, **kwargs: Any) -> Any:
        """The module's own call, with these parameters in their places."""
        buffers = held(self._buffers.values()) if self._buffers else _NONE
        return call_with(self._call, args, kwargs, self._inventory, params, buffers)

    def _with_buffers(
        self, params: Mapping[str, torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensors]:
        if not args:
            raise ArgumentTypeError(
                "f(params, buffers, ...) was called without buffers; pass the dict from make_functional"
            )
        given, *args_left = args
        _check("buffers", given, self._buffers, self._inventory.aliases, self._resized)
        new: Tensors = {}

        def call(*args: Any, **kwargs: Any) -> Any:
            output = self._call(*args, **kwargs)
            _refuse_filled(self._inventory)
            new.update(held(self._buffers.values()))
            return output

        output = call_with(call, args_left, kwargs, self._inventory, params, given)
        # A buffer that grows, such as a cache, comes back in another shape than the module's.
        self._resized.update(name for name, buffer in new.items() if buffer.shape != given[name].shape)
        return output, new

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.module, self.method, self.with_buffers)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionalModule:
        with locked():  # another thread's call may have put its own parameters there
            return FunctionalModule(
                copy.deepcopy(self.module, memo), method=self.method, with_buffers=self.with_buffers
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "method": self.method, "with_buffers": self.with_buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # looks through the copied module anew

    def __repr__(self) -> str:
        method = "" if self.method == "forward" else f", method={self.method!r}"
        arguments = "params, buffers, ..." if self.with_buffers else "params, ..."
        return f"<f({arguments}) of {type(self.module).__name__}{method}>"


class LiveModule:
    """A module as a function of its inputs alone, with its live parameters and its buffers guarded."""

    def __init__(self, module: nn.Module) -> None:
        self.function = FunctionalModule(module)
        self.fingerprint_once: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output by its own parameters."""
        with locked():
            return self.function(self.function.parameters(), *args, **kwargs)

    def _fingerprint(self) -> tuple[object, ...]:
        return (self.function,)

    def __repr__(self) -> str:
        return type(self.function.module).__name__


def _first(slots: Iterable[Slot]) -> dict[str, Slot]:
    first: dict[str, Slot] = {}
    for slot in slots:
        first.setdefault(slot.name, slot)
    return first


def _refuse_filled(inventory: Inventory) -> None:
    """Refuse to return buffers that lack one which the forward has just made."""
    filled = [name for container, index, name in inventory.empty if container[index] is not None]
    for name in [*filled, *(key for _, _, key in inventory.tree.additions())]:
        raise ParametersError(
            f"the forward made the buffer {name!r}, which buffers cannot hand on; call the module on one batch first"
        )


def _written(params: Mapping[str, torch.Tensor]) -> str:
    """Names and shapes as one string, which costs a compiled function one guard where a dict costs dozens."""
    return "; ".join([f"{name} {fixed(tuple(tensor.shape))}" for name, tensor in params.items()])


_PARAMETERS = (torch.Tensor, Jet)
"""What may be a parameter: a jet where it depends on an input."""


def _check(
    argument: str, given: Any, slots: Mapping[str, Slot], aliases: Mapping[str, str], resized: Iterable[str] = ()
) -> None:
    if type(given) is not dict and not isinstance(given, Mapping):
        raise ArgumentTypeError(
            f"{argument} is {a_type(given)}; pass the dict of names to tensors that make_functional returned"
        )
    for name, (container, index, _) in slots.items():
        tensor = given.get(name)
        own = container[index]
        if tensor is own:
            continue
        if name not in given:
            raise ParametersError(f"{argument} lacks the key {name!r}; pass every key that make_functional returned")
        if type(tensor) is not torch.Tensor and not isinstance(tensor, _PARAMETERS):
            raise ParametersError(f"{argument}[{name!r}] is {a_type(tensor)}; a tensor was expected")
        if tensor.dtype != own.dtype and tensor.dtype.is_floating_point != own.dtype.is_floating_point:
            raise ParametersError(
                f"{argument}[{name!r}] has dtype {tensor.dtype}, but the module's has {own.dtype}; convert it with .to"
            )
        if tensor.shape != own.shape and name not in resized:
            raise ParametersError(
                f"{argument}[{name!r}] has shape {tuple(tensor.shape)}, but the module's has {tuple(own.shape)}; pass "
                "one of that shape (stacked ones by torch.func.vmap)"
            )
    if len(given) != len(slots):
        _unknown(argument, given, slots, aliases)


def _unknown(argument: str, given: Mapping[str, Any], slots: Mapping[str, Slot], aliases: Mapping[str, str]) -> None:
    name = next(name for name in given if name not in slots)
    if name in aliases:
        raise ParametersError(
            f"{argument} has the key {name!r}, which is tied to {aliases[name]!r}; pass the latter only"
        )
    known = ", ".join(repr(key) for key in list(slots)[:8]) + (", ..." if len(slots) > 8 else "")
    raise ParametersError(f"{argument} has the unknown key {name!r}; the module's are {known or 'none'}")


@overload
def make_functional(
    module: nn.Module, *, snapshot: bool = ..., method: str = ..., with_buffers: Literal[False] = ...
) -> tuple[FunctionalModule, Tensors]: ...


@overload
def make_functional(
    module: nn.Module, *, snapshot: bool = ..., method: str = ..., with_buffers: Literal[True]
) -> tuple[FunctionalModule, Tensors, Tensors]: ...


@keywords_only
def make_functional(
    module: nn.Module, *, snapshot: bool = False, method: str = "forward", with_buffers: bool = False
) -> tuple[FunctionalModule, Tensors] | tuple[FunctionalModule, Tensors, Tensors]:
    r"""Turn a module into a pure function of its parameters.

    .. math:: f(\theta, x) = \mathrm{module}_\theta(x)

    Args:
        module: any ``nn.Module``.  It stays as it is, during an error in its forward too.
        snapshot: by default ``params`` holds the live parameters, so that ``.backward()`` and ``torch.optim`` work
            on the module; True gives detached copies (for ``torch.func.grad``, ensembles, freezing), which have
            no gradients: before ``.backward()`` call ``requires_grad_()`` on each, or use ``torch.func.grad``.
        method: the name of another method to call instead of ``forward``.
        with_buffers: also take and return buffers: ``f(params, buffers, *args) -> (output, new_buffers)``.  Without
            it buffers are read live and what the forward writes to them is thrown away, together with what it notes
            beside them in plain attributes of the same module.

    Returns:
        ``(f, params)`` or ``(f, params, buffers)``, where ``params`` and ``buffers`` map names to tensors of the
        module's own shapes and dtypes.  Every parameter is in it, frozen ones too, and a tied one once.
        ``f`` can be pickled and copied (its copy carries its own module) and called from any thread.  During a call
        the module holds the given tensors, so another thread must not call the module itself meanwhile, only ``f``.

    Raises:
        ArgumentTypeError: ``module`` is no ``nn.Module``, or its ``method`` is not callable.
        ArgumentError: a lazy module that has not seen its first batch, or a scripted one.
        ParametersError: at the call, for a key that is missing, unknown or mis-shaped.

    Example:
        >>> import torch
        >>> from jacfunc import make_functional
        >>> net = torch.nn.Linear(2, 3)
        >>> f, params = make_functional(net)
        >>> sorted(params)
        ['bias', 'weight']
        >>> x = torch.ones(5, 2)
        >>> bool((f(params, x) == net(x)).all())
        True
    """
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"module is {a_type(module)}; make_functional takes an nn.Module")
    if not compiling():
        refuse_wrapper(module, "module")
    if not isinstance(method, str):
        raise ArgumentTypeError(f"method={method!r} is not the name of a method; pass a str")
    if not callable(getattr(module, method, None)):
        raise ArgumentTypeError(f"method={method!r} is not a callable attribute of {type(module).__name__}")
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            which = f"the submodule {name!r}" if name else "module"
            raise ArgumentError(f"{which} is scripted, so its parameters cannot be exchanged; pass the original")
    with locked():
        f = FunctionalModule(module, method=method, with_buffers=with_buffers)
        params, buffers = f.parameters(), f.buffers()
        if snapshot:
            params = {name: tensor.detach().clone() for name, tensor in params.items()}
            buffers = {name: tensor.detach().clone() for name, tensor in buffers.items()}
    return (f, params, buffers) if with_buffers else (f, params)
