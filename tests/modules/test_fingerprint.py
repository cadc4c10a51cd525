"""What a function is: the same for lambdas that mean the same, another for those that do not."""

from __future__ import annotations

import functools
import gc
import random

import pytest
import torch
from torch import nn

from jacfunc import CoupledSamplesError, batch_jac, diag_jac, make_functional
from jacfunc.core import caches
from jacfunc.modules.fingerprint import Fingerprint

NET = nn.Linear(3, 3)
SCALE = 2.0


def key(f, batch=(4,)):
    return Fingerprint.by(f, batch).key


def scaled(scale):
    return lambda x: x * scale


def with_default(scale):
    def f(x, scale=scale, *, shift=0):
        return x * scale + shift

    return f


class Model:
    """A callable object of a user."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)

    def other(self, x):
        return self.net(2 * x)


def uses_globals(x):
    return NET(x) * SCALE


def uses_globals_inside(x):
    return [NET(part) for part in x]


SAME = {
    "numbers": lambda: scaled(2.0),
    "tensors of one shape": lambda: scaled(torch.rand(3)),
    "samples": lambda: scaled(torch.rand(4, 1)),
    "modules": lambda: scaled(NET),
    "defaults": lambda: with_default(3),
    "nested": lambda: scaled({"a": [torch.rand(2)], "b": (1, "s", None)}),
    "inner function": lambda: scaled(scaled(1)),
    "partial": lambda: functools.partial(torch.mul, torch.rand(3), other=2),
    "methods": lambda: NET.forward,
    "transforms": lambda: diag_jac(scaled(1.0)),
    "adapters": lambda: diag_jac(make_functional(NET)[0]),
}


@pytest.mark.parametrize("name", SAME)
def test_made_anew_it_is_the_same_function(name):
    assert key(SAME[name]()) == key(SAME[name]())
    hash(key(SAME[name]()))


DIFFERENT = {
    "dtypes that are held": (scaled(torch.float32), scaled(torch.float64)),
    "int and float": (scaled(2), scaled(2.0)),
    "bool and int": (scaled(True), scaled(1)),
    "shapes": (scaled(torch.rand(3)), scaled(torch.rand(2))),
    "dtypes": (scaled(torch.rand(3)), scaled(torch.rand(3).double())),
    "modules": (scaled(NET), scaled(nn.Linear(3, 3))),
    "defaults": (with_default(3), with_default(None)),
    "code": (lambda x: x, lambda x: x + 1),
    "methods": (Model(NET).__call__, Model(NET).other),
    "objects": (Model(NET), Model(NET)),
    "aliases": (scaled((NET, NET)), scaled((NET, nn.Linear(3, 3)))),
    "transforms": (diag_jac(scaled(1)), batch_jac(scaled(1))),
    "methods of an adapter": (make_functional(NET)[0], make_functional(NET, method="__call__")[0]),
    "options": (diag_jac(torch.sin), diag_jac(torch.sin, batch_dims=2)),
}


@pytest.mark.parametrize(("here", "there"), [(2.0, 3.0), (2, 3), (True, False), ("a", "b"), (1j, 2j)])
def test_values_are_told_apart_by_what_runs_and_kept_for_what_is_compiled(here, there):
    one, two = Fingerprint.by(scaled(here), (4,)), Fingerprint.by(scaled(there), (4,))
    assert one.key == two.key and (one.numbers, two.numbers) == ([here], [there])


DRAWS = {"function": lambda x: x * torch.rand(3), "deep": scaled(lambda x: torch.nn.functional.dropout(x, 0.5))}


@pytest.mark.parametrize("name", DRAWS)
def test_what_may_draw_is_seen_by_its_names(name):
    f = DRAWS[name]
    for _ in range(12):
        f = functools.partial(lambda f, x: f(x), f)
    assert Fingerprint.by(f, (4,)).may_draw


def test_methods_that_may_draw_are_seen_too():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    noisy = Noisy()

    class Sampler:
        def __call__(self, x):
            return x * torch.bernoulli(x)

    assert all(Fingerprint.by(f, (4,)).may_draw for f in (Sampler(), lambda x: noisy(x)))
    assert not Fingerprint.by(scaled(NET), (4,)).may_draw


def test_functions_that_may_draw_are_seen_in_modules_and_objects():
    def noisy(x, *_):
        return x * (1 + random.random())

    class Has:
        def __init__(self, held):
            self.held = held

    class Sampler:
        def noisy(self, x):
            return x * random.random()

    class Holder(nn.Module):
        def __init__(self, held):
            super().__init__()
            self.held = held

    def hooked():
        layer = nn.Linear(2, 2)
        layer.register_forward_pre_hook(noisy)
        return layer

    held = [noisy, functools.partial(noisy), Sampler().noisy]
    drawing = [*map(Has, held), *map(Holder, [*held, [noisy], {"by name": noisy}]), hooked(), nn.Sequential(hooked())]
    assert all(Fingerprint.by(scaled(thing), (4,)).may_draw for thing in drawing)
    assert not any(Fingerprint.by(scaled(kind(abs)), (4,)).may_draw for kind in (Has, Holder))


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_means_something_else_is_another_function(name):
    one, two = DIFFERENT[name]
    assert key(one) != key(two)


@pytest.mark.parametrize(
    "f", [NET, NET.forward, scaled(NET), scaled([{"n": NET}]), Model(NET), Model(NET).other, uses_globals,
          uses_globals_inside, functools.partial(uses_globals), diag_jac(NET), scaled(uses_globals)]
)  # fmt: skip
def test_modules_are_found_wherever_they_are(f):
    assert NET in Fingerprint.by(f, ()).tree()


def test_recursive_structures_end():
    loop = [NET]
    loop.append(loop)
    assert hash(key(scaled(loop))) == hash(key(scaled(loop)))
    assert key(scaled(loop)) == key(scaled(loop)) != key(scaled([NET, [NET]]))
    deep = NET
    for _ in range(40):
        deep = [deep]
    assert key(scaled(deep)) == key(scaled(deep)) != key(scaled(NET))


def test_an_empty_cell_is_no_error():
    def f(x):
        return later(x)

    assert key(f) == key(f)

    def later(x):
        return x


def test_long_collections_are_taken_by_identity():
    long = list(range(1000))
    assert key(scaled(long)) == key(scaled(long))
    assert key(scaled(long)) != key(scaled(list(range(1000))))


class Slotted:
    """Cannot be referred to weakly."""

    __slots__ = ("factor",)

    def __init__(self):
        self.factor = 2.0

    def __call__(self, x):
        return x * self.factor


def test_what_cannot_be_watched_is_known_by_what_it_does():
    f = Slotted()
    diag_jac(f)(torch.randn(4, 3))
    assert not Fingerprint.by(f, (4,)).watchable and len(caches.PLANS) == 1
    other = Slotted()
    x = torch.randn(4, 3)
    assert torch.equal(diag_jac(other)(x), torch.full_like(x, 2.0))
    other.factor = torch.eye(4)[[1, 2, 3, 0]]
    other.__class__.__call__ = lambda self, x: self.factor @ x
    try:
        with pytest.raises(CoupledSamplesError):
            diag_jac(other)(x)
    finally:
        other.__class__.__call__ = lambda self, x: x * self.factor


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(caches, "MAX_FUNCTIONS", 3)
    monkeypatch.setattr(caches, "MAX_SIGNATURES", 2)
    for count in range(5):
        diag_jac(functools.partial(lambda given, x: x, [1.0] * count))(torch.randn(4, 3))
    assert len(caches.PLANS) == 3
    for width in range(1, 5):
        diag_jac(torch.sin)(torch.randn(4, width))
    assert all(len(entry[1]) <= 2 for entry in caches.PLANS._entries.values())


def test_memories_go_with_an_object():
    model = Model(NET)
    diag_jac(model)(torch.randn(4, 3))
    assert len(caches.PLANS) == 1
    del model
    gc.collect()
    assert len(caches.PLANS) == 0
