#!/usr/bin/env bash
# Compiled by inductor, the tangent of index_add is summed up into one element, and every entry is the total.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-11-30, on 2.11.0 as well; 2.14.1 is right.
# torch.func.jvp of a scatter into torch.zeros, as message passing on graphs has it: nodes add up what their edges bring.
# The tangent of these zeros is one zero that is expanded, without memory of its own, and the compiled kernel adds into it
# in place.
# Behaviour: with one thread all entries of the tangent are the sum of them all, without a warning; eager and aot_eager are
# right.  With several threads the same compilation ends in an AssertionError instead.
# Seen: "eager [2.0, 2.0, 1.0] aot_eager [2.0, 2.0, 1.0] inductor [5.0, 5.0, 5.0]"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch

nodes = torch.tensor([0, 1, 1, 0, 2])


def received(messages):
    return torch.zeros(3).index_add(0, nodes, messages)


def slope(messages):
    return torch.func.jvp(received, (messages,), (torch.ones_like(messages),))[1]


torch.set_num_threads(1)
messages = torch.ones(5)
told = ["eager", slope(messages).tolist()]
for backend in ("aot_eager", "inductor"):
    torch._dynamo.reset()
    told += [backend, torch.compile(slope, fullgraph=True, backend=backend)(messages).tolist()]
print(*told)
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "eager [2.0, 2.0, 1.0] aot_eager [2.0, 2.0, 1.0] inductor [5.0, 5.0, 5.0]"
