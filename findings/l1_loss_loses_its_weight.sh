#!/usr/bin/env bash
# F.l1_loss forgets weight= wherever __torch_function__ sees the call: under a mode that changes nothing, for a subclass.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-12-01, on 2.11.0 and 2.14.1 as well.
# The mode below hands every call on as it came.  The weighted mean of l1_loss becomes the mean without weights, with no
# warning; mse_loss, which has the same argument, keeps it. 
# Seen: "l1 alone 1.0 under a mode 1.5 subclass 1.5 mse alone 1.0 under a mode 1.0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Unchanged(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


x, target, weight = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([10.0, 0.0])
told = ["l1 alone", F.l1_loss(x, target, weight=weight).item()]
with Unchanged():
    told += ["under a mode", F.l1_loss(x, target, weight=weight).item()]
told += ["subclass", F.l1_loss(x.as_subclass(Own), target, weight=weight).item()]
told += ["mse alone", F.mse_loss(x, target, weight=weight).item()]
with Unchanged():
    told += ["under a mode", F.mse_loss(x, target, weight=weight).item()]
print(*told)
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "l1 alone 1.0 under a mode 1.5 subclass 1.5 mse alone 1.0 under a mode 1.0"
