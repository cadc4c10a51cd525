#!/usr/bin/env bash
# A module of fully_shard whose forward returns a TensorDict: its parameters are never reduced, and have no gradient.
#
# Version: torch 2.13.0 (CPU) with tensordict 0.15.3, Python 3.11; seen on 2026-11-30, on 2.14.1 as well; 2.11.0 is right.
# FSDP2 hooks the backward on the tensors that the forward returns.  Up to 2.11.0 it found them by torch's pytree, in which
# tensordict enters its classes; now it looks into dict, list, tuple and dataclasses only.
# Behaviour: of two ranks with points 1 and 3 the gradient is 2, the mean, where the forward returns a dict.  Where it
# returns a TensorDict the backward runs without a warning, but the parameter that an optimiser was given has none (None), so
# nothing is trained; the gradient of the rank's own point stays with the gathered copy, which the module holds from then on.
# Seen: "dict 2.0 left behind None" and "TensorDict None left behind 1.0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 tensordict==0.15.3
cat > "$folder/look.py" <<'PYTHON'
import tempfile
import warnings

import torch
from tensordict import TensorDict
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

warnings.simplefilter("ignore")


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(1, 1, bias=False), kind
        nn.init.ones_(self.layer.weight)

    def forward(self, x):
        y = self.layer(x)
        return {"y": y} if self.kind == "dict" else TensorDict({"y": y}, batch_size=len(x))


def work(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind in ("dict", "TensorDict"):
        net = fully_shard(Net(kind), mesh=init_device_mesh("cpu", (2,)))
        (weight,) = net.parameters()
        net(torch.full((1, 1), 1.0 + 2 * rank))["y"].sum().backward()
        (now,) = net.parameters()
        grad = None if weight.grad is None else weight.grad.full_tensor().item()
        if rank == 0:
            print(kind, grad, "left behind", None if now is weight else now.grad.item(), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder,), nprocs=2)
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py" 2> "$folder/errors" | tr '\n' ';')
echo "$seen"
test "$seen" = "dict 2.0 left behind None;TensorDict None left behind 1.0;"
