"""``jacfunc/training/parallel.py``: gradients on several ranks are those of one process with all points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import on_ranks, outcomes
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from jacfunc import JacfuncError, accumulate, residual

double = torch.float64


class Burgers(nn.Module):
    """The residual of an equation as a module's forward; the last bias of the network gets no gradient."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        equation = lambda d: d.u_t + d.u * d.u_x - 0.1 * d.u_xx
        self.residual = residual(self.net, equation, inputs="t x", outputs="u")
        self.register_buffer("scale", torch.ones((), dtype=double))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.residual(points) * self.scale


class Pair(nn.Module):
    """Two of them, each sharded by itself where there are ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Burgers(), Burgers(seed=1)])
        if distributed.is_initialized():
            for part in self.parts:
                fully_shard(part, reshard_after_forward=True)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.parts[0](points) + self.parts[1](points)


def points(count: int = 40) -> torch.Tensor:
    return torch.rand(count, 2, dtype=double, generator=torch.Generator().manual_seed(1))


class Collectives(TorchDispatchMode):
    """The collectives that were called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def gradient(parameter: torch.Tensor) -> torch.Tensor | None:
    found = parameter.grad
    if found is None:
        return None
    return found.full_tensor() if hasattr(found, "full_tensor") else found.clone()


def wrapped(kind: str, module: nn.Module) -> nn.Module:
    if kind.startswith("none"):
        return module
    if kind.startswith("fsdp"):
        return fully_shard(module)
    return DistributedDataParallel(
        module,
        find_unused_parameters="unused" in kind,
        static_graph="static" in kind,
        gradient_as_bucket_view="view" in kind,
    )


def of_rank(rank: int, x: torch.Tensor, starts: list[int]) -> torch.Tensor:
    return x[starts[rank] : starts[rank + 1]]


def worked(rank: int, kind: str, starts: list[int], steps: int) -> list[Any]:
    """Values and gradients of some steps of two terms: weights at points, and blocks of an iterable."""
    module = wrapped(kind, Pair() if "nested" in kind else Burgers())
    first, second = points(), points(24) + 1
    weights = torch.linspace(0.5, 2, 40, dtype=double)
    mine = of_rank(rank, second, [0, *[min(start, 24) for start in starts[1:-1]], 24])
    loss = lambda x: module(x) ** 2
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    found = []
    for _ in range(steps):
        stream = [mine, mine[:0]] if kind == "fsdp" and rank == 0 else list(mine.split(5)) or [mine]
        group = distributed.group.WORLD if kind == "none" and distributed.is_initialized() else None
        values = accumulate(
            (loss, of_rank(rank, first, starts), of_rank(rank, weights, starts)),
            (loss, stream, 3.0),
            sample_chunk_size=8,
            group=group,
        )
        found.append((values, [gradient(parameter) for parameter in module.parameters()]))
        optimiser.step()  # and no zero_grad: what was reduced before is not reduced again
    return found


def alone(kind: str, steps: int) -> list[Any]:
    return worked(0, "none nested" if "nested" in kind else "none", [0, 40], steps)


KINDS = ["ddp", "ddp unused", "ddp static", "ddp view", "fsdp", "fsdp nested", "none"]


STARTS = {"even": [0, 20, 40], "uneven": [0, 7, 40], "none on one": [0, 40, 40]}
STEPS = 3
"""The first two of which are where a static graph and rebuilt buckets begin."""


def in_every_split(rank: int, kind: str) -> dict[str, Any]:
    return {name: worked(rank, kind, starts, STEPS) for name, starts in STARTS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_one_process(kind):
    expected = alone(kind, STEPS)
    for every in on_ranks(in_every_split, kind):
        for name, found in every.items():
            for (values, gradients), (right, others) in zip(found, expected, strict=True):
                assert torch.allclose(torch.stack(values), torch.stack(right), rtol=1e-10), name
                for one, other in zip(gradients, others, strict=True):
                    assert (one is None) == (other is None), name
                    assert one is None or torch.allclose(one, other, rtol=1e-10, atol=1e-10), name


def mixed_steps(rank: int) -> Any:
    """Ordinary steps of a wrapper, then blocks where one rank has no points."""
    module = wrapped("ddp", Outer())
    loss = lambda x: module(x) ** 2
    for _ in range(2):
        loss(points(4)).mean().backward()
    module.zero_grad()
    accumulate(loss, of_rank(rank, points(), [0, 40, 40]), sample_chunk_size=8)
    return [gradient(parameter) for parameter in module.parameters()]


class Outer(nn.Module):
    """All of whose parameters get gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Burgers()

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.inner(points) + self.inner.net(points)[:, 0]


def test_after_steps_of_the_wrapper_itself():
    module = Outer()
    (module(points()) ** 2).mean().backward()
    for found in on_ranks(mixed_steps):
        assert all(torch.allclose(a, p.grad, rtol=1e-10) for a, p in zip(found, module.parameters(), strict=True))


def counted(rank: int, kind: str) -> list[str]:
    module = wrapped(kind, Burgers())
    loss = lambda x: module(x) ** 2
    accumulate(loss, points(), sample_chunk_size=10)
    with Collectives() as seen:
        accumulate(loss, points(), sample_chunk_size=10)
    return seen.names


def test_collectives():
    for names in on_ranks(counted, "ddp"):
        # counts, the buffer of the module, losses, gradients
        assert names == ["allreduce_", "broadcast_", "allreduce_", "allreduce_"]
    for names in on_ranks(counted, "fsdp"):
        assert sum("reduce_scatter" in name for name in names) == 1
        assert sum("allgather" in name for name in names) == 4  # one a block


def failing(rank: int, kind: str, where: int) -> Any:
    module = wrapped(kind, Burgers())
    blocks = iter(range(9))

    def loss(x: torch.Tensor) -> torch.Tensor:
        if next(blocks) == where and (rank == 1 or kind == "fsdp"):
            raise ValueError("mine")
        return module(x) ** 2

    old = torch.ones(8, 2, dtype=double)
    weight = next(module.parameters())
    if kind == "ddp":
        weight.grad = old
    try:
        accumulate(loss, points(), sample_chunk_size=10)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    untouched = weight.grad is (old if kind == "ddp" else None) and bool((old == 1).all())
    accumulate(loss, points(), sample_chunk_size=10)  # as if nothing had happened
    return told, untouched, gradient(weight)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_an_error_leaves_gradients_as_they_were(kind):
    module = Burgers()
    (module(points()) ** 2).mean().backward()
    found = on_ranks(failing, kind, 2)
    added = 1 if kind == "ddp" else 0
    for told, untouched, weight in found:
        assert untouched and torch.allclose(weight - added, module.net[0].weight.grad, rtol=1e-10)
        assert "another rank" in told or told == "ValueError: mine"
    assert found[1][0] == "ValueError: mine"


def bad_points(rank: int) -> None:
    module = wrapped("ddp", Burgers())
    accumulate(lambda x, y: module(x) ** 2, points(), points(40 - rank))


def test_bad_points_on_one_rank_are_told_to_all():
    (_, first), (_, second) = outcomes(bad_points)
    assert "JacfuncError: accumulate failed on another rank" in first and "[40, 39] rows" in second


class Holder:
    """An object that holds a module where no look at a closure finds it."""

    def __init__(self, module: Any) -> None:
        self.held = [{"module": module}]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.held[0]["module"](x) ** 2


def refused(rank: int) -> dict[str, str]:
    """What each of some calls raises, on a rank."""
    module = Burgers()
    ddp = wrapped("ddp", module)
    sharding = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # which a CPU alone cannot make
    nn.Module.__init__(sharding)
    sharding._fsdp_wrapped_module = Burgers()
    trained = torch.ones((), dtype=double, requires_grad=True)
    world = distributed.group.WORLD
    calls: dict[str, Callable[[], Any]] = {
        "no wrapper": lambda: accumulate(lambda x: module(x) ** 2, points()),
        "hidden": lambda: accumulate(Holder(ddp), points(), group=world),
        "leaf": lambda: accumulate(lambda x: trained * ddp(x) ** 2, points()),
        "both": lambda: accumulate(lambda x: ddp(x) ** 2, points(), group=world),
        "fsdp1": lambda: accumulate(sharding, points()),
        "no points": lambda: accumulate(lambda x: ddp(x) ** 2, points(0)),
        "no blocks": lambda: accumulate(lambda x: ddp(x) ** 2, []),
    }
    found = {}
    for case, call in calls.items():
        with pytest.raises(JacfuncError) as raised:
            call()
        found[case] = str(raised.value)
    return found


REFUSED = {
    "no wrapper": "pass it as modules=",
    "hidden": "the (wrapped) module it belongs to",
    "leaf": "trains a tensor of shape",
    "both": "leave it out",
    "fsdp1": "fully_shard",
    "no points": "points are none",
    "no blocks": "points are none",
}


def test_refusals():
    for found in on_ranks(refused):
        assert found.keys() == REFUSED.keys()
        assert all(part in found[case] for case, part in REFUSED.items())


def told(rank: int) -> Any:
    ddp, trained = wrapped("ddp", Burgers()), torch.ones((), dtype=double, requires_grad=True)
    mine = of_rank(rank, points(), [0, 11, 40])
    held = Holder(ddp)
    accumulate(lambda x: trained * held(x), mine, modules=[ddp, trained])
    local = torch.ones((), dtype=double, requires_grad=True)
    accumulate(lambda x: local * x[:, 0], mine, group="alone")
    return trained.grad, local.grad - mine[:, 0].mean()


def test_what_is_told():
    expected = (Burgers()(points()) ** 2).mean()
    for trained, local in on_ranks(told):
        assert torch.allclose(trained, expected, rtol=1e-10) and abs(local) < 1e-12
