"""Modules that are built of plain layers: which they are, and running them on jets layer by layer.

They are known to work where the Taylor route cannot be verified: under ``vmap``, where no value can be looked at, and
under ``torch.compile``, where nothing can fall back and Dynamo takes no jet through some functions of torch, which no
mode sees (``F.pad``).  And nothing else runs in their forward, so a jet needs neither their call nor a dispatcher,
which together take as long as a small layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..core import caches
from ..core.levels import compiling, hooks_around
from ..core.torch_private import mode_count, set_grad
from .chosen import chosen_of
from .dispatch import apply
from .jet import Jet
from .rules.products import linear_layer, multiplies
from .stacked import Layer, stacked
from .windows import windows_of

Params = Mapping[str, torch.Tensor]
Step = Callable[[Params, Any], Any]

ACTIVATIONS: dict[type[nn.Module], tuple[Callable[..., Any], tuple[str, ...]]] = {
    nn.Tanh: (torch.tanh, ()),
    nn.Sigmoid: (torch.sigmoid, ()),
    nn.SiLU: (F.silu, ()),
    nn.ReLU: (torch.relu, ()),
    nn.GELU: (F.gelu, ("approximate",)),
    nn.Softplus: (F.softplus, ("beta", "threshold")),
}
"""Activations by their function, and the attributes that it takes."""

SHAPING: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LayerNorm: ("normalized_shape",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
}
"""Attributes by which a layer may come to mix samples."""

LAYERS = frozenset(
    [nn.Sequential, nn.Linear, nn.LayerNorm, nn.Identity, nn.Flatten, nn.Unflatten]
    + [*ACTIVATIONS, nn.LeakyReLU, nn.ELU, nn.SELU, nn.LogSigmoid]
)


class Token:
    """Something that equals nothing else; of a class, since Dynamo cannot make a plain ``object``."""


class PlainLayers:
    """The layers of a module in the order in which they run; ``token`` is that of no others, before or after."""

    def __init__(self, module: nn.Module, aliases: Mapping[str, str]) -> None:
        self.modules = [
            (child, tuple(child._modules.values()), _missing(child), type(child), type(child).forward)
            for child in module.modules()
        ]
        kinds = dict.fromkeys(map(type, module.modules()))
        self.calls = [(kind, kind.__call__) for kind in kinds]
        self.functions = [place for kind in kinds for place in _functions_of(kind)]
        self.shaping = [
            (child, name, getattr(child, name)) for child in module.modules() for name in SHAPING.get(type(child), ())
        ]
        self.weighted = [child for child in module.modules() if child._parameters]
        self.token = Token()
        # By which one step of a program is told from another.
        self.kinds = [*(type(child).__name__ for child in module.modules()), *(value for _, _, value in self.shaping)]
        self.steps = list(_steps(module, "", aliases))
        self._chain = _chain(module, aliases)

    @classmethod
    def of(cls, module: nn.Module, aliases: Mapping[str, str]) -> PlainLayers | None:
        """Those of a module whose every layer is in :data:`LAYERS`; ``aliases`` are the second names of tied ones."""
        kinds = {type(child) for child in module.modules()}
        plain = kinds <= LAYERS and all(map(_forward_is_its_own, kinds)) and all(map(_has_its_own, module.modules()))
        return cls(module, aliases) if plain else None

    def unchanged(self) -> bool:
        """Whether they are still those of the module, with and without the same parameters, and nothing else runs."""
        for module, children, missing, kind, forward in self.modules:
            if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
                return False
            if module._backward_hooks or module._backward_pre_hooks:
                return False
            if type(module) is not kind or kind.forward is not forward:
                return False
            if children and tuple(module._modules.values()) != children:
                return False
            if module._parameters and _missing(module) != missing:
                return False
        return compiling() or self._undisturbed()

    def _undisturbed(self) -> bool:
        """Whether what is no part of the modules leaves them alone too, and they keep the samples apart.

        It is asked before whatever is compiled is called, and so not while it is traced.
        """
        if hooks_around():
            return False
        if not all(map(_has_its_own, self.weighted)):
            return False
        for kind, call in self.calls:
            if kind.__call__ is not call:
                return False
        for place, name, function in self.functions:
            if getattr(place, name) is not function:
                return False
        return not self.shaping or all(getattr(child, name) == value for child, name, value in self.shaping)

    @property
    def chain(self) -> list[Layer]:
        """The layers where each is a linear one and an activation, by the rules of this package; else none."""
        return self._chain if self._chain and caches.RULES[F.linear][0] is linear_layer else []

    def takes(self, x: Any) -> bool:
        """Whether they run for this input: a jet, unless a mode wants to see their operations.

        While ``torch.compile`` traces, any: it would put parameters that were swapped back at every call.
        """
        return compiling() or (type(x) is Jet and not mode_count())

    def noted(self, run: Callable[[Params, Any], Any], params: Params, x: Any) -> Any:
        """What ``run`` makes of the input, which is one step of a program however they run."""
        recorder = x.propagation.recorder if type(x) is Jet else None
        if recorder is None or recorder.busy:
            return run(params, x)
        return recorder.step(PlainLayers, (x, *self.kinds), {}, run, params, x)

    def run(self, params: Params, x: Any) -> Any:
        """The module's output."""
        if type(x) is not Jet or not x.propagation.quiet or x.propagation.inside:
            return self._run(params, x)
        propagation = x.propagation
        propagation.inside = True
        set_grad(False)
        try:
            return self._run(params, x)
        finally:
            set_grad(True)
            propagation.inside = False

    def _run(self, params: Params, x: Any) -> Any:
        if not compiling() and type(x) is Jet and self._chain:
            found = stacked(self.chain, params, x)
            if found is not None:
                return found
        for step in self.steps:
            x = step(params, x)
        return x


def _forward_is_its_own(kind: type[nn.Module]) -> bool:
    """Whether nobody has put another forward on a class of torch, which would not be run here."""
    file: str | None = sys.modules[kind.__module__].__file__
    code = getattr(kind.forward, "__code__", None)
    return code is not None and code.co_filename == file


def _functions_of(kind: type[nn.Module]) -> list[tuple[Any, str, Any]]:
    """The functions of torch by which its layers run, where a layer looks them up at each call."""
    called: dict[type[nn.Module], Any] = {layer: function for layer, (function, _) in ACTIVATIONS.items()}
    function = {**called, nn.Linear: F.linear, nn.LayerNorm: F.layer_norm}.get(kind)
    if function is None:
        return []
    name: str = function.__name__
    return [(place, name, function) for place in (F, torch) if getattr(place, name, None) is function][:1]


def _has_its_own(module: nn.Module) -> bool:
    """Whether weight and bias of a layer are its parameters, no buffers or attributes, which ``params`` do not have."""
    kept, others = module._parameters, (module._buffers, module.__dict__)
    return not any(name not in kept and any(name in other for other in others) for name in ("weight", "bias"))


def _missing(module: nn.Module) -> list[bool]:
    return [parameter is None for parameter in module._parameters.values()]


def _steps(module: nn.Module, prefix: str, aliases: Mapping[str, str], activated: bool = False) -> list[Step]:
    """The steps of a module; ``activated``: an activation comes next."""
    if type(module) is nn.Sequential:
        children = list(module._modules.items())
        following = [type(child) in ACTIVATIONS for _, child in children[1:]] + [False]
        return [
            step
            for (name, child), activated in zip(children, following, strict=True)
            for step in _steps(child, f"{prefix}{name}.", aliases, activated)
        ]
    if type(module) is nn.Linear:
        return [_linear(prefix, aliases, activated)]
    if type(module) is nn.LayerNorm:
        return [_layer_norm(module, prefix, aliases)]
    if type(module) in ACTIVATIONS:
        return [_activation(module, *ACTIVATIONS[type(module)])]
    return [lambda params, x: module(x)]


def _chain(module: nn.Module, aliases: Mapping[str, str]) -> list[Layer]:
    """The layers where each is a linear one and an activation, or the last a linear one alone; else none."""
    layers: list[Layer] = []
    for prefix, child in module.named_modules(remove_duplicate=False):
        kind = type(child)
        if kind is nn.Linear and not (layers and layers[-1].activation is None):
            layers.append(Layer(*_names(f"{prefix}." if prefix else "", aliases), None))
        elif kind in ACTIVATIONS and not ACTIVATIONS[kind][1] and layers and layers[-1].activation is None:
            layers[-1] = layers[-1]._replace(activation=ACTIVATIONS[kind][0])
        elif kind is not nn.Sequential:
            return []
    return layers if layers and layers[0].activation is not None else []


def _linear(prefix: str, aliases: Mapping[str, str], activated: bool) -> Step:
    weight, bias = _names(prefix, aliases)

    def step(params: Params, x: Any) -> Any:
        w: Any = params[weight]
        b: Any = params.get(bias)
        if type(w) is Jet or type(b) is Jet:
            return apply(F.linear, (x, w, b), {})
        at_once = activated and type(x) is Jet and not x.propagation.traced and windows_of(x) is None and _in_full(x)
        if at_once and caches.RULES[F.linear][0] is linear_layer and multiplies(x, w):
            return Jet.multiplied(x, w, b)
        return _applied(F.linear, x, w, b)

    return step


def _layer_norm(module: nn.LayerNorm, prefix: str, aliases: Mapping[str, str]) -> Step:
    weight, bias = _names(prefix, aliases)

    def step(params: Params, x: Any) -> Any:
        args = (x, module.normalized_shape, params.get(weight), params.get(bias), module.eps)
        return apply(F.layer_norm, args, {})

    return step


def _names(prefix: str, aliases: Mapping[str, str]) -> tuple[str, str]:
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    return aliases.get(weight, weight), aliases.get(bias, bias)


def _activation(module: nn.Module, function: Callable[..., Any], attributes: tuple[str, ...]) -> Step:
    if not attributes:
        return lambda params, x: _applied(function, x)
    return lambda params, x: _applied(function, x, **{name: getattr(module, name) for name in attributes})


def _applied(function: Callable[..., Any], x: Any, *rest: Any, **named: Any) -> Any:
    """The rule itself, where what is the only jet may stay in its frame."""
    if type(x) is not Jet:
        return function(x, *rest, **named)
    rule, keeps_frame = caches.RULES[function]
    return rule(x, *rest, **named) if keeps_frame and _in_full(x) else apply(function, (x, *rest), named)


def _in_full(x: Jet) -> bool:
    """Whether rows are not of blocks or of a few entries alone, and not about to be."""
    if x.propagation.chosen and chosen_of(x) is not None:
        return False
    return x.propagation.whole is None or (x._frame.blocks is None and x.dim() == 2)
