#!/usr/bin/env bash
# torch.nn.CrossMapLRN2d adds up one channel too many, and its gradient is that of another function.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-11-30.
# Both layers normalise by alpha / size times the sum of squares over size neighbouring channels.  For ones, size=3, alpha=3,
# beta=1 and k=1 each output is 1 / (1 + channels in the window): 3 of them inside, 2 at both ends, as LocalResponseNorm has
# it.  CrossMapLRN2d has 4 from the third channel on, and 3 at the end.  gradcheck in double precision fails for it, and
# passes for LocalResponseNorm.
# Seen: "LocalResponseNorm [2, 3, 3, 3, 3, 3, 3, 2] True" and "CrossMapLRN2d [2, 3, 4, 4, 4, 4, 4, 3] False"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
points = torch.rand(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
for layer in (nn.LocalResponseNorm, nn.CrossMapLRN2d):
    norm = layer(3, alpha=3.0, beta=1.0, k=1.0)
    found = norm(torch.ones(1, 8, 1, 1, dtype=torch.float64)).flatten()
    counts = (1 / found - 1).round().int().tolist()
    right = torch.autograd.gradcheck(norm, (points,), raise_exception=False)
    print(layer.__name__, counts, right)
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "LocalResponseNorm [2, 3, 3, 3, 3, 3, 3, 2] True
CrossMapLRN2d [2, 3, 4, 4, 4, 4, 4, 3] False"
