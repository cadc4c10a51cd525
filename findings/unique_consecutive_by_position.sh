#!/usr/bin/env bash
# torch.unique_consecutive with return_inverse by position returns an inverse without elements.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-11-29, on 2.11.0 and 2.14.1 as well.
# The documentation gives return_inverse as the first argument after the tensor.  By keyword the inverse maps every element
# to its place among the unique ones; the same call by position returns two tensors as well, but the second is empty.
# Seen: "by keyword [0, 0, 1] by position []"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch

x = torch.tensor([1.0, 1.0, 2.0])
by_keyword = torch.unique_consecutive(x, return_inverse=True)[1]
by_position = torch.unique_consecutive(x, True)[1]
print("by keyword", by_keyword.tolist(), "by position", by_position.tolist())
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "by keyword [0, 0, 1] by position []"
