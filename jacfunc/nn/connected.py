"""Results whose graph reaches every parameter, with a gradient of zero by those that nothing was computed of.

The last bias of a network is in no derivative.  What waits for the gradients of all parameters (DDP, FSDP2) would wait
for ever, or reduce less.  A product with zero would do but for parameters that are infinite or NaN, so the parameters
are arguments of an identity that does not read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..api.derivatives import Derivatives
from ..core import trees
from ..core.levels import compiling
from ..errors import UnsupportedOperationError

Tensor = torch.Tensor


def connected(result: Any, parameters: Sequence[Tensor]) -> Any:
    """The tree with every floating tensor as it is, bit for bit, and in a graph with these parameters."""
    if not torch.is_grad_enabled():
        return result
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return result
    function = _Connected if compiling() else _ConnectedForward

    def one(tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        found: Tensor = function.apply(tensor, *trained)  # type: ignore[no-untyped-call]
        return found

    return trees.mapped(one, result)


def in_sight(result: Any) -> Any:
    """The result with a dict in place of derivatives by name: wrappers look for tensors in Python's containers only."""
    if isinstance(result, Derivatives):
        return {name: result[name] for name in result._names}
    if type(result) is tuple:
        return tuple([in_sight(part) for part in result])
    return result


def refuse_out_of_sight(result: Any) -> None:
    """Refuse a result with a tensor in a container of another class, whose gradients FSDP2 would not reduce."""
    unseen = len(trees.tensors(result)) - len(_seen(result))
    if unseen:
        raise UnsupportedOperationError(
            f"the derivative has {unseen} of its tensors in a {_holder(result)}, in which DDP and FSDP2 do not look "
            "for them; let net return tensors in a tuple, list or dict"
        )


def _seen(result: Any) -> list[Tensor]:
    """The tensors in Python's containers."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, list | tuple) else ()
    return [tensor for part in parts for tensor in _seen(part)]


def _holder(result: Any) -> str:
    """The class of the first container of another kind."""
    if isinstance(result, dict | list | tuple):
        parts = result.values() if isinstance(result, dict) else result
        return next((found for found in map(_holder, parts) if found), "")
    return "" if isinstance(result, Tensor) or not trees.tensors(result) else type(result).__name__


class _Connected(torch.autograd.Function):
    """The identity of its first argument; of the others it knows shape, dtype and where they are, no number."""

    generate_vmap_rule = True

    @staticmethod
    def forward(result: Tensor, *parameters: Tensor) -> Tensor:
        return result.clone()  # no view, in which FSDP2 warns of writing

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the parameters, but not as they are saved for a backward, which asks whether they were changed since."""
        ctx.parameters = [parameter.detach() for parameter in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return cotangent, *[torch.zeros_like(parameter) for parameter in ctx.parameters]


class _ConnectedForward(_Connected):
    """Also in forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, tangent: Any, *others: Any) -> Any:
        if tangent is None:
            return None
        return tangent.view_as(tangent)
