"""Functions that are built of pieces and edited as users edit them, for ``test_stateful.py``; no test lives here.

A piece is one step of a function: what runs (a *use*), and where that keeps what it reads (a *place*).  What is in
force is described by numbers alone, so that a function can be built again of nothing that was there before.
"""

from __future__ import annotations

import functools
import random
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from jacfunc import make_functional

Function = Callable[..., Any]
DOUBLE = torch.float64
WIDTH = 3

# Another step in place of nothing: hooks, patches and functions held are made of these.
CHANGES: tuple[Function, ...] = (torch.sin, lambda h: h - h.mean(0), lambda h: 2 * h, lambda h: h.flip(0) * 0.5)


# ------------------------------------------------------------ uses: what runs, and what there is to be chosen


def in_turn(h: Any, functions: Sequence[Function]) -> Any:
    for function in functions:
        h = function(h)
    return h


def tensors(*values: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value, dtype=DOUBLE if isinstance(value, float) else None) for value in values)


@dataclass(frozen=True)
class Values:
    """``run(h, value)``, and the values that are to choose from; the first couples no samples."""

    run: Function
    choices: tuple[Any, ...]
    draws: bool = False

    @property
    def fields(self) -> dict[str, tuple[Any, ...]]:
        return {"value": self.choices}

    def make(self, chosen: dict[str, int]) -> Any:
        value = self.choices[chosen["value"]]
        if isinstance(value, torch.Tensor):
            return value.clone()
        return value.copy() if isinstance(value, list | dict | set) else value

    def edit(self, value: Any, name: str, choice: Any, way: str) -> bool:
        """Whether the value could be edited in place."""
        if way != "in place" or not isinstance(value, torch.Tensor | list | dict | set):
            return False
        if isinstance(value, torch.Tensor):
            value.copy_(choice)
        elif isinstance(value, list):
            value[:] = choice
        else:
            value.clear()
            value.update(choice)
        return True


@dataclass(frozen=True)
class Layers:
    """A module, and what can be edited of it beside its hooks, its forward and its tensors."""

    new: Callable[[], nn.Module]
    own: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    run: Function = lambda h, module: module(h)
    draws: bool = False

    @property
    def fields(self) -> dict[str, tuple[Any, ...]]:
        around = (None, *CHANGES)
        return {**self.own, "tensors": (0, 1, 2), "hook": around, "pre-hook": around, "forward": around}

    def make(self, chosen: dict[str, int]) -> nn.Module:
        module = self.new().double().eval()
        for name, number in chosen.items():
            self.edit(module, name, self.fields[name][number], "in place")
        return module

    def edit(self, module: nn.Module, name: str, choice: Any, way: str) -> bool:
        """Whether the module could be edited and need not be another one."""
        if way == "anew":
            return False
        if name == "training":
            module.train(choice)
        elif name == "tensors":
            _fill(module, choice, way)
        elif name == "hook":
            after = choice and (lambda module, args, output: choice(output))
            _hook(module._forward_hooks, module.register_forward_hook, after, way)
        elif name == "pre-hook":
            before = choice and (lambda module, args: (choice(args[0]),))
            _hook(module._forward_pre_hooks, module.register_forward_pre_hook, before, way)
        elif name == "forward":
            vars(module).pop("forward", None)
            if choice is not None:
                module.forward = lambda h: choice(type(module).forward(module, h))  # type: ignore[method-assign]
        else:
            setattr(module, name, choice)
        return True


def _hook(hooks: dict[int, Function], register: Function, hook: Function | None, way: str) -> None:
    """Another hook under the number of the one before, or under a new one; None for none."""
    if hook is not None and hooks and way == "in place":
        hooks[next(iter(hooks))] = hook
        return
    hooks.clear()
    if hook is not None:
        register(hook)


def _fill(module: nn.Module, seed: int, way: str) -> None:
    """Other parameters and buffers, in the same tensors or in new ones."""
    generator = torch.Generator().manual_seed(seed)
    for owned, kind in ((module._parameters, nn.Parameter), (module._buffers, torch.Tensor.clone)):
        for name, tensor in owned.items():
            if tensor is not None and tensor.is_floating_point():
                new = torch.rand(tensor.shape, generator=generator, dtype=DOUBLE) + 0.3
                if way == "replaced":
                    owned[name] = kind(new)
                else:
                    with torch.no_grad():
                        tensor.copy_(new)


class Own(nn.Module):
    """A layer of the user's own: a branch, a float and a function in attributes, and a count in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.centred, self.scale, self.act = False, 1.5, torch.tanh
        self.register_buffer("calls", torch.zeros((), dtype=DOUBLE))

    def forward(self, h: Any) -> Any:
        self.calls += 1
        h = self.act(h) * self.scale * self.calls
        return h - h.mean(0) if self.centred else h


USES: dict[str, Values | Layers] = {
    "branch": Values(lambda h, v: h - h.mean(0) if v else h.sin(), (False, True)),
    "choice": Values(lambda h, v: torch.sin([h, h.flip(0)][v]), (0, 1)),
    "repeated": Values(lambda h, v: in_turn(h, [torch.sin] * v), (1, 0, 3)),
    "factor": Values(lambda h, v: h * v, (1.5, 1.0, 0.0, -2.0)),
    "power": Values(lambda h, v: h**v, (2, 3, 1)),
    "bound": Values(lambda h, v: torch.where(h > v, h.sin(), h * h), (0.0, 0.4, -0.4)),
    "axis": Values(lambda h, v: h.softmax(v), (1, 0, -1)),
    "axes": Values(lambda h, v: h.flip(v) * h, ((1,), (0,), (0, 1))),
    "named": Values(lambda h, v: getattr(torch, v)(h), ("sin", "tanh", "cos")),
    "equation": Values(lambda h, v: torch.einsum(v, h, h), ("ni,ni->ni", "ni,mi->ni", "ni,nj->ni")),
    "keywords": Values(lambda h, v: torch.roll(h, 1, **v).sin(), ({"dims": 1}, {"dims": 0})),
    "called": Values(lambda h, v: v(h), CHANGES),
    "all called": Values(in_turn, ([torch.sin], [torch.sin, torch.cos], [CHANGES[1], torch.tanh])),
    "member": Values(lambda h, v: h.flip(0) if "flip" in v else h.cos(), ({"cos"}, {"cos", "flip"})),
    "shifted": Values(lambda h, v: torch.cat([h[:, v:], h[:, :v]], 1) * h, (0, 1, 2)),
    "dropped": Values(lambda h, v: F.dropout(h, v), (0.0, 0.5, 0.3), draws=True),
    "noisy": Values(lambda h, v: h * torch.rand_like(h) if v else h.sin(), (False, True), draws=True),
    "scaled at random": Values(lambda h, v: h * (1 + random.random()) if v else h, (False, True), draws=True),
    "weight": Values(lambda h, v: h.sin() * v, tensors(0.7, 0.0, -1.3)),
    "gate": Values(lambda h, v: h + v * h.mean(0), tensors(0.0, 1.0)),
    "columns": Values(lambda h, v: h[:, v] * h, tensors([0, 1, 2], [2, 0, 1], [0, 0, 1])),
    "mask": Values(lambda h, v: torch.where(v, h, h.flip(0)), tensors([True] * 3, [True, False, True])),
    "rows": Values(lambda h, v: h[(torch.arange(len(h)) + v) % len(h)].sin(), tensors(0, 1)),
    "stacked": Values(lambda h, v: torch.stack([h, h.flip(0)])[v], tensors(0, 1)),
    "linear": Layers(lambda: nn.Linear(WIDTH, WIDTH)),
    "tanh": Layers(nn.Tanh),
    "elu": Layers(nn.ELU, {"alpha": (1.0, 0.3)}),
    "rms norm": Layers(lambda: nn.RMSNorm(WIDTH), {"eps": (1e-5, 0.1)}),
    "batch norm": Layers(lambda: nn.BatchNorm1d(WIDTH), {"training": (False, True)}),
    "softmax": Layers(lambda: nn.Softmax(1), {"dim": (1, 0)}),
    "dropout": Layers(lambda: nn.Dropout(0.0), {"training": (True, False), "p": (0.0, 0.5)}, draws=True),
    "own": Layers(Own, {"centred": (False, True), "scale": (1.5, 0.0, 1.0), "act": CHANGES}),
}
LAYERS = [name for name, use in USES.items() if isinstance(use, Layers)]


# ------------------------------------------------------------ places: where a value is kept, and how another gets there

Placed = tuple[Function, Callable[[Any], None]]


class Thing:
    """Any object."""

    def __init__(self, v: Any = None) -> None:
        self.v = v


class Slotted:
    __slots__ = ("v",)


class Asking:
    """A property, and what it asks is in a cell."""

    def __init__(self, v: Any) -> None:
        self.get = lambda: v

    v = property(lambda self: self.get(), __init__)


class Local(threading.local):
    """Other threads find there what it was made of."""

    def __init__(self, v: Any) -> None:
        self.v = v


class Owner(nn.Module):
    """A module with a plain attribute, unless that is a module."""

    def __init__(self, run: Function, v: Any) -> None:
        super().__init__()
        self.run, self.v = run, v

    def forward(self, h: Any) -> Any:
        return self.run(h, self.v)


def kept(new: Callable[[Any], Any], get: Function, put: Function) -> Callable[[Function, Any], Placed]:
    """In an object that is made of the value."""

    def placed(run: Function, value: Any) -> Placed:
        o = new(value)
        return lambda h: run(h, get(o)), lambda v: put(o, v)

    return placed


def attribute_of(new: Callable[[Any], Any]) -> Callable[[Function, Any], Placed]:
    return kept(new, lambda o: o.v, lambda o, v: setattr(o, "v", v))


def with_attribute(o: Any, v: Any) -> Any:
    o.v = v
    return o


def in_cell(run: Function, value: Any) -> Placed:
    def put(new: Any) -> None:
        nonlocal value
        value = new

    return lambda h: run(h, value), put


def in_default(run: Function, value: Any) -> Placed:
    f: Any = lambda h, v=value: run(h, v)
    return f, lambda new: setattr(f, "__defaults__", (new,))


def in_keyword_default(run: Function, value: Any) -> Placed:
    f: Any = lambda h, *, v=value: run(h, v)
    return f, lambda new: setattr(f, "__kwdefaults__", {"v": new})


def in_global(run: Function, value: Any) -> Placed:
    scope = {"run": run, "v": value}
    return eval("lambda h: run(h, v)", scope), lambda new: scope.update(v=new)


def in_function_attribute(run: Function, value: Any) -> Placed:
    f: Any = lambda h: run(h, f.v)
    f.v = value
    return f, lambda new: setattr(f, "v", new)


def in_partial(run: Function, value: Any) -> Placed:
    f = functools.partial(lambda h, v: run(h, v), v=value)
    return f, lambda new: f.keywords.update(v=new)


def in_module(run: Function, value: Any) -> Placed:
    owner = Owner(run, value).eval()
    return owner, lambda new: setattr(owner, "v", new)


PLACES: dict[str, Callable[[Function, Any], Placed]] = {
    "an attribute": attribute_of(Thing),
    "a cell": in_cell,
    "a default": in_default,
    "a keyword's default": in_keyword_default,
    "a global": in_global,
    "a class": kept(
        lambda v: type("Kind", (), {"v": (v,)})(), lambda o: o.v[0], lambda o, v: setattr(type(o), "v", (v,))
    ),
    "a module": in_module,
    "a dict": kept(lambda v: {"v": v}, lambda o: o["v"], lambda o, v: o.update(v=v)),
    "a long list": kept(lambda v: [*range(99), v], lambda o: o[99], lambda o, v: o.__setitem__(99, v)),
    "an object's list": kept(lambda v: Thing([v]), lambda o: o.v[0], lambda o, v: o.v.__setitem__(0, v)),
    "an object's object": kept(lambda v: Thing(Thing(v)), lambda o: o.v.v, lambda o, v: setattr(o.v, "v", v)),
    "a slot": attribute_of(lambda v: with_attribute(Slotted(), v)),
    "a property": attribute_of(Asking),
    "a function's attribute": in_function_attribute,
    "a partial": in_partial,
    "an import": attribute_of(lambda v: with_attribute(types.ModuleType("settings"), v)),
    "a thread's own": attribute_of(Local),
}


# ------------------------------------------------------------ functions of them


@dataclass(frozen=True)
class Piece:
    """A use in a place; of each field what is chosen, and for other threads what was there at first."""

    use: str
    place: str
    chosen: tuple[tuple[str, int], ...] = ()

    def number(self, name: str) -> int:
        return dict(self.chosen).get(name, 0)

    def __str__(self) -> str:
        fields = USES[self.use].fields
        told = [f"{name}={_told(fields[name][number])}" for name, number in self.chosen if number]
        return f"{self.use} in {self.place}({', '.join(told)})"


def _told(choice: Any) -> str:
    return f"change {CHANGES.index(choice)}" if callable(choice) and choice in CHANGES else str(choice)


@dataclass(frozen=True)
class Description:
    """All that a function is: its form, how deep it is wrapped, and its pieces."""

    form: str
    pieces: tuple[Piece, ...]
    wrapped: int = 0
    paused: bool = False

    @property
    def draws(self) -> bool:
        return any(USES[piece.use].draws for piece in self.pieces)

    def edited(self, at: int, name: str, number: int) -> Description:
        chosen = {**dict(self.pieces[at].chosen), name: number}
        pieces = list(self.pieces)
        pieces[at] = replace(pieces[at], chosen=tuple(sorted(chosen.items())))
        return replace(self, pieces=tuple(pieces))

    def __str__(self) -> str:
        return f"{self.form}, wrapped {self.wrapped} times, of {' -> '.join(map(str, self.pieces))}"


class Built:
    """A function by its description, with new objects throughout; ``fresh`` with code that no other one has."""

    count = 0

    def __init__(self, description: Description, fresh: bool = False) -> None:
        self.values: list[Any] = []
        self.puts: list[Callable[[Any], None]] = []
        functions = []
        for at, piece in enumerate(description.pieces):
            use = USES[piece.use]
            self.values.append(use.make({name: piece.number(name) for name in use.fields}))
            place = PLACES[piece.place] if description.form == "function" else self._layer(at)
            function, put = place(use.run, self.values[at])
            functions.append(function)
            self.puts.append(put)
        self.net = nn.Sequential(*functions) if description.form != "function" else None
        self.call = self.net or _wrapped(_chained(functions, description.paused), description.wrapped, fresh)
        self.functional = make_functional(self.net)[0] if description.form == "functional" else None

    def _layer(self, at: int) -> Callable[[Function, Any], Placed]:
        return lambda run, value: (value, lambda new: self.net.__setitem__(at, new))  # type: ignore[union-attr]

    def edit(self, description: Description, at: int, name: str, way: str) -> None:
        """What ``description``, which is in force from now on, has at a piece."""
        piece, use = description.pieces[at], USES[description.pieces[at].use]
        if not use.edit(self.values[at], name, use.fields[name][piece.number(name)], way):
            self.values[at] = use.make({name: piece.number(name) for name in use.fields})
            self.puts[at](self.values[at])

    @property
    def transformed(self) -> Any:
        return self.functional or self.call

    def arguments(self, x: torch.Tensor) -> tuple[Any, ...]:
        return (self.functional.parameters(), x) if self.functional else (x,)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules() for parameter in module.parameters()]

    def modules(self) -> list[nn.Module]:
        return [value for value in self.values if isinstance(value, nn.Module)]

    def state(self) -> Iterator[tuple[str, Any, Any]]:
        """Of each thing that no call may change a name, the thing itself and a copy of it."""
        for at, value in enumerate(self.values):
            if isinstance(value, torch.Tensor):
                yield f"tensor of piece {at}", value, value.clone()
            elif isinstance(value, nn.Module):
                yield f"mode of piece {at}", value.training, value.training
                for name, tensor in (*value.named_parameters(), *value.named_buffers()):
                    yield f"{name} of piece {at}", tensor, tensor.detach().clone()


def _chained(functions: list[Function], paused: bool) -> Function:
    def f(x: Any) -> Any:
        if paused:
            SCRIPT.here()
        for function in functions:
            x = function(x)
        return x

    return f


def _wrapped(f: Any, times: int, fresh: bool) -> Function:
    for _ in range(times):
        f = functools.partial(lambda g, x: g(x), f)
    if fresh:
        inner, Built.count = f, Built.count + 1
        f = lambda x: inner(x)
        f.__code__ = f.__code__.replace(co_name=f"copy{Built.count}")
    return f


# ------------------------------------------------------------ what is edited for all modules, and by other threads


class Everywhere:
    """Hooks that torch has for all modules, and other forwards of its own classes; the live ones are everybody's."""

    def __init__(self) -> None:
        self.undo: dict[str, Function] = {}

    def edit(self, name: str, change: Function | None) -> None:
        self.undo.pop(name, lambda: None)()
        if change is None:
            return
        if name == "global hook":
            hook = lambda module, args, output: change(output) if isinstance(module, nn.Tanh | Own) else None
            self.undo[name] = register_module_forward_hook(hook).remove
        elif name == "global pre-hook":
            before = lambda module, args: (change(args[0]),) if isinstance(module, nn.Linear) else None
            self.undo[name] = register_module_forward_pre_hook(before).remove
        else:
            kind: Any = {"forward of a class": nn.Tanh, "forward of an own class": Own}[name]
            own = kind.forward
            kind.forward = lambda self, h: change(own(self, h))
            self.undo[name] = lambda: setattr(kind, "forward", own)

    def end(self) -> None:
        for name in tuple(self.undo):
            self.edit(name, None)


EVERYWHERE = ("global hook", "global pre-hook", "forward of a class", "forward of an own class")


class Script:
    """When a thread comes by for the n-th time another one runs its part, to the end unless it waits for the first."""

    def __init__(self) -> None:
        self.thread, self.left, self.other = 0, 0, threading.Thread()

    def begin(self, left: int, part: Callable[[], None]) -> None:
        self.thread, self.left, self.other = threading.get_ident(), left, threading.Thread(target=part)

    def here(self) -> None:
        if threading.get_ident() == self.thread and self.left:
            self.left -= 1
            if not self.left:
                self.other.start()
                self.other.join(timeout=0.05)

    def end(self) -> None:
        """The other's part has come to its end."""
        self.left = 0
        with suppress(RuntimeError):  # never started, as the first did not come by so often
            self.other.start()
        self.other.join(timeout=60)


SCRIPT = Script()
