#!/usr/bin/env bash
# torch.compile hands hardswish and hardsigmoid to no object that has __torch_function__, though torch itself does.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-12-01.
# A class that is no tensor wraps one, and computes on it in __torch_function__.  Eager code hands all four activations to it.
# Behaviour: torch.compile(fullgraph=True) traces silu and mish, and refuses hardswish and hardsigmoid.  These two hand
# themselves over in their bodies as the others do, but are missing in torch.overrides.get_overridable_functions(), which the
# compiler asks; so it puts the call into its graph, where the object cannot be.
# Seen: "silu eager True listed True compiled True", mish likewise, "hardswish eager True listed False compiled Unsupported",
# hardsigmoid likewise
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import itertools

import torch
from torch.nn import functional as F
from torch.overrides import get_overridable_functions


class Wrapped:
    def __init__(self, tensor):
        self.tensor = tensor

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        plain = [each.tensor if isinstance(each, cls) else each for each in args]
        return function(*plain, **(kwargs or {}))


def outcome(function, x):
    try:
        found = torch.compile(lambda x: function(Wrapped(x)), backend="eager", fullgraph=True)(x)
    except Exception as error:
        return type(error).__name__
    return torch.equal(found, function(x))


listed = set(itertools.chain.from_iterable(get_overridable_functions().values()))
x = torch.linspace(-4, 4, 9)
for function in (F.silu, F.mish, F.hardswish, F.hardsigmoid):
    eager = torch.equal(function(Wrapped(x)), function(x))
    print(function.__name__, "eager", eager, "listed", function in listed, "compiled", outcome(function, x))
PYTHON
seen=$("$folder/environment/bin/python" -W ignore "$folder/look.py" 2>/dev/null)
echo "$seen"
test "$seen" = "silu eager True listed True compiled True
mish eager True listed True compiled True
hardswish eager True listed False compiled Unsupported
hardsigmoid eager True listed False compiled Unsupported"
