"""Under ``torch.compile``: what Dynamo itself would not hand to a mode, though torch does."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_get_data = torch._C._autograd._get_data_attr  # type: ignore[attr-defined]
LEFT_OUT = (F.hardsigmoid, torch._C._nn.hardsigmoid, torch._C._nn.hardsigmoid_, _get_data)
"""Missing in torch's list of functions that a mode may exchange, which is made for its tests."""


def handed_over() -> bool:
    """Let Dynamo hand these to a mode as well; run while it traces, not traced."""
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(LEFT_OUT)
    return True


# What torch.compiler.assume_constant_result does, without an import of Dynamo, which takes longer than jacfunc's own.
handed_over._dynamo_marked_constant = True  # type: ignore[attr-defined]
