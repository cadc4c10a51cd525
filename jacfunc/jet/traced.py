"""Which modules the Taylor route takes under ``torch.compile`` without being asked to.

Nothing can fall back while a graph is traced, and Dynamo takes no jet through some functions of torch (``F.tanh``),
which no mode sees.  So a module is only taken if it is built of layers that are known to work.
"""

from __future__ import annotations

from torch import nn

LAYERS = frozenset(
    [nn.Sequential, nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten]
    + [nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.LogSigmoid]
)


def traceable(module: nn.Module) -> bool:
    """Whether every layer of a module is one of :data:`LAYERS`."""
    return all(type(child) in LAYERS for child in module.modules())
