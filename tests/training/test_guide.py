"""The blocks of ``docs/guides/many.md`` that need several processes, on two of them.

Such a block is fenced as ``py distributed``.  Each runs after the ``python`` blocks before it on the page, which
``test_docs.py`` runs on one process, in a namespace of its own: a network that one block shards is no other's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ranks import on_ranks
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from jacfunc import laplacian, make_functional
from jacfunc.training import reduce_gradients

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "many.md"
BLOCK = re.compile(r"^```(?P<kind>python|py distributed)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FROM_TORCH = [
    DistributedDataParallel,
    fully_shard,
    init_device_mesh,
    distribute_module,
    distribute_tensor,
    Shard,
    make_functional,
    laplacian,
    reduce_gradients,
]
"""What the blocks take from torch and from jacfunc without saying so."""


def programs() -> Iterator[str]:
    """For each block for several processes, what runs; empty lines make a traceback point to the line of the page."""
    text, before = PAGE.read_text(encoding="utf-8"), ""
    for match in BLOCK.finditer(text):
        code = before + "\n" * (text.count("\n", 0, match.start("code")) - before.count("\n")) + match["code"]
        if match["kind"] == "python":
            before = code
        else:
            yield code


def ran(rank: int) -> int:
    """Run all of them on a rank, which has points of its own; how many there were."""
    distributed.init_process_group = lambda *_, **__: None  # called before, as one of the blocks shows it
    codes = [*programs()]
    for code in codes:
        torch.manual_seed(0)  # FSDP2 needs the same network on all ranks
        given: dict[str, Any] = {each.__name__: each for each in FROM_TORCH}
        points = torch.rand(2, 8, 2)[rank]
        given |= {"__name__": "__main__", "points": points, "loader": [points, points]}
        exec(compile(code, PAGE.name, "exec"), given)
        module = given["module"] if "module" in given else given["net"]
        for parameter in module.parameters():
            assert parameter.grad is None or alike(parameter.grad), code
    return len(codes)


def alike(gradient: torch.Tensor) -> bool:
    """Whether a gradient is what the other rank has, too."""
    whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    others = [torch.empty_like(whole) for _ in range(2)]
    distributed.all_gather(others, whole.contiguous())
    return torch.equal(*others)


def test_every_block_runs_on_two_ranks() -> None:
    written = PAGE.read_text(encoding="utf-8").count("\n```py distributed\n")
    assert on_ranks(ran) == [written] * 2 and written > 0
