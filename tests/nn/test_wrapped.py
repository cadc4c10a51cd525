"""Derivatives inside DDP and FSDP2 on two ranks: what one process gives, and no collective but those of the wrapper."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from collectives import Collectives
from ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from jacfunc import diag_jac, laplacian, partials
from jacfunc.nn import Derivative, Equation

STEPS = 3
METHODS = ("auto", "taylor", "forward", "reverse")
REDUCED = {"DDP": ({}, {"allreduce": 1}), "FSDP2": ({"_allgather_base": 1}, {"_reduce_scatter_base": 1})}


class Tied(nn.Module):
    """Shared weights, a parameter that nothing uses, infinite, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.unused = nn.Parameter(torch.full((3,), torch.inf))
        self.b.bias.requires_grad_(False)

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.b(torch.tanh(self.a(x))))


def network(kind: str = "") -> nn.Module:
    torch.manual_seed(0)
    if kind == "tied":
        return Tied().double()
    layers = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).double()


def burgers(d: Any) -> Any:
    return d.u_t + d.v * d.u_x - d.u_xx


QUANTITIES: dict[str, Callable[..., nn.Module]] = {
    "diag_jac": lambda net, **keywords: Derivative(net, diag_jac, **keywords),
    "laplacian": lambda net, **keywords: Derivative(net, laplacian, **keywords),
    "partials": lambda net, **keywords: Derivative(
        net, partials, "u u_t v_tx", inputs="t x", outputs="u v", **keywords
    ),
    "residual": lambda net, **keywords: Equation(net, burgers, inputs="t x", outputs="u v", **keywords),
}
WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DDP": DistributedDataParallel,
    "static_graph": lambda module: DistributedDataParallel(module, static_graph=True),
    "find_unused_parameters": lambda module: DistributedDataParallel(module, find_unused_parameters=True),
    "gradient_as_bucket_view": lambda module: DistributedDataParallel(module, gradient_as_bucket_view=True),
    "FSDP2": lambda module: fully_shard(module, mesh=init_device_mesh("cpu", (2,))),
}


def points(step: int, count: int) -> torch.Tensor:
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def total(result: Any) -> torch.Tensor:
    parts = list(result.values()) if isinstance(result, dict) else [result]
    return torch.stack([part.square().sum() for part in parts]).sum()


def full(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def trained(module: nn.Module, inner: nn.Module, share: slice, count: int, ranks: int, counted: bool = True) -> Any:
    """Losses, parameters, gradients and the collectives of the last forward and backward."""
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(STEPS):
        optimiser.zero_grad()
        forward, backward = Collectives(), Collectives()
        with forward if counted else nullcontext():  # which torch.compile does not take
            loss = total(module(points(step, count)[share])) * ranks / count
        with backward if counted else nullcontext():
            loss.backward()
        optimiser.step()
        losses.append(loss.detach() / ranks)
    gradients = [full(p.grad) for p in inner.parameters() if p.grad is not None]
    return losses, [full(p) for p in inner.parameters()], gradients, (dict(forward.counts), dict(backward.counts))


def on_rank(rank: int, wrapper: str, cases: list[tuple[str, str, tuple[int, int], dict[str, Any]]]) -> list[Any]:
    found = []
    for quantity, kind, sizes, keywords in cases:
        inner = QUANTITIES[quantity](network(kind), **keywords)
        share = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
        found.append(trained(WRAPPERS[wrapper](inner), inner, share, sum(sizes), 2, "compile" not in keywords))
    return found


def compared(wrapper: str, cases: list[tuple[str, str, tuple[int, int], dict[str, Any]]]) -> list[Any]:
    """That values and parameters are those of one process; the collectives of each case."""
    by_rank = on_ranks(on_rank, wrapper, cases, seconds=300)
    collectives = []
    for (quantity, kind, sizes, keywords), *found in zip(cases, *by_rank, strict=True):
        alone = QUANTITIES[quantity](network(kind), **keywords)
        losses, parameters, gradients, _ = trained(alone, alone, slice(None), sum(sizes), 1, counted=False)
        close = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close([a + b for a, b in zip(found[0][0], found[1][0], strict=True)], losses, **close)
        for rank in found:
            torch.testing.assert_close(rank[1], parameters, **close)
            torch.testing.assert_close(rank[2], gradients, **close)
            collectives.append(rank[3])
    return collectives


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_quantity_by_every_method(wrapper: str) -> None:
    cases = [(quantity, "", (6, 6), {"method": method}) for quantity in QUANTITIES for method in METHODS]
    assert len(cases) == 16
    found = compared(wrapper, cases)
    if wrapper in REDUCED:
        assert found == [REDUCED[wrapper]] * 32


@pytest.mark.parametrize("wrapper", REDUCED)
def test_uneven_batches_and_odd_parameters(wrapper: str) -> None:
    sizes = [(7, 3), (5, 1), (4, 0)]
    compared(wrapper, [(quantity, "tied", size, {}) for quantity in ("laplacian", "residual") for size in sizes])


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", REDUCED)
def test_compiled_inside(wrapper: str) -> None:
    compared(wrapper, [(quantity, "", (6, 6), {"compile": True}) for quantity in QUANTITIES])
