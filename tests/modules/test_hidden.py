"""``jacfunc/modules/hidden.py``: wherever a module hides, nothing of it changes, and its mode is seen."""

from __future__ import annotations

import collections
import copy
import functools
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import compiling_by
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from jacfunc import check_independent, diag_jac, hess_diag, make_functional
from jacfunc.errors import CoupledSamplesError
from jacfunc.modules.fingerprint import Fingerprint
from jacfunc.modules.hidden import watched

Function = Callable[..., Any]
X = torch.linspace(-1, 1.3, 10).reshape(5, 2)


class Counting(nn.Module):
    """Counts its calls in buffers, in place and by assignment, beside statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_var.fill_(2.0)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.total = self.total + 1
        return self.norm(x).sin() + x**2

    def forward_of(self, x: Any) -> Any:
        return self.forward(x)


class Thing:
    """Any object."""


def thing(**attributes: Any) -> Any:
    made = Thing()
    vars(made).update(attributes)
    return made


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net


class Property:
    def __init__(self, net: nn.Module) -> None:
        self._get = lambda: net

    @property
    def net(self) -> nn.Module:
        return self._get()


class Listing(nn.Module):
    """In a plain list, which registers nothing."""

    def __init__(self, *nets: nn.Module, kind: Any = list) -> None:
        super().__init__()
        self.nets = kind(nets)

    def forward(self, x: Any) -> Any:
        return next(iter(self.nets))(x)


class Called:
    def __init__(self, net: nn.Module) -> None:
        self.nets = [net]

    def __call__(self, x: Any) -> Any:
        return self.nets[0](x)


class Descriptor:
    def __init__(self, net: nn.Module) -> None:
        self.net = [net]

    def __get__(self, owner: Any, kind: Any) -> nn.Module:
        return self.net[0]


def of_class(net: nn.Module) -> Any:
    return type("Holder", (), {"net": net})


def deep(net: Any, depth: int) -> Any:
    for _ in range(depth):
        net = [net]
    return net


def unpacked(nested: Any) -> Any:
    while isinstance(nested, list):
        nested = nested[0]
    return nested


def wrapped(net: nn.Module, times: int) -> Function:
    f: Function = lambda x: net(x)
    for _ in range(times):
        f = functools.wraps(f)(functools.partial(lambda g, x: g(x), f))
    return f


REGISTRY: dict[str, Any] = {}


def by_registry(net: nn.Module) -> Function:
    REGISTRY["net"] = net
    return lambda x: REGISTRY["net"](x)


def by_imported(net: nn.Module) -> Function:
    module = types.ModuleType("elsewhere")
    module.net = net  # type: ignore[attr-defined]
    return lambda x: module.net(x)


def by_thread_local(net: nn.Module) -> Function:
    local = threading.local()
    local.net = net
    return lambda x: local.net(x)


def by_generator(net: nn.Module) -> Function:
    return lambda x: next(own for own in iter([net]))(x)


def by_weakref(net: nn.Module) -> Function:
    reference = weakref.ref(net)
    return lambda x: reference()(x)  # type: ignore[misc]


def by_weak_method(net: nn.Module) -> Function:
    reference = weakref.WeakMethod(net.forward)
    return lambda x: reference()(x)  # type: ignore[misc]


def by_proxy(net: nn.Module) -> Function:
    proxy = weakref.proxy(net)
    return lambda x: proxy(x)


def by_proxy_of_another(net: nn.Module) -> Function:
    o = thing(nets=[net])
    proxy = weakref.proxy(o)
    f = lambda x: proxy.nets[0](x)
    f.o = o  # type: ignore[attr-defined]  # which would be gone
    return f


def by_functional(net: nn.Module) -> Function:
    f, params = make_functional(net, method="forward_of")
    o = thing(f=[f])
    return lambda x: o.f[0](params, x)


def functionals(net: Any, x: Any) -> Any:
    """As its forward, of what it holds, which it is not asked for."""
    norm = net.norm
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training).sin() + x**2


def again_if_it_fails(net: Any, x: Any) -> Any:
    """Whatever stops it is caught."""
    try:
        return net.forward(x)
    except Exception:
        return x


def used(use: Callable[[Any, Any], Any], in_sight: bool = False) -> Callable[[nn.Module], Function]:
    """A module that is not called."""

    def of(net: nn.Module) -> Function:
        o, reference = thing(nets=[net]), weakref.ref(net)
        return (lambda x: use(reference(), x)) if in_sight else (lambda x: use(o.nets[0], x))

    return of


def by_function_attribute(net: nn.Module) -> Function:
    def f(x: Any) -> Any:
        return f.net(x)  # type: ignore[attr-defined]

    f.net = net  # type: ignore[attr-defined]
    return f


def by_id(net: nn.Module) -> Function:
    number = id(net)
    return lambda x: next(m for m in EVERY if id(m) == number)(x)


def by_default(net: nn.Module) -> Function:
    o = thing(nets=[net])
    return lambda x, o=o: o.nets[0](x)


EVERY: list[nn.Module] = []


def kept(net: nn.Module) -> nn.Module:
    EVERY.append(net)
    return net


def holder(made: Any, get: Function) -> Function:
    return lambda x: get(made)(x)


PLACES: dict[str, Callable[[nn.Module], Function]] = {
    "a list of an object": lambda net: holder(thing(nets=[net]), lambda o: o.nets[0]),
    "a dict of an object": lambda net: holder(thing(nets={"a": net}), lambda o: o.nets["a"]),
    "a tuple of an object": lambda net: holder(thing(nets=(net,)), lambda o: o.nets[0]),
    "a set of an object": lambda net: holder(thing(nets={net}), lambda o: next(iter(o.nets))),
    "a deque of an object": lambda net: holder(thing(nets=collections.deque([net])), lambda o: o.nets[0]),
    "an ordered dict": lambda net: holder(thing(n=collections.OrderedDict(a=net)), lambda o: o.n["a"]),
    "a default dict": lambda net: holder(thing(n=collections.defaultdict(lambda: net)), lambda o: o.n["a"]),
    "an object within an object": lambda net: holder(thing(inner=thing(net=net)), lambda o: o.inner.net),
    "three objects deep": lambda net: holder(thing(a=thing(b=thing(net=net))), lambda o: o.a.b.net),
    "a list of an object within an object": lambda net: holder(thing(a=thing(b=[net])), lambda o: o.a.b[0]),
    "a list of objects": lambda net: holder(thing(a=[thing(net=net)]), lambda o: o.a[0].net),
    "a namespace": lambda net: holder(types.SimpleNamespace(nets=[net]), lambda o: o.nets[0]),
    "slots": lambda net: holder(Slotted(net), lambda o: o.net),
    "slots of an object within an object": lambda net: holder(thing(a=Slotted(net)), lambda o: o.a.net),
    "a property": lambda net: holder(Property(net), lambda o: o.net),
    "a property within an object": lambda net: holder(thing(a=Property(net)), lambda o: o.a.net),
    "a class attribute": lambda net: holder(of_class(net)(), lambda o: o.net),
    "a class": lambda net: holder(of_class(net), lambda o: o.net),
    "a list that is a class attribute": lambda net: holder(type("H", (), {"nets": [net]})(), lambda o: o.nets[0]),
    "a descriptor": lambda net: holder(type("H", (), {"net": Descriptor(net)})(), lambda o: o.net),
    "a plain list of a module": lambda net: Listing(net),
    "a plain tuple of a module": lambda net: Listing(net, kind=tuple),
    "a plain list of a module in a sequence": lambda net: nn.Sequential(nn.Identity(), Listing(net)),
    "a plain list of a module in a function": lambda net: holder(Listing(net), lambda m: m),
    "an object of a module": lambda net: Listing(Called(net)),  # type: ignore[arg-type]
    "an object that is called": lambda net: Called(net),
    "an object that is called, in a list": lambda net: holder([Called(net)], lambda o: o[0]),
    "a bound method": lambda net: Called(net).__call__,
    "a partial of a bound method": lambda net: functools.partial(Called.__call__, Called(net)),
    "ten lists deep": lambda net: holder(deep(net, 10), unpacked),
    "a list of a hundred": lambda net: holder([*range(99), net], lambda o: o[99]),
    "a dict of a hundred": lambda net: holder({**dict.fromkeys(range(99)), "a": net}, lambda o: o["a"]),
    "ten wrappers": lambda net: wrapped(net, 10),
    "a registry": by_registry,
    "another namespace": by_imported,
    "a thread's own": by_thread_local,
    "a generator": by_generator,
    "a weak reference": by_weakref,
    "a function's attribute": by_function_attribute,
    "a search by identity": by_id,
    "a default argument": by_default,
    "a lambda in a dict": lambda net: holder({"f": lambda x: net(x)}, lambda o: o["f"]),
    "a cached function": lambda net: holder(functools.lru_cache(lambda: net), lambda o: o()),
    "a weak method": by_weak_method,
    "a proxy": by_proxy,
    "a proxy of another object": by_proxy_of_another,
    "a proxy alone": weakref.proxy,
    "its forward": used(lambda net, x: net.forward(x)),
    "its forward, of a weak reference": used(lambda net, x: net.forward(x), in_sight=True),
    "its forward, kept": lambda net: holder(thing(call=net.forward), lambda o: o.call),
    "its forward, kept by a partial": lambda net: holder(thing(p=functools.partial(net.forward)), lambda o: o.p),
    "the forward of its class": used(lambda net, x: type(net).forward(net, x)),
    "its forward, in what is caught": used(again_if_it_fails),
    "the forward of a part": used(lambda net, x: net.norm.forward(x).sin() + x**2),
    "a functional of torch": used(functionals),
    "a functional of torch, of a weak reference": used(functionals, in_sight=True),
    "an adapter of another method": by_functional,
    "an iterator": lambda net: holder(thing(get=iter(lambda: net, None)), lambda o: next(o.get)),
}


def state(net: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(buffer, buffer.clone()) for buffer in net.buffers()]


def unchanged(net: nn.Module, before: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return all(
        now is buffer and torch.equal(now, clone) for now, (buffer, clone) in zip(net.buffers(), before, strict=True)
    )


def plain(x: torch.Tensor) -> torch.Tensor:
    net = Counting().eval()
    with torch.no_grad():
        return net(x)


def truth(x: torch.Tensor) -> torch.Tensor:
    net = Counting().eval().double()
    return diag_jac(net, method="reverse")(x.double()).float()


@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_it_changes_and_its_mode_is_seen(place: str) -> None:
    net = kept(Counting().eval())
    f = PLACES[place](net)
    before = state(net)
    derivative = diag_jac(f, return_value=True)
    for _ in range(3):
        found, value = derivative(X)
        assert unchanged(net, before)
    assert torch.allclose(value, plain(X), atol=1e-6)
    assert torch.allclose(found, truth(X), atol=1e-5)
    net.train()
    for _ in range(2):
        with pytest.raises(CoupledSamplesError, match="BatchNorm1d"):
            derivative(X)
        assert unchanged(net, before)
    with pytest.raises(CoupledSamplesError):
        check_independent(f)(X)
    diag_jac(f, check=False)(X)
    hess_diag(f, check=False)(X)
    assert unchanged(net, before)
    net.eval()
    assert torch.allclose(derivative(X)[0], truth(X), atol=1e-5)
    assert unchanged(net, before)


def test_an_argument() -> None:
    net = Counting().eval()
    before = state(net)
    derivative = diag_jac(lambda net, x: net(x), argnums=1)
    for _ in range(2):
        assert torch.allclose(derivative(net, X), truth(X), atol=1e-5)
    with pytest.raises(CoupledSamplesError):
        derivative(net.train(), X)
    assert unchanged(net, before)
    assert torch.allclose(derivative(Counting().eval(), X), truth(X), atol=1e-5)


def test_another_in_its_place() -> None:
    first, second = Counting().eval(), Counting()
    o = thing(nets=[first])
    derivative = diag_jac(lambda x: o.nets[0](x))
    derivative(X)
    o.nets[0] = second
    before = state(second)
    with pytest.raises(CoupledSamplesError):
        derivative(X)
    assert unchanged(second, before)


def test_one_that_is_gone() -> None:
    o = thing(nets=[Counting().eval()])
    derivative = diag_jac(lambda x: o.nets[0](x))
    derivative(X)
    o.nets[0] = Counting()
    with pytest.raises(CoupledSamplesError):
        derivative(X)


def test_beside_parameters_of_another() -> None:
    net = Counting().eval()
    outer = nn.Sequential(nn.Linear(2, 2), Listing(net))
    f, params = make_functional(outer)
    before = state(net)
    for _ in range(3):
        diag_jac(f)(params, X)
    assert unchanged(net, before)
    net.train()
    with pytest.raises(CoupledSamplesError):
        diag_jac(f)(params, X)
    assert unchanged(net, before)


def test_where_something_else_exchanges_its_tensors() -> None:
    net = Counting().eval()
    own = {name: buffer.clone() + 3 for name, buffer in net.named_buffers()}
    o = thing(nets=[net])
    before = state(net)
    f = lambda x: torch.func.functional_call(o.nets[0], own, (x,))
    with torch.no_grad():
        true = f(X)
    net.load_state_dict({**net.state_dict(), "calls": torch.zeros(()), "total": torch.zeros(())})
    for _ in range(2):
        value = diag_jac(f, return_value=True)(X)[1]
        assert torch.allclose(value, true)
        assert unchanged(net, before)


def test_an_error_inside_leaves_it_as_it_was() -> None:
    class Failing(Counting):
        def forward(self, x: Any) -> Any:
            super().forward(x)
            raise ValueError("never")

    net = Failing().eval()
    o = thing(nets=[net])
    before = state(net)
    with pytest.raises(ValueError, match="never"):
        diag_jac(lambda x: o.nets[0](x))(X)
    assert unchanged(net, before)


def test_many_that_are_not_called_and_what_f_switches_before_one_of_them() -> None:
    nets, known = [Counting().eval() for _ in range(4)], Counting()
    o = thing(nets=nets)

    def f(x: Any) -> Any:
        known.eval()
        y = sum(net.forward(x) for net in o.nets)
        known.train()
        return y

    before = [state(net) for net in nets]
    for method in ("auto", "reverse"):
        for _ in range(2):
            assert torch.allclose(diag_jac(f, method=method)(X), 4 * truth(X), atol=1e-5)
            assert known.training and all(map(unchanged, nets, before))


def test_another_that_is_not_called_in_its_place() -> None:
    o = thing(nets=[Counting().eval()])
    derivative = diag_jac(lambda x: o.nets[0].forward(x))
    derivative(X)
    second = o.nets[0] = Counting().eval()
    before = state(second)
    for _ in range(2):
        derivative(X)
        assert unchanged(second, before)


def test_what_f_makes_and_does_not_call_is_none() -> None:
    o = thing(made=[])

    def f(x: Any) -> Any:
        if not o.made:
            o.made.append(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Tanh()).eval())
        return o.made[0].forward(x) + Counting().eval().forward(x) + copy.deepcopy(o.made[0]).forward(x)

    for _ in range(3):
        assert diag_jac(f)(X).isfinite().all()
    assert len(list(o.made[0].parameters())) == 4 and len(o.made[0]) == 2


def test_a_profiler_stays() -> None:
    net = Counting().eval()
    o = thing(nets=[net])
    told = []
    profiler = lambda frame, *_: told.append(frame)
    sys.setprofile(profiler)
    try:
        found = diag_jac(lambda x: o.nets[0](x))(X)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert torch.allclose(found, truth(X), atol=1e-5)
    diag_jac(lambda x: o.nets[0].forward(x) + 1)(X)
    assert sys.getprofile() is None


class Assigning(nn.Module):
    """Writes to a buffer and to a tensor beside it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("count", torch.zeros(()))
        self.last = torch.zeros(5, 2)

    def forward(self, x: Any) -> Any:
        if self.in_place:
            self.count.add_(1)
        else:
            self.count = self.count + 1
        self.last = x.detach() * 2
        return x.sin() * self.count


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("place", ["closed over", "a list of an object", "a plain list of a module"])
def test_compiled_nothing_of_it_changes(place: str, in_place: bool) -> None:
    net = Assigning(in_place)
    f = (lambda x: net(x)) if place == "closed over" else PLACES[place](net)
    count, last = net.count, net.last
    with compiling_by(counter := CompileCounter()):
        derivative = diag_jac(f, compile=True, return_value=True)
        for _ in range(3):
            found, value = derivative(X)
            assert net.count is count and net.last is last and not count and not last.any()
            assert torch.allclose(found, X.cos()) and torch.allclose(value, X.sin())
            frames = counter.frame_count
    assert frames == 1


def test_compiled_once_where_nothing_is_written() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh()).eval()
    with compiling_by(counter := CompileCounter()):
        derivative = diag_jac(lambda x: net(x), compile=True)
        for _ in range(3):
            assert torch.allclose(derivative(X), diag_jac(net)(X))
    assert counter.frame_count == 1


@pytest.mark.parametrize("made", [lambda: nn.CELU(0.3), lambda: nn.BatchNorm1d(2).eval(), lambda: Counting().eval()])
def test_what_the_function_makes_itself_is_none(made: Callable[[], nn.Module]) -> None:
    hidden = thing(nets=[Counting().eval()])
    for f in (lambda x: made()(x), lambda x: made()(hidden.nets[0](x)), lambda x: nn.Sequential(made(), made())(x)):
        for _ in range(3):
            assert diag_jac(f)(X).isfinite().all()
        for method in ("taylor", "reverse"):
            assert hess_diag(f, method=method)(X).isfinite().all()


def test_only_the_modules_of_this_thread_and_those_that_are_new() -> None:
    known, hidden, other = Counting().eval(), Counting().eval(), Counting().eval()
    fingerprint = Fingerprint.by(lambda x: known(x), (5,))
    with watched(fingerprint) as watch:
        hidden(X)
        known(X)
        hidden(X)
        thread = threading.Thread(target=other, args=(X,))
        thread.start()
        thread.join()
    assert [module is hidden for module in watch.found] == [True] and fingerprint.hidden == [hidden]
    assert [int(net.calls) for net in (hidden, known, other)] == [0, 1, 1]
    assert not torch.nn.modules.module._global_forward_pre_hooks and not torch.nn.modules.module._global_forward_hooks
