"""``jacfunc/modules/swapping.py``: where a module keeps its tensors, others in their places, and all as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from jacfunc import FunctionalModule, diag_jac, explain, laplacian, make_functional
from jacfunc.core import caches
from jacfunc.errors import ArgumentError, ParametersError
from jacfunc.modules.swapping import Inventory, Slot, call_guarded, call_with, held, locked

X = torch.ones(2, 3)


class Inner(nn.Module):
    """With a parameter, a buffer, an empty place for each, a counter and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))
        self.register_parameter("bias", None)
        self.register_buffer("scale", torch.full((3,), 5.0))
        self.register_buffer("cache", None)
        self.seen = torch.zeros(())
        self.filled = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight * self.scale


class Outer(nn.Module):
    """Two paths to one module, and a tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Inner()
        self.again = self.first
        self.head = nn.Linear(3, 3, bias=False)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.head.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.head(self.again(self.first(x))))


def names(slots: tuple[Slot, ...]) -> list[str]:
    return [slot.name for slot in slots]


# -------------------------------------------------------------------- looking


def test_each_tensor_is_named_once_by_the_first_path_to_it() -> None:
    net = Outer()
    inventory = Inventory.of(net)
    assert names(inventory.parameters) == ["first.weight", "head.weight", "head.weight"]
    assert names(inventory.buffers) == ["first.scale"]
    assert names(inventory.empty) == ["first.bias", "head.bias", "tied.bias", "first.cache"]
    assert inventory.aliases == {
        "again.weight": "first.weight",
        "again.scale": "first.scale",
        "tied.weight": "head.weight",
    }
    for container, index, name in (*inventory.parameters, *inventory.buffers):
        assert container[index] is dict([*net.named_parameters(), *net.named_buffers()])[name]
    ((again, first),) = inventory.ties
    assert again.container is net.tied._parameters and first.container is net.head._parameters
    assert names(inventory.attributes) == ["seen"]
    assert held(inventory.buffers) == {"first.scale": net.first.scale}


def test_a_parameter_that_is_registered_as_a_buffer_too_is_one_of_the_parameters() -> None:
    net = nn.Linear(3, 3)
    net.register_buffer("copy", net.weight)
    inventory = Inventory.of(net)
    assert names(inventory.parameters) == ["weight", "bias", "weight"] and inventory.buffers == []
    assert inventory.aliases == {"copy": "weight"}


def test_plain_layers_change_nothing_and_need_no_guard() -> None:
    inventory = Inventory.of(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    assert not inventory.buffers and not inventory.attributes and inventory.tree.homes == [] and not inventory.written


def test_what_a_forward_writes_to() -> None:
    net = nn.Sequential(nn.Embedding(4, 3, max_norm=1.0), nn.Embedding(4, 3), nn.GRU(3, 3))
    inventory = Inventory.of(net)
    assert names(inventory.written) == ["0.weight"]
    assert set(names(inventory.attributes)) >= {"_flat_weights"}


def test_a_lazy_parameter_is_refused_by_its_path() -> None:
    with pytest.raises(ArgumentError, match="^the lazy parameter '1.weight' has no shape yet; call the module on one"):
        Inventory.of(nn.Sequential(nn.Tanh(), nn.LazyLinear(3)))


CHANGES: dict[str, Callable[[Outer], Any]] = {
    "a submodule replaced": lambda net: setattr(net, "head", nn.Linear(3, 3)),
    "a submodule added": lambda net: net.add_module("more", nn.Tanh()),
    "a submodule removed": lambda net: delattr(net, "tied"),
    "a parameter added": lambda net: setattr(net.first, "more", nn.Parameter(torch.zeros(1))),
    "a parameter removed": lambda net: delattr(net.first, "weight"),
    "a parameter emptied": lambda net: setattr(net.first, "weight", None),
    "a parameter filled": lambda net: setattr(net.first, "bias", nn.Parameter(torch.zeros(1))),
    "a buffer emptied": lambda net: setattr(net.first, "scale", None),
    "a buffer filled": lambda net: setattr(net.first, "cache", torch.zeros(1)),
    "untied": lambda net: setattr(net.tied, "weight", nn.Parameter(torch.zeros(3, 3))),
    "containers copied": lambda net: vars(net.first).update(_buffers=dict(net.first._buffers)),
    "renamed": lambda net: vars(net.first).update(_parameters={"heavy": net.first.weight, "bias": None}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_tree_makes_an_inventory_stale(change: str) -> None:
    net = Outer()
    inventory = Inventory.remembered(net)
    assert not inventory.stale() and Inventory.remembered(net) is inventory
    CHANGES[change](net)
    assert inventory.stale()
    again = Inventory.remembered(net)
    assert again is not inventory and not again.stale()


def test_other_tensors_in_the_same_places_are_no_change() -> None:
    net = Outer()
    inventory = Inventory.remembered(net)
    net.first.weight = nn.Parameter(torch.zeros(3))
    net.first.scale = torch.zeros(3)
    net.first.seen = torch.ones(())
    net.head.weight.data = torch.zeros(3, 3)
    assert not inventory.stale() and Inventory.remembered(net) is inventory


# -------------------------------------------------------------------- swapping


def state(net: nn.Module) -> list[tuple[int, str, Any]]:
    """Everything that is in the modules: which objects, under which names, and their values."""
    found: list[Any] = []
    for module in net.modules():
        for key, value in vars(module).items():
            items = value.items() if key in ("_parameters", "_buffers", "_modules") else [(key, value)]
            for name, item in items:
                copy = item.clone() if isinstance(item, torch.Tensor) else None
                found.append((id(module), key, name, id(item), copy))
    return found


def same(one: list[Any], other: list[Any]) -> bool:
    pairs = list(zip(one, other, strict=True))
    plain = all(a[:4] == b[:4] for a, b in pairs)
    return plain and all(a[4] is None or torch.equal(a[4], b[4]) for a, b in pairs)


def test_an_inventory_is_stale_where_what_was_absent_has_another_name() -> None:
    net = nn.Linear(3, 3, bias=False)
    inventory = Inventory.of(net)
    assert not inventory.stale()
    del net.bias
    net.register_parameter("offset", None)
    assert inventory.stale()


def swapped(net: nn.Module, call: Callable[..., Any], params: Any, *args: Any) -> Any:
    inventory = Inventory.of(net)
    return call_with(call, args, {}, inventory, params, held(inventory.buffers))


def others(net: nn.Module) -> dict[str, torch.Tensor]:
    inventory = Inventory.of(net)
    return {name: (tensor.detach() + 1).requires_grad_() for name, tensor in held(inventory.parameters).items()}


def test_given_tensors_are_in_every_place_during_the_call_and_gone_after_it() -> None:
    net = Outer()
    params, before, scale = others(net), state(net), net.first.scale

    def looking(x: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
        assert net.first.weight is params["first.weight"] and net.again.weight is net.first.weight
        assert net.tied.weight is net.head.weight is params["head.weight"]
        assert net.first.scale is not scale and torch.equal(net.first.scale, scale)
        return net(x) * factor

    inventory = Inventory.of(net)
    found = call_with(looking, (X,), {"factor": 2.0}, inventory, params, held(inventory.buffers))
    assert same(state(net), before)
    w, h = params["first.weight"], params["head.weight"]
    torch.testing.assert_close(found, 2 * (X * 25 * w * w) @ h.T @ h.T)
    gradients = torch.autograd.grad(found.sum(), list(params.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients) and net.first.weight.grad is None


def test_without_parameters_the_modules_own_stay() -> None:
    net = Outer()
    torch.testing.assert_close(swapped(net, net, None, X), net(X))


class Writing(Inner):
    """Writes to all that it has, registers more, and fails if it is told."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.scale.mul_(2)
        self.cache = x.detach()
        self.seen += 1
        self.filled += 1
        self.register_buffer("late", torch.zeros(1))
        self.noted = "more"
        if self.fails:
            raise KeyError("mine")
        return x * self.scale


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_it_was_also_after_an_error(fails: bool) -> None:
    net = Writing(fails)
    before = state(net)
    for _ in range(2):
        if fails:
            with pytest.raises(KeyError, match="mine"):
                swapped(net, net, others(net), X)
        else:
            assert torch.equal(swapped(net, net, others(net), X), X * 10)
        assert same(state(net), before)


def test_what_a_forward_notes_beside_no_buffer_stays() -> None:
    class Noting(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x
            return x

    net = Noting()
    swapped(net, net, {}, X)
    assert net.calls == 0 and net.last is X


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda net: setattr(net, "bias", nn.Parameter(torch.zeros(3))), "bias"),
        (lambda net: setattr(net, "late", nn.Parameter(torch.zeros(3))), "late"),
        (lambda net: net.add_module("deep", nn.Linear(1, 1)), "deep"),
    ],
)
def test_a_parameter_that_a_forward_makes_is_refused_and_removed(make: Callable[[Any], Any], name: str) -> None:
    net = Inner()
    before = state(net)
    with pytest.raises(ParametersError, match=f"^the forward made the parameter '{name}', which was not there before"):
        swapped(net, lambda x: (make(net), x)[1], others(net), X)
    assert same(state(net), before)


def test_a_parameter_that_a_forward_renormalises_is_a_copy() -> None:
    net = nn.Embedding(4, 3, max_norm=0.1)
    params = {"weight": net.weight.detach().clone() + 5}
    kept, own = params["weight"].clone(), net.weight.detach().clone()
    found = swapped(net, net, params, torch.tensor([1, 2]))
    assert found.norm(dim=1).max() < 0.11
    assert torch.equal(params["weight"], kept) and torch.equal(net.weight, own)


def test_what_is_of_use_while_a_transform_runs_only_is_not_left_behind() -> None:
    class Keeping(nn.Module):
        kept: Any = "before"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = [x]
            self.new = x * 2
            self.plain = True
            return x

    net = Keeping()
    net.kept = "own"
    torch.func.vmap(lambda x: swapped(net, net, {}, x))(X)
    assert net.kept == "own" and not hasattr(net, "new") and net.plain


def test_parametrizations_that_are_remembered_are_not_those_of_the_module() -> None:
    class Doubled(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return 2 * w

    net = nn.Linear(3, 1, bias=False)
    parametrize.register_parametrization(net, "weight", Doubled())
    params = {"parametrizations.weight.original": torch.ones(1, 3)}
    with parametrize.cached():
        own = net(X)
        found = swapped(net, net, params, X)
        assert torch.equal(net(X), own)
    assert torch.equal(found, torch.full((2, 1), 6.0))


def test_what_is_checkpointed_in_the_call_is_run_again_with_its_tensors() -> None:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(lambda x: self.inner(x).exp(), x, use_reentrant=False)

    net = Saving()
    params = {"inner.weight": torch.tensor([0.1, 0.2, 0.3], requires_grad=True)}
    before = state(net)
    swapped(net, net, params, X).sum().backward()
    torch.testing.assert_close(params["inner.weight"].grad, 2 * 5 * (5 * params["inner.weight"].detach()).exp())
    assert net.inner.weight.grad is None and same(state(net), before)


# -------------------------------------------------------------------- guarding


def test_modules_in_a_function_keep_their_buffers_and_parameters() -> None:
    norm, counting = nn.BatchNorm1d(3), Writing(False)
    before = state(norm) + state(counting)
    f = lambda x, factor: counting(norm(x)) * factor
    for _ in range(2):
        found = call_guarded(f, (X,), {"factor": 0.5}, [norm, counting])
        assert torch.equal(found, torch.zeros(2, 3))
    assert same(state(norm) + state(counting), before)


def test_without_anything_to_guard_the_function_is_called_as_it_is_and_under_the_lock() -> None:
    taken: list[bool] = []

    def other() -> None:
        taken.append(caches.LOCK.acquire(blocking=False))
        if taken[-1]:
            caches.LOCK.release()

    def f(x: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return x

    for modules in ([nn.Linear(3, 3)], [Inner()], []):
        assert call_guarded(f, (X,), {}, modules) is X
    assert taken == [False] * 3
    with locked():
        pass
    f(X)
    assert taken[-1] is True


class Annealed(nn.Module):
    """Counts its forwards in a plain attribute, and tells in another that there was one."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.ready = 0, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.ready = True
        return self.steps * x.square()


AROUND: list[Callable[[nn.Module], Any]] = [lambda m: m, lambda m: lambda x: m(x) + 0, lambda m: make_functional(m)[0]]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_every_derivative_is_of_the_next_forward(transform: Any, around: Callable[..., Any], compiled: bool) -> None:
    module = Annealed()
    f = around(module)
    given = ({}, X) if isinstance(f, FunctionalModule) else (X,)
    derivative = transform(f, compile=compiled)
    for steps in (0, 0, 4):
        module.steps = steps
        for _ in range(3):
            found = derivative(*given)
            assert torch.equal(found, (steps + 1) * (2 * X if transform is diag_jac else torch.full((2, 3), 2.0)))
            assert module.steps == steps
    assert module.ready  # what was done once is not undone
    module(X)
    assert module.steps == 5
    if compiled:
        told = "left eager: a module counts its calls in 'steps', as compiled code cannot undo"
        assert told in str(explain(derivative)(*given))
