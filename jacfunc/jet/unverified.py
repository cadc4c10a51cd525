"""Which modules the Taylor route takes without being asked to where it cannot be verified.

Under ``vmap`` no value can be looked at.  Under ``torch.compile`` nothing can fall back either, and Dynamo takes no jet
through some functions of torch (``F.tanh``), which no mode sees.  So there a module is only taken if it is built of
layers that are known to work.
"""

from __future__ import annotations

from torch import nn

LAYERS = frozenset(
    [nn.Sequential, nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten]
    + [nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.LogSigmoid]
)


def of_plain_layers(module: nn.Module) -> bool:
    """Whether every layer of a module is one of :data:`LAYERS`, and nothing else runs in its forward."""
    return all(type(child) in LAYERS and not _changed(child) for child in module.modules())


def _changed(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
