"""Burgers' equation on any number of processes, to the same loss curve as on one, and resumed where it was stopped.

    python burgers_many.py --checkpoints runs/one
    torchrun --standalone --nproc-per-node 2 burgers_many.py --checkpoints runs/two

Each rank draws the points of all, from a seed that is that of the step, and takes its share; so the curve does not
depend on how many there are.  Every ``--every`` steps all ranks write a checkpoint together; when one is killed,
the same command goes on from the last one that is complete.
"""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

from jacfunc import accumulate
from jacfunc.nn import Equation

VISCOSITY = 0.01 / torch.pi


class Problem(nn.Module):
    """Both losses of one network in one module, for one wrapper around all of them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.equation = Equation(net, burgers, inputs="t x", outputs="u")

    def forward(self, points: torch.Tensor, values: torch.Tensor | None = None) -> torch.Tensor:
        """One number for each point: the squared residual, or the squared error where the value is known."""
        if values is None:
            return self.equation(points).square()
        return (self.net(points).squeeze(1) - values).square()


def burgers(d):
    return d.u_t + d.u * d.u_x - VISCOSITY * d.u_xx


def network(width: int = 20) -> nn.Module:
    torch.manual_seed(0)  # the same on every rank
    layers = [nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)]
    return nn.Sequential(*layers).double()


def points(step: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points inside (t from 0 to 1, x from -1 to 1), at the start or on the walls, and the values there."""
    generator = torch.Generator().manual_seed(step)
    sizes, corner = torch.tensor([1, 2]), torch.tensor([0, 1])

    def draw(n: int) -> torch.Tensor:
        return torch.rand(n, 2, dtype=torch.float64, generator=generator) * sizes - corner

    inside, start, walls = draw(count), draw(count // 4), draw(count // 4)
    start[:, 0], walls[:, 1] = 0, walls[:, 1].sign()
    return inside, torch.cat([start, walls]), torch.cat([-(torch.pi * start[:, 1]).sin(), torch.zeros(len(walls))])


def share(tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    return tensor.tensor_split(ranks)[rank]


def train(args: argparse.Namespace, rank: int, ranks: int) -> None:
    problem = Problem(network())
    module = DistributedDataParallel(problem) if ranks > 1 else problem
    optimiser = torch.optim.Adam(problem.net.parameters(), lr=1e-3)
    first = restored(args.checkpoints, problem.net, optimiser)
    for step in range(first, args.steps):
        optimiser.zero_grad()
        inside, known, values = (share(each, rank, ranks) for each in points(step, args.points))
        residual, error = accumulate(
            (module, inside), (module, (known, values), 10.0), sample_chunk_size=args.sample_chunk_size
        )
        optimiser.step()
        if rank == 0:
            print(f"step {step} loss {float(residual + error):.12e}", flush=True)
        if (step + 1) % args.every == 0:
            saved(args.checkpoints, step + 1, problem.net, optimiser, rank)


# -------------------------------------------------------------------- checkpoints


def state(net: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, object]:
    weights, moments = get_state_dict(net, optimiser)
    return {"net": weights, "optimiser": moments}


def saved(folder: Path, step: int, net: nn.Module, optimiser: torch.optim.Optimizer, rank: int) -> None:
    """Write what all ranks have; a checkpoint counts from when its number is in the file ``last``."""
    checkpoint.save(state(net, optimiser), checkpoint_id=folder / str(step))
    if rank == 0:
        new = folder / "last.new"
        new.write_text(str(step))
        new.replace(folder / "last")


def restored(folder: Path, net: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Read the last checkpoint if there is one; the step to go on with."""
    last = folder / "last"
    if not last.exists():
        return 0
    step, found = int(last.read_text()), state(net, optimiser)
    checkpoint.load(found, checkpoint_id=folder / str(step))
    set_state_dict(net, optimiser, model_state_dict=found["net"], optim_state_dict=found["optimiser"])
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder that all ranks see")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--points", type=int, default=4096, help="points inside, of all ranks together")
    parser.add_argument("--sample-chunk-size", type=int, default=2048, help="points of one block")
    parser.add_argument("--timeout", type=int, default=300, help="seconds after which a rank that waits gives up")
    args = parser.parse_args()
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    if "RANK" not in os.environ:  # one process, without torchrun
        train(args, 0, 1)
        return
    # "nccl" where each process has a GPU, to which the module goes.
    distributed.init_process_group("gloo", timeout=timedelta(seconds=args.timeout))
    try:
        train(args, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
