#!/usr/bin/env bash
# torch.compile of a function that reads a numpy array fails as soon as its guards are filtered, by whatever filter.
#
# Version: torch 2.13.0 (CPU), Python 3.11; seen on 2026-11-29, on 2.11.0 and 2.14.1 as well.
# A function multiplies its argument by torch.from_numpy of a global array of three numbers.  It is compiled as it is,
# with torch's own filter torch.compiler.skip_guard_on_inbuilt_nn_modules_unsafe, and with a filter that keeps all guards.
# Behaviour: without a filter it is compiled and right.  With one, torch makes every guard a second time and compares the
# tensor that stands for the array with the one of the first time by their elements, which raises InternalTorchDynamoError,
# "Boolean value of Tensor with more than one value is ambiguous".  An array of one number passes.
# Seen: "plain 6.0 torch's filter InternalTorchDynamoError all kept InternalTorchDynamoError one number 2.0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import logging

import numpy as np
import torch

logging.disable(logging.CRITICAL)  # torch logs a traceback too
array = np.ones(3)


def weighted(x):
    return x * torch.from_numpy(array)


def compiled(**options):
    torch._dynamo.reset()
    call = torch.compile(weighted, backend="eager", fullgraph=True, **options)
    try:
        return call(torch.ones(2, len(array), dtype=torch.float64)).sum().item()
    except RuntimeError as error:
        assert "Boolean value of Tensor with more than one value is ambiguous" in str(error), error
        return type(error).__name__


keep = {"guard_filter_fn": lambda guards: [True for _ in guards]}
torchs = {"guard_filter_fn": torch.compiler.skip_guard_on_inbuilt_nn_modules_unsafe}
found = ["plain", compiled(), "torch's filter", compiled(options=torchs), "all kept", compiled(options=keep)]
array = np.ones(1)
print(*found, "one number", compiled(options=keep))
PYTHON
seen=$("$folder/environment/bin/python" "$folder/look.py")
echo "$seen"
test "$seen" = "plain 6.0 torch's filter InternalTorchDynamoError all kept InternalTorchDynamoError one number 2.0"
