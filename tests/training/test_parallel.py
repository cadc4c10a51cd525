"""``jacfunc/training/parallel.py``: gradients on several ranks are those of one process with all points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import on_ranks, outcomes
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

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
    "no points": "points are none, on any rank",
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


# -------------------------------------------------------------------- beside other backwards


def global_gradient(x: torch.Tensor) -> list[torch.Tensor]:
    """That of the mean over all points by one process, zero for the bias that is in no derivative."""
    module = Outer()
    (module(x) ** 2).mean().backward()
    return [parameter.grad for parameter in module.parameters()]


def beside_backwards(rank: int) -> dict[str, list[torch.Tensor | None]]:
    """Gradients of steps where the wrapper's own backwards come before or after ``accumulate``."""
    x, found = of_rank(rank, points(), [0, 20, 40]), {}
    uneven = of_rank(rank, points(), [0, 7, 40])

    for kind in ("ddp static", "ddp static view", "ddp"):
        module = wrapped(kind, Outer())
        loss = lambda x, module=module: module(x) ** 2
        for step in range(4):
            module.zero_grad()
            if step % 3 == 0:
                accumulate(loss, uneven, sample_chunk_size=8)
            else:
                loss(x).mean().backward()
            found[f"{kind}, step {step}"] = [gradient(parameter) for parameter in module.parameters()]

    module = wrapped("ddp", Outer())
    loss = lambda x: module(x) ** 2
    module.zero_grad()
    module(x)  # whose backward never comes, so that the wrapper waits for one
    accumulate(loss, uneven, sample_chunk_size=8)
    found["a forward before"] = [gradient(parameter) for parameter in module.parameters()]

    module.zero_grad()
    with module.no_sync():
        (loss(x).mean() / 2).backward()
    accumulate(lambda x: loss(x) / 2, uneven, sample_chunk_size=8)
    found["no_sync before"] = [gradient(parameter) for parameter in module.parameters()]

    module.zero_grad()
    with module.no_sync():
        accumulate(lambda x: loss(x) / 2, uneven, sample_chunk_size=8)
    (loss(x).mean() / 2).backward()
    found["accumulate before"] = [gradient(parameter) for parameter in module.parameters()]
    return found


def test_beside_other_backwards_of_the_wrapper():
    expected = global_gradient(points())
    for found in on_ranks(beside_backwards):
        for name, gradients in found.items():
            for one, right in zip(gradients, expected, strict=True):
                assert torch.allclose(one, right, rtol=1e-10, atol=1e-12), name


def hooked(rank: int) -> dict[str, Any]:
    """Parameters after an optimiser in the backward, and what hooks were given, on a rank with other blocks."""
    x, found = of_rank(rank, points(), [0, 7, 40]), {}
    for kind in ("ddp", "ddp static", "fsdp"):
        module = wrapped(kind, Outer())
        calls, seen = [], []

        def stepped(parameter: torch.Tensor, calls: list[Any] = calls) -> None:
            calls.append(1)
            parameter.sub_(parameter.grad, alpha=0.1)
            parameter.grad = None

        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(stepped)
        first = next(module.parameters())
        if kind != "fsdp" and rank == 0:  # where the other has none
            first.register_hook(lambda gradient, seen=seen: seen.append(gradient.clone()))
        accumulate(lambda x, module=module: module(x) ** 2, x, sample_chunk_size=8)
        whole = [each.full_tensor() if kind == "fsdp" else each.detach() for each in module.parameters()]
        found[kind] = whole, len(calls), seen
    return found


def test_hooks_run_once_with_the_gradient_of_all_ranks():
    expected = global_gradient(points())
    before = list(Outer().parameters())
    for rank, found in enumerate(on_ranks(hooked)):
        for kind, (parameters, calls, seen) in found.items():
            assert calls == len(before), kind
            for parameter, start, right in zip(parameters, before, expected, strict=True):
                assert torch.allclose(parameter, start - 0.1 * right, rtol=1e-10, atol=1e-12), kind
            assert len(seen) == (rank == 0 and kind != "fsdp")
            assert all(torch.allclose(gradient, expected[0], rtol=1e-10) for gradient in seen)


# -------------------------------------------------------------------- told to all ranks, before or between blocks


def told_to_all(rank: int) -> dict[str, str]:
    """What calls raise that are wrong on rank 1 alone, or whose modules hold gradients, on a rank."""
    ddp, sharded = wrapped("ddp", Burgers()), wrapped("fsdp", Burgers())
    wrong = rank == 1
    loss, of_sharded = lambda x: ddp(x) ** 2, lambda x: sharded(x) ** 2
    reentrant = lambda x: checkpoint(lambda y: ddp(y) ** 2, x.clone().requires_grad_(), use_reentrant=True)
    mesh = init_device_mesh("cpu", (2,))
    meshed = distribute_module(nn.Linear(2, 1).double(), mesh)

    def failing() -> Any:
        yield points(4)
        if wrong:
            raise ValueError("mine")

    def used() -> Any:
        sharded.set_requires_gradient_sync(False)
        of_sharded(points()).mean().backward()
        sharded.set_requires_gradient_sync(True)
        accumulate(of_sharded, points())

    calls: dict[str, Callable[[], Any]] = {
        "size": lambda: accumulate(loss, points(), sample_chunk_size=-3 if wrong else 8),
        "reduction": lambda: accumulate((loss, points()), (loss, points()), reduction="max" if wrong else "sum"),
        "modules": lambda: accumulate(loss, points(), modules=[3] if wrong else []),
        "no tensors": lambda: accumulate(loss, *([] if wrong else [points()])),
        "disabled": lambda: torch.set_grad_enabled(not wrong)(accumulate)(loss, points()),
        "size of sharded": lambda: accumulate(of_sharded, points(), sample_chunk_size=0 if wrong else 8),
        "no block": lambda: accumulate(of_sharded, [] if wrong else [points(4), points(4)]),
        "no block anywhere": lambda: accumulate(of_sharded, []),
        "iterable": lambda: accumulate(of_sharded, failing()),
        "meshed points": lambda: accumulate(loss, distribute_tensor(points(), mesh, [Shard(0)])),
        "meshed parameters": lambda: accumulate(lambda x: meshed(x), points(), group=distributed.group.WORLD),
        "reentrant": lambda: accumulate(reentrant, points()),
        "pending": used,
    }
    found = {}
    for case, call in calls.items():
        with pytest.raises(Exception) as raised:  # noqa: PT011
            call()
        found[case] = f"{raised.type.__name__}: {raised.value}"
    for module in (ddp, sharded):
        module.zero_grad()
    return found


ON_ONE_RANK = {
    "size": "sample_chunk_size=-3",
    "reduction": "reduction='max'",
    "modules": "pass modules=[net]",
    "no tensors": "was given no points",
    "disabled": "gradients are disabled here",
    "size of sharded": "sample_chunk_size=0",
    "no block": "gave this rank no block",
    "iterable": "ValueError: mine",
}
ON_ALL = {
    "no block anywhere": "gave this rank no block",
    "meshed points": "points is a DTensor with placements [Shard(0)]; pass the points of this rank, points.to_local()",
    "meshed parameters": "a DTensor with placements [Replicate()] that no fully_shard made",
    "reentrant": "pass use_reentrant=False",
    "pending": "set_requires_gradient_sync(False)",
}


def test_errors_are_told_to_all_ranks():
    first, second = on_ranks(told_to_all)
    for case, part in ON_ONE_RANK.items():
        assert part in second[case] and "accumulate failed on another rank" in first[case], (first[case], second[case])
    for case, part in ON_ALL.items():
        assert part in first[case] and part in second[case], (first[case], second[case])
    assert first.keys() == {*ON_ONE_RANK, *ON_ALL}
