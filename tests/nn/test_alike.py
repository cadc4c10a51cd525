"""``jacfunc/nn/alike.py``: what one process raises all of them raise, and none waits for another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import outcomes
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from jacfunc import laplacian
from jacfunc.nn import Derivative
from jacfunc.nn.alike import _kind


class Odd(nn.Module):
    """A network that does something else on the last rank."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(2, 2), kind

    def forward(self, x: Any) -> Any:
        if self.kind == "raises":
            raise ValueError("no luck")
        y = torch.tanh(self.layer(x))
        return y - y.mean(0) if self.kind == "couples" else y


def train(rank: int, wrapper: str, kind: str) -> list[str]:
    told = []
    for one in (kind, ""):  # after an error a right one, in the same processes
        torch.manual_seed(0)
        inner = Derivative(Odd(one if rank == 1 else ""), laplacian)
        module = (
            DistributedDataParallel(inner)
            if wrapper == "DDP"
            else fully_shard(inner, mesh=init_device_mesh("cpu", (2,)))
        )
        x = torch.rand(5, 1 if one == "shape" and rank == 1 else 2)
        try:
            module(x).sum().backward()
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    return told


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP2"])
@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("raises", "ValueError: no luck"),
        ("couples", "CoupledSamplesError: output[0] changed"),
        ("shape", "RuntimeError: mat1"),
    ],
)
def test_an_error_of_one_rank_is_raised_on_all(kind: str, start: str, wrapper: str) -> None:
    first, last = outcomes(train, wrapper, kind)
    assert first[1] is None
    assert last[1] is None
    assert [len(first[0]), len(last[0])] == [1, 1]
    assert last[0][0].startswith(start)
    assert first[0][0] == f"{last[0][0]} (raised on rank 1)"


def test_classes_by_name() -> None:
    assert _kind("ValueError") is ValueError
    assert _kind("CoupledSamplesError").__module__ == "jacfunc.errors"
    assert _kind("print") is _kind("NobodyKnows") is RuntimeError
