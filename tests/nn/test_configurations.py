"""Ways to run a derivative on two ranks: right, refused or warned of, as ``docs/guides/many.md`` says."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from jacfunc import UnreducedGradientsWarning, accumulate, clear_caches, make_functional, partials, residual
from jacfunc.nn import Derivative, Equation

STEPS, COUNT, RATE = 3, 12, 0.1
EXACT = 1e-10
CPU = torch.device("cpu")

Step = Callable[[torch.Tensor], None]
"""Forward and backward for this rank's points, after which ``.grad`` is that of the mean over all ranks."""
Made = tuple[nn.Module, Step]
"""The module that holds the parameters, and its step."""


def burgers(d: Any) -> Any:
    return d.u_t + d.u * d.u_x - 0.1 * d.u_xx


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def equation(net: nn.Module, **keywords: Any) -> Equation:
    return Equation(net, burgers, inputs="t x", outputs="u", **keywords)


def points(step: int, count: int = COUNT) -> torch.Tensor:
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def plain(module: Callable[[torch.Tensor], torch.Tensor]) -> Step:
    return lambda x: module(x).square().mean().backward()


def ddp(module: nn.Module, **keywords: Any) -> DistributedDataParallel:
    return DistributedDataParallel(module, **keywords)


def with_ddp(**keywords: Any) -> Callable[[], Made]:
    def make() -> Made:
        net = network()
        return net, plain(ddp(equation(net), **keywords))

    return make


def mesh(*shape: int) -> Any:
    return init_device_mesh("cpu", shape or (2,), mesh_dim_names=("replicate", "shard") if len(shape) == 2 else None)


def with_fsdp(*shape: int, **keywords: Any) -> Callable[[], Made]:
    def make() -> Made:
        net = network()
        return net, plain(fully_shard(equation(net), mesh=mesh(*shape), **keywords))

    return make


# -------------------------------------------------------------------- ways to run a step


def inner_module() -> Made:
    net = network()
    return net, plain(ddp(equation(net)).module)


def inner_module_later() -> Made:
    """The wrapper in the first step, and the module in it from then on."""
    net = network()
    wrapped, told = ddp(equation(net)), []

    def step(x: torch.Tensor) -> None:
        told.append(x)
        plain(wrapped if len(told) == 1 else wrapped.module)(x)

    return net, step


def function_of_inner_module() -> Made:
    net = network()
    f, params = make_functional(ddp(net).module)
    own = residual(f, burgers, inputs="t x", outputs="u")
    return net, plain(lambda x: own(params, x))


def equation_of_wrapped() -> Made:
    net = network()
    return net, plain(equation(ddp(net)))


def beside_wrapped() -> Made:
    """The network is wrapped for its data, the equation is not."""
    net = network()
    wrapped, inside = ddp(net), equation(net)

    def step(x: torch.Tensor) -> None:
        (0 * wrapped(x).sum() + inside(x).square().mean()).backward()

    return net, step


def no_sync() -> Made:
    net = network()
    wrapped = ddp(equation(net))

    def step(x: torch.Tensor) -> None:
        first, second = x.chunk(2)
        with wrapped.no_sync():
            (wrapped(first).square().mean() / 2).backward()
        (wrapped(second).square().mean() / 2).backward()

    return net, step


def two_forwards() -> Made:
    net = network()
    wrapped = ddp(equation(net))

    def step(x: torch.Tensor) -> None:
        first, second = x.chunk(2)
        ((wrapped(first).square().mean() + wrapped(second).square().mean()) / 2).backward()

    return net, step


def hooked(hook: Any, state: Any = None) -> Callable[[], Made]:
    def make() -> Made:
        net = network()
        wrapped = ddp(equation(net))
        wrapped.register_comm_hook(state, hook)
        return net, plain(wrapped)

    return make


def reducing_by_itself() -> Made:
    net = network()
    for parameter in net.parameters():
        parameter.register_hook(averaged)
    return net, plain(equation(net))


def averaged(gradient: torch.Tensor) -> torch.Tensor:
    gradient = gradient.clone()
    distributed.all_reduce(gradient)
    return gradient / 2


def averaged_in_place(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.copy_(averaged(parameter.grad))


def reducing_inside() -> Made:
    net = network()
    for parameter in net.parameters():
        parameter.register_hook(averaged)
    return net, plain(ddp(equation(net)))


def reducing_after() -> Made:
    net = network()
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(averaged_in_place)
    return net, plain(equation(net))


def by_layers() -> Made:
    net = network()
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh())
    return net, plain(fully_shard(equation(net), mesh=mesh()))


def network_sharded() -> Made:
    net = fully_shard(network(), mesh=mesh())
    return net, plain(equation(net))


def network_sharded_later() -> Made:
    net = network()
    inside = equation(net)
    fully_shard(net, mesh=mesh())
    return net, plain(inside)


def fsdp1() -> Made:
    wrapped = FullyShardedDataParallel(equation(network()), device_id=CPU)
    return wrapped, plain(wrapped)


def fsdp1_original() -> Made:
    wrapped = FullyShardedDataParallel(equation(network()), device_id=CPU, use_orig_params=True)
    return wrapped, plain(wrapped)


def fsdp1_streamed() -> Made:
    wrapped = FullyShardedDataParallel(equation(network()), device_id=CPU)
    return wrapped, lambda x: accumulate(lambda x: wrapped(x).square(), x)


def data_parallel() -> Made:
    net = network()
    return net, plain(nn.DataParallel(equation(net)))


def data_parallel_inside() -> Made:
    net = network()
    return net, plain(equation(nn.DataParallel(net)))


def tensor_parallel() -> Made:
    net = network()
    parallelize_module(net, mesh(), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return net, plain(equation(net))


def looked_at(net: nn.Module) -> Equation:
    """An equation that was called once: what it reads is found out there, which torch.compile cannot trace."""
    found = equation(net)
    with torch.no_grad():
        found(points(0))
    return found


def compiled_around() -> Made:
    net = network()
    return net, plain(torch.compile(ddp(looked_at(net))))


def compiled_within() -> Made:
    net = network()
    return net, plain(ddp(torch.compile(looked_at(net))))


def compiled_derivative() -> Made:
    """Of a transform that finds out nothing at its first call."""
    net = network()
    inside = torch.compile(Derivative(net, partials, "u u_t u_x u_xx", inputs="t x", outputs="u"))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, x: torch.Tensor) -> Any:
            d = self.inside(x)
            return d["u_t"] + d["u"] * d["u_x"] - 0.1 * d["u_xx"]

    return net, plain(ddp(Residual()))


def compiled_inside() -> Made:
    net = network()
    return net, plain(ddp(equation(net, compile=True)))


def compiled_shard() -> Made:
    net = network()
    return net, plain(torch.compile(fully_shard(looked_at(net), mesh=mesh())))


def compiled_before_sharding() -> Made:
    net = network()
    return net, plain(fully_shard(torch.compile(looked_at(net)), mesh=mesh()))


def compiled_inside_shard() -> Made:
    net = network()
    return net, plain(fully_shard(equation(net, compile=True), mesh=mesh()))


def streamed(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], Made]:
    def make() -> Made:
        net = network()
        wrapped = wrap(equation(net))

        def step(x: torch.Tensor) -> None:
            accumulate(lambda x: wrapped(x).square(), x, sample_chunk_size=2)

        return net, step

    return make


def streamed_without_wrapper() -> Made:
    net = network()
    own = equation(net)
    world = distributed.group.WORLD
    return net, lambda x: accumulate(lambda x: own(x).square(), x, sample_chunk_size=2, group=world)


def zero_redundancy() -> Made:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = network()
    wrapped = ddp(equation(net))
    optimiser = ZeroRedundancyOptimizer(net.parameters(), torch.optim.SGD, lr=RATE)
    step = plain(wrapped)

    def run(x: torch.Tensor) -> None:
        step(x)
        optimiser.step()
        for parameter in net.parameters():  # the optimiser of the test steps by zero
            parameter.grad.zero_()

    return net, run


def checkpointed() -> Made:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    net = network()
    net[2] = checkpoint_wrapper(net[2])
    return net, plain(ddp(equation(net)))


def function_inside() -> Made:
    """A module of one's own that calls the function, without Equation."""
    net = network()

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.residual = residual(net, burgers, inputs="t x", outputs="u")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.residual(x)

    return net, plain(ddp(Own()))


def composable() -> Made:
    from torch.distributed._composable.replicate import replicate

    net = network()
    return net, plain(replicate(equation(net)))


CASES: dict[str, tuple[Callable[[], Made], float | str]] = {
    # How far the gradient may be from that of one process, or how the sentence begins by which it is refused.
    "DDP": (with_ddp(), EXACT),
    "find_unused_parameters": (with_ddp(find_unused_parameters=True), EXACT),
    "static_graph": (with_ddp(static_graph=True), EXACT),
    "gradient_as_bucket_view": (with_ddp(gradient_as_bucket_view=True), EXACT),
    "all three": (with_ddp(static_graph=True, gradient_as_bucket_view=True, find_unused_parameters=True), EXACT),
    "small buckets": (with_ddp(bucket_cap_mb=1e-4), EXACT),
    "a function inside": (function_inside, EXACT),
    "no_sync": (no_sync, EXACT),
    "two forwards": (two_forwards, EXACT),
    "hook": (hooked(default_hooks.allreduce_hook), EXACT),
    "fp16 hook": (hooked(default_hooks.fp16_compress_hook), 1e-3),
    "tensor hook in DDP": (reducing_inside, EXACT),
    "ZeRO": (zero_redundancy, EXACT),
    "checkpointed": (checkpointed, EXACT),
    "accumulate in DDP": (streamed(ddp), EXACT),
    "accumulate by a group": (streamed_without_wrapper, EXACT),
    "FSDP2": (with_fsdp(), EXACT),
    "FSDP2 not resharded": (with_fsdp(reshard_after_forward=False), EXACT),
    "HSDP (2, 1)": (with_fsdp(2, 1), EXACT),
    "HSDP (1, 2)": (with_fsdp(1, 2), EXACT),
    "bf16": (with_fsdp(mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)), 1e-2),
    "bf16, float32 out": (
        with_fsdp(mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)),
        1e-2,
    ),
    "float32": (with_fsdp(mp_policy=MixedPrecisionPolicy(torch.float32)), 1e-6),
    "reduced in float32": (with_fsdp(mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32)), 1e-6),
    "bf16, points not cast": (
        with_fsdp(mp_policy=MixedPrecisionPolicy(torch.bfloat16, cast_forward_inputs=False)),
        "RuntimeError: mat1 and mat2 must have the same dtype",
    ),
    "accumulate in FSDP2": (streamed(lambda module: fully_shard(module, mesh=mesh())), EXACT),
    "accumulate in HSDP": (streamed(lambda module: fully_shard(module, mesh=mesh(1, 2))), EXACT),
    "FSDP1": (fsdp1, EXACT),
    "FSDP1, original parameters": (fsdp1_original, EXACT),
    "accumulate in FSDP1": (fsdp1_streamed, "UnsupportedOperationError: the loss runs a FullyShardedDataParallel"),
    "Equation(DDP(net))": (equation_of_wrapped, "ArgumentTypeError: f is a DistributedDataParallel, "),
    "Equation(DataParallel(net))": (data_parallel_inside, "ArgumentTypeError: f is a DataParallel, "),
    "by layers": (by_layers, "ArgumentTypeError: the submodule '0' of f is FSDPLinear, a module of fully_shard, "),
    "Equation(fully_shard(net))": (
        network_sharded,
        "ArgumentTypeError: f is FSDPSequential, a module of fully_shard, ",
    ),
    "sharded after Equation(net)": (
        network_sharded_later,
        "ArgumentTypeError: f uses FSDPSequential, a module of fully",
    ),
    "tensor parallel": (
        tensor_parallel,
        "ArgumentTypeError: the parameter '0.weight' of Sequential, which f uses, is a DTensor",
    ),
}
WARNED: dict[str, tuple[Callable[[], Made], bool]] = {
    # Whether the gradient is that of one process all the same.
    "ddp.module": (inner_module, False),
    "ddp.module later": (inner_module_later, False),
    "make_functional(ddp.module)": (function_of_inner_module, False),
    "DataParallel": (data_parallel, False),
    "beside DDP": (beside_wrapped, True),
    "tensor hook": (reducing_by_itself, True),
    "hook after": (reducing_after, True),
    "replicate": (composable, True),
}
COMPILED: dict[str, tuple[Callable[[], Made], float | str]] = {
    "compile(DDP)": (compiled_around, EXACT),
    "DDP(compile)": (compiled_within, EXACT),
    "DDP(compile(Derivative))": (compiled_derivative, EXACT),
    "compile=True in DDP": (compiled_inside, EXACT),
    "compile(FSDP2)": (compiled_shard, EXACT),
    "FSDP2(compile)": (compiled_before_sharding, EXACT),
    "compile=True in FSDP2": (compiled_inside_shard, EXACT),
}
ALL: dict[str, Callable[[], Made]] = {name: make for name, (make, _) in (CASES | WARNED | COMPILED).items()}


# -------------------------------------------------------------------- run


@dataclass
class Found:
    """What was seen: parameters after each step and gradients, or what was raised; and the warnings of ours."""

    numbers: list[torch.Tensor]
    raised: str = ""
    warned: int = 0


def whole(module: nn.Module) -> list[torch.Tensor]:
    """All parameters, gathered where they are sharded."""
    gathered = contextlib.nullcontext()
    if isinstance(module, FullyShardedDataParallel):
        gathered = FullyShardedDataParallel.summon_full_params(module)
    with gathered:
        found = [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]
        return [tensor.detach().clone() for tensor in found]


def trained(make: Callable[[], Made], share: slice) -> Found:
    """Three steps, in which a warning of gradients of one rank is counted."""
    found = Found([])
    clear_caches()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            net, step = make()
            optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
            for number in range(STEPS):
                optimiser.zero_grad()
                step(points(number)[share])
                optimiser.step()
                found.numbers += whole(net)
        except Exception as error:
            found.raised = f"{type(error).__name__}: {error}"
    found.warned = sum(each.category is UnreducedGradientsWarning for each in seen)
    return found


def on_rank(rank: int, names: list[str]) -> list[Found]:
    share = slice(0, COUNT // 2) if rank == 0 else slice(COUNT // 2, None)
    return [trained(ALL[name], share) for name in names]


def alone() -> list[torch.Tensor]:
    """The parameters of one process that has all points, after each step."""
    net = network()
    return trained(lambda: (net, plain(equation(net))), slice(None)).numbers


def apart(found: Found, expected: list[torch.Tensor]) -> float:
    """How far a gradient was at most from what it should be, told by what the steps made of it."""
    own, truth = flat(found.numbers), flat(expected)
    assert len(own) == len(truth)
    return float((own - truth).abs().max()) / RATE


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def judged(name: str, found: Found, verdict: float | str, expected: list[torch.Tensor]) -> None:
    if isinstance(verdict, str):
        assert found.raised.startswith(verdict), (name, found.raised)
        return
    assert not found.raised, (name, found.raised)
    assert apart(found, expected) < verdict, name
    assert not found.warned, name


def test_right_or_refused() -> None:
    expected = alone()
    for of_rank in on_ranks(on_rank, list(CASES), seconds=200):
        for (name, (_, verdict)), found in zip(CASES.items(), of_rank, strict=True):
            judged(name, found, verdict, expected)


def test_warned() -> None:
    expected = alone()
    for of_rank in on_ranks(on_rank, list(WARNED), seconds=100):
        for (name, (_, right)), found in zip(WARNED.items(), of_rank, strict=True):
            assert not found.raised, (name, found.raised)
            assert found.warned == 1, name
            assert (apart(found, expected) < EXACT) == right, name


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name: str) -> None:
    expected = alone()
    for (found,) in on_ranks(on_rank, [name], seconds=200):
        judged(name, found, COMPILED[name][1], expected)


# -------------------------------------------------------------------- ranks that do not do the same


def uneven(rank: int, batches: list[int]) -> list[torch.Tensor]:
    net = network()
    wrapped = ddp(equation(net))
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
    with wrapped.join():
        for number in range(batches[rank]):
            optimiser.zero_grad()
            plain(wrapped)(points(10 * rank + number))
            optimiser.step()
    return whole(net)


def test_join_where_ranks_have_other_numbers_of_batches() -> None:
    batches, net = [3, 1], network()
    inside = equation(net)
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
    for number in range(max(batches)):
        optimiser.zero_grad()
        for rank, count in enumerate(batches):
            if number < count:
                (inside(points(10 * rank + number)).square().mean() / 2).backward()
        optimiser.step()
    for found in on_ranks(uneven, batches):
        assert float((flat(found) - flat(whole(net))).abs().max()) < EXACT


class Branches(nn.Module):
    """An equation and the network by itself, in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.equation = equation(self.net)

    def forward(self, x: torch.Tensor, inside: bool = True) -> Any:
        return self.equation(x) if inside else self.net(x).squeeze(1)


def nothing_on_a_rank(rank: int, kind: str, empty: int) -> list[torch.Tensor]:
    """Gradients of two terms, where one rank has no points of the first; all of it happens at the first call."""
    both = Branches()
    wrapped = ddp(both) if kind == "DDP" else fully_shard(both, mesh=mesh())
    own = points(rank)[: 0 if rank == empty else None]
    accumulate((lambda x: wrapped(x).square(), own), (lambda x: wrapped(x, False).square(), points(2 + rank)))
    return [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in both.net.parameters()]


@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
@pytest.mark.parametrize("empty", [0, 1])
def test_accumulate_where_a_rank_has_no_points(kind: str, empty: int) -> None:
    both = Branches()
    first, second = points(1 - empty), torch.cat([points(2), points(3)])
    accumulate((lambda x: both(x).square(), first), (lambda x: both(x, False).square(), second))
    expected = flat([p.grad for p in both.net.parameters() if p.grad is not None])
    for found in on_ranks(nothing_on_a_rank, kind, empty):
        assert float((flat(found) - expected).abs().max()) < EXACT
