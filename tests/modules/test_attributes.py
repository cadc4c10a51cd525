"""``jacfunc/modules/attributes.py``: a module that keeps what it computes of its parameters keeps their gradients."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from jacfunc import check_independent, diag_jac, laplacian, make_functional
from jacfunc.modules.attributes import as_they_were

X = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Lazy(nn.Module):
    """Squares its weights once."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, 3.0], dtype=torch.float64))
        self.kept: torch.Tensor | None = None
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        if self.kept is None:
            self.kept = self.w.square()
        return torch.sin(x * self.kept) * self.w


class Inner(nn.Module):
    def __init__(self, holder: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net = Lazy()
        self.of = holder

    def forward(self, x: Any) -> Any:
        return self.net(x)


class Holder:
    """What no walk looks into."""

    def __init__(self, net: nn.Module) -> None:
        self.nets = {"one": [net]}

    @property
    def net(self) -> nn.Module:
        return self.nets["one"][0]


def slopes(f: Callable[[Any], Any], transform: Callable[..., Any], weights: torch.Tensor, **options: Any) -> Any:
    return torch.autograd.grad(transform(f, **options)(X).square().sum(), weights)[0]


def truth(transform: Callable[..., Any]) -> torch.Tensor:
    w = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    if transform is diag_jac:
        derivative = torch.cos(X * w.square()) * w.square() * w
    else:
        derivative = -torch.sin(X * w.square()) * w.square() ** 2 * w
    return torch.autograd.grad(derivative.square().sum(), w)[0]


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_gradients_go_through_what_a_first_call_keeps(transform: Callable[..., Any], method: Any) -> None:
    net = Lazy()
    torch.testing.assert_close(slopes(net, transform, net.w, method=method), truth(transform))
    net = Lazy()
    torch.testing.assert_close(slopes(lambda x: net(x), transform, net.w, method=method, check=False), truth(transform))
    holder = Holder(Lazy())
    weights = holder.net.w  # type: ignore[union-attr]
    torch.testing.assert_close(slopes(lambda x: holder.net(x), transform, weights, method=method), truth(transform))


class Dict(Lazy):
    def forward(self, x: Any) -> Any:
        if "w" not in self.places:
            self.places["w"] = self.w.square()
        return torch.sin(x * self.places["w"]) * self.w

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, torch.Tensor] = {}


class Object(Lazy):
    def __init__(self) -> None:
        super().__init__()
        self.place = SimpleNamespace(kept=[])

    def forward(self, x: Any) -> Any:
        if not self.place.kept:
            self.place.kept.append(self.w.square())
        return torch.sin(x * self.place.kept[0]) * self.w


def closed_over(net: Lazy) -> Callable[[Any], Any]:
    place: dict[str, torch.Tensor] = {}

    def f(x: Any) -> Any:
        if "w" not in place:
            place["w"] = net.w.square()
        return torch.sin(x * place["w"]) * net.w

    return f


@pytest.mark.parametrize("method", ["auto", "taylor", "forward", "reverse"])
@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_wherever_it_is_kept(transform: Callable[..., Any], method: Any) -> None:
    for net in (Dict(), Object()):
        torch.testing.assert_close(slopes(net, transform, net.w, method=method), truth(transform))
    net = Lazy()
    torch.testing.assert_close(slopes(closed_over(net), transform, net.w, method=method), truth(transform))


def test_numbers_in_a_dict_stay_as_a_call_leaves_them() -> None:
    told, kept = {"calls": 0}, []
    sizes: list[int] = []

    def f(x: Any) -> Any:
        told["calls"] += 1
        kept.append(x)
        sizes.append(len(x))
        return x.sin()

    assert check_independent(f)(X)
    assert told["calls"] == len(sizes) >= 3 and not kept


def test_a_look_leaves_attributes_as_they_were() -> None:
    net = Lazy()
    assert check_independent(net)(X)
    assert net.kept is None and net.calls == 0
    inner = Inner(len)  # type: ignore[arg-type]
    assert check_independent(lambda x: inner.net(x))(X)
    assert inner.net.kept is None
    f, params = make_functional(Lazy())
    torch.testing.assert_close(diag_jac(f)(params, X), diag_jac(Lazy())(X))


def test_attributes_come_back_whatever_happens_to_them() -> None:
    net = Lazy()
    net.other = [1]  # type: ignore[assignment]

    def change() -> None:
        with as_they_were([net]):
            net.calls, net.new = 7, 1  # type: ignore[assignment]
            del net.other
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any
        change()
    assert net.calls == 0 and net.other == [1] and not hasattr(net, "new")


class Hooked(nn.Module):
    """Registers hooks at its first forward and remembers that, as transformers do for ``output_hidden_states``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x: Any) -> Any:
        if not hasattr(self, "hooked"):
            self.hooked = True
            self.inner.register_forward_hook(lambda _, args, y: y + args[0])
            self.inner.register_forward_pre_hook(lambda _, args: (2 * args[0],))
        return self.inner(x)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("held", ["itself", "in a lambda", "where no walk looks"])
def test_hooks_that_a_forward_registers_once_are_there_once(held: str, rows: int) -> None:
    net = Hooked()
    holder = Holder(net)
    f = {"itself": net, "in a lambda": lambda x: net(x), "where no walk looks": lambda x: holder.net(x)}[held]
    for _ in range(2):
        found = diag_jac(f)(X[:rows])
        torch.testing.assert_close(found, 2 * (net.inner.weight.diagonal() + 1).expand(rows, 2))
    net(X)
    assert len(net.inner._forward_hooks) == len(net.inner._forward_pre_hooks) == 1


class Told(Lazy):
    def __init__(self) -> None:
        super().__init__()
        self.told = {"calls": 0}

    def forward(self, x: Any) -> Any:
        self.told["calls"] += 1
        return super().forward(x)


def test_what_holds_no_tensor_stays_in_modules_that_no_walk_finds_too() -> None:
    told, holder = Told(), Holder(Told())
    assert check_independent(told)(X) and check_independent(lambda x: holder.net(x))(X)
    found = holder.net.told["calls"]  # type: ignore[union-attr, index]
    assert told.told["calls"] >= 3 and found >= 3 and told.kept is holder.net.kept is None
