#!/usr/bin/env bash
# torch.compiler.is_exporting() is true inside torch.compile on torch 2.11: code written for torch.export runs in training.
#
# Version: torch 2.11.0, Python 3.11; seen on 2026-11-29; 2.13.0 and 2.14.1 answer False.
# A function adds one where torch.compiler.is_exporting() says that torch.export is tracing it, as its documentation has it.
# It is called as it is, compiled (nothing is exported), and exported in both ways.
# Behaviour: compiled it adds one as if it were exported.
# Seen: "eager 0.0 compiled 1.0 exported 1.0 strictly exported 1.0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch


class Told(torch.nn.Module):
    def forward(self, x):
        return x + 1 if torch.compiler.is_exporting() else x * 1


told, x = Told(), torch.zeros(1)
exported = [torch.export.export(told, (x,), strict=strict).module()(x).item() for strict in (False, True)]
torch._dynamo.reset()
compiled = torch.compile(told, backend="eager", fullgraph=True)(x).item()
print("eager", told(x).item(), "compiled", compiled, "exported", exported[0], "strictly exported", exported[1])
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "eager 0.0 compiled 1.0 exported 1.0 strictly exported 1.0"
