"""``jacfunc/modules/strangers.py``: what a derivative trains and no wrapper knows is refused, or warned of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from jacfunc import accumulate, clear_caches, laplacian, residual
from jacfunc.nn import Derivative, Equation

Call = Callable[[], Any]
GLOBAL: Any = None
X = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(6, 2)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def coefficient() -> nn.Parameter:
    return nn.Parameter(torch.full((1,), 0.3, dtype=torch.float64))


def equation(right: Callable[[Any], Any], net: nn.Module | None = None, **keywords: Any) -> Equation:
    """With what stands for the coefficient, a function of the derivatives."""
    heat = lambda d: d.u_t - right(d) * d.u_xx
    return Equation(net or network(), heat, inputs="t x", outputs="u", **keywords)


def sharded(module: nn.Module) -> nn.Module:
    return fully_shard(module, mesh=init_device_mesh("cpu", (2,)))


class Held:
    """An object that has a coefficient and an equation."""

    def __init__(self) -> None:
        self.nu = coefficient()

    def heat(self, d: Any) -> Any:
        return d.u_t - self.nu * d.u_xx


class Outer(nn.Module):
    """A module of one's own: with a derivative, and a coefficient that is its own or is not."""

    def __init__(self, make: Callable[[Any, Any], Any], nu: nn.Parameter | None = None) -> None:
        super().__init__()
        self.net, self.nu = network(), coefficient() if nu is None else None
        self.derivative = make(self.net, lambda: self.nu if nu is None else nu)

    def forward(self, x: Any) -> Any:
        return self.derivative(x)


def as_equation(net: Any, nu: Any) -> Any:
    return equation(lambda d: nu(), net)


def as_residual(net: Any, nu: Any) -> Any:
    return residual(net, lambda d: d.u - nu() * d.u_xx, inputs="t x", outputs="u")


def as_laplacian(net: Any, nu: Any) -> Any:
    return laplacian(lambda x: nu() * net(x))


class Force(nn.Module):
    """A network that differentiates by a leaf of its own, with whatever keeps that."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


class Forces(nn.Module):
    """A residual, and the gradient of a network at points that are made in the forward, in one result."""

    def __init__(self) -> None:
        super().__init__()
        self.force = Force()
        self.derivative = equation(lambda d: self.force(torch.stack([d.t, d.x], 1))[:, 0], self.force.net)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.derivative(x)


# -------------------------------------------------------------------- refused


def refused_calls() -> dict[str, Call]:
    global GLOBAL
    nu, held, other = coefficient(), Held(), network()
    GLOBAL = SimpleNamespace(nu=coefficient())
    double = 2 * nu
    ddp = DistributedDataParallel
    looked_at = equation(lambda d: nu)
    with torch.no_grad():
        looked_at(X)
    called, own = equation(lambda d: nu), Outer(as_residual, nu)
    with warnings.catch_warnings():  # of gradients of this rank, before there is a wrapper
        warnings.simplefilter("ignore")
        called(X)
    with torch.no_grad():
        own(X)
    return {
        "closure": lambda: ddp(equation(lambda d: nu))(X),
        "fully_shard": lambda: sharded(equation(lambda d: nu))(X),
        "global": lambda: ddp(equation(lambda d: GLOBAL.nu))(X),
        "attribute": lambda: ddp(equation(lambda d: held.nu))(X),
        "method": lambda: ddp(Equation(network(), held.heat, inputs="t x", outputs="u"))(X),
        "computed there": lambda: ddp(equation(lambda d: nu.exp()))(X),
        "computed before": lambda: ddp(equation(lambda d: double))(X),
        "another network": lambda: ddp(equation(lambda d: other(torch.stack([d.t, d.x], 1))[:, 0]))(X),
        "in f": lambda: ddp(Derivative(network(), lambda f: laplacian(lambda x: nu * f(x))))(X),
        "residual": lambda: ddp(Outer(as_residual, nu))(X),
        "laplacian": lambda: ddp(Outer(as_laplacian, nu))(X),
        "after no_grad": lambda: ddp(looked_at)(X),
        "after a call before": lambda: ddp(called)(X),
        "residual after no_grad": lambda: ddp(own)(X),
        "eval": lambda: ddp(equation(lambda d: nu)).eval()(X),
        "FSDP1": lambda: FullyShardedDataParallel(equation(lambda d: nu), device_id=torch.device("cpu"))(X),
    }


def told(calls: dict[str, Call]) -> dict[str, str]:
    found = {}
    for name, call in calls.items():
        clear_caches()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                call()
                found[name] = "".join(f"{each.filename}: {each.message}" for each in seen if "rank" in str(each))
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
    return found


def refused(rank: int) -> dict[str, str]:
    return told(refused_calls())


def test_coefficients_that_no_wrapper_knows_are_refused() -> None:
    for found in on_ranks(refused):
        for name, sentence in found.items():
            start = "ArgumentTypeError: 'weight'" if name == "another network" else "ArgumentTypeError: 'nu'"
            assert sentence.startswith(start), (name, sentence)
            assert "self.nu = nn.Parameter" in sentence and "\n" not in sentence


# -------------------------------------------------------------------- right, or warned of


def right(rank: int) -> dict[str, str]:
    nu, frozen, hooked = coefficient(), coefficient().requires_grad_(False), coefficient()
    hooked.register_hook(lambda gradient: gradient)
    (hooked_after := coefficient()).register_post_accumulate_grad_hook(lambda leaf: None)
    ddp, field, tied = DistributedDataParallel, DistributedDataParallel(network()), network()
    scale = DistributedDataParallel(nn.Linear(2, 2).double())
    moved, watched = coefficient(), X.clone().requires_grad_()
    streamed = ddp(equation(lambda d: nu))
    by_hand, cut = coefficient(), sharded(network())
    return told(
        {
            **{
                f"outer module, {wrap.__name__}, {make.__name__}": lambda wrap=wrap, make=make: wrap(Outer(make))(X)
                for wrap in (ddp, sharded)
                for make in (as_equation, as_residual, as_laplacian)
            },
            "outer module, FSDP1": lambda: FullyShardedDataParallel(
                Outer(as_equation), device_id=torch.device("cpu"), use_orig_params=True
            )(X),
            "shared": lambda: ddp(equation(lambda d: tied(torch.stack([d.t, d.x], 1))[:, 0], tied))(X),
            "frozen": lambda: ddp(equation(lambda d: frozen))(X),
            "a hook": lambda: ddp(equation(lambda d: hooked))(X),
            "a hook that follows": lambda: ddp(equation(lambda d: hooked_after))(X),
            "another wrapper, sharded": lambda: ddp(equation(lambda d: cut(torch.stack([d.t, d.x], 1))[:, 0]))(X),
            "points": lambda: ddp(equation(lambda d: 1))(watched),
            "points that are moved": lambda: ddp(equation(lambda d: 1))(X + moved),
            "points of another wrapper": lambda: ddp(equation(lambda d: 1))(scale(X)),
            "another wrapper": lambda: ddp(equation(lambda d: field(torch.stack([d.t, d.x], 1))[:, 0]))(X),
            "a leaf of its own": lambda: ddp(Forces())(X),
            **{
                method: lambda method=method: ddp(equation(lambda d: 1, method=method))(watched)
                for method in ("taylor", "forward", "reverse")
            },
            "accumulate": lambda: accumulate(lambda x: streamed(x).square(), X, modules=[streamed, nu]),
            "no_grad": lambda: torch.no_grad()(ddp(equation(lambda d: by_hand)))(X),
        }
    )


def test_what_a_wrapper_knows_is_right() -> None:
    for found in on_ranks(right):
        for name, sentence in found.items():
            assert not sentence, (name, sentence)


def warned(rank: int) -> dict[str, str]:
    nu = torch.full((), 0.3, dtype=torch.float64, requires_grad=True)
    return told({"plain": lambda: DistributedDataParallel(equation(lambda d: nu))(X)})


def test_a_plain_tensor_is_warned_of() -> None:
    for found in on_ranks(warned):
        assert found["plain"].startswith(f"{__file__}: 'nu', a tensor of shape (), is trained by this derivative but")


def test_one_process_is_asked_nothing() -> None:
    nu = coefficient()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equation(lambda d: nu)(X).sum().backward()
    assert nu.grad is not None
