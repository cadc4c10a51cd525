"""``jacfunc/modules/wrappers.py``: DDP and FSDP in a derivative are refused, and gradients of one rank warned of."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from jacfunc import ArgumentTypeError, UnreducedGradientsWarning, clear_caches, diag_jac, laplacian, make_functional

METHODS = ("auto", "taylor", "forward", "reverse")
CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def points() -> torch.Tensor:
    return torch.rand(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Inside(nn.Module):
    """The derivative in a forward, of the network itself, of a function around it, or of one that was made before."""

    def __init__(self, net: nn.Module, method: Any = "auto", way: str = "closure") -> None:
        super().__init__()
        self.net, self.method, self.way = net, method, way
        self.made = make_functional(net)[0] if way == "made" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.made is not None:
            return laplacian(self.made, method=self.method)(self.made.parameters(), x)
        f = self.net if self.way == "net" else lambda x: self.net(x)
        return laplacian(f, method=self.method)(x)


class Holder:
    """An object with modules where no walk through a function finds them."""

    def __init__(self, module: nn.Module) -> None:
        self.hidden = [module]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden[0](x)


# -------------------------------------------------------------------- one process


def test_data_parallel_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^module is a DataParallel, .* put the derivative inside"):
        make_functional(nn.DataParallel(network()))
    with pytest.raises(ArgumentTypeError, match=r"^f is a DataParallel, "):
        diag_jac(nn.DataParallel(network()))
    with pytest.raises(ArgumentTypeError, match=r"^the submodule '0' of f is a DataParallel, "):
        diag_jac(nn.Sequential(nn.DataParallel(network())))


def test_data_parallel_in_a_function_is_refused() -> None:
    wrapped = nn.DataParallel(network())
    for f in (lambda x: wrapped(x), Holder(wrapped)):
        with pytest.raises(ArgumentTypeError, match=r"^f uses a DataParallel, .* put the derivative inside"):
            diag_jac(f)(points())


def test_one_process_is_not_warned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diag_jac(network())(points())


# -------------------------------------------------------------------- several


KINDS = {"DDP": "DistributedDataParallel", "FSDP1": "FullyShardedDataParallel", "FSDP2": "a module of fully_shard"}


def refused(rank: int) -> dict[str, str]:
    """What each configuration says that would give gradients of one rank, or fail in the middle."""
    mesh, x, told = init_device_mesh("cpu", (2,)), points().chunk(2)[rank], {}
    parallel = DistributedDataParallel(network())
    old = FullyShardedDataParallel(network(), device_id=CPU, use_orig_params=True)
    whole = fully_shard(network(), mesh=mesh)
    root = fully_shard(Inside(network()), mesh=mesh)
    layers, others, net, made = network(), network(), network(), Inside(network(), way="made")
    for layer in (layers[0], layers[2], others[2], made.net[0]):
        fully_shard(layer, mesh=mesh)
    f, params = make_functional(layers_later := network())
    fully_shard(layers_later[0], mesh=mesh)
    calls = {
        "DDP": lambda: laplacian(parallel),
        "DDP, functional": lambda: make_functional(parallel),
        "DDP in a closure": lambda: laplacian(lambda x: parallel(x))(x),
        "DDP hidden": lambda: laplacian(Holder(parallel))(x),
        "FSDP1": lambda: laplacian(old),
        "FSDP1, functional": lambda: make_functional(old),
        "FSDP1 in a closure": lambda: laplacian(lambda x: old(x))(x),
        "FSDP2": lambda: laplacian(whole),
        "FSDP2, functional": lambda: make_functional(whole),
        "FSDP2 in a closure": lambda: laplacian(lambda x: whole(x))(x),
        "FSDP2 hidden": lambda: laplacian(Holder(whole))(x),
        "FSDP2 by layers": lambda: fully_shard(Inside(layers), mesh=mesh)(x),
        "FSDP2 by layers, the network": lambda: fully_shard(Inside(others, way="net"), mesh=mesh)(x),
        "FSDP2 by layers, made before": lambda: fully_shard(made, mesh=mesh)(x),
        "FSDP2 inside": lambda: fully_shard(Inside(fully_shard(net, mesh=mesh)), mesh=mesh)(x),
        "FSDP2 after make_functional": lambda: laplacian(f)(params, x),
        "FSDP2, the network of the root": lambda: laplacian(root.net)(x),
    }
    for name, call in calls.items():
        try:
            call()
            told[name] = "nothing"
        except ArgumentTypeError as error:
            told[name] = str(error)
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    return told


def test_wrappers_are_refused() -> None:
    for found in on_ranks(refused, seconds=100):
        mixed = found.pop("FSDP2, the network of the root")
        assert mixed.startswith("f mixes DTensors with plain tensors") and "jacfunc.nn" in mixed
        for name, sentence in found.items():
            kind = KINDS[re.split(r"\W", name)[0]]
            assert kind in sentence and "(see jacfunc.nn)" in sentence and "\n" not in sentence, (name, sentence)


def right(rank: int) -> list[tuple[str, float]]:
    """Of each configuration that is right how far values and gradients are from one process, over three steps."""
    mesh, found = init_device_mesh("cpu", (2,)), []
    warnings.simplefilter("error", UnreducedGradientsWarning)
    for method in METHODS:
        for way in ("closure", "net", "made"):
            for kind in ("DDP", "FSDP2"):
                net = network()
                inside: Any = Inside(net, method, way)
                if kind == "DDP":  # the last bias is in no derivative
                    inside = DistributedDataParallel(inside, find_unused_parameters=True)
                else:
                    inside = fully_shard(inside, mesh=mesh)
                found.append((f"{kind} {way} {method}", apart(net, inside, method, rank)))
    return found


def apart(net: nn.Module, inside: nn.Module, method: Any, rank: int) -> float:
    one, largest = network(), 0.0
    optimisers = [torch.optim.SGD(each.parameters(), 0.1) for each in (net, one)]
    for _ in range(3):
        with warnings.catch_warnings():  # of the one process that is compared with
            warnings.simplefilter("ignore")
            expected = laplacian(one, method=method)(points())
        value = inside(points().chunk(2)[rank])
        for result, optimiser in zip((value, expected), optimisers, strict=True):
            optimiser.zero_grad()
            result.square().mean().backward()
        largest = max(largest, float((value - expected.chunk(2)[rank]).abs().max()))
        for parameter, other in zip(net.parameters(), one.parameters(), strict=True):
            if other.grad is None:
                continue
            own = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            largest = max(largest, float((own - other.grad).abs().max()))
        for optimiser in optimisers:
            optimiser.step()
        clear_caches()  # the next step is looked at as the first one is, and may warn again
    return largest


def test_a_derivative_inside_of_a_wrapper_is_right() -> None:
    for found in on_ranks(right, seconds=100):
        assert len(found) == 24
        for name, difference in found:
            assert difference < 1e-10, name


def warned(rank: int) -> list[int]:
    """How many warnings came of several calls, one after the other."""
    net, x, told = network(), points(), []
    parallel = DistributedDataParallel(net)
    f, params = make_functional(parallel.module)

    def count(call: Any) -> int:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
        told = [each for each in seen if each.category is UnreducedGradientsWarning]
        assert all(each.filename == __file__ for each in told)
        return len(told)

    with torch.no_grad():
        told.append(count(lambda: laplacian(f)(params, x)))
    told.append(count(lambda: laplacian(lambda x: x.square().sum(1))(x.requires_grad_())))
    told.append(count(lambda: laplacian(lambda x: f(params, x))(x)))
    told.append(count(lambda: diag_jac(network())(x)))
    clear_caches()
    told.append(count(lambda: laplacian(f)(params, x)))
    clear_caches()
    told.append(count(lambda: laplacian(network())(x)))
    clear_caches()
    frozen = network().requires_grad_(False)
    told.append(count(lambda: laplacian(frozen)(x)))
    return told


def test_gradients_of_one_rank_are_warned_of_once() -> None:
    assert on_ranks(warned) == [[0, 0, 1, 0, 1, 1, 0]] * 2
