"""Traps of where a module hides, by an independent hand: no state of it changes, and its mode is seen wherever it is."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import itertools
import operator
import types
import weakref
from collections import ChainMap, UserDict, UserList, namedtuple
from collections.abc import Callable
from typing import Any

import dense
import numpy as np
import pytest
import torch
from judging import METHODS
from quick import mostly_slow
from torch import nn
from torch.ao.quantization import MinMaxObserver
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jacfunc import CoupledSamplesError, UnsupportedOperationError, diag_jac, hess_diag

Function = Callable[[Any], Any]
DOUBLE = torch.float64
X = torch.tensor([[0.3, -0.8], [-1.1, 0.5], [0.9, 1.4], [0.2, -0.1]], dtype=DOUBLE)


class Ledger(nn.Module):
    """Writes to its buffers in place, by assignment and by another size; has statistics and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.3, -0.7], dtype=DOUBLE))
        self.norm = nn.BatchNorm1d(2, momentum=None, dtype=DOUBLE)
        self.norm.running_mean.fill_(0.25)  # type: ignore[union-attr,operator]
        self.register_buffer("calls", torch.zeros((), dtype=DOUBLE))
        self.register_buffer("last", torch.zeros(1, 2, dtype=DOUBLE), persistent=False)
        self.register_buffer("none", None)

    def forward(self, x: Any) -> Any:
        self.calls.add_(1)
        self.last = x.detach()[-1:] * 2
        return torch.sin(self.norm(x) * self.scale) + x**3


class Thing:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def got(o: Any, get: Function) -> Function:
    return lambda x: get(o)(x)


def by_context_variable(net: nn.Module) -> Function:
    variable: contextvars.ContextVar[nn.Module] = contextvars.ContextVar("net", default=net)
    return lambda x: variable.get()(x)


def by_dataclass(net: nn.Module) -> Function:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Config:
        name: str
        nets: tuple[Any, ...]

    o = Config("a", (net,))
    return lambda x: o.nets[0](x)


def by_hook_of_another(net: nn.Module) -> Function:
    layer = nn.Identity()
    layer.register_forward_hook(lambda layer, args, out: net(out))
    return layer


def by_keyword(net: nn.Module) -> Function:
    own = Thing(nets=(net,))
    return lambda x, *, o=own: o.nets[0](x)


PLACES: dict[str, Callable[[Any], Function]] = {
    "a context variable": by_context_variable,
    "an attribute made on demand": lambda net: got(type("D", (), {"__getattr__": lambda *_: net})(), lambda o: o.net),
    "a metaclass": lambda net: got(type("Kind", (type,), {"net": net})("Made", (), {}), lambda o: o.net),
    "a frozen dataclass with slots": by_dataclass,
    "a named tuple": lambda net: got(namedtuple("Nets", "a b")(1, net), lambda o: o.b),
    "a hook of another module": by_hook_of_another,
    "an array of objects": lambda net: got(np.array([None, net], dtype=object), lambda o: o[1]),
    "a weak set": lambda net: got(weakref.WeakSet([net]), lambda o: next(iter(o))),
    "a weak dict": lambda net: got(weakref.WeakValueDictionary(a=net), lambda o: o["a"]),
    "a chain of dicts": lambda net: got(ChainMap({}, {"a": net}), lambda o: o["a"]),
    "a user's dict in a user's list": lambda net: got(UserList([UserDict(a=net)]), lambda o: o[0]["a"]),
    "a read-only dict": lambda net: got(types.MappingProxyType({"a": net}), lambda o: o["a"]),
    "a key of a dict": lambda net: got({net: 1}, lambda o: next(iter(o))),
    "a frozen set in a dict": lambda net: got({"a": frozenset([net])}, lambda o: next(iter(o["a"]))),
    "a cycle": lambda net: got(itertools.cycle([net]), next),
    "a getter of attributes": lambda net: got(Thing(a=Thing(b=net)), operator.attrgetter("a.b")),
    "a module list of an object": lambda net: got(Thing(n=nn.ModuleList([net])), lambda o: o.n[0]),
    "a bound call": lambda net: got(Thing(call=net.__call__), lambda o: o.call),
    "the implementation of its call": lambda net: got([net], lambda o: o[0]._call_impl),
    "a parallel module": lambda net: got(Thing(n=nn.DataParallel(net)), lambda o: o.n),
    "a checkpoint": lambda net: got([net], lambda o: lambda x: checkpoint(o[0], x, use_reentrant=False)),
    "a keyword's default": by_keyword,
}  # fmt: skip


def everything(net: nn.Module) -> list[tuple[Any, ...]]:
    tensors = itertools.chain(net.named_buffers(), net.named_parameters())
    found = [(name, id(tensor), tensor.data_ptr(), tensor.tolist()) for name, tensor in tensors]
    return found + [(type(module), module.training is net.training) for module in net.modules()]


def truth(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value, derivative, and the gradient of its squares by the parameter, from a copy that is called plainly."""
    own = copy.deepcopy(net).eval()
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(own(x).sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(slope.square().sum(), own.scale)  # type: ignore[arg-type]
    return own(X).detach(), dense.diagonal(own, X), gradient


FAST = ("a hook of another module", "a weak set", "a key of a dict")


@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("place", mostly_slow(PLACES, FAST))
def test_nothing_of_it_changes_wherever_it_hides(place: str, method: str) -> None:
    net = Ledger().eval()
    f = PLACES[place](net)
    value, slope, gradient = truth(net)
    before = everything(net)
    derivative = diag_jac(f, method=method, return_value=True)
    for _ in range(2):
        try:
            found, out = derivative(X)
        except UnsupportedOperationError:
            assert (place, method) == ("a checkpoint", "forward")
            return
        assert everything(net) == before
        assert torch.allclose(out, value)
        assert torch.allclose(found, slope)
        assert torch.allclose(torch.autograd.grad(found.square().sum(), net.scale)[0], gradient)
    net.train()
    with pytest.raises(CoupledSamplesError):
        derivative(X)
    assert everything(net) == before
    net.eval()
    assert torch.allclose(derivative(X)[0], slope)
    assert everything(net) == before


@pytest.mark.parametrize("place", mostly_slow(PLACES, FAST[:1]))
def test_a_first_call_while_it_trains_is_refused_and_one_that_is_not_checked_changes_nothing(place: str) -> None:
    net = Ledger().train()
    f = PLACES[place](net)
    before = everything(net)
    with pytest.raises(CoupledSamplesError):
        hess_diag(f)(X)
    assert everything(net) == before
    hess_diag(f, check=False)(X)
    diag_jac(f, check=False, method="reverse")(X)
    assert everything(net) == before


# ------------------------------------------------------------ what modules keep


class Keeper(nn.Module):
    """Does something to itself before it answers."""

    def __init__(self, do: Callable[[Any, Any], Any], **buffers: Any) -> None:
        super().__init__()
        self.do = do
        for name, buffer in buffers.items():
            (setattr if isinstance(buffer, nn.Parameter) else nn.Module.register_buffer)(self, name, buffer)

    def forward(self, x: Any) -> Any:
        return self.do(self, x)


def of_embedding(kind: Any, shape: tuple[int, ...]) -> nn.Module:
    """Rows of the table that are longer than allowed are written anew."""
    net = Keeper(lambda self, x: x**3 * self.table((torch.arange(len(x)) % 3).reshape(-1, *shape)))
    net.table = kind(3, 2, max_norm=0.5, dtype=DOUBLE)
    return net


def growing(self: Any, x: Any) -> Any:
    self.seen = torch.cat([self.seen, x.detach()])
    return x.sin()


def counting(self: Any, x: Any) -> Any:
    self.cache.add_(1)
    return x.sin() * self.cache.clamp(max=1)


def made_late(self: Any, x: Any) -> Any:
    if not hasattr(self, "late"):
        self.register_buffer("late", torch.full((2,), 3.0, dtype=DOUBLE))
    return x.sin() * self.late


def toggling(self: Any, x: Any) -> Any:
    was = self.training
    self.eval()
    y = self.norm(x).sin()
    self.train(was)
    return y


def with_norm(do: Callable[[Any, Any], Any]) -> nn.Module:
    net = Keeper(do)
    net.norm = nn.BatchNorm1d(2, dtype=DOUBLE)
    return net


KEEPERS: dict[str, Callable[[], nn.Module]] = {
    "an embedding of a largest norm": lambda: of_embedding(nn.Embedding, ()),
    "a bag of a largest norm": lambda: of_embedding(nn.EmbeddingBag, (1,)),
    "an observer": lambda: nn.Sequential(MinMaxObserver(), nn.Tanh()),
    "a count in place": lambda: Keeper(counting, cache=torch.zeros((), dtype=DOUBLE)),
    "a buffer that grows": lambda: Keeper(growing, seen=torch.zeros(0, 2, dtype=DOUBLE)),
    "a buffer that is made late": lambda: Keeper(made_late),
    "a mode that is switched inside": lambda: with_norm(toggling),
    "statistics of each sample": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.InstanceNorm1d(1, track_running_stats=True, dtype=DOUBLE), nn.Flatten()
    ),
    "a spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2, dtype=DOUBLE)),
    "a traced module": lambda: torch.jit.trace(nn.Sequential(nn.BatchNorm1d(2, dtype=DOUBLE), nn.Tanh()).eval(), X),
}
BATCHES: dict[str, Callable[[], nn.Module]] = {
    "no statistics": lambda: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False, dtype=DOUBLE), nn.Tanh()),
    "a module that averages": lambda: torch.optim.swa_utils.AveragedModel(Ledger()),
    "a part of another": lambda: with_norm(lambda self, x: self.norm(x).sin()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", mostly_slow(METHODS, ["auto"]))
@pytest.mark.parametrize("name", mostly_slow(KEEPERS, ("an observer", "a buffer that is made late", "a spectral norm")))
def test_what_it_does_to_itself_is_undone(name: str, method: str, training: bool) -> None:
    net = KEEPERS[name]().train(training)
    own = copy.deepcopy(net)
    slope, value = dense.diagonal(own, X), copy.deepcopy(net)(X)
    before = everything(net)
    f = by_context_variable(net)
    for transform in (diag_jac, hess_diag):
        for _ in range(2):
            found, out = transform(f, method=method, return_value=True)(X)
            assert everything(net) == before
            assert torch.allclose(out, value)
            if transform is diag_jac:
                assert torch.allclose(found, slope)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", mostly_slow(BATCHES, ("a part of another",)))
def test_what_is_of_the_batch_is_refused(name: str) -> None:
    net = BATCHES[name]().train()
    before = everything(net)
    for f in (net, by_context_variable(net), by_dataclass(net)):
        with pytest.raises(CoupledSamplesError):
            diag_jac(f)(X)
        assert everything(net) == before
    if name != "no statistics":
        net.eval()
        assert torch.allclose(diag_jac(net)(X), dense.diagonal(copy.deepcopy(net), X))


@pytest.mark.slow
@pytest.mark.parametrize("hide", [by_keyword, by_dataclass])
def test_compiled(hide: Callable[[nn.Module], Function]) -> None:
    net = Keeper(lambda self, x: (self.count.add_(1), x.sin())[1], count=torch.zeros((), dtype=DOUBLE))
    before = everything(net)
    derivative = diag_jac(hide(net), compile=True, return_value=True)
    for _ in range(3):
        found, out = derivative(X)
        assert everything(net) == before
        assert torch.allclose(out, X.sin()) and torch.allclose(found, X.cos())


# ------------------------------------------------------------ where it fails


def functional(net: Any, x: Any) -> Any:
    """No module is called: a functional of torch writes to what it holds."""
    norm = net.norm
    h = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1)
    return torch.sin(h * net.scale) + x**3


def held_to(do: Callable[[Any, Any], Any]) -> Callable[[], nn.Module]:
    return lambda: Keeper(do, weight=nn.Parameter(torch.tensor([2.0, 5.0], dtype=DOUBLE)))


def clamped(self: Any, x: Any) -> Any:
    with torch.no_grad():
        self.weight.clamp_(-3, 3)
    return x.sin() * self.weight


def exchanged(self: Any, x: Any) -> Any:
    self.weight.data = self.weight.data.clamp(-3, 3)
    return x.sin() * self.weight


def used(use: Callable[[Any, Any], Any]) -> Callable[[nn.Module], Function]:
    """A module that is found in no usual way, and is not called in a usual way."""

    def of(net: nn.Module) -> Function:
        reference = weakref.ref(net)
        return lambda x: use(reference(), x)

    return of


FAILING: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Function], dict[str, Any]]] = {
    # TypeError: cannot create weak reference to 'weakref.CallableProxyType' object, on every method
    "a proxy": (Ledger, lambda net: got(weakref.proxy(net), lambda o: o), {}),
    # every method, train and eval: buffers (calls, last, running statistics) are written
    "its forward": (Ledger, used(lambda net, x: net.forward(x)), {}),
    "its forward, kept": (Ledger, lambda net: got(Thing(call=net.forward), lambda o: o.call), {}),
    "the forward of its class": (Ledger, used(lambda net, x: type(net).forward(net, x)), {}),
    # while it trains: refused, and the running statistics are written
    "the forward of a part": (Ledger, used(lambda net, x: net.norm.forward(x).sin()), {}),
    "a functional": (Ledger, used(functional), {}),
    # every method, plain and hidden: the parameter itself is clamped (2, 3), where it was (2, 5)
    "a parameter that is written": (held_to(clamped), lambda net: net, {}),
    # every method: the process dies of a segmentation fault (torch raises RuntimeError under torch.func)
    "data that is exchanged": (held_to(exchanged), lambda net: net, {}),
    # compiled: ``lambda x: net(x)`` writes buffers that are assigned (``+=``, ``=``); in place, or net itself, is right
    "assigned, compiled": (Ledger, lambda net: lambda x: net(x), {"compile": True}),
    "assigned in a list, compiled": (Ledger, lambda net: got(Thing(n=[net]), lambda o: o.n[0]), {"compile": True}),
    # RefusedOperationError ("calls a method of an interface, or code that it does not contain"), in eval mode too
    "a scripted module": (
        lambda: torch.jit.script(nn.Sequential(nn.BatchNorm1d(2, dtype=DOUBLE), nn.Tanh())), lambda net: net, {}
    ),
}  # fmt: skip
