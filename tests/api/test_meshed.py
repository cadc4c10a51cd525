"""``jacfunc/api/meshed.py``: DTensors go in, those of the rank's own samples are differentiated, DTensors come out."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from collectives import Collectives
from ranks import on_ranks
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.utils.checkpoint import checkpoint

from jacfunc import (
    ArgumentError,
    ArgumentTypeError,
    batch_jac,
    diag_jac,
    directional,
    explain,
    hessian,
    laplacian,
    make_functional,
    partials,
    residual,
)
from jacfunc.nn import Equation
from jacfunc.training import reduce_gradients

METHODS = ("auto", "taylor", "forward", "reverse")
STEPS = 3


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
    return net


def points(count: int) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def quantities(f: Any, method: Any) -> dict[str, Any]:
    def burgers(d: Any) -> torch.Tensor:
        return d.u_t + d.u * d.u_x - 0.1 * d.u_xx * d.t

    def named(params: Any, x: Any) -> Any:
        u, u_xx, u_tx = partials(f, "u u_xx u_tx", inputs="t x", outputs="u", method=method)(params, x)
        return u * u_xx + u_tx

    return {
        "diag_jac": diag_jac(f, method=method),
        "laplacian": laplacian(f, method=method),
        "partials": named,
        "residual": residual(f, burgers, inputs="t x", outputs="u", method=method),
    }


def trained(net: nn.Module, name: str, method: str, x: Any) -> tuple[list[Any], dict[str, int]]:
    """Values, and gradients added up, of some steps, and what processes did together before these were."""
    f, params = make_functional(net)
    quantity, count = quantities(f, method)[name], len(x)
    optimiser, seen, together = torch.optim.SGD(net.parameters(), 0.1), [], Collectives()
    for _ in range(STEPS):
        optimiser.zero_grad()
        with together:
            value = quantity(params, x)
            if count > 1:
                (value.square().sum() / count).backward()
            else:  # torch gathers an axis of one for such a loss: its gradient by hand
                value.backward(2 * value.detach())
        reduce_gradients(net.parameters())
        grads = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        seen.append([full(value), *map(full, grads)])
        optimiser.step()
    return seen, dict(together.counts)


def full(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor().detach().clone() if isinstance(tensor, DTensor) else tensor.detach().clone()


def difference(found: list[Any], expected: list[Any]) -> float:
    assert [len(step) for step in found] == [len(step) for step in expected]
    return max(
        float((a - b).abs().max())
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def as_in_one_process(rank: int) -> list[tuple[Any, ...]]:
    mesh, told = init_device_mesh("cpu", (2,)), []
    for count in (7, 1):  # the last rank has fewer, and none
        for method in METHODS:
            for name in ("diag_jac", "laplacian", "partials", "residual"):
                one, several = network(), distribute_module(network(), mesh)
                x = distribute_tensor(points(count), mesh, [Shard(0)])
                expected, _ = trained(one, name, method, points(count))
                found, together = trained(several, name, method, x)
                told.append((name, method, count, difference(found, expected), together))
    return told


def test_as_in_one_process() -> None:
    for found in on_ranks(as_in_one_process):
        assert len(found) == 32
        for name, method, count, difference, together in found:
            assert difference < 1e-10, (name, method, count)
            assert together == {}, (name, method, count)


# -------------------------------------------------------------------- other transforms, trees, captured parameters


def of_every_kind(rank: int) -> list[tuple[str, Any, Any, bool]]:
    """Of each call its name, the difference from that in one process, placements, and whether the shape is right."""
    mesh, x0 = init_device_mesh("cpu", (2,)), points(5)
    one, several = network(), distribute_module(network(), mesh)
    x = distribute_tensor(x0, mesh, [Shard(0)])
    (f0, p0), (f, p) = make_functional(one), make_functional(several)
    plain = make_functional(network(), snapshot=True)[1]

    def pair(q: dict[str, torch.Tensor], xy: Any, k: Any) -> Any:
        return {"sum": f0(q, torch.stack([xy["x"], xy["y"]], 1)) * k}, (xy["x"], xy["y"])

    def tree(x: Any) -> dict[str, Any]:
        return {"x": x[:, 0], "y": x[:, 1]}

    v0 = points(10)[5:]
    v, k0 = distribute_tensor(v0, mesh, [Shard(0)]), torch.tensor(2.0, dtype=torch.float64)
    k = distribute_tensor(k0, mesh, [Replicate()])
    calls: dict[str, tuple[Any, Any]] = {
        "batch_jac": (batch_jac(f)(p, x), batch_jac(f0)(p0, x0)),
        "hessian": (hessian(f, return_gradient=True)(p, x), hessian(f0, return_gradient=True)(p0, x0)),
        "plain parameters": (laplacian(f0)(plain, x), laplacian(f0)(plain, x0)),
        "captured": (laplacian(several)(x), laplacian(one)(x0)),
        "in a closure": (laplacian(lambda x: several(x).sin())(x), laplacian(lambda x: one(x).sin())(x0)),
        "value": (laplacian(f, return_value=True)(p, x), laplacian(f0, return_value=True)(p0, x0)),
        "blocks": (laplacian(f, sample_chunk_size=2)(p, x), laplacian(f0)(p0, x0)),
        "argnums": (diag_jac(lambda x, p: f(p, x), argnums=0)(x, p), diag_jac(f0)(p0, x0)),
        "in_dims": (
            batch_jac(lambda p, x, s: f0(p, x) * s, argnums=1, in_dims=(None, 0, 0))(p, x, x[:, :1]),
            batch_jac(lambda p, x, s: f0(p, x) * s, argnums=1)(p0, x0, x0[:, :1]),
        ),
        "two arguments": (
            batch_jac(lambda p, x, y: f0(p, torch.stack([x, y], 1)), argnums=(1, 2))(p, x[:, 0], x[:, 1]),
            batch_jac(lambda p, x, y: f0(p, torch.stack([x, y], 1)), argnums=(1, 2))(p0, x0[:, 0], x0[:, 1]),
        ),
        "separate": (
            list(
                partials(lambda p, x, y: f0(p, torch.stack([x, y], 1)), "u_xy u", inputs="x y", outputs="u")(
                    p, x[:, 0], x[:, 1]
                )
            ),
            list(
                partials(lambda p, x, y: f0(p, torch.stack([x, y], 1)), "u_xy u", inputs="x y", outputs="u")(
                    p0, x0[:, 0], x0[:, 1]
                )
            ),
        ),
        "residual of separate": (
            residual(
                lambda p, x, y: f0(p, torch.stack([x, y], 1)), lambda d: (d.u_xy, d.u * d.x), inputs="x y", outputs="u"
            )(p, x[:, 0], x[:, 1]),
            residual(
                lambda p, x, y: f0(p, torch.stack([x, y], 1)), lambda d: (d.u_xy, d.u * d.x), inputs="x y", outputs="u"
            )(p0, x0[:, 0], x0[:, 1]),
        ),
        "directional": (directional(f)(p, x, v), directional(f0)(p0, x0, v0)),
        "one direction": (directional(f)(p, x, v0[0]), directional(f0)(p0, x0, v0[0])),
        "nested": (
            diag_jac(lambda p, x: laplacian(f0)(p, x))(p, x),
            diag_jac(lambda p, x: laplacian(f0)(p, x))(p0, x0),
        ),
        "compiled": (laplacian(f0, compile=True)(p, x), laplacian(f0)(p0, x0)),
        "later axis": (
            diag_jac(lambda p, x: f0(p, x)[None].repeat(3, 1, 1), out_dims=1)(p, x),
            diag_jac(lambda p, x: f0(p, x)[None].repeat(3, 1, 1), out_dims=1)(p0, x0),
        ),
        "by keyword": (
            batch_jac(lambda p, x, k: f0(p, x) * k, argnums=1)(p, x, k=k),
            batch_jac(lambda p, x, k: f0(p, x) * k, argnums=1)(p0, x0, k=k0),
        ),
    }
    calls["by torch.compile"] = torch.compile(laplacian(f), backend="eager")(p, x), laplacian(f0)(p0, x0)
    calls["tree"] = (
        batch_jac(lambda p, xy: pair(p, xy, 2.0)[0])(p, tree(x)),
        batch_jac(lambda p, xy: pair(p, xy, 2.0)[0])(p0, tree(x0)),
    )
    whole = distribute_tensor(x0, mesh, [Replicate()])
    calls["replicated"] = (laplacian(f)(p, whole), laplacian(f0)(p0, x0))
    derivative, aux = batch_jac(lambda p, x: (f0(p, x), x * 2), has_aux=True)(p, x)
    calls["aux"] = (derivative, batch_jac(f0)(p0, x0))
    own = x.to_local()
    assert type(aux) is torch.Tensor and bool((aux == own * 2).all())
    return [
        (
            name,
            [float((full(a) - b).abs().max()) for a, b in zip(leaves(found), leaves(expected), strict=True)],
            [tuple(a.placements) for a in leaves(found)],
            all(full(a).shape == b.shape == a.shape for a, b in zip(leaves(found), leaves(expected), strict=True)),
        )
        for name, (found, expected) in calls.items()
    ]


def leaves(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(tree)


def test_every_kind_of_call() -> None:
    for found in on_ranks(of_every_kind, seconds=200):
        for name, differences, placements, right in found:
            assert max(differences) < 1e-10 and right, name
            placement = {"replicated": Replicate(), "later axis": Shard(1)}.get(name, Shard(0))
            assert set(placements) == {(placement,)}, name


# -------------------------------------------------------------------- gradients of what all ranks have


def checkpointed(rank: int) -> float:
    """How far gradients through a checkpoint are from those without."""
    mesh, found = init_device_mesh("cpu", (2,)), []
    x = distribute_tensor(points(5), mesh, [Shard(0)])
    for again in (False, True):
        net = distribute_module(network(), mesh)

        def f(x: Any, net: Any = net, again: bool = again) -> Any:
            return checkpoint(net, x, use_reentrant=False) if again else net(x)

        laplacian(f)(x).square().sum().backward()
        found.append(net[0].weight.grad.full_tensor())
    return float((found[1] - found[0]).abs().max())


def test_what_a_checkpoint_runs_again_is_local() -> None:
    assert max(on_ranks(checkpointed)) < 1e-12


def gradients(rank: int) -> list[Any]:
    mesh, x0 = init_device_mesh("cpu", (2,)), points(5)
    net, told = distribute_module(network(), mesh), []
    f, p = make_functional(net)
    laplacian(f)(p, distribute_tensor(x0, mesh, [Shard(0)])).square().sum().backward()
    told.append(net[0].weight.grad.placements == (Partial(),))
    expected = net[0].weight.grad.full_tensor()
    if rank:
        net[2].weight.grad = None  # as on a rank without samples whose loss has no graph
    kept = net[2].weight.grad
    with Collectives() as together:
        reduce_gradients(net.parameters())
    told.append(together.counts.total() == 1)
    told.append(net[0].weight.grad.placements == (Replicate(),))
    told.append(bool((net[0].weight.grad.to_local() - expected).abs().max() < 1e-12))
    told.append(net[2].weight.grad.placements == (Replicate(),) and net[4].bias.grad is None)
    told.append(rank == 1 or bool((kept.to_local() == net[2].weight.grad.to_local()).all()))
    net.zero_grad()
    laplacian(f)(p, distribute_tensor(x0, mesh, [Replicate()])).square().sum().backward()
    told.append(net[0].weight.grad.placements == (Replicate(),))
    told.append(bool((net[0].weight.grad.to_local() - expected).abs().max() < 1e-12))
    return told


def test_gradients_are_partial_until_they_are_added_up() -> None:
    assert on_ranks(gradients) == [[True] * 8] * 2


def test_parameters_that_are_none() -> None:
    with pytest.raises(ArgumentTypeError, match="str in it; pass tensors"):
        reduce_gradients(["weight"])  # type: ignore[list-item]


# -------------------------------------------------------------------- gradients that nobody adds up


def who_adds_up(rank: int) -> dict[str, list[str]]:
    """What is warned of, or raised, by calls at a batch that is cut."""
    mesh, told = init_device_mesh("cpu", (2,)), {}
    x = distribute_tensor(points(4), mesh, [Shard(0)])
    whole = distribute_tensor(points(4), mesh, [Replicate()])
    plain, other, frozen = network(), network(), network().requires_grad_(False)
    replicated = distribute_module(network(), mesh)
    nu = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    f, params = make_functional(network())
    heat = lambda d: d.u_t - d.u_xx
    with_nu = lambda d: d.u_t - nu * d.u_xx
    again = laplacian(plain)
    ddp = nn.parallel.DistributedDataParallel
    wrapped = ddp(Equation(network(), heat, inputs="t x", outputs="u"))
    called = Equation(network(), heat, inputs="t x", outputs="u")
    with torch.no_grad():
        called(x)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Any) -> Any:
            return laplacian(self.net)(x)

    calls: dict[str, Any] = {
        "plain": lambda: again(x),
        "plain again": lambda: again(x),
        "another": lambda: laplacian(other)(x),
        "plain arguments": lambda: laplacian(f)(params, x),
        "plain equation": lambda: Equation(network(), heat, inputs="t x", outputs="u")(x),
        "coefficient": lambda: residual(replicated, with_nu, inputs="t x", outputs="u")(x),
        "replicated": lambda: residual(replicated, heat, inputs="t x", outputs="u")(x),
        "frozen": lambda: laplacian(frozen)(x),
        "whole batch": lambda: laplacian(network())(whole),
        "no_grad": lambda: torch.no_grad()(wrapped)(x),
        "DDP": lambda: wrapped(x),
        "DDP of one that was called": lambda: ddp(called)(x),
        "DDP of a module of one's own": lambda: ddp(Own())(x),
        "fully_shard": lambda: fully_shard(Equation(network(), heat, inputs="t x", outputs="u"), mesh=mesh)(x),
    }
    for name, call in calls.items():
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                call()
                told[name] = [f"{each.filename}: {each.message}" for each in seen if "rank" in str(each.message)]
            except Exception as error:
                told[name] = [f"{type(error).__name__}: {error}"]
    return told


WARNED = {"plain": "5 tensors trained by it are", "another": "5 tensors", "plain arguments": "5 tensors"}
WARNED |= {"plain equation": "tensors trained by it are plain", "coefficient": "1 tensor trained by it is plain"}


def test_gradients_that_nobody_adds_up() -> None:
    for found in on_ranks(who_adds_up):
        for name, sentences in found.items():
            if "DDP" in name or name == "fully_shard":
                wrapper = "fully_shard" if name == "fully_shard" else "DistributedDataParallel"
                start = "ArgumentTypeError: the points are a DTensor with placements [Shard(0)] inside of the forward"
                assert sentences[0].startswith(f"{start} of {wrapper}, which"), (name, sentences)
            elif name in WARNED:
                assert len(sentences) == 1, (name, sentences)
                assert sentences[0].startswith(f"{__file__}: the batch is cut over ranks, but "), (name, sentences)
                assert WARNED[name] in sentences[0] and "reduce_gradients" in sentences[0], (name, sentences)
            else:
                assert not sentences, (name, sentences)


# -------------------------------------------------------------------- refused


def refusals(rank: int) -> dict[str, str]:
    mesh, x0, told = init_device_mesh("cpu", (2,)), points(4), {}
    x, net = distribute_tensor(x0, mesh, [Shard(0)]), distribute_module(network(), mesh)
    (f0, p0), (f, p) = make_functional(network()), make_functional(net)
    cut = {**p, "2.weight": distribute_tensor(p0["2.weight"].detach(), mesh, [Shard(0)])}
    sharded = network()
    sharded[2].weight = nn.Parameter(cut["2.weight"])
    weight = distribute_tensor(torch.ones(2, 2).double(), mesh, [Replicate()])
    segments = torch.tensor([0, 0, 1, 1])

    def both(x: Any, y: Any) -> Any:
        return x * y

    calls: dict[str, Any] = {
        "columns": lambda: diag_jac(f)(p, distribute_tensor(x0, mesh, [Shard(1)])),
        "partial": lambda: diag_jac(f)(p, DTensor.from_local(x0, mesh, [Partial()], run_check=False)),
        "one sample": lambda: batch_jac(torch.sin, batch_dims=0)(x),
        "cut parameter": lambda: diag_jac(f)(cut, x),
        "cut parameter of a module": lambda: diag_jac(sharded)(x),
        "plain batch": lambda: diag_jac(f)(p, x0),
        "plain batch and module": lambda: diag_jac(net)(x0),
        "one of two": lambda: batch_jac(both, argnums=(0, 1))(x, x0),
        "two ways": lambda: batch_jac(both, argnums=(0, 1))(x, distribute_tensor(x0, mesh, [Replicate()])),
        "in_dims": lambda: batch_jac(both, argnums=0, in_dims=(0, 0))(x, x0),
        "closed over": lambda: diag_jac(lambda x: x @ weight)(x),
        "compiled module": lambda: diag_jac(net, compile=True)(x),
        "grid": lambda: partials(f0, "u_x", inputs="x y", outputs="u", grid=True)(p0, x[:, 0], x[:, 1]),
        "grid residual": lambda: residual(f0, lambda d: d.u_x, inputs="x y", outputs="u", grid=True)(p0, x, x),
        "segments": lambda: laplacian(f0, segments=segments)(p0, x),
        "explain": lambda: explain(diag_jac(f0))(p0, x),
        "torch.func": lambda: torch.func.grad(lambda k: diag_jac(lambda x: x * k)(x).sum())(torch.tensor(2.0)),
    }
    for name, call in calls.items():
        try:
            call()
            told[name] = "nothing"
        except (ArgumentTypeError, ArgumentError) as error:
            told[name] = str(error)
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    return told


SENTENCES = {
    "columns": r"args\[1\] is a DTensor with placements \[Shard\(1\)\].*redistribute\(placements=\[Shard\(0\)\]\)",
    "partial": r"args\[1\] is a DTensor with placements \[Partial\(\)\].*add up.*redistribute",
    "one sample": r"args\[0\] is a DTensor.*batch_dims=0.*full_tensor",
    "cut parameter": r"args\[0\]\['2.weight'\] is a DTensor with placements \[Shard\(0\)\].*Replicate.*in_dims",
    "cut parameter of a module": r"the parameter '2.weight', which f uses, is a DTensor.*full_tensor",
    "plain batch": r"args\[0\]\['0.bias'\] is a DTensor.*but args\[1\] is a plain tensor.*distribute_tensor",
    "plain batch and module": r"f mixes DTensors with plain tensors.*distribute_tensor",
    "one of two": r"args\[1\] is a plain tensor, but args\[0\] is a DTensor.*full_tensor",
    "two ways": r"args\[1\] is a DTensor with placements \[Replicate\(\)\], but args\[0\] lies otherwise",
    "in_dims": r"args\[1\] is a plain tensor, but args\[0\] is a DTensor",
    "closed over": r"f mixes DTensors with plain tensors",
    "compiled module": r"Sequential, which f uses, has DTensors for parameters, which compile=True.*make_functional",
    "grid": r"args\[1\] is a DTensor.*grid.*full_tensor",
    "grid residual": r"args\[1\] is a DTensor.*grid.*full_tensor",
    "segments": r"args\[1\] is a DTensor.*several ranks.*full_tensor",
    "torch.func": r"args\[0\] is a DTensor.*torch.func.*full_tensor",
    "explain": r"args\[1\] is a DTensor.*to_local",
}


def test_refused_in_one_sentence() -> None:
    for found in on_ranks(refusals, seconds=100):
        assert found.keys() == SENTENCES.keys()
        for name, sentence in found.items():
            assert re.match(SENTENCES[name], sentence), (name, sentence)
            assert "\n" not in sentence, name
