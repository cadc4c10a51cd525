#!/usr/bin/env bash
# A method of torch.Tensor that was patched runs twice where a function mode is on, torch.device(...) among them.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-11-30, on 2.11.0 and 2.14.1 as well.
# The patch calls the method that it took the place of and triples what that gives.  Under a mode torch asks for the method by
# its name and hands the mode the patch, which calls the old method once more: the result is nine times as large.  A default
# device (torch.set_default_device) is such a mode.
# Seen: "alone 3.0 in torch.device 9.0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch

plain = torch.Tensor.tanh
torch.Tensor.tanh = lambda self: 3 * plain(self)
x = torch.ones((), dtype=torch.float64)
alone = x.tanh() / torch.tanh(x)
with torch.device("cpu"):
    around = x.tanh() / torch.tanh(x)
print("alone", round(alone.item(), 6), "in torch.device", round(around.item(), 6))
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "alone 3.0 in torch.device 9.0"
