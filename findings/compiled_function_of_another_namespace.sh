#!/usr/bin/env bash
# torch.compile takes a function for another one of the same code, though they live in different namespaces.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-11-29, on 2.11.0 and 2.14.1 as well.
# Two functions are made by executing one code object in two dicts, as template engines and loaders of model
# definitions do; each reads a global of its own dict.  A compiled function that takes them as an argument is called with
# the first, then with the second.
# Behaviour: the second call gives the result of the first one's global, without a warning: the guard on a function
# compares its code, and the global was looked up in the first namespace.
# Seen: "compiled [2.0, 2.0] [2.0, 2.0] eager [2.0, 2.0] [3.0, 3.0]"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import torch

body = compile("def scaled(x):\n    return x * factor\n", "<loaded>", "exec")


def loaded(factor):
    namespace = {"factor": factor}
    exec(body, namespace)
    return namespace["scaled"]


@torch.compile(backend="eager", fullgraph=True)
def call(function, x):
    return function(x)


x, twice, thrice = torch.ones(2), loaded(2.0), loaded(3.0)
print("compiled", call(twice, x).tolist(), call(thrice, x).tolist(), "eager", twice(x).tolist(), thrice(x).tolist())
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "compiled [2.0, 2.0] [2.0, 2.0] eager [2.0, 2.0] [3.0, 3.0]"
